"""The command line of the benchmarks."""

import argparse

from benchmarks import inr, meta, population, snapshots, step

BENCHMARKS = {"inr": inr, "meta": meta, "population": population, "snapshots": snapshots, "step": step}


def main() -> None:
    """Run one benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        module.add_arguments(commands.add_parser(name, help=module.__doc__.splitlines()[0]))
    arguments = vars(parser.parse_args())
    BENCHMARKS[arguments.pop("name")].run(**arguments)


if __name__ == "__main__":
    main()
