"""One optimiser step of a crowd by kernel: images per second, and which kernel takes which share of the time."""

import argparse
import json
import time

import torch
from torch.profiler import ProfilerActivity, profile

from nwslib import space
from nwslib.population import describe, images, implementations, operators, resolve_device, speed
from nwslib.population.networks import cnn
from nwslib.population.slots import Slots, bank, member, rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--implementation", choices=implementations.STACKED, default="triton")
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--batch-size", type=int, choices=space.VOCABULARY["batch_size"], default=64)
    parser.add_argument("--steps", type=int, default=50)


def run(device: str, implementation: str, networks: int, batch_size: int, steps: int) -> None:
    """Print the kernels by share, and as the last line one JSON object."""
    place = resolve_device(device)
    crowd = _crowd(place, implementations.STACKED[implementation], networks, batch_size)
    for _ in range(3):  # the first compiles, the second records
        _step(crowd)
    seconds = _seconds(crowd, steps)
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place.type == "cuda" else [])]
    ) as found:
        _seconds(crowd, 3)
    _print_shares(found.key_averages(), place.type)
    rate = networks * batch_size * steps / seconds
    result = {"implementation": implementation, "images_per_second": round(rate)}
    result |= {"networks_per_hour_step_only": round(3600 * rate / speed.BUDGET), "device": describe(place)}
    print(json.dumps(result))


def _crowd(place: torch.device, implementation: operators.Implementation, networks: int, batch_size: int) -> Slots:
    """Fixed networks, half of them augmented, on an image set of 32x32 pixels made from what the library embeds."""
    sets = {"textures": images.load("textures", size=32)}
    everything = bank(sets, place)
    design = space.sample("nws_fixed", networks, seed=0, dataset="textures", batch_size=batch_size)
    shape = {name: int(design[name][0]) for name in space.ARCHITECTURE if name != "family"}
    crowd = Slots(cnn.layout(**shape), batch_size, everything, torch.float32, implementation=implementation)
    crowd.arrange([member(row, everything) for row in rows(design)])
    return crowd


def _step(crowd: Slots) -> None:
    for slot, one in enumerate(crowd.members):
        if one.step == 0:
            crowd.start_epoch(slot)
    crowd.step()


def _seconds(crowd: Slots, steps: int) -> float:
    """Time steps alone: the order of the images is left as it is."""
    wait = torch.cuda.synchronize if crowd.weights.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        crowd.step()
    wait()
    return time.perf_counter() - start


def _print_shares(events: list, kind: str) -> None:
    spent = {
        event.key: event.self_device_time_total if kind == "cuda" else event.self_cpu_time_total for event in events
    }
    whole = sum(spent.values())
    for name, one in sorted(spent.items(), key=lambda item: -item[1])[:15]:
        print(f"{one / whole:6.1%}  {name[:90]}")
