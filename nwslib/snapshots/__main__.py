"""The commands for populations on disk: look at one, check it, merge several, convert or read one, make it public."""

import argparse
import json
import os
import sys
import time
from typing import Any

from tqdm import tqdm

from nwslib.snapshots.checks import faults
from nwslib.snapshots.files import FORMS
from nwslib.snapshots.merging import merge
from nwslib.snapshots.release import AUTHORS, LICENCES, release
from nwslib.snapshots.released import read_nws
from nwslib.snapshots.store import convert, table, write
from nwslib.snapshots.summary import lines, size, summary

_EXAMPLES = {
    "info": "info population",
    "validate": "validate population",
    "merge": "merge everything machine-1 machine-2 machine-3",
    "convert": "convert population archive --form archive --keep-bits 10",
    "read-nws": "read-nws nws populations/nws_fixed nws_fixed_train.csv nws_fixed_test.csv",
    "release": 'release population to-be-published --title "What weights tell" --author "Family, Given"',
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit status: 0, 1 for a population at fault, 2 where it can't be done.

    Examples
    --------
    >>> main(["info", "no/such/folder"])
    2
    """
    asked = vars(_parser().parse_args(arguments))
    try:
        return _COMMANDS[asked.pop("command")](**asked)
    except BrokenPipeError:  # whoever reads has seen enough; nothing more may be written, not even at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command starts again, or goes on with what is missing", file=sys.stderr)
        return 130


def _sentence(error: OSError | ValueError) -> str:
    """Give the text of an error as one line; that of our own OSErrors without the number before it."""
    own = isinstance(error, OSError) and error.strerror and not error.filename
    return " ".join((error.strerror if own else str(error)).split())


def _info(folder: str, as_json: bool) -> int:
    found = summary(folder)
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))
    return 0


def _validate(folder: str) -> int:
    begin, number = time.monotonic(), 0
    for fault in faults(folder):
        tqdm.write(fault)  # above the bar, if there is one
        number += 1
    if number:
        print(f"{folder} has {number:,} fault{'s' * (number > 1)}")
        return 1
    found, seconds = summary(folder), time.monotonic() - begin
    files = found["files"]
    print(
        f"{folder} is sound: {files['shards'] + files['parts'] + 1:,} files, {found['networks']:,} networks, "
        f"{size(files['bytes'])}, {seconds:.1f} s"
    )
    return 0


def _merge(target: str, folders: list[str], renumber: bool) -> int:
    written = merge(target, folders, renumber=renumber)
    print(f"{target}: {written:,} networks written, {summary(target)['networks']:,} in all")
    return 0


def _convert(source: str, target: str, form: str, keep_bits: int | None, validate: bool) -> int:
    copied = convert(source, target, form=form, keep_bits=keep_bits)
    before, after = (summary(folder)["files"]["bytes"] for folder in (source, target))
    print(f"{target}: {copied:,} networks copied; {size(before)} became {size(after)}, {after / before:.2f} of it")
    return _validate(target) if validate else 0


def _read_nws(folder: str, target: str, csvs: list[str], skip: list[int]) -> int:
    try:
        held = table(target)["model"].values.tolist()
    except FileNotFoundError:
        held = []
    networks = read_nws(folder, csvs, skip=[*skip, *held])
    written = write(target, tqdm(networks, unit=" networks", initial=len(held), disable=None))
    found = summary(target)
    split = ", ".join(f"{side} {number:,}" for side, number in found["split"].items())
    print(f"{target}: {written:,} networks read, {found['networks']:,} in all ({split})")
    return 0


def _release(folder: str, target: str, **said: Any) -> int:
    begin = time.monotonic()
    found = release(folder, target, **said)
    for fault in found:
        print(fault)
    before, after = (summary(one) for one in (folder, target))
    larger, smaller = before["files"]["bytes"], after["files"]["bytes"]
    print(
        f"{target}: {after['networks']:,} networks; {size(larger)} became {size(smaller)}, {smaller / larger:.2f} of "
        f"it, {time.monotonic() - begin:.1f} s"
    )
    if found:
        print(f"{target} has {len(found):,} fault{'s' * (len(found) > 1)}; its data card tells them")
        return 1
    print(f"next: read {target}/README.md, add what you know beyond it, and give the folder to a data repository")
    return 0


_COMMANDS = {
    "info": _info,
    "validate": _validate,
    "merge": _merge,
    "convert": _convert,
    "read-nws": _read_nws,
    "release": _release,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nwslib.snapshots",
        description="Look at a population on disk, check it, merge several, convert or read one, or make it public.",
        epilog="\n".join(["examples:", *(f"  python -m nwslib.snapshots {example}" for example in _EXAMPLES.values())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    info = _command(commands, "info", "say what a population holds")
    info.add_argument("folder", help="where it lies")
    info.add_argument("--json", action="store_true", dest="as_json", help="everything, for programs")
    validate = _command(commands, "validate", "find every fault; exit status 1 if there is one")
    validate.add_argument("folder", help="where the population lies")
    merge = _command(commands, "merge", "make one population of several; each network once")
    merge.add_argument("target", help="made where it does not exist; goes on where it was interrupted")
    merge.add_argument("folders", nargs="+", metavar="folder", help="what to copy from; stays as it is")
    merge.add_argument("--renumber", action="store_true", help="new row numbers, for networks of several designs")
    convert = _command(commands, "convert", "copy a population into another form, and validate the copy")
    convert.add_argument("source", help="stays as it is")
    convert.add_argument("target", help="made where it does not exist; goes on where it was interrupted")
    convert.add_argument("--form", choices=FORMS, default="archive", help="small, or quick to read (default: archive)")
    convert.add_argument(
        "--keep-bits", type=int, metavar="N", help="in an archive, round weights to so many bits of the mantissa"
    )
    convert.add_argument("--no-validate", action="store_false", dest="validate", help="leave the copy unchecked")
    _add_read_nws(commands)
    _add_release(commands)
    return parser


def _add_read_nws(commands: argparse._SubParsersAction) -> None:
    reading = _command(commands, "read-nws", "make a population of the NWS release, with the split of its CSVs")
    reading.add_argument("folder", help="where the paths in the CSVs start; stays as it is")
    reading.add_argument("target", help="made where it does not exist; goes on where it was interrupted")
    reading.add_argument(
        "csvs", nargs="+", metavar="csv", help="as given, or in the folder; its name ends in train or test"
    )
    reading.add_argument(
        "--skip", nargs="+", type=int, default=[], metavar="N", help="leave out networks that an error has named"
    )


def _add_release(commands: argparse._SubParsersAction) -> None:
    release = _command(
        commands, "release", "make an archive with checksums, data card and citation; exit status 1 at a fault"
    )
    release.add_argument("folder", help="where the population lies; stays as it is")
    release.add_argument("target", help="made where it does not exist; goes on where it was interrupted")
    release.add_argument("--title", help="of the data set (default: how many networks of which family)")
    release.add_argument(
        "--licence", metavar="SPDX", help=f"of the weights: {', '.join(LICENCES)} (default: CC-BY-4.0, if trained here)"
    )
    release.add_argument(
        "--author",
        action="append",
        dest="authors",
        metavar="NAME",
        help=f'"Family, Given", or a group; may be repeated (default: {AUTHORS[0]})',
    )
    release.add_argument("--date", dest="released", metavar="YYYY-MM-DD", help="of the release (default: today, UTC)")
    release.add_argument("--keep-bits", type=int, metavar="N", help="round weights to so many bits of the mantissa")
    release.add_argument("--rows", type=int, metavar="N", help="rows of the design, to say how many are missing")


def _command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    example = f"example: python -m nwslib.snapshots {_EXAMPLES[name]}"
    return commands.add_parser(name, help=text, description=f"{text.capitalize()}.", epilog=example)


if __name__ == "__main__":
    sys.exit(main())
