"""Training of meta-classifiers: feeding runs of weights, ours against a DataLoader, and how near the floor training is.

All ways are measured in turn in one run, so that a change of the machine's speed meets all alike, and all read the same
runs of the same shards. Operations are those of the products: forward, gradient of the weights, gradient of the inputs.

`vs_loader` compares with `ShardRuns`, the Dataset of single runs that a DataLoader puts together in batches, with the
number of workers that is best for it: what is meant by a pipeline, written well. `vs_fastest` compares with the fastest
of all, `ShardBatches` among them, whose batches are cut by hand as ours are, though run by run and from files. A plain
copy of as many weights, one after the other, is a floor for any feeding that hands over its own memory.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loaders import Pairs, Pipeline, ShardBatches, ShardRuns
from nwslib import snapshots, space
from nwslib.meta import Runs, runs_view
from nwslib.meta.networks import dmc
from nwslib.meta.runs import ResidentRuns, random_starts, spaced_starts
from nwslib.population import describe, images, resolve_device, speed, train
from nwslib.snapshots import fake

#: Populations of 17,000 to 53,000 weights per network, by the number of their architectures.
POPULATIONS = {
    "one": {"filter_size": 5, "depth_conv": 4, "depth_fc": 2, "width_conv": 12, "width_fc": 128},
    "several": {"filter_size": [5, 7], "depth_conv": [4, 5], "depth_fc": 2, "width_conv": 12, "width_fc": [64, 128]},
}
LENGTHS, BATCHES = (500, 2000, 5000), (64, 256)
#: Length of runs and rate of training, as in the chapters and in the study.
TRAININGS = {"pooled": (500, 5e-3), "short": (5000, 1e-3)}
PARTS = ("feed", "training", "accuracy")
PROPERTY, SNAPSHOTS, EPOCHS = "activation", (16, 18, 20), 30
PACKAGES = ("numpy", "xarray", "h5py", "torch")

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Feed = Callable[[Pairs], Batches]
Way = Callable[[], Feed]  # made when it is measured, so that no other's workers are alive


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes
    ----------
    networks
        In each population.
    repeats
        Times that every way is measured, in turn.
    seconds
        For one rate, at least.
    steps
        Of training, for one rate.
    batch
        Runs in a batch of training.
    workers
        Numbers of workers of the loaders.
    accuracy
        Of the test networks, to be reached.
    """

    networks: int
    repeats: int
    seconds: float
    steps: int
    batch: int
    workers: tuple[int, ...]
    accuracy: float


FULL, QUICK = Size(240, 5, 0.5, 4, 64, (0, 1, 2), 0.6), Size(12, 1, 0.01, 1, 4, (0,), 0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--repeats", type=int, help="times that everything is measured")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run")
    parser.add_argument("--population", type=Path, help="a folder of trained networks for the time to an accuracy")
    parser.add_argument("--accuracy", type=float, help="which accuracy is to be reached there")


def run(
    device: str,
    quick: bool,
    repeats: int | None,
    only: list[str] | None,
    population: Path | None,
    accuracy: float | None,
) -> None:
    """Print one table for each part and, as the last line, one JSON object."""
    place, size = resolve_device(device), QUICK if quick else FULL
    size = replace(size, repeats=repeats or size.repeats, accuracy=accuracy or size.accuracy)
    wanted = only or PARTS
    print(f"{describe(place)}; {size.repeats} repeats in turn; median (least to most)")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="nwslib-benchmark-") as temporary:
        if "feed" in wanted:
            found |= _compare_feeds(Path(temporary), size, place)
        if "training" in wanted:
            found |= _compare_trainings(Path(temporary), size, place)
        if "accuracy" in wanted:
            own = made if quick else _trained
            found |= _reach(population or own(Path(temporary) / "one", size.networks), size, place)
    print(json.dumps(found | {"device": describe(place), "system": _system()}))


