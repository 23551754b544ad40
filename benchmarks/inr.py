"""Image networks: how many are fitted per second, against one at a time and against the floor of this device."""

import argparse
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import torch
import xarray as xr
from numba import njit
from torch import nn

from benchmarks.population import NOISE, noise_set
from nwslib import space
from nwslib.population import describe, fitting, resolve_device, train
from nwslib.population.images import ImageSet
from nwslib.population.lanes import waves
from nwslib.population.networks import siren

WIDTH, DEPTH, FREQUENCY = 32, 2, 30.0

#: Of each measurement of a rate. Steps are all alike, so that one network alone is not fitted to its end.
SECONDS = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--networks", type=int, default=64, help="fitted side by side in each round")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--image-size", type=int, choices=(14, 16, 28, 32), default=28)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--repeats", type=int, default=5, help="rounds, in each of which every way has its turn")


def run(device: str, networks: int, steps: int, image_size: int, channels: int, repeats: int) -> None:
    """Print a table, and as the last line one JSON object."""
    place = resolve_device(device)
    images = replace(noise_set(image_size, max(networks, 200), 200), grey=channels == 1)
    design = space.sample("siren", networks, 0, dataset=NOISE, image_size=image_size, steps=steps)
    ways = {"ours": lambda: _ours(design, images, place)} | _others(design, images, place)
    rates, floors = {name: [] for name in ways}, []
    for _ in range(repeats):
        floors.append(_floor(channels, image_size, steps, place))
        for name, way in ways.items():
            rates[name].append(way())
    floor = max(floors, key=lambda found: found["networks_per_second"])
    _print_table(rates, floor, steps)
    best = {name: max(found) for name, found in rates.items()}
    plain = {name: rate for name, rate in best.items() if name != "ours"}
    alone = max((rate for name, rate in plain.items() if "1 thread" in name), default=max(plain.values()))
    result = {
        "vs_one_at_a_time": round(best["ours"] / max(plain.values()), 3),
        "vs_one_per_core": round(best["ours"] / (alone * _threads(place)), 3),
        "vs_floor": round(best["ours"] / floor["networks_per_second"], 3),
        "networks_per_second": round(best["ours"], 2),
        "one_at_a_time_per_second": round(max(plain.values()), 3),
        "floor": {name: round(value, 1) for name, value in floor.items()},
        "networks": networks,
        "steps": steps,
        "image_size": image_size,
        "channels": channels,
        "device": describe(place),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    print(json.dumps(result))


def _threads(place: torch.device) -> int:
    return torch.get_num_threads() if place.type == "cpu" else 1


def _ours(design: xr.Dataset, images: ImageSet, place: torch.device) -> float:
    """Fit all networks of a design; give networks per second, labelling of the results included."""
    started = time.perf_counter()
    count = sum(1 for _ in train(design, {NOISE: images}, device=str(place), progress=False))
    return count / (time.perf_counter() - started)


def _others(design: xr.Dataset, images: ImageSet, place: torch.device) -> dict[str, Callable[[], float]]:
    """Prepare the same in plain PyTorch, one network after another, with each of its fast kinds of Adam."""
    ways = {}
    for threads in sorted({1, _threads(place)}):
        for kind in ("fused", "foreach"):
            name = f"one at a time, {kind} Adam, {threads} thread" + "s" * (threads > 1)
            ways[name] = lambda kind=kind, threads=threads: _one_at_a_time(design, images, place, kind, threads)
    return ways


def _one_at_a_time(design: xr.Dataset, images: ImageSet, place: torch.device, kind: str, threads: int) -> float:
    """Give networks per second of plain PyTorch."""
    before, taken = torch.get_num_threads(), 0
    torch.set_num_threads(threads)
    try:
        plain = Plain(design.isel(model=0), images, place, kind)
        plain.fit(3)
        _wait(place)
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            plain.fit(10)
            taken += 10
        _wait(place)
        return taken / int(design["steps"][0]) / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)


class Plain:
    """One network as people fit it in PyTorch: a module, autograd and `torch.optim.Adam`."""

    def __init__(self, row: xr.Dataset, images: ImageSet, place: torch.device, kind: str) -> None:
        self.inputs = fitting.coordinates(int(row["image_size"])).float().to(place)
        pixels = images.train_images[int(row["image"])].flatten(0, 1)[:, : images.channels]
        self.target = (pixels.float() / 255).to(place)
        layout = siren.layout(images.channels, WIDTH, DEPTH)
        start = siren.initial_weights(layout, torch.tensor([int(row["seed"])]), FREQUENCY)[0].float()
        self.network = siren.to_module(layout, start.to(place), frequency=FREQUENCY)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=float(row["learning_rate"]), **{kind: True})

    def fit(self, steps: int) -> None:
        """Take steps."""
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            nn.functional.mse_loss(self.network(self.inputs), self.target).backward()
            self.optimizer.step()


