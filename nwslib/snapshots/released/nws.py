"""The study's own release, in and out: CSVs with codes, and raw float64 weights in a folder for each network."""

import csv as comma_separated
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from nwslib.snapshots import cnn
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.released.networks import Places, Source, as_float32, network
from nwslib.snapshots.released.tables import Line, inside, known_split, lines, size_inside
from nwslib.snapshots.schema import SNAPSHOTS, SPLITS, UNSOUND, layout_of
from nwslib.snapshots.store import open_population

#: Names of the values that the CSVs have codes for, in the order of the codes.
CODES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "optimizer": ("adam", "rmsprop", "momentum"),
        "activation": ("relu", "elu", "sigmoid", "tanh"),
        "initialization": ("constant", "normal", "glorot_uniform", "glorot_normal"),
    }
)
_SHAPE = ("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc")
_SETTINGS = ("dataset", "lrate", "batch_size", "batch_norm", "augmentation", *CODES)
_COLUMNS = (*_SETTINGS, *_SHAPE, "weightn_conv", "weightn_fc", "path")
_ACCURACIES = ("train_accuracy", "valid_accuracy", "test_accuracy")
_MAX_EPOCHS = 1000
_SOURCE = Source(
    "nws", "the NWS release, or files in its layout (Eilertsen et al., ECAI 2020, arXiv:2002.05688)", ("train_loss",)
)


@dataclass(frozen=True)
class _Row:
    """A network of a CSV, whose files are there and have the right lengths."""

    line: Line
    folder: Path
    split: str
    layout: Layout
    values: Mapping[str, Any]
    facts: tuple[float, ...]  # evaluations, last step, epochs, seconds


def read_nws(
    root: str | Path,
    csv: str | Path | Sequence[str | Path] | Mapping[str, Any],
    *,
    split: str | None = None,
    exact: bool = True,
    first: int = 0,
    skip: Collection[int] = (),
) -> Iterator[xr.Dataset]:
    """Read networks of the NWS release.

    Parameters
    ----------
    root
        Folder that the paths in the CSVs start from.
    csv
        A CSV of the release, or several; as given, or else in `root`. A mapping says the split of each:
        ``{"train": "nws_main_train.csv", "test": "nws_main_test.csv"}``.
    split
        "train" or "test". None: told by the mapping, or by the end of the file's name.
    exact
        Whether to refuse weights that are no float32 numbers; else they are rounded. The released ones come from
        float32.
    first
        Number of the first network, for several readings into one population.
    skip
        Numbers of networks not to read: one that an error has named, or, after an interruption, those that are there
        (``snapshots.table(folder)["model"].values``).

    Returns
    -------
    iterator of xarray.Dataset
        One network each, in the order of the CSVs; 20 snapshots. ``path`` is a further property; ``decay`` is 1, as
        released; ``seed`` is unknown, and ``train_loss`` was not measured.

    Raises
    ------
    FileNotFoundError
        If a CSV, or a file that it leads to, is missing.
    ValueError
        If a column is missing, a value has no meaning, a path leaves `root` or comes twice, or a file has another
        length than its row says: all this before the first network. Later, if errors are no percentages, or weights
        can't be stored.

    Notes
    -----
    Format: ``util.py`` and ``classifier.py`` of github.com/gabrieleilertsen/nws. The first training accuracy of a
    network is that of a single batch.

    Examples
    --------
    >>> read_nws("no/such/folder", "nws_fixed_train.csv")
    Traceback (most recent call last):
    FileNotFoundError: no CSV nws_fixed_train.csv, neither as given nor in no/such/folder
    """
    splits = _splits(Path(root), csv, split)
    root = Path(root).resolve()
    rows = [row for file, side in splits for row in _rows(root, file, side)]
    _refuse_repeated(rows)
    return _networks(rows, exact, Places(first), frozenset(skip))


