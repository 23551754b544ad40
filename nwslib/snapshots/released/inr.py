"""Sets of implicit neural representations: one PyTorch state dict for each image."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr

from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.released.networks import Places, Source, as_float32, layer_names, network
from nwslib.snapshots.released.tables import image_set, known_split, size_inside

#: Paths in the sets of Navon et al.: ``mnist_png_training_2_23089/checkpoints/model_final.pth``.
INR_PATTERN = (
    r"(?:^|/)(?P<dataset>[a-z0-9]+)_png_(?P<split>train|test)(?:ing)?_(?P<label>[^/_]+)_\d+"
    r"/checkpoints/model_final\.pth$"
)
_SOURCE = Source(
    "inr",
    "a set of implicit neural representations, each of one image (such as that of Navon et al., arXiv:2301.12780)",
    ("train_accuracy", "valid_accuracy", "test_accuracy", "train_loss"),
    {"label": ("text", "", "class of the image that the network represents")},
)
_KERNEL_AXES = {2: ("unit", "source"), 4: ("unit", "source", "row", "column")}


def read_inr(
    folder: str | Path,
    pattern: str = INR_PATTERN,
    *,
    dataset: str | None = None,
    split: str | None = None,
    first: int = 0,
) -> Iterator[xr.Dataset]:
    """Read implicit neural representations: files with the state dict of dense or convolution layers.

    Parameters
    ----------
    folder
        Searched with all folders below it.
    pattern
        Regular expression, searched in each path relative to `folder`; files in whose path it is not found are left
        out. Its groups: ``label`` (class of the image; without it, each file holds an entry of this name), ``split``
        ("train" and, whatever else it says, test), ``dataset``.
    dataset, split
        Image set and split, where the pattern has no such group.
    first
        Number of the first network, for several readings into one population.

    Returns
    -------
    iterator of xarray.Dataset
        One network each, in the order of their paths; one snapshot. ``label`` and ``path`` are further properties.
        Nothing was measured: accuracies and losses are NaN, ``epoch`` is -1.

    Raises
    ------
    FileNotFoundError
        If the folder is missing, or no file in it fits the pattern.
    ValueError
        If split or image set are left open or told twice, or a path leaves `folder`: before the first network. Later,
        if a file holds something else than such layers, or weights that are no float32 numbers.

    Notes
    -----
    Files are read with ``weights_only``, so that none can run code. Formats: github.com/AvivNavon/DWSNets and
    github.com/AllanYangZhou/nfn.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> folder = tempfile.TemporaryDirectory()
    >>> torch.save({"0.weight": torch.zeros(1, 2), "0.bias": torch.zeros(1)}, f"{folder.name}/train_7.pth")
    >>> [network] = read_inr(folder.name, "(?P<split>train|test)_(?P<label>[0-9])", dataset="mnist")
    >>> network["label"].item(), network["weights"].shape
    ('7', (1, 1, 3))
    >>> folder.cleanup()
    """
    expression = re.compile(pattern)
    for name, given in (("dataset", dataset), ("split", split)):
        if (given is None) == (name not in expression.groupindex):
            raise ValueError(f"{name} is told once: by {name}=..., or by a group (?P<{name}>...) of the pattern")
    fixed = {"dataset": dataset} if dataset else {}
    fixed |= {"split": known_split(split)} if split else {}
    root = Path(folder).resolve()
    found = {path: match.groupdict() for path in _paths(root) if (match := expression.search(path))}
    if not found:
        raise FileNotFoundError(f"no file in {folder} has a path like {pattern}")
    for path in found:
        size_inside(root, root / path)
    return _networks(root, {path: groups | fixed for path, groups in found.items()}, Places(first))


def _paths(root: Path) -> list[str]:
    """List all files below a folder, relative to it, in order; links to folders are not followed."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sorted(path.relative_to(root).as_posix() for path in found)


def _networks(root: Path, found: Mapping[str, Mapping[str, str]], places: Places) -> Iterator[xr.Dataset]:
    for path, groups in found.items():
        try:
            one = _read(root, path, groups, places)
        except ValueError as error:
            raise ValueError(f"{root / path}: {error}") from error
        yield one


def _read(root: Path, path: str, groups: Mapping[str, str], places: Places) -> xr.Dataset:
    layout, vector, label = _state(root / path)
    label = groups.get("label") or label
    if not label:
        raise ValueError("the class of the image is neither in the path nor in the file")
    known = {"dataset": image_set(groups["dataset"]), "label": label, "path": path}
    about = {"split": "train" if groups["split"].startswith("train") else "test", "n_exports": 1}
    about |= {"status": "stopped"} if np.isfinite(vector).all() else {"status": "diverged"}
    about |= {"reason": "as released", **places.next(layout)}
    return network(_SOURCE, layout, known, about, {"weights": vector[None], "epoch": np.array([-1])})


def _state(file: Path) -> tuple[Layout, np.ndarray, str | None]:
    """Read layout, weights and, where there is one, the label of a state dict."""
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a broken or foreign pickle raises almost anything
        raise ValueError(f"truncated, or not only tensors: {str(error).partition('.')[0]}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"a state dict is needed, not a {type(state).__name__}")
    label = state.get("label")
    state = next((state[name] for name in ("state_dict", "params") if name in state), state)
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, torch.Tensor) and value.dim()}
    layout = _layout(tuple((name, tuple(value.shape)) for name, value in tensors.items()))
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise ValueError(f"{name} has type {value.dtype}, but weights are real numbers")
    vector = np.concatenate([as_float32(value.double().numpy().ravel()) for value in tensors.values()])
    return layout, vector, None if label is None else str(int(label))


@lru_cache(64)
def _layout(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> Layout:
    """Lay out the tensors of a state dict, in their order."""
    parts: dict[str, str] = {}
    for name, shape in shapes:
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) in _KERNEL_AXES:
            parts[layer] = "dense" if len(shape) == 2 else "convolution"
        elif kind != "bias" or len(shape) != 1 or layer not in parts:
            raise ValueError(f"{name} of shape {shape} is no weight or bias of a dense or convolution layer")
    if not parts:
        raise ValueError("it holds no layer")
    names = layer_names(parts)
    tensors = []
    for name, shape in shapes:
        layer, _, kind = name.rpartition(".")
        axes = _KERNEL_AXES[len(shape)] if kind == "weight" else ("unit",)
        tensors.append(Tensor(names[layer], parts[layer], "kernel" if kind == "weight" else kind, axes, shape))
    return Layout("inr", tuple(tensors))
