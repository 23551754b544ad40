"""Train a whole design: networks of many kinds side by side in one tensor program, each as if it were alone.

Rows that share an architecture and a batch size form a group. Its networks train in lockstep in M slots; each has its
own image set, order, learning rate, optimiser, activation, augmentation and moment of stopping. A network that has
finished leaves its slot to the next row. M changes speed and memory, never a result.

In a design of `nwslib.space.switch` networks change course: after `switch_epoch` epochs, and the evaluation and export
that follow them, a network goes on with its new values. Another optimiser starts with empty state and counts its steps
from there; another learning rate is what it would be by then had it been there from the start, decay included; of
another image set the network has a split of its own, from its seed as always, and from the next evaluation on its
accuracy is that on the new images. The stopping rules go on; a network that they stop before never changes.

All this is said of the study's family. Networks of the others take the steps or epochs of their rows, without stopping
rules: `nwslib.population.fitting` for image networks, `nwslib.population.classifying` for classifiers.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from nwslib import space
from nwslib.population import classifying, draws, fitting, implementations
from nwslib.population.device import resolve_device
from nwslib.population.images import ImageSet
from nwslib.population.loop import Common, Watch, train_rows
from nwslib.population.shared import Shared
from nwslib.population.slots import Bank, bank, changes, member, rows
from nwslib.snapshots.schema import SNAPSHOTS

PROTOCOL_VERSION = "1"
#: What weights and their optimiser are kept in; with bfloat16, products alone are in that.
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
CLASS_IMAGES = 20
MAX_EPOCHS = 1000

#: What the released code does although it was surely meant otherwise, by name: to measure the difference it makes.
OPTIONS = {
    "batch_statistics": "accuracies are measured with the statistics of each batch of test images, not the stored ones",
    "augmented_evaluation": "augmented networks are validated and tested on augmented images",
    "colour_per_batch": "colour and noise of the augmentation are drawn once per batch, not per image",
    "bias_noise": "biases in front of a batch norm move by the rounding noise of their gradient, whose true value is 0",
}


class Training:
    """A training under way: an iterator of finished networks that also says what it does.

    Attributes
    ----------
    design
        The completed design.
    parameters
        What all its networks share: ``precision`` and the version of each image set; in the study's family
        ``max_epochs``, ``options``, and ``updates`` where updates are kept; in the others ``snapshots``.
    implementation
        What computes them, by name, in the study's family; each network of another says it itself.
    """

    def __init__(
        self, design: xr.Dataset, parameters: dict[str, Any], implementation: str, finished: Iterator[xr.Dataset]
    ) -> None:
        self.design = design
        self.parameters = parameters
        self.implementation = implementation
        self._finished = finished

    def __iter__(self) -> Iterator[xr.Dataset]:
        return self

    def __next__(self) -> xr.Dataset:
        return next(self._finished)

    def close(self) -> None:
        """End the training; networks that have not finished are lost."""
        if hasattr(self._finished, "close"):
            self._finished.close()


def train(
    design: xr.Dataset,
    images: Mapping[str, ImageSet],
    *,
    device: str = "auto",
    slots: int | None = None,
    precision: str = "float32",
    snapshots: int = SNAPSHOTS,
    max_epochs: int | None = None,
    implementation: str = "auto",
    options: Collection[str] = (),
    updates: bool = False,
    progress: bool = True,
) -> Training:
    """Train every network of a design and yield each when it has finished.

    Parameters
    ----------
    design
        From `nwslib.space.sample` or by hand; one row per network, all of one family.
    images
        An image set for each name in ``design["dataset"]``, and in ``design["dataset_after"]`` if it is there, of the
        design's image size.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    slots
        Networks trained side by side; by default as many as were measured to suit the architecture and this machine.
        Changes no result.
    precision
        ``"float32"``, ``"float64"``, or for classifiers of families but the study's ``"bfloat16"``: mixed precision,
        products in bfloat16 and the rest in float32, for devices that have fast units for it.
    snapshots
        How many are kept of each network, evenly spaced over its run. In the study's family always 20.
    max_epochs
        Evaluations after which a network stops at the latest, by default 1000; the first comes before the first step.
        This and the arguments from here to `updates` are for the study's family alone.
    implementation
        What computes the networks, see `nwslib.population.implementations`: ``"auto"`` takes what a population that is
        being resumed was begun with, else the fastest for the device. Results differ between implementations by
        rounding, which training then makes large.
    options
        Names from `OPTIONS`: what the released code did otherwise.
    updates
        Whether a network also carries the variable ``updates``: what the last optimiser step before each snapshot
        changed in its weight vector, moving statistics included; 0 at snapshot 1. Changes nothing else.
    progress
        Whether to show a status line where somebody watches.

    Returns
    -------
    Training
        An iterator of one-network datasets, as `nwslib.snapshots.schema` describes them, in the order of finishing.

    Raises
    ------
    ValueError
        Before anything is trained: if the design or another argument is not valid, an image set is missing, of another
        size or short of a class, a batch is larger than an epoch, a switch lies behind the last epoch, or an argument
        means nothing for the networks' family.

    Notes
    -----
    The protocol of Eilertsen et al., ECAI 2020, with the corrections that the book lists.

    Examples
    --------
    >>> from nwslib.population import images
    >>> design = space.sample("nws_small", 2, seed=0, dataset="digits", batch_size=256)
    >>> network = next(train(design, {"digits": images.load("digits", size=16)}, max_epochs=2))
    >>> network["weights"].shape
    (1, 20, 4828)
    """
    design = space.complete(design)
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}. {space.nearest(precision, PRECISIONS)}")
    for name, number, least in (("max_epochs", max_epochs, 1), ("slots", slots, 1), ("snapshots", snapshots, 2)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise ValueError(f"{name} must be a whole number, at least {least}, not {number!r}")
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"unknown option {option!r}. {space.nearest(option, OPTIONS)}")
    if not isinstance(updates, bool):
        raise ValueError(f"updates must be True or False, not {updates!r}")
    if design.sizes["model"]:
        _check_images(design, images)
    versions = {name: images[name].version for name in sorted(images)}
    place, family = resolve_device(device), space.family_of(design)
    if precision == "bfloat16" and family.task != "classify":
        raise ValueError(f"networks of family {family.name!r} have no mixed precision 'bfloat16'. Nearest: 'float32'")
    if family.task:
        study = {"max_epochs": max_epochs, "options": list(options), "updates": updates}
        _refuse(family, study | {"implementation": implementation if implementation != "auto" else None})
        parameters = {"precision": precision, "snapshots": snapshots, "images": versions}
        return _train_further(design, images, place, slots, parameters, progress)
    if snapshots != SNAPSHOTS:
        raise ValueError(f"networks of the study keep {SNAPSHOTS} snapshots, not {snapshots}")
    parameters = {
        "max_epochs": max_epochs or MAX_EPOCHS,
        "precision": precision,
        "options": sorted(set(options)),
        "images": versions,
    }
    parameters |= {"updates": True} if updates else {}  # not False: populations from before there were updates go on
    return _train_study(design, images, place, slots, implementation, parameters, progress)


def _train_study(
    design: xr.Dataset,
    images: Mapping[str, ImageSet],
    place: torch.device,
    slots: int | None,
    implementation: str,
    parameters: dict[str, Any],
    progress: bool,
) -> Training:
    """Train networks of the study's family."""
    chosen = implementations.choose(implementation, place, design)
    if design.sizes["model"] == 0:
        return Training(design, parameters, chosen, iter(()))
    needed, max_epochs = {name: images[name] for name in space.image_sets(design)}, parameters["max_epochs"]
    common = Common(
        bank(needed, place),
        PRECISIONS[parameters["precision"]],
        max_epochs,
        parameters,
        chosen,
        lambda row: identity(row, parameters),
        PROTOCOL_VERSION,
    )
    every = rows(design)
    _check_switches(every, max_epochs)
    _check_epochs(every, common.bank)
    watch = Watch(len(every), max_epochs, progress)
    return Training(design, parameters, chosen, train_rows(every, slots, common, watch))


