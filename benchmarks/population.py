"""Training speed of populations: ours, end to end and step only, against the other ways to train many networks.

All ways are measured in turn in one run, so that a change of the machine's speed meets all alike. Operations are those
of the products: forward, gradient of the weights, gradient of the inputs except in the first layer.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import xarray as xr

from benchmarks import contenders
from nwslib import space
from nwslib.population import describe, implementations, resolve_device, speed, train
from nwslib.population.images import ImageSet
from nwslib.population.lanes import plan, program
from nwslib.population.networks import cnn
from nwslib.population.slots import Slots, bank, member, rows
from nwslib.snapshots.layout import Layout

#: Shape, batch size, our networks, the other ways' networks.
ROWS = {
    "fixed32": ("fixed", 32, 16, 4),
    "fixed64": ("fixed", 64, 16, 4),
    "fixed256": ("fixed", 256, 16, 4),
    "small64": ("small", 32, 64, 64),
    "small256": ("small", 32, 256, 256),
}
SECONDS = 1.0
#: The design must name a known set; its images are of noise here.
NOISE = "textures"
STEPS = 16


@dataclass(frozen=True)
class Way:
    """One way to train, and how many images one call of it takes."""

    images: int
    call: Callable[[], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*ROWS, "end_to_end", "mixed", "memory"], help="parts to run")
    parser.add_argument("--mixed-epochs", type=int, default=5)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)


def run(device: str, repeats: int, only: list[str] | None, mixed_epochs: int, memory_of: int | None) -> None:
    """Print one table and, as the last line, one JSON object."""
    if memory_of:
        return print(json.dumps(_use_memory(memory_of)))
    place = resolve_device(device)
    wanted = only or [*ROWS, "end_to_end", "mixed", "memory"]
    print(f"{describe(place)}; {repeats} repeats in turn; median (least to most)")
    found: dict[str, float | str] = {}
    for name in [name for name in ROWS if name in wanted]:
        found |= _compare(name, place, repeats)
    if "end_to_end" in wanted:
        for shape, batch, networks in (("fixed", 64, 16), ("small", 32, 64)):
            found[f"end_to_end_vs_step_{shape}"] = _end_to_end(shape, batch, networks, place, repeats)
    if "mixed" in wanted:
        found["mixed_vs_loop"] = _mixed(place, mixed_epochs)
    if "memory" in wanted:
        found |= _memory()
    print(json.dumps(found | {"device": describe(place)}))


def _compare(name: str, device: torch.device, repeats: int) -> dict[str, float]:
    shape, batch, ours, theirs = ROWS[name]
    constants = contenders.SHAPES[shape]
    size, layout = constants["image_size"], _layout(constants)
    ways = _ways(shape, batch, ours, theirs, layout, size, device)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    products: list[float] = []
    for _ in range(repeats):
        products.append(speed.matrix_product_rate(device))
        for label, way in ways.items():
            rates[label].append(_rate(way, device))
    cost, middle = cnn.operations(layout, size), {label: median(values) for label, values in rates.items()}
    print(f"\n{name}: {cost / 1e6:.2f} MFLOP per image, batch {batch}")
    for label, values in rates.items():
        share = median(value * cost / product for value, product in zip(values, products, strict=True))
        print(
            f"{label:>26} {middle[label]:>10,.0f} ({min(values):,.0f} to {max(values):,.0f}) images/s "
            f"{middle[label] * cost / 1e9:7.1f} GFLOP/s {share:5.2f} of the matrix product "
            f"{3600 * middle[label] / speed.BUDGET:8,.1f} networks per hour"
        )
    ours_over = {label: _ratio(rates["ours"], values) for label, values in rates.items()}
    loops = [label for label in rates if label.startswith("loop")]
    found = {
        f"{name}_vs_loop": ours_over["loop"],
        f"{name}_vs_best_loop": min(ours_over[label] for label in loops),
        f"{name}_vs_best": min(value for label, value in ours_over.items() if label != "ours"),
        f"{name}_vs_matmul": _ratio([value * cost for value in rates["ours"]], products),
    }
    for package in ("modelbatch", "vmap"):  # of two ways to use one, the faster counts
        values = [value for label, value in ours_over.items() if label.startswith(package)]
        found |= {f"{name}_vs_{package}": min(values)} if values else {}
    return {key: round(value, 3) for key, value in found.items()}


def _ratio(first: list[float], second: list[float]) -> float:
    """Give the median of the ratios within a repeat."""
    return median(a / b for a, b in zip(first, second, strict=True))


def _layout(constants: dict) -> Layout:
    return cnn.layout(**{name: constants[name] for name in space.ARCHITECTURE if name != "family"})


def _ways(
    shape: str, batch: int, ours: int, theirs: int, layout: Layout, size: int, device: torch.device
) -> dict[str, Way]:
    ways = {"ours": _ours(layout, size, batch, ours, device)}
    others: dict[str, Callable] = {"loop": contenders.loop}
    if device.type == "cpu" and torch.get_num_threads() > 1:
        others["loop, 1 thread"] = partial(contenders.loop, threads=1)
    others |= {"vmap": contenders.vmap, "modelbatch": contenders.modelbatch}
    others["modelbatch, fused"] = partial(contenders.modelbatch, fused=True)
    for label, make in others.items():
        try:
            contender = make(shape, theirs, batch, device, 0)
        except ModuleNotFoundError as error:
            print(f"{label} is left out: {error}")
            continue
        ways[label] = Way(contender.images, contender)
    return ways


def _ours(layout: Layout, size: int, batch: int, networks: int, device: torch.device) -> Way:
    """Prepare our step: crowds that fill all threads, on batches that are already there."""
    if device.type != "cpu":
        return _our_slots(layout, size, batch, networks, device)
    threads = torch.get_num_threads()
    share = min(plan.lanes_for(-(-networks // threads)), plan.LARGEST)
    m = implementations.measured_lanes(layout, size, batch, share)
    crowds = [_filled(layout, size, batch, m) for _ in range(threads)]
    calls = [partial(program.learn, state, batch) for state in crowds]
    return Way(STEPS * threads * m * batch, partial(_in_threads, calls))


def _filled(layout: Layout, size: int, batch: int, m: int) -> program.State:
    state = plan.state(layout, size, batch, m, np.dtype("float32"))
    generator = np.random.default_rng(0)
    state.weights[:] = generator.normal(0, 0.05, state.weights.shape)
    margin = int(state.maps[0]["filter"]) // 2
    first = state.work[: batch * size * (size + 2 * margin) * 3 * m].reshape(batch, size, size + 2 * margin, 3, m)
    first[:, :, margin : margin + size] = generator.random((batch, size, size, 3, m))
    state.labels[:] = generator.integers(0, 10, state.labels.shape)
    state.dropout[:] = 2 * generator.integers(0, 2, state.dropout.shape)
    state.lanes["rate"] = 0.001
    state.present[0] = True
    return state


def _in_threads(calls: list[Callable[[], object]]) -> None:
    """Let each thread take several steps, so that starting threads does not count."""

    def repeat(call: Callable[[], object]) -> None:
        for _ in range(STEPS):
            call()

    workers = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _our_slots(layout: Layout, size: int, batch: int, networks: int, device: torch.device) -> Way:
    constants = {"image_size": size} | {"optimizer": "adam", "activation": "relu", "augmentation": "off"}
    name = "nws_fixed" if size == 32 else "nws_small"
    constants.pop("image_size")
    design = space.complete(space.sample(name, networks, 0, dataset=NOISE, batch_size=batch, **constants))
    everything = bank({NOISE: noise_set(size, 20_000, 1_000)}, device)
    stacked = implementations.STACKED[implementations.choose("auto", device, design)]
    slots = Slots(layout, batch, everything, torch.float32, implementation=stacked)
    slots.arrange([member(row, everything) for row in rows(design)])
    for k in range(networks):
        slots.start_epoch(k)
    return Way(networks * batch, slots.step)


def noise_set(size: int, train_images: int, test_images: int) -> ImageSet:
    """Make an image set of random pixels: what is measured does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (train_images, test_images):
        pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
        parts += [pixels, torch.arange(count) % 10]
    classes = tuple(str(number) for number in range(10))
    return ImageSet("noise", *parts, classes=classes, grey=False, kind="procedural", version=f"noise-{size}")


