"""Which single weights a reader of runs looks at: gradients of its score, averaged over networks and runs."""

import json
from dataclasses import fields

import numpy as np
import torch
import xarray as xr
from torch import nn

from nwslib import __version__
from nwslib.meta.fit import RunReader
from nwslib.meta.labels import refuse_seen
from nwslib.meta.runs import Runs, runs_view, spaced_starts
from nwslib.meta.views import nodes, readable, select
from nwslib.snapshots.layout import LABELS
from nwslib.snapshots.schema import layout_of
from nwslib.space import nearest

MEASURES = ("gradient", "gradient_times_weight")

_OVERLAP = 4  # runs over each weight that is not near an end
_BATCH = 256


def saliency(
    reader: RunReader,
    population: xr.Dataset | xr.DataTree,
    *,
    snapshot: int = 20,
    runs: int | None = None,
    by_class: bool = True,
) -> xr.Dataset:
    """Give how much the score of the right class depends on each weight, averaged over test networks and runs.

    Parameters
    ----------
    reader
        Fitted. Where it reads a number, log10 of the estimate takes the place of the score, and there are no classes.
        Its batch norms use their running statistics, so that a score depends on one network alone.
    population
        A population of one architecture, or one node of it.
    snapshot
        Which snapshot of the networks.
    runs
        Number of evenly spaced runs of each network; by default so many that each weight lies in at least four, but
        for those near the ends of the selection.
    by_class
        Whether the networks of each class are averaged apart.

    Returns
    -------
    xarray.Dataset
        ``gradient``, the mean absolute gradient with respect to a weight, and ``gradient_times_weight``, the mean
        absolute product of both: how much the score would change, to first order, if the weight were not there.
        Dimensions ``class`` (unless all are averaged) and ``weight``, float64; NaN where no run covers a weight or no
        test network has the class. Coordinates: the labels of the weights, ``runs`` (weight), how many runs of each
        network cover it, and ``networks`` (class), how many were averaged.

    Raises
    ------
    ValueError
        If the reader is not fitted or has seen one of the networks, a network has a class that the reader does not
        know, there are several architectures, no such snapshot, or fewer than one run is asked for.

    Notes
    -----
    Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", 2013 (arXiv:1312.6034): the gradient of the
    class score in front of the softmax. Its product with the input: Shrikumar et al., 2016 (arXiv:1605.01713). A reader
    that sees logarithms, as the pooled one does, has gradients that grow as weights go to 0; their product does not.
    """
    if runs is not None and runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    node, view = _opened(reader, population, snapshot)
    apart = by_class and reader.task == "classification"
    classes = reader.classes if apart else np.array(["all"])
    outputs = _outputs(reader, view)
    members = nn.functional.one_hot(outputs if apart else torch.zeros_like(outputs), len(classes)).T.float()
    networks = members.sum(1).int().numpy()  # (class,)
    starts = _starts(view, runs)
    covering = sum(_within(start, view) for start in starts)  # (selected weights,)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to average
        means = _sums(reader, view, starts, outputs, members) / (networks[:, None] * covering)
    found = _labelled(node, select(node, reader.part, reader.kinds), means, covering)
    found = found.assign_coords({"class": classes, "networks": ("class", networks)})
    found.attrs = _attributes(reader, snapshot, len(outputs), len(starts))
    return found if apart else found.isel({"class": 0}, drop=True)


def _opened(reader: RunReader, population: xr.Dataset | xr.DataTree, snapshot: int) -> tuple[xr.Dataset, Runs]:
    """Give the architecture, and the weights of those of its test networks that the reader has not seen."""
    if reader.module is None:
        raise ValueError("the reader is not fitted: call fit first")
    found = nodes(population)
    if len(found) > 1:
        raise ValueError(
            f"saliency needs one architecture, but there are {len(found)}: choose a node of the population"
        )
    selection = {name: getattr(reader, name) for name in ("part", "kinds", "min_test_accuracy")}
    refuse_seen(readable(found[0], "test", length=reader.length or 1, **selection).column("id"), reader.seen)
    source = {"variable": reader.variable, "permuted": reader.permuted}
    device = next(reader.module.parameters()).device
    view = runs_view(found[0], reader.length, split="test", snapshots=snapshot, device=device, **selection, **source)
    return found[0], view


def _outputs(reader: RunReader, view: Runs) -> torch.Tensor:
    """Give for each network which output of the reader is its true class; a regressor has a single one: (m,)."""
    if reader.task == "regression":
        return torch.zeros(len(view.networks), dtype=torch.int64)
    truth = view.networks.column(reader.target)
    unknown = truth[~np.isin(truth, reader.classes)].tolist()
    if unknown:
        raise ValueError(
            f"the reader knows no {reader.target} {unknown[0]!r}. {nearest(unknown[0], reader.classes.tolist())}"
        )
    return torch.from_numpy(np.searchsorted(reader.classes, truth))


def _starts(view: Runs, runs: int | None) -> list[int]:
    """Space runs evenly over the selection, which is as long in all networks."""
    room = int(view.room[0])
    enough = -(-_OVERLAP * (room - 1) // view.length) + 1
    return spaced_starts(view, torch.tensor([0]), min(runs or enough, room))[0].tolist()


def _within(start: int, view: Runs) -> np.ndarray:
    """Say which of the selected weights lie in the run that begins at `start`."""
    distance = np.arange(int(view.room[0]) + view.length - 1) - start
    return (distance >= 0) & (distance < view.length)


def _sums(reader: RunReader, view: Runs, starts: list[int], outputs: torch.Tensor, members: torch.Tensor) -> np.ndarray:
    """Add up the measures over runs and over the networks of each class (class, m): (measure, class, selected weights).

    Gradients are those of all runs of a batch at once: one run's score does not depend on another's weights.
    """
    module = reader.module.eval()
    unit = reader.spread if reader.task == "regression" else 1.0
    sums = torch.zeros(len(MEASURES), len(members), int(view.room[0]) + view.length - 1, dtype=torch.float64)
    for start in starts:
        for rows in torch.arange(len(outputs)).split(_BATCH):
            weights = view.gather(rows, torch.full_like(rows, start)).requires_grad_()
            scores = unit * module(weights).gather(1, outputs[rows, None].to(weights.device))
            [gradient] = torch.autograd.grad(scores.sum(), weights)
            found = torch.stack([gradient.abs(), (gradient * weights.detach()).abs()]).cpu()
            sums[..., start : start + view.length] += members[:, rows] @ found
    return sums.numpy()


def _labelled(node: xr.Dataset, selected: np.ndarray, means: np.ndarray, covering: np.ndarray) -> xr.Dataset:
    """Put the selected weights back to their places in the vector, and name them."""
    layout = layout_of(node)
    values = np.full((*means.shape[:2], layout.size), np.nan)
    values[..., selected] = means
    runs = np.zeros(layout.size, dtype="int64")
    runs[selected] = covering
    labels = {name: ("weight", layout.label(name)) for name in LABELS}
    measures = {name: (("class", "weight"), value) for name, value in zip(MEASURES, values, strict=True)}
    return xr.Dataset(measures, {**labels, "runs": ("weight", runs)})


def _attributes(reader: RunReader, snapshot: int, networks: int, runs: int) -> dict[str, object]:
    parameters = {one.name: getattr(reader, one.name) for one in fields(reader) if one.init}
    return {
        "property": reader.target,
        "method": reader.method,
        "snapshot": snapshot,
        "networks": networks,
        "runs": runs,
        "parameters": json.dumps(parameters, default=list),
        "library_version": __version__,
    }
