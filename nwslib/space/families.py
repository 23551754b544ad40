"""Network families, what varies among their networks, and the collections that designs are drawn from: one table.

The family ``cnn`` and the collections ``nws_main`` and ``nws_fixed`` are those of Eilertsen et al., "Classifying the
classifier", ECAI 2020 (arXiv:2002.05688); ``nws_small`` is ours, for laptops and tests. Image networks: SIREN of
Sitzmann et al., NeurIPS 2020 (arXiv:2006.09661), one per image; Kolmogorov-Arnold networks of Liu et al., ICLR 2025
(arXiv:2404.19756). ``resnet8`` is drawn as by Lim et al., NeurIPS 2024 (arXiv:2405.20231).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from nwslib.space.columns import COLUMNS, Column
from nwslib.space.vocabulary import ARCHITECTURE, CONSTANTS, PROPERTIES, VOCABULARY, nearest

_FIXED = {"filter_size": 5, "depth_conv": 3, "depth_fc": 2, "width_conv": 8, "width_fc": 128}
_SMALL = {"image_size": 16, "filter_size": 3, "depth_conv": 3, "depth_fc": 2, "width_conv": 4, "width_fc": 32}


@dataclass(frozen=True)
class Family:
    """One kind of network, and what a design says of it. A family that has two tasks is two of these.

    Attributes
    ----------
    name
        ``"cnn"``; the column ``family``, and the first word of a layout's name.
    task
        ``"image"`` or ``"classify"``, the column of that name; None in the study, whose designs have no such column.
    drawn
        What else varies, by column: values to choose from, or, of numbers that are not whole, a range.
    constants
        What stands in the other columns where nothing else is asked for.
    known
        All values of a column that have a meaning here, where they are fewer than in `COLUMNS`.
    architecture
        The columns that fix the shapes of a network's tensors. Of ``dataset`` only the number of channels does.
    draws
        The columns in the order in which a row's random numbers belong to them: a new one goes to the end.
    logarithmic
        Columns of which the logarithm is uniform where they are drawn from a range.
    """

    name: str
    task: str | None
    drawn: Mapping[str, Any]
    constants: Mapping[str, Any]
    known: Mapping[str, tuple]
    architecture: tuple[str, ...]
    draws: tuple[str, ...]
    logarithmic: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that a design by hand must have."""
        return (*self.drawn, "seed")

    @cached_property
    def columns(self) -> dict[str, Column]:
        """What may stand in each column, but ``split`` and those of `switch`; ``seed`` is the last."""
        names = [*self.drawn, *(name for name in self.constants if name not in self.drawn)]
        names += [*(["image"] if self.task == "image" else []), "seed"]
        return {name: replace(COLUMNS[name], known=self.known.get(name, COLUMNS[name].known)) for name in names}

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """The columns that tell networks apart, sorted."""
        return tuple(sorted(self.columns))

    def renamed(self, name: str) -> "Family":
        """Describe a family of another name, of whose networks a design says the same."""
        own = {"family": name}
        return replace(self, name=name, constants={**self.constants, **own}, known={**self.known, "family": (name,)})


def _further(
    name: str,
    task: str,
    *,
    architecture: tuple[str, ...],
    constants: Mapping[str, Any],
    drawn: Mapping[str, Any] = MappingProxyType({}),
    known: Mapping[str, tuple] = MappingProxyType({}),
) -> Family:
    """Describe a family that the study doesn't have, whose only optimiser is that of its constants."""
    return Family(
        name,
        task,
        drawn,
        {"family": name, "task": task, **constants},
        {"family": (name,), "task": (task,), "optimizer": (constants["optimizer"],), **known},
        ("family", "task", "dataset", *architecture),
        ("seed", "split", *drawn, *constants),
        logarithmic=("learning_rate", "weight_decay"),
    )