def export_nws(folder: str | Path, target: str | Path) -> int:
    """Write a population in the layout of the NWS release, which the study's own scripts read.

    They open paths relative to the current folder: run them in `target`.

    Parameters
    ----------
    folder
        Of the population: networks of the study's family, with 20 snapshots.
    target
        A new or empty folder. It gets ``nws_train.csv``, ``nws_test.csv`` and a folder ``networks/<model>`` for each
        network, with ``weights/001.bin`` to ``020.bin``, ``error.bin`` and ``stat.bin``.

    Returns
    -------
    int
        How many networks were written. Those that diverged or failed are left out: the scripts can't use them.

    Raises
    ------
    FileExistsError
        If there is something in `target`.
    ValueError
        If a network is not of the study's family, or has other than 20 snapshots.

    Notes
    -----
    The layout has no place for ``id``, ``seed``, ``decay``, ``status``, the training loss, further properties and
    updates. `read_nws` finds the image size by the number of weights. The scripts know only the study's five image
    sets.
    """
    target = Path(target)
    nodes = [node.to_dataset() for node in open_population(folder).children.values()]
    for node in nodes:
        _check_exportable(node, str(folder))
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty: choose a new folder")
    written: dict[int, tuple[str, list]] = {}
    for node in nodes:
        for position in np.flatnonzero(~np.isin(node["status"].values, UNSOUND)).tolist():
            one = node.isel(model=position)
            written[one["model"].item()] = (one["split"].item(), _export(one, target))
    # The CSVs last: they lead to whole networks only.
    for side in SPLITS:
        with (target / f"nws_{side}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = comma_separated.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(cells for _, (own, cells) in sorted(written.items()) if own == side)
    return len(written)


def _splits(root: Path, csv: Any, split: str | None) -> list[tuple[Path, str]]:
    """Find the CSVs, and the split of each."""
    if isinstance(csv, Mapping):
        if split is not None:
            raise ValueError("the split is told twice: by the mapping, and by split=...")
        return [found for side, own in csv.items() for found in _splits(root, own, known_split(side))]
    found = []
    for file in [csv] if isinstance(csv, str | Path) else csv:
        path = next((path for path in (Path(file), root / file) if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no CSV {file}, neither as given nor in {root}")
        told = split or next((side for side in SPLITS if path.stem.endswith(side)), None)
        if told is None:
            raise ValueError(f"{path}: its name does not end in train or test: say split=...")
        found.append((path, known_split(told)))
    return found


def _rows(root: Path, file: Path, split: str) -> Iterator[_Row]:
    for line in lines(file, _COLUMNS):
        layout, values = _values(line)
        try:
            folder = inside(root, root / line.text("path"))
            facts = _check_files(root, folder, layout)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{line.place('path')}: {error}") from error
        yield _Row(line, folder, split, layout, values, facts)


def _values(line: Line) -> tuple[Layout, dict[str, Any]]:
    """Read the hyper-parameters of a row, under our names."""
    rate = line.real("lrate")
    if not 0 < rate < math.inf:
        raise line.fault("lrate", f"a positive number is needed, not {line.text('lrate')!r}")
    if not line.switch("batch_norm"):
        raise line.fault("batch_norm", f"every network of the study has batch norm, not {line.text('batch_norm')!r}")
    shape = {name: line.whole(name, least=cnn.BLOCKS if name == "depth_conv" else 1) for name in _SHAPE}
    layout, image_size = _fitting_layout(line, tuple(shape.values()))
    return layout, {
        "dataset": line.image_set("dataset"),
        "learning_rate": rate,
        "batch_size": line.whole("batch_size"),
        "augmentation": "on" if line.switch("augmentation") else "off",
        **{name: line.code(name, names) for name, names in CODES.items()},
        **shape,
        "image_size": image_size,
        "decay": 1.0,
        "path": line.text("path"),
    }


def _fitting_layout(line: Line, shape: tuple[int, ...]) -> tuple[Layout, int]:
    """Find the layout that has as many weights as the row says: images are 32 pixels wide, in our small set 16."""
    found = line.whole("weightn_conv"), line.whole("weightn_fc")
    for image_size in (32, 16):
        layout = _layout(image_size, *shape)
        if _part_sizes(layout) == found:
            return layout, image_size
    expected = _part_sizes(_layout(32, *shape))
    wrong = "weightn_conv" if found[0] != expected[0] else "weightn_fc"
    raise line.fault(wrong, f"{found[0]} + {found[1]} weights, but such a network has {expected[0]} + {expected[1]}")


@lru_cache(None)
def _layout(*shape: int) -> Layout:
    return cnn.layout(*shape)


@lru_cache(None)
def _part_sizes(layout: Layout) -> tuple[int, int]:
    """Count the convolution and the dense weights."""
    convolution = sum(tensor.size for tensor in layout.tensors if tensor.part == "convolution")
    return convolution, layout.size - convolution


def _check_files(root: Path, folder: Path, layout: Layout) -> tuple[float, ...]:
    """Check that the files of a network are there and have the right lengths; give what is in ``stat.bin``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    inside(root, folder / "weights")
    for file in _weight_files(folder):
        size = size_inside(root, file)
        if size != 8 * layout.size:
            raise ValueError(f"{file} has {size} bytes, but {layout.size} weights take {8 * layout.size}")
    size = size_inside(root, folder / "stat.bin")
    if size != 32:
        raise ValueError(f"{folder / 'stat.bin'} has {size} bytes, but four numbers take 32")
    facts = tuple(np.fromfile(folder / "stat.bin", "<f8").tolist())
    size = size_inside(root, folder / "error.bin")
    if not (facts[0] >= 1 and size == 40 * facts[0]):
        raise ValueError(
            f"{folder / 'error.bin'} has {size} bytes, but {facts[0]:g} evaluations take {40 * facts[0]:g}"
        )
    return facts


def _weight_files(folder: Path) -> list[Path]:
    return [folder / "weights" / f"{number:03d}.bin" for number in range(1, SNAPSHOTS + 1)]


def _refuse_repeated(rows: Sequence[_Row]) -> None:
    seen: dict[Path, Line] = {}
    for row in rows:
        if row.folder in seen:
            raise row.line.fault("path", f"{row.values['path']!r} comes twice: {seen[row.folder].place('path')}")
        seen[row.folder] = row.line


def _networks(rows: Sequence[_Row], exact: bool, places: Places, skip: frozenset[int]) -> Iterator[xr.Dataset]:
    for row in rows:
        place = places.next(row.layout)
        if place["model"] in skip:
            continue
        try:
            one = _read(row, place, exact)
        except (ValueError, OSError) as error:
            message = f"{row.line.place('path')}: {error}. skip=[{place['model']}] leaves it out"
            raise ValueError(message) from error
        yield one


def _read(row: _Row, place: Mapping[str, int], exact: bool) -> xr.Dataset:
    exports, steps, epochs, seconds = row.facts
    weights = np.empty((SNAPSHOTS, row.layout.size), "float32")
    for vector, file in zip(weights, _weight_files(row.folder), strict=True):
        try:
            vector[:] = as_float32(np.fromfile(file, "<f8"), exact)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    finite = bool(np.isfinite(weights).all())
    curves = _curves(row.folder / "error.bin", finite)
    kept = np.round(np.linspace(1, exports, SNAPSHOTS)).astype("int64") - 1  # (s,)
    data = {"weights": weights, "epoch": kept}
    data |= {name: curve[kept] for name, curve in curves.items()}
    data |= {f"curve_{name}": curve for name, curve in curves.items()}
    about = {"split": row.split, "n_exports": int(exports), "steps": int(steps) if steps >= 0 else -1}
    about |= {"seconds": seconds, **place, **_outcome(finite, epochs)}
    return network(_SOURCE, row.layout, row.values, about, data)


def _curves(file: Path, finite: bool) -> dict[str, np.ndarray]:
    """Turn errors in percent into accuracies."""
    errors = np.fromfile(file, "<f8").reshape(-1, 5)[:, 1:4]
    wrong = (errors < -1e-6) | (errors > 100 + 1e-6)  # beyond 0 and 100 by rounding only
    if finite:
        wrong[:, 1:] |= np.isnan(errors[:, 1:])
    if wrong.any():
        raise ValueError(f"{file}: an error is a percentage from 0 to 100, not {errors[wrong][0]:g}")
    accuracies = np.clip(1 - errors / 100, 0, 1).astype("float32")
    return dict(zip(_ACCURACIES, np.ascontiguousarray(accuracies.T), strict=True))


def _outcome(finite: bool, epochs: float) -> dict[str, str]:
    if not finite:
        return {"status": "diverged", "reason": "weights are not finite"}
    if epochs > _MAX_EPOCHS - 1:
        return {"status": "stopped", "reason": f"limit of {_MAX_EPOCHS} epochs"}
    return {"status": "converged", "reason": "a stopping rule fired"}


def _check_exportable(node: xr.Dataset, source: str) -> None:
    layout, names = layout_of(node), ("image_size", *_SHAPE)
    if layout.family != "cnn" or not set(names) <= set(node.coords):
        raise ValueError(
            f"{source}: {layout.name} is not of the study's family, the only one that the NWS layout holds"
        )
    for shape in set(zip(*(node[name].values.tolist() for name in names), strict=True)):
        if _layout(*shape) != layout:
            raise ValueError(f"{source}: the weights of {layout.name} do not stand in the order of the study's family")
    if node.sizes["snapshot"] != SNAPSHOTS:
        raise ValueError(f"{source}: {layout.name} has {node.sizes['snapshot']} snapshots, the NWS layout {SNAPSHOTS}")


def _export(one: xr.Dataset, target: Path) -> list[Any]:
    """Write the files of one network, and give its row of the CSV."""
    path = f"networks/{one['model'].item():05d}"
    (target / path / "weights").mkdir(parents=True)
    for file, vector in zip(_weight_files(target / path), one["weights"].values, strict=True):
        vector.astype("<f8").tofile(file)
    exports, steps = one["n_exports"].item(), one["steps"].item()
    steps = steps if steps >= 0 else math.nan
    _errors(one, exports, steps).tofile(target / path / "error.bin")
    np.array([exports, steps, exports - 1, one["seconds"].item()], "<f8").tofile(target / path / "stat.bin")
    cells = {name: one[name].item() for name in ("dataset", "batch_size", *_SHAPE)}
    cells |= {name: names.index(one[name].item()) for name, names in CODES.items()}
    cells |= {"lrate": one["learning_rate"].item(), "augmentation": one["augmentation"].item() == "on"}
    cells |= {"batch_norm": True, "path": path}
    cells["weightn_conv"], cells["weightn_fc"] = _part_sizes(layout_of(one))
    return [cells[name] for name in _COLUMNS]


def _errors(one: xr.Dataset, exports: int, steps: float) -> np.ndarray:
    """Give what is in ``error.bin``: step, three errors in percent, that of the running average; (evaluation, 5)."""
    shares = [one[f"curve_{name}"].values[:exports].astype("float64") for name in _ACCURACIES]
    average = shares[1].copy()
    for place in range(1, exports):
        average[place] = (average[place - 1] + average[place]) / 2
    percent = [100 * (1 - share) for share in (*shares, average)]
    return np.stack([np.linspace(0, steps, exports).round(), *percent], axis=1).astype("<f8")
