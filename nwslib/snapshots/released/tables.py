"""Rows of CSVs that say where they stand when something is wrong with them, and paths that stay in their folder."""

import csv
import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nwslib.snapshots.schema import SPLITS
from nwslib.space import EMBEDDED_SETS, PUBLISHED_SETS, base_set, nearest

_SETS = PUBLISHED_SETS + EMBEDDED_SETS
_OTHER_NAMES = {"fashion_mnist": "fashion", "fmnist": "fashion", "svhn_cropped": "svhn", "cifar": "cifar10"}


@dataclass(frozen=True)
class Line:
    """A row of a CSV.

    Attributes
    ----------
    file
        The CSV.
    row
        Counted from 1, without the header.
    number
        Line of the file where the row ends.
    cells
        Text by column.
    """

    file: Path
    row: int
    number: int
    cells: Mapping[str, str]

    def place(self, column: str) -> str:
        """Say where a cell is."""
        return f"{self.file}, row {self.row} (line {self.number}), column {column}"

    def fault(self, column: str, problem: str) -> ValueError:
        """Make an error that says where a cell is."""
        return ValueError(f"{self.place(column)}: {problem}")

    def text(self, column: str) -> str:
        """Give a cell without the blanks around it."""
        return self.cells[column].strip()

    def real(self, column: str) -> float:
        """Read a number; an empty cell is NaN, as pandas writes it."""
        try:
            return float(self.text(column) or "nan")
        except ValueError:
            raise self.fault(column, f"a number is needed, not {self.text(column)!r}") from None

    def whole(self, column: str, least: int = 1) -> int:
        """Read a whole number."""
        value = self.real(column)
        if not value.is_integer() or not least <= value < 2**53:
            raise self.fault(column, f"a whole number from {least} on is needed, not {self.text(column)!r}")
        return int(value)

    def switch(self, column: str) -> bool:
        """Read True, False, 1 or 0."""
        known = {"true": True, "1": True, "false": False, "0": False}
        if self.text(column).lower() not in known:
            raise self.fault(column, f"True, False, 1 or 0 is needed, not {self.text(column)!r}")
        return known[self.text(column).lower()]

    def code(self, column: str, names: Sequence[str]) -> str:
        """Read a code, 0 for the first of the names."""
        codes = {str(code): name for code, name in enumerate(names)}
        if self.text(column) not in codes:
            known = ", ".join(f"{code} {name}" for code, name in codes.items())
            raise self.fault(column, f"{self.text(column)!r} is no code. Known: {known}")
        return codes[self.text(column)]

    def image_set(self, column: str) -> str:
        """Read the name of an image set."""
        name = image_set(self.text(column))
        if base_set(name) not in _SETS:
            raise self.fault(column, f"unknown image set {name!r}. {nearest(name, _SETS)}")
        return name


def image_set(name: str) -> str:
    """Give an image set the name that it has here."""
    return _OTHER_NAMES.get(name, name)


def known_split(split: str) -> str:
    """Check the name of a split.

    Raises
    ------
    ValueError
        If it is not "train" or "test".
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}. {nearest(split, SPLITS)}")
    return split


def lines(file: Path, columns: Sequence[str]) -> Iterator[Line]:
    """Read a CSV, compressed or not, that has at least the given columns.

    Raises
    ------
    ValueError
        If it is no CSV, a column is missing or comes twice, or a row has another number of cells than the header.
    """
    open_text = gzip.open if file.suffix == ".gz" else open
    try:
        with open_text(file, "rt", encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for name in columns:
                if header.count(name) != 1:
                    problem = "comes twice" if name in header else f"is missing. {nearest(name, header)}"
                    raise ValueError(f"{file}: column {name} {problem}")
            for row, cells in enumerate(filter(None, reader), start=1):
                if len(cells) != len(header):
                    where = f"{file}, row {row} (line {reader.line_num})"
                    raise ValueError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
                yield Line(file, row, reader.line_num, dict(zip(header, cells, strict=True)))
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is truncated, or not a CSV: {error}") from error


def inside(root: Path, path: Path) -> Path:
    """Follow all links of a path.

    Raises
    ------
    ValueError
        If it leaves the folder `root`, which is a path without links.
    """
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, a zero byte
        raise ValueError(f"{str(path)!r} is no path: {error}") from error
    if not resolved.is_relative_to(root):
        raise ValueError(f"{path} leaves the folder {root}")
    return resolved


def size_inside(root: Path, file: Path) -> int:
    """Give the size of a file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is something else, or a link that leaves the folder `root`.
    """
    try:
        found = os.lstat(file)
        if stat.S_ISLNK(found.st_mode):
            found = os.stat(inside(root, file))
    except OSError as error:
        raise FileNotFoundError(f"no file {file}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file} is not a file")
    return found.st_size