def _rate(way: Way, device: torch.device) -> float:
    """Measure images per second over about a second, after one call that does not count."""
    way.call()
    _wait(device)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        way.call()
        calls += 1
        _wait(device)
    return calls * way.images / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _end_to_end(shape: str, batch: int, networks: int, device: torch.device, repeats: int) -> float:
    """Compare whole training, half the networks augmented, with the step alone.

    Per image of training as many are evaluated as in the study: 5,500 and 10,000 for 49,500, here a fifth of each.
    """
    constants = contenders.SHAPES[shape]
    size, layout = constants["image_size"], _layout(constants)
    images = {NOISE: noise_set(size, 11_000, 2_000)}
    design = _half_augmented(shape, networks, batch)
    step = _ours(layout, size, batch, networks, device)
    ratios = []
    for _ in range(repeats):
        seconds, visited = [], 0
        for epochs in (1, 3):
            start = time.perf_counter()
            finished = train(design, images, max_epochs=epochs, device=device, progress=False)
            visited = sum(int(one["steps"][0]) * batch for one in finished)
            seconds.append(time.perf_counter() - start)
        ratios.append(visited / (seconds[1] - seconds[0]) / _rate(step, device))
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"\nend to end over step only, {shape}, batch {batch}: {spread}")
    return round(median(ratios), 3)


