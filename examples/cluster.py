"""Train a small population on a cluster; start it again, and it trains what is missing.

    python examples/cluster.py --networks 8 --folder _run/cluster
    python examples/cluster.py --networks 8 --folder _run/cluster --scheduler tcp://10.0.0.1:8786

Without an address it starts one worker per GPU, or else per core, of this machine. Needs the extra `nwslib[cluster]`.
"""

import argparse

import nwslib
from nwslib import snapshots, space
from nwslib.population import cluster, images


def main() -> None:
    """Train what the folder does not hold, and say what it holds then."""
    parser = argparse.ArgumentParser(description="Train a small population on a cluster.")
    parser.add_argument("--networks", type=int, default=64, help="networks in the population (64)")
    parser.add_argument("--folder", default="_run/cluster", help="where the population is kept (_run/cluster)")
    parser.add_argument("--scheduler", help="address of a Dask scheduler; by default a cluster on this machine")
    parser.add_argument("--max-epochs", type=int, default=20, help="evaluations of a network at most (20)")
    parser.add_argument("--device", default="auto", help="of each worker: auto, cpu or cuda (auto)")
    asked = parser.parse_args()

    folder = nwslib.resolve(asked.folder)
    design = space.sample("nws_small", asked.networks, seed=0, dataset=["digits", "textures"])
    remaining = snapshots.remaining(design, folder)
    sets = images.for_design(design)
    training = cluster.train(remaining, sets, client=asked.scheduler, device=asked.device, max_epochs=asked.max_epochs)
    written = snapshots.write(folder, training)
    accuracy = snapshots.table(folder)["test_accuracy"]
    print(f"{written} networks trained, {accuracy.size} in {folder}: median accuracy {float(accuracy.median()):.0%}")


if __name__ == "__main__":  # workers import this file
    main()