_STUDY = Family(
    "cnn",
    None,
    VOCABULARY,
    CONSTANTS,
    {name: VOCABULARY[name] for name in ("optimizer", "initialization")} | {"family": ("cnn",), "image_size": (16, 32)},
    ARCHITECTURE,
    (*PROPERTIES, "seed", "split"),
)
_IMAGE = {
    "dataset": "mnist",
    "image_size": 28,
    "steps": 1000,
    "optimizer": "adam",
    "initialization": "own",
    "width": 32,
}
_OWN_OR_SHARED = {"initialization": ("own", "shared")}  # or all networks start from one draw
_NOISY = {"dataset": ("mnist", "fashion", "kmnist"), "label_noise": (0.0, 1.0), "learning_rate": (3e-4, 3e-3)}
_CLASSIFIER = {"image_size": 28, "epochs": 5, "batch_size": 64, "optimizer": "adam"}
_SPLINES = {"grid": 5, "order": 3}
_EVERY = (
    _STUDY,
    _further(
        "siren",
        "image",
        architecture=("width", "depth"),
        constants={**_IMAGE, "depth": 2, "frequency": 30.0, "learning_rate": 5e-4},
        known=_OWN_OR_SHARED,
    ),
    _further(
        "kan",
        "image",
        architecture=("width", "depth", "grid", "order"),
        constants={**_IMAGE, "depth": 1, **_SPLINES, "grid": 8, "learning_rate": 1e-2},
        known=_OWN_OR_SHARED,
    ),
    _further(
        "smallcnn",
        "classify",
        architecture=("image_size", "width", "depth"),
        constants={**_CLASSIFIER, "width": 16, "depth": 3},
        drawn={**_NOISY, "learning_rate": (1e-3, 1e-2)},  # at lower rates it has not learned after five epochs
    ),
    _further(
        "mlp",
        "classify",
        architecture=("image_size", "width", "depth"),
        constants={**_CLASSIFIER, "width": 32, "depth": 2},
        drawn=_NOISY,
    ),
    _further(
        "kan",
        "classify",
        architecture=("image_size", "width", "depth", "grid", "order"),
        constants={**_CLASSIFIER, "width": 32, "depth": 1, **_SPLINES},
        drawn=_NOISY,
    ),
    _further(
        "resnet8",
        "classify",
        architecture=(),
        constants={"dataset": "cifar10", "image_size": 32, "batch_size": 512, "optimizer": "adamw"},
        drawn={
            "learning_rate": (0.005, 0.5),  # 0.5 x 10^-U(0, 2)
            "weight_decay": (1e-5, 1e-1),  # 10^-U(1, 5)
            "label_smoothing": (0.0, 0.2),
            "epochs": tuple(range(10, 41)),
        },
        known={"image_size": (16, 32)},
    ),
)

#: Every family, by name and task. A family of one's own is added here: `Family.renamed` makes it from another.
FAMILIES: dict[tuple[str, str | None], Family] = {(one.name, one.task): one for one in _EVERY}

#: What a collection fixes: its family and task (where none is named, the study's), and in the study properties.
COLLECTIONS: dict[str, dict[str, Any]] = {
    "nws_main": {},
    "nws_fixed": _FIXED,
    "nws_small": _SMALL,
    "siren": {"family": "siren", "task": "image"},
    "kan_image": {"family": "kan", "task": "image"},
    "noisy_cnn": {"family": "smallcnn", "task": "classify"},
    "noisy_mlp": {"family": "mlp", "task": "classify"},
    "noisy_kan": {"family": "kan", "task": "classify"},
    "resnet8": {"family": "resnet8", "task": "classify"},
}


def family_of(design: xr.Dataset | Mapping[str, Any]) -> Family:
    """Find the family of a design's networks.

    Parameters
    ----------
    design
        A design, the table of a population, or what one row or a collection says. Where nothing is said of the family
        it is the study's; where nothing is said of the task, the family's only one.

    Returns
    -------
    Family
        With the task of the networks.

    Raises
    ------
    ValueError
        If the family or task is unknown, or there are several.

    Examples
    --------
    >>> family_of({"family": "siren"}).task
    'image'
    """
    if isinstance(design, xr.Dataset) and not design.sizes.get("model"):
        return next((one for one in FAMILIES.values() if set(one.columns) <= set(design.variables)), _STUDY)
    name, task = _only(design, "family") or "cnn", _only(design, "task")
    tasks = [one for one in FAMILIES.values() if one.name == name]
    if not tasks:
        raise ValueError(f"unknown family {name!r}. {nearest(name, [one.name for one in FAMILIES.values()])}")
    if task is None and len(tasks) > 1:
        raise ValueError(
            f"networks of the family {name!r} have several tasks: {[one.task for one in tasks]}. Say which"
        )
    fitting = [one for one in tasks if task in (None, one.task)]
    if not fitting:
        raise ValueError(f"unknown task {task!r} of the family {name!r}. {nearest(task, [one.task for one in tasks])}")
    return fitting[0]


def _only(design: xr.Dataset | Mapping[str, Any], name: str) -> Any:
    """Give the one value of a column, or None."""
    if name not in design:
        return None
    values = np.unique(np.asarray(design[name])).tolist()
    if len(values) > 1:
        raise ValueError(f"a design has one {name}, not {values}: make one design for each")
    return values[0]