def _half_augmented(shape: str, networks: int, batch: int) -> xr.Dataset:
    design = space.sample(f"nws_{shape}", networks, 0, dataset=NOISE, batch_size=batch)
    design["augmentation"] = ("model", np.array(["off", "on"])[np.arange(networks) % 2])
    return design


def _mixed(device: torch.device, epochs: int) -> float:
    """Compare a sample of nws_main, every network another architecture, with the loop; evaluations included."""
    design = space.sample("nws_main", 64, 0, dataset=NOISE)
    images = {NOISE: noise_set(32, 2_230, 400)}
    start = time.perf_counter()
    visited = sum(
        int(one["steps"][0]) * int(one["batch_size"][0])
        for one in train(design, images, max_epochs=epochs + 1, device=device, progress=False)
    )
    ours = visited / (time.perf_counter() - start)
    trained, seconds = contenders.mixed_loop(design, images, epochs, None, device=str(device))
    print(f"\nmixed: ours {ours:,.0f}, loop {trained / seconds:,.0f} images/s over {epochs} epochs")
    return round(ours / (trained / seconds), 3)


def _memory() -> dict[str, float]:
    """Compare peak memory and time per network of 64, 256 and 1,024 networks, each in a process of its own."""
    used = {}
    for networks in (64, 256, 1024):
        command = [sys.executable, "-m", "benchmarks", "population", "--memory-of", str(networks)]
        used[networks] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        mib, seconds = used[networks]["bytes"] / 2**20, used[networks]["seconds"]
        print(f"{networks:>6} networks: peak {mib:,.0f} MiB, {1000 * seconds / networks:.1f} ms per network")
    return {
        "memory_growth": round(used[1024]["bytes"] / used[64]["bytes"], 3),
        "time_growth_per_network": round(used[1024]["seconds"] / used[64]["seconds"] / 16, 3),
    }


def _use_memory(networks: int) -> dict[str, float]:
    design = space.sample("nws_small", networks, 0, dataset=NOISE, batch_size=32)
    images = {NOISE: noise_set(16, 2_000, 400)}
    for _ in train(design.isel(model=slice(0, 32)), images, max_epochs=2, progress=False):
        pass
    start = time.perf_counter()
    for _ in train(design, images, max_epochs=6, progress=False):
        pass
    seconds = time.perf_counter() - start
    return {"bytes": _peak_bytes(), "seconds": seconds}


def _peak_bytes() -> int:
    """Give the peak memory of this process; on Linux getrusage would count that of the process that started it, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])