def _train_further(
    design: xr.Dataset,
    images: Mapping[str, ImageSet],
    place: torch.device,
    slots: int | None,
    parameters: dict[str, Any],
    progress: bool,
) -> Training:
    """Train networks of another family."""
    if design.sizes["model"] == 0:
        return Training(design, parameters, "", iter(()))
    shared = Shared(
        place,
        PRECISIONS[parameters["precision"]],
        slots,
        parameters["snapshots"],
        parameters,
        lambda row: identity(row, parameters),
        PROTOCOL_VERSION,
        progress,
    )
    needed = {name: images[name] for name in space.image_sets(design)}
    train_all = fitting.fit_rows if space.family_of(design).task == "image" else classifying.classify_rows
    return Training(design, parameters, "", train_all(design, needed, shared))


def _refuse(family: space.Family, study: Mapping[str, Any]) -> None:
    """Refuse arguments that mean something for the study's networks only."""
    for name, value in study.items():
        if value:
            raise ValueError(
                f"{name} means nothing for networks of the family {family.name!r}: it is for the study's alone. "
                f"Leave it out; what is fixed of theirs stands in the design: {', '.join(family.draws[2:])}"
            )


def _check_images(design: xr.Dataset, images: Mapping[str, ImageSet]) -> None:
    sizes = np.unique(design["image_size"].values).tolist()
    if len(sizes) > 1:
        raise ValueError(f"one training has one image size, but the design has {sizes}")
    classify = space.family_of(design).task != "image"
    for name in space.image_sets(design):
        if name not in images:
            raise ValueError(f"the design needs the image set {name!r}. {space.nearest(name, images)}")
        _check_set(name, images[name], sizes[0])
        if classify:
            _check_classes(name, images[name])