def _floor(channels: int, side: int, steps: int, place: torch.device) -> dict[str, float]:
    """Say how fast fitting could be if nothing but products, sines and cosines took time, each at its best rate.

    Rates are those of all cores together, for the products of the hidden layer, and for one pass each of sine and
    cosine over what stays in a core's cache; each the best of PyTorch's and ours.
    """
    products = {"torch": _product_rate(side * side, place)}
    sines = {"torch": _sine_rate(side * side, place)}
    if place.type == "cpu":
        products["compiled"], sines["compiled"] = _compiled_rates(side * side)
    layout = siren.layout(channels, WIDTH, DEPTH)
    seconds = siren.operations(layout, side * side) / max(products.values())
    seconds += side * side * WIDTH * DEPTH / max(sines.values())
    found = {f"{name}_gflops": value / 1e9 for name, value in products.items()}
    found |= {f"{name}_sine_and_cosine_per_microsecond": value / 1e6 for name, value in sines.items()}
    return found | {"networks_per_second": 1 / (seconds * steps)}


def _product_rate(pixels: int, place: torch.device) -> float:
    """Measure operations per second of the three products of a hidden layer, stacked."""
    m = 8 if place.type == "cpu" else 1024

    def make() -> Callable[[], object]:
        h, d, products = (torch.rand(m, pixels, WIDTH, device=place) for _ in range(3))
        kernels, gradients = (torch.rand(m, WIDTH, WIDTH, device=place) for _ in range(2))

        def call() -> None:
            torch.bmm(h, kernels.mT, out=products)
            torch.bmm(d, kernels, out=products)
            torch.bmm(d.mT, h, out=gradients)

        return call

    return _rate(make, 3 * 2 * m * pixels * WIDTH**2, place)


def _sine_rate(pixels: int, place: torch.device) -> float:
    """Measure numbers per second of which sine and cosine are taken."""
    m = 1 if place.type == "cpu" else 1024

    def make() -> Callable[[], object]:
        angles = 10 * torch.rand(m * pixels * WIDTH, device=place)
        sines, cosines = torch.empty_like(angles), torch.empty_like(angles)
        return lambda: (torch.sin(angles, out=sines), torch.cos(angles, out=cosines))

    return _rate(make, m * pixels * WIDTH, place)


@njit(nogil=True)
def _many_products(work, plan, count):
    for _ in range(count):
        waves._product(work, plan, plan.h, plan.padded, 1, waves.TILE, plan.forward, plan.z, plan.padded, 0)
        waves._product(work, plan, plan.c, 1, plan.padded, plan.padded, plan.h, plan.gradient, waves.TILE, 0)
        waves._product(work, plan, plan.c, plan.padded, 1, waves.TILE, plan.backward, plan.z, plan.padded, 0)


@njit(nogil=True)
def _many_waves(work, plan, count):
    for _ in range(count):
        waves._wave(work, plan.z, plan.bias, plan.h, plan.c, waves.TILE, plan.padded)


def _compiled_rates(pixels: int) -> tuple[float, float]:
    """Measure the same of our own compiled product, and of our pass of sine and cosine together."""
    plan, count = waves.plan(WIDTH, DEPTH, 1, FREQUENCY, pixels, np.dtype("float32")), 100

    def repeated(loop: Callable) -> Callable[[], Callable[[], object]]:
        return lambda: partial(loop, np.random.default_rng(0).random(plan.size, dtype=np.float32), plan, count)

    place = torch.device("cpu")
    products = _rate(repeated(_many_products), 3 * 2 * waves.TILE * plan.padded**2 * count, place)
    return products, _rate(repeated(_many_waves), waves.TILE * plan.padded * count, place)


def _rate(make: Callable[[], Callable[[], object]], amount: float, place: torch.device) -> float:
    """Measure an amount per second: each core with a call of its own, all at once; the best of three."""
    before, best = torch.get_num_threads(), 0.0
    try:
        for _ in range(3):
            rates: list[float] = []
            workers = [threading.Thread(target=_repeat, args=(make, amount, place, rates)) for _ in range(before)]
            workers = workers[: _threads(place)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            best = max(best, sum(rates))
    finally:
        torch.set_num_threads(before)
    return best


def _repeat(make: Callable[[], Callable[[], object]], amount: float, place: torch.device, rates: list[float]) -> None:
    torch.set_num_threads(1)
    call, calls = make(), 0
    call()
    _wait(place)
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        call()
        calls += 1
    _wait(place)
    rates.append(calls * amount / (time.perf_counter() - started))


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _print_table(rates: dict[str, list[float]], floor: dict[str, float], steps: int) -> None:
    print(f"{'fitted networks per second, ' + str(steps) + ' steps':<44}{'best':>10}{'median':>10}")
    for name, found in rates.items():
        print(f"{name:<44}{max(found):>10.2f}{median(found):>10.2f}")
    print(f"{'floor':<44}{floor['networks_per_second']:>10.2f}")
    for name, value in floor.items():
        if name != "networks_per_second":
            print(f"  {name.replace('_', ' '):<42}{value:>10.1f}")