def made(folder: Path, networks: int, architectures: str = "one") -> Path:
    """Write a population of fake networks, which are read as fast as trained ones, unless it is there.

    Parameters
    ----------
    folder
        Where.
    networks
        How many.
    architectures
        A key of `POPULATIONS`.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    if not folder.exists():
        snapshots.write(
            folder, fake.population(space.sample("nws_main", networks, seed=0, **POPULATIONS[architectures]))
        )
    return folder


def draw(view: Runs, runs: int, seed: int = 0) -> Pairs:
    """Draw one run of some rows, or of every row several times, in random order: rows and starts, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(runs, generator=generator) % len(view.room)
    return rows, random_starts(view, rows, generator)


def ours(view: Runs, targets: torch.Tensor, batch: int) -> Feed:
    """Feed runs of weights that are on the device, or in the files.

    Parameters
    ----------
    view
        The weights.
    targets
        One label per row, (rows,).
    batch
        Runs in a batch.

    Returns
    -------
    callable
        Takes pairs of row and start; gives runs (b, length) and labels (b,), batch by batch.
    """
    targets = targets.to(view.device)

    def feed(pairs: Pairs) -> Batches:
        rows, starts = (values.to(view.device) for values in pairs)
        for some, places in zip(rows.split(batch), starts.split(batch), strict=True):
            yield view.gather(some, places), targets[some]

    return feed


def _ways(folder: Path, view: Runs, targets: torch.Tensor, batch: int, size: Size) -> dict[str, Way]:
    """Give our way, and every way that a DataLoader reads the same runs: by run or by batch, with workers or none."""
    ways: dict[str, Way] = {"ours": partial(ours, view, targets, batch)}
    for label, kind in {"loader": ShardRuns, "loader of batches": ShardBatches}.items():
        dataset = kind(folder, view, targets)
        for workers in size.workers:
            ways[f"{label}, {workers} workers"] = partial(_loader, dataset, batch, workers, view.device)
    return ways


def _loader(dataset: ShardRuns, batch: int, workers: int, device: torch.device) -> Feed:
    return Pipeline(dataset, batch, workers, device).feed


def _copies(view: ResidentRuns, targets: torch.Tensor, batch: int) -> Feed:
    """Copy as many weights, one after the other: what no feeding that hands over its own copy can do faster."""
    blocks = view.weights[: len(view.weights) // (batch * view.length) * batch * view.length].view(
        -1, batch, view.length
    )
    targets = targets[:batch].to(view.device)

    def feed(pairs: Pairs) -> Batches:
        for place, some in enumerate(pairs[0].split(batch)):
            runs = blocks[place % len(blocks)].clone()
            yield runs[: len(some)], targets[: len(some)]

    return feed