def _check_set(name: str, one: ImageSet, size: int) -> None:
    for part, labels in ((one.train_images, one.train_labels), (one.test_images, one.test_labels)):
        shape = tuple(part.shape)
        if shape[1:3] != (size, size):
            raise ValueError(f"image set {name!r} is {shape[1]}x{shape[2]}, but the design says image_size {size}")
        if part.dtype != torch.uint8 or labels.dtype != torch.int64 or not 0 < len(part) == len(labels):
            raise ValueError(
                f"image set {name!r} needs uint8 images and an int64 label for each, not {part.dtype} images "
                f"{shape} and {labels.dtype} labels {tuple(labels.shape)}"
            )


def _check_classes(name: str, one: ImageSet) -> None:
    counts = torch.bincount(one.train_labels, minlength=len(one.classes))
    if counts.min() < CLASS_IMAGES:
        raise ValueError(
            f"image set {name!r} has {counts.min()} training images of class {one.classes[counts.argmin()]!r}; every "
            f"class needs at least {CLASS_IMAGES}, so that every network's training part holds some"
        )


def _check_epochs(every: list[dict[str, Any]], bank: Bank) -> None:
    """Refuse a batch larger than an epoch before work starts; only where it may be is the split drawn for that."""
    whole = {name: draws.balanced_count(bank.labels[places]) for name, places in bank.train.items()}
    for row in every:
        for now in (row, row | changes(row)):
            if now["batch_size"] > whole[now["dataset"]] // 2:
                member(now, bank)


def _check_switches(every: list[dict[str, Any]], max_epochs: int) -> None:
    """Refuse a switch that no network could live to see: in the last evaluation it stops."""
    for row in every:
        if changes(row) and row["switch_epoch"] > max_epochs - 2:
            raise ValueError(
                f"network {row['model']}: switch_epoch {row['switch_epoch']} is never trained, since {max_epochs} "
                f"evaluations (max_epochs) end after epoch {max_epochs - 1}. Needed are {row['switch_epoch'] + 2}"
            )


def identity(row: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Name a network by what determines it: its row, its image sets' versions, the training, the protocol.

    Whether its updates are kept does not: it is the same network, of which more is known.

    Parameters
    ----------
    row
        Of the design.
    parameters
        Of the training.

    Returns
    -------
    str
        Sixteen hexadecimal digits: equal where two networks must be equal.
    """
    family = space.FAMILIES.get((row["family"], row.get("task")), space.FAMILIES["cnn", None])
    names = sorted({*family.identity, *space.switch_columns(row)})
    fields = {name: row[name] for name in names}
    fields |= {**parameters, "images": parameters["images"][row["dataset"]], "protocol": PROTOCOL_VERSION}
    fields |= {"images_after": parameters["images"][row["dataset_after"]]} if "dataset_after" in row else {}
    fields.pop("updates", None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
