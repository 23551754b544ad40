"""The Small CNN Zoo: one matrix of weights, a table of checkpoints, and a list of tensors for each image set."""

import hashlib
import math
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.released.networks import Places, Source, as_float32, layer_names, network
from nwslib.snapshots.released.tables import Line, image_set, lines, size_inside

_FILES = ("layout.csv", "metrics.csv.gz", "weights.npy")
_METRICS = ("train_accuracy", "test_accuracy", "train_loss")
#: Columns that mean what a property of the schema means.
_KNOWN = {
    "learning_rate": "config.learning_rate",
    "optimizer": "config.optimizer",
    "activation": "config.activation",
    "initialization": "config.w_init",
    "depth_conv": "config.num_layers",
    "seed": "config.random_seed",
}
_FURTHER = {
    "b_init": ("text", "", "initialization of the biases"),
    "dropout": ("float64", "1", "share of units dropped in training"),
    "epochs": ("int64", "1", "epochs of training"),
    "init_std": ("float64", "1", "standard deviation of the initial weights, where the initialization leaves it open"),
    "l2reg": ("float64", "1", "factor of the L2 penalty"),
    "num_units": ("int64", "1", "channels of each convolution layer"),
    "train_fraction": ("float64", "1", "share of the training images used"),
}
_COLUMNS = ("modeldir", "step", "config.dataset", *_KNOWN.values(), *(f"config.{name}" for name in _FURTHER), *_METRICS)
_SOURCE = Source(
    "small-cnn-zoo", "Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448)", ("valid_accuracy",), _FURTHER
)
_VARIABLE = re.compile(r"(?P<layer>(?:.*/)?(?P<type>conv2d|dense)(?:_\d+)?)/(?P<kind>kernel|bias):0")
_AXES = ("row", "column", "source", "unit")  # as TensorFlow holds them; a dense kernel has the last two


@dataclass(frozen=True)
class _Run:
    """One network: its settings, and row, epoch and metrics of each checkpoint."""

    settings: Mapping[str, str]
    values: Mapping[str, Any]
    rows: array = field(default_factory=lambda: array("q"))
    epochs: array = field(default_factory=lambda: array("q"))
    metrics: array = field(default_factory=lambda: array("d"))


def read_small_cnn_zoo(folder: str | Path, dataset: str, *, first: int = 0) -> Iterator[xr.Dataset]:
    """Read the networks of one image set of the Small CNN Zoo; their checkpoints become snapshots.

    Parameters
    ----------
    folder
        With ``weights.npy``, ``metrics.csv.gz`` and ``layout.csv``.
    dataset
        Image set that they were trained on, as in the release or here: "mnist", "fashion", "cifar10" or "svhn".
    first
        Number of the first network, for several image sets in one population.

    Returns
    -------
    iterator of xarray.Dataset
        One network each, in the order of the table. The release has no split: one network in four, chosen by its
        ``path``, is in "test". A network that lacks a checkpoint that others have is "failed", with NaN in its place.

    Raises
    ------
    FileNotFoundError
        If one of the three files is missing.
    ValueError
        If a column is missing, a value has no meaning, a checkpoint comes twice, the rows of one network contradict
        each other, or the files don't have the same number of rows and weights: all this before the first network.

    Notes
    -----
    Format: github.com/google-research/google-research, folder dnn_predict_accuracy. ``step`` there counts epochs.
    """
    root = Path(folder).resolve()
    for name in _FILES:
        size_inside(root, root / name)
    layout_file, table, matrix = (root / name for name in _FILES)
    layout = _layout(layout_file)
    runs = _runs(table, image_set(dataset))
    _check_matrix(matrix, sum(len(run.rows) for run in runs), layout)
    return _networks(matrix, layout, runs, Places(first))


def _layout(file: Path) -> Layout:
    """Read the tensors in the order of the vector."""
    columns = ("varname", "start_idx", "end_idx", "shape")
    entries = sorted((_entry(line) for line in lines(file, columns)), key=lambda entry: entry[:2])
    if not entries:
        raise ValueError(f"{file} lists no tensor")
    end = 0
    for start, stop, _, _, line in entries:
        if start != end:
            raise line.fault("start_idx", f"the tensor before it ends at {end}, not at {start}")
        end = stop
    matches = [_VARIABLE.fullmatch(name) for _, _, name, _, _ in entries]
    parts = {match["layer"]: "convolution" if match["type"] == "conv2d" else "dense" for match in matches}
    names = layer_names(parts)
    tensors = (
        Tensor(names[match["layer"]], parts[match["layer"]], match["kind"], _AXES[-len(shape) :], shape)
        for match, (_, _, _, shape, _) in zip(matches, entries, strict=True)
    )
    return Layout("smallcnn", tuple(tensors))


def _entry(line: Line) -> tuple[int, int, str, tuple[int, ...], Line]:
    """Read first and last place, name and shape of a tensor."""
    name, text = line.text("varname"), line.text("shape")
    match = _VARIABLE.fullmatch(name)
    if not match:
        raise line.fault("varname", f"{name!r} is no kernel or bias of a conv2d or dense layer")
    if not re.fullmatch(r"[(\[]?\s*\d+\s*(,\s*\d+\s*)*,?\s*[)\]]?", text):
        raise line.fault("shape", f"whole numbers are needed, not {text!r}")
    shape = tuple(map(int, re.findall(r"\d+", text)))
    start, stop = line.whole("start_idx", least=0), line.whole("end_idx")
    axes = {("conv2d", "kernel"): 4, ("dense", "kernel"): 2}.get((match["type"], match["kind"]), 1)
    if len(shape) != axes or stop - start != math.prod(shape):
        raise line.fault("shape", f"{text} does not fit {name} from {start} to {stop}")
    return start, stop, name, shape, line


