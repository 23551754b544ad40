"""Train a small population on this machine; start it again, and it trains what is missing.

    python examples/train.py --networks 64 --folder _run/script

Nothing but this repository's library is needed.
"""

import argparse

import nwslib
from nwslib import snapshots, space
from nwslib.population import images, train


def main() -> None:
    """Train what the folder does not hold, and say what it holds then."""
    parser = argparse.ArgumentParser(description="Train a small population on this machine.")
    parser.add_argument("--networks", type=int, default=64, help="networks in the population (64)")
    parser.add_argument("--folder", default="_run/script", help="where the population is kept (_run/script)")
    parser.add_argument("--max-epochs", type=int, default=20, help="evaluations of a network at most (20)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    asked = parser.parse_args()

    folder = nwslib.resolve(asked.folder)
    design = space.sample("nws_small", asked.networks, seed=0, dataset=["digits", "textures"])
    remaining = snapshots.remaining(design, folder)
    sets = images.for_design(design)
    written = snapshots.write(folder, train(remaining, sets, device=asked.device, max_epochs=asked.max_epochs))
    accuracy = snapshots.table(folder)["test_accuracy"]
    print(f"{written} networks trained, {accuracy.size} in {folder}: median accuracy {float(accuracy.median()):.0%}")


if __name__ == "__main__":
    main()