def _compare_feeds(folder: Path, size: Size, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in POPULATIONS:
        population = snapshots.open_population(made(folder / name, size.networks, name))
        for length in LENGTHS:
            options = {"snapshots": range(1, 21), "device": device}
            view = runs_view(population, length, resident="always", **options)
            files = runs_view(population, length, resident="never", **options)
            targets = torch.arange(len(view.room)) % 4
            for batch in BATCHES:
                ways = _ways(folder / name, view, targets, batch, size)
                ways["ours, from files"] = partial(ours, files, targets, batch)
                ways["a plain copy"] = partial(_copies, view, targets, batch)
                rates = _in_turn({label: partial(_feed_rate, way, view, size) for label, way in ways.items()}, size)
                count = f"{len(view.networks.nodes)} architecture(s)"
                _table(f"feeding: runs/s of {length} weights in batches of {batch}, {count}", rates)
                found |= _feed_ratios(f"feed_{name}_{length}_{batch}", rates)
    return _overall(found, "vs_loader") | _overall(found, "vs_fastest") | found


def _overall(found: Mapping[str, float], against: str) -> dict[str, float]:
    """Give the median over lengths, batches and populations, and the least."""
    ratios = [value for key, value in found.items() if key.endswith(against) and "files" not in key]
    return {f"feed_{against}": round(median(ratios), 2), f"feed_{against}_least": min(ratios)}


def _feed_ratios(name: str, rates: Mapping[str, list[float]]) -> dict[str, float]:
    """Compare with the loaders, from memory and from files, and with a copy."""
    return {
        f"{name}_runs_per_s": round(median(rates["ours"])),
        f"{name}_vs_copy": round(_ratio(rates["ours"], rates["a plain copy"]), 2),
        **_against(rates, name),
        **_against(rates, f"{name}_from_files", "ours, from files"),
    }


def _against(rates: Mapping[str, Sequence[float]], name: str, way: str = "ours") -> dict[str, float]:
    """Compare a way with the best loader of single runs, and with the best of all loaders, found by their medians."""
    fastest = {label: values for label, values in rates.items() if label.startswith("loader")}
    loader = {label: values for label, values in fastest.items() if "of batches" not in label}
    return {
        f"{name}_{against}": round(_ratio(rates[way], max(some.values(), key=median)), 2)
        for against, some in {"vs_loader": loader, "vs_fastest": fastest}.items()
    }


def _in_turn(measures: Mapping[str, Callable[[], float]], size: Size) -> dict[str, list[float]]:
    """Measure all ways in turn, again and again."""
    rounds = [{label: measure() for label, measure in measures.items()} for _ in range(size.repeats)]
    return {label: [one[label] for one in rounds] for label in measures}


def _feed_rate(way: Way, view: Runs, size: Size) -> float:
    """Give runs per second of whole epochs, drawing included, after a few batches that do not count."""
    feed, device, epochs = way(), view.device, 0
    for _ in feed(draw(view, 1024)):
        pass
    _wait(device)
    start = time.perf_counter()
    while time.perf_counter() - start < size.seconds:
        for _ in feed(draw(view, len(view.room), epochs)):
            pass
        _wait(device)
        epochs += 1
    return epochs * len(view.room) / (time.perf_counter() - start)


def _table(title: str, rates: Mapping[str, list[float]]) -> None:
    """Print rates, and the first over each of the others."""
    print(f"\n{title}")
    first = next(iter(rates.values()))
    for label, values in rates.items():
        spread = f"{median(values):>12,.1f} ({min(values):,.1f} to {max(values):,.1f})"
        print(f"{label:>30} {spread}, the first over it {_ratio(first, values):.2f}", flush=True)


def _ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Give the median of the ratios within a repeat."""
    return median(a / b for a, b in zip(first, second, strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Training:
    """A deep meta-classifier in training, as `nwslib.meta.fit` trains one."""

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def epoch(self, feed: Feed, pairs: Pairs) -> tuple[float, float]:
        """Take one step per batch; give the seconds of all, and those spent waiting for batches."""
        device, waited = next(self.module.parameters()).device, 0.0
        self.module.train()
        began = time.perf_counter()
        batches, before = feed(pairs), began
        for runs, targets in batches:
            waited += time.perf_counter() - before
            self.optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(self.module(runs), targets).backward()
            self.optimizer.step()
            _wait(device)
            before = time.perf_counter()
        return time.perf_counter() - began, waited


def _training(network: str, device: torch.device, classes: int = 4) -> Training:
    length, rate = TRAININGS[network]
    torch.manual_seed(0)
    module = dmc.build(network, length, classes).to(device)
    return Training(module, torch.optim.Adam(module.parameters(), lr=rate))


def _compare_trainings(folder: Path, size: Size, device: torch.device) -> dict[str, Any]:
    folder = made(folder / "one", size.networks)
    population, found = snapshots.open_population(folder), {}
    for network, (length, _) in TRAININGS.items():
        view = runs_view(population, length, snapshots=range(1, 21), device=device)
        targets, training = torch.arange(len(view.room)) % 4, _training(network, device)
        ways, pairs = _ways(folder, view, targets, size.batch, size), draw(view, size.steps * size.batch)
        cost = _operations(training.module, length, size.batch, device)
        rounds = []
        for _ in range(size.repeats):
            product = speed.matrix_product_rate(device)
            rounds.append({label: (*training.epoch(way(), pairs), product) for label, way in ways.items()})
        found |= _training_results(network, rounds, cost, len(pairs[0]), len(view.room))
    return found


def _training_results(
    network: str, rounds: Sequence[Mapping[str, tuple[float, float, float]]], cost: float, runs: int, rows: int
) -> dict[str, float]:
    """Print what a training does in a second, and give it with its distance from the floor."""
    rates = {label: [runs / one[label][0] for one in rounds] for label in rounds[0]}
    _table(f"training {network}: runs/s, {cost / 1e6:,.1f} MFLOP per run", rates)
    feeding = median(one["ours"][1] / one["ours"][0] for one in rounds)
    floor = median(one["ours"][2] / cost for one in rounds)
    share = median(runs / one["ours"][0] * cost / one["ours"][2] for one in rounds)
    epoch = rows / median(rates["ours"])
    print(
        f"one visit of {rows} snapshots {epoch:.1f} s; {feeding:.1%} of it feeding; {share:.2f} of {floor:,.0f} runs/s"
    )
    return {
        f"{network}_runs_per_s": round(median(rates["ours"]), 1),
        f"{network}_epoch_s": round(epoch, 2),
        f"{network}_feeding_share": round(feeding, 4),
        f"{network}_floor_runs_per_s": round(floor, 1),
        f"{network}_vs_floor": round(share, 3),
        **_against(rates, network),
    }


def _operations(module: nn.Module, length: int, batch: int, device: torch.device) -> float:
    """Count the operations of the products of one training step, per run."""
    runs, targets = torch.zeros(batch, length, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(module(runs), targets).backward()
    return counter.get_total_flops() / batch


def _trained(folder: Path, networks: int) -> Path:
    """Train a population on embedded images."""
    design = space.sample("nws_small", networks, seed=0, dataset=["digits", "glyphs"])
    folder = folder.with_name("trained")
    snapshots.write(folder, train(design, images.for_design(design), max_epochs=20, progress=False))
    return folder


def _reach(folder: Path, size: Size, device: torch.device) -> dict[str, Any]:
    """Train until a property is read with the wanted accuracy: ours and the loaders, with the same draws."""
    population, length = snapshots.open_population(folder), TRAININGS["pooled"][0]
    view, test = (
        runs_view(population, length, split=split, snapshots=SNAPSHOTS, device=device) for split in ("train", "test")
    )
    ways = _ways(folder, view, _codes(view), size.batch, size)
    rounds = [{label: _seconds_to(way, view, test, size) for label, way in ways.items()} for _ in range(size.repeats)]
    found = {label: [one[label] for one in rounds] for label in ways}
    results = {"accuracy": size.accuracy, "accuracy_of": PROPERTY, "accuracy_networks": len(view.networks)}
    print(f"\nseconds until {PROPERTY} of {len(test.networks)} networks is read with accuracy {size.accuracy}")
    if any(seconds is None for values in found.values() for seconds in values):
        print(f"not reached in {EPOCHS} epochs")
        return results | {"seconds_to_accuracy": None, "accuracy_vs_loader": None, "accuracy_vs_fastest": None}
    for label, values in found.items():
        print(f"{label:>30} {median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    rates = {label: [1 / seconds for seconds in values] for label, values in found.items()}
    return results | {"seconds_to_accuracy": round(median(found["ours"]), 3)} | _against(rates, "accuracy")


def _codes(view: Runs) -> torch.Tensor:
    values = list(space.VOCABULARY[PROPERTY])
    codes = torch.tensor([values.index(value) for value in view.networks.column(PROPERTY).tolist()])
    return codes.repeat_interleave(len(view.snapshots))


def _seconds_to(way: Way, view: Runs, test: Runs, size: Size) -> float | None:
    """Give the seconds of training until the accuracy is reached, those of testing left out."""
    feed, training, truth, seconds = way(), _training("pooled", view.device), _codes(test), 0.0
    for epoch in range(EPOCHS):
        training.optimizer.param_groups[0]["lr"] = TRAININGS["pooled"][1] * 0.9**epoch
        seconds += training.epoch(feed, draw(view, 4 * len(view.room), epoch))[0]
        if _accuracy(training.module, test, truth) >= size.accuracy:
            return seconds
    return None


@torch.inference_mode()
def _accuracy(module: nn.Module, test: Runs, truth: torch.Tensor, runs: int = 16) -> float:
    """Give the share of rows whose mean probabilities over spaced runs name the class."""
    rows = torch.arange(len(test.room))
    starts, module = spaced_starts(test, rows, runs), module.eval()
    found = sum(module(test.gather(rows, places)).softmax(1) for places in starts.unbind(1))
    return float((found.argmax(1).cpu() == truth).float().mean())


def _system() -> dict[str, Any]:
    versions = {package: version(package) for package in PACKAGES}
    return {
        "versions": versions,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
