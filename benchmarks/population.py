"""Training speed: crowds of nws_small against an ordinary loop over single networks, everything included."""

import argparse
import json
import time

import torch

from nwslib.population import describe, images, resolve_device, speed

DATASETS = ("digits", "glyphs", "patches", "textures")
FORWARD_AND_BACKWARD = 0.40e6  # operations per image of nws_small


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--crowds", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--batch-size", type=int, default=32)


def matrix_rate(device: torch.device) -> float:
    """Measure the operations per second of a large float32 matrix product."""
    a, b = torch.randn(2, 2048, 2048, device=device)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def run(device: str, repeats: int, crowds: list[int], batch_size: int) -> None:
    """Print one table and, as the last line, one JSON object."""
    sets = images.load_all(DATASETS, size=16)
    place = resolve_device(device)
    floor = matrix_rate(place) / FORWARD_AND_BACKWARD  # images per second, were all of it one matrix product
    rates = speed.compare("nws_small", sets, crowds, batch_size=batch_size, repeats=repeats, device=device)["rate"]
    ratios = (rates / rates.isel(way=0)).median("repeat")
    print(f"{describe(place)}; {repeats} repeats in turn; images per second, median (least to most)")
    for way in rates["way"].values.tolist():
        one = rates.sel(way=way)
        middle, least, most = one.median().item(), one.min().item(), one.max().item()
        share = middle / floor
        print(
            f"{way:>18} {middle:>10,.0f} ({least:,.0f} to {most:,.0f})  {ratios.sel(way=way):5.2f} of the loop", end=""
        )
        print(f"  {share:6.1%} of the matrix product")
    found = {f"small{count}_vs_loop": round(float(ratio), 3) for count, ratio in zip(crowds, ratios[1:], strict=True)}
    found["best_vs_matmul"] = round(rates.median("repeat").max().item() / floor, 3)
    print(json.dumps(found | {"device": describe(place)}))