def _runs(file: Path, dataset: str) -> list[_Run]:
    """Collect the checkpoints of each network."""
    runs: dict[str, _Run] = {}
    for line in lines(file, _COLUMNS):
        settings = {name: text for name, text in line.cells.items() if name.startswith("config.")}
        path = line.text("modeldir")
        if path not in runs:
            runs[path] = _Run(settings, _values(line, dataset))
        run, epoch = runs[path], line.whole("step", least=0)
        for name, text in settings.items():
            if text != run.settings[name]:
                raise line.fault(name, f"{text!r}, but {run.settings[name]!r} in another row of {path}")
        if epoch in run.epochs:
            raise line.fault("step", f"checkpoint {epoch} of {path} comes twice")
        run.rows.append(line.row - 1)
        run.epochs.append(epoch)
        run.metrics.extend(_metrics(line))
    if not runs:
        raise ValueError(f"{file} lists no network")
    return list(runs.values())


def _values(line: Line, dataset: str) -> dict[str, Any]:
    """Read the settings of a network, under our names."""
    found = line.image_set("config.dataset")
    if found != dataset:
        raise line.fault("config.dataset", f"{found!r}, but {dataset!r} was asked for")
    values = {"dataset": dataset, "path": line.text("modeldir"), "learning_rate": line.real(_KNOWN["learning_rate"])}
    values |= {name: line.whole(_KNOWN[name], least=0) for name in ("depth_conv", "seed")}
    values |= {name: line.text(_KNOWN[name]) for name in ("optimizer", "activation", "initialization")}
    read = {"text": line.text, "float64": line.real, "int64": line.whole}
    return values | {name: read[kind](f"config.{name}") for name, (kind, _, _) in _FURTHER.items()}


def _metrics(line: Line) -> list[float]:
    metrics = [line.real(name) for name in _METRICS]
    for name, value in zip(_METRICS[:2], metrics, strict=False):
        if value < 0 or value > 1:
            raise line.fault(name, f"a share between 0 and 1 is needed, not {line.text(name)}")
    return metrics


def _check_matrix(file: Path, rows: int, layout: Layout) -> None:
    try:
        weights = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is truncated, or not a matrix of numbers: {error}") from error
    if weights.dtype.kind != "f" or weights.shape != (rows, layout.size):
        raise ValueError(
            f"{file} holds {weights.dtype} of shape {weights.shape}, but {_FILES[1]} has {rows} rows and {_FILES[0]} "
            f"{layout.size} weights"
        )


def _networks(matrix: Path, layout: Layout, runs: list[_Run], places: Places) -> Iterator[xr.Dataset]:
    epochs = np.unique([epoch for run in runs for epoch in run.epochs])
    for run in runs:
        data = _data(matrix, layout, run, epochs)
        about = {"split": _drawn_split(run.values["path"]), "n_exports": len(epochs), **places.next(layout)}
        yield network(_SOURCE, layout, run.values, about | _outcome(run, data, epochs), data)


def _data(matrix: Path, layout: Layout, run: _Run, epochs: np.ndarray) -> dict[str, np.ndarray]:
    """Read the checkpoints of one network; NaN where one is missing."""
    places = np.searchsorted(epochs, run.epochs)
    # A new map for each network: as long as a map lives, the pages that were read count as memory in use.
    found = np.load(matrix, mmap_mode="r", allow_pickle=False)[np.array(run.rows)]
    weights = np.full((len(epochs), layout.size), np.nan, "float32")
    try:
        weights[places] = as_float32(found)
    except ValueError as error:
        raise ValueError(f"{matrix}, rows of {run.values['path']}: {error}") from error
    metrics = np.full((len(_METRICS), len(epochs)), np.nan, "float32")
    metrics[:, places] = np.reshape(run.metrics, (-1, len(_METRICS))).T
    curves = dict(zip(_METRICS, metrics, strict=True))
    return {"weights": weights, "epoch": epochs, **curves} | {f"curve_{name}": own for name, own in curves.items()}


def _outcome(run: _Run, data: Mapping[str, np.ndarray], epochs: np.ndarray) -> dict[str, str]:
    missing = sorted(set(epochs.tolist()) - set(run.epochs))
    if missing:
        return {"status": "failed", "reason": f"no checkpoint at epoch {', '.join(map(str, missing))}"}
    if not np.isfinite(data["weights"]).all():
        return {"status": "diverged", "reason": "weights are not finite"}
    if not np.isfinite(data["test_accuracy"]).all():
        return {"status": "failed", "reason": "a test accuracy is missing"}
    return {"status": "stopped", "reason": f"limit of {run.values['epochs']} epochs"}


def _drawn_split(path: str) -> str:
    """Put one network in four into the test split, whatever the others are."""
    return "test" if hashlib.sha256(path.encode()).digest()[0] < 64 else "train"
