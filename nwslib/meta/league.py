"""The league: the same networks, split and budget for every reader, and one table of who reads them how well."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from nwslib.analysis import league as scoring
from nwslib.meta.many import read_all, side_by_side
from nwslib.meta.masks import read_masks
from nwslib.meta.read import Reader
from nwslib.meta.views import nodes, readable
from nwslib.meta.whole import NetworkReader
from nwslib.space import nearest

_ORDER = 6  # a purpose for draws by a seed, beside those of nwslib.meta.labels, of the fits and of masks
_BUDGET = ("epochs", "batch", "rate", "weight_decay")
_OF_MASKS = ("accuracy", "AUC")
_COSTS = ("seconds", "seconds_to_train", "seconds_per_network")


@dataclass(frozen=True)
class Task:
    """A row of the league: networks, and what is to be read of them.

    Attributes
    ----------
    name
        Of the row; where it is one of `nwslib.analysis.league.TASKS`, published figures stand beside it.
    population
        Of one architecture, with its split.
    property
        A class or a number of each network; or
    masks
        a label of each weight, from `nwslib.population.pruning.masks`, and no property.
    score
        What counts, one of `nwslib.analysis.league.MEASURES`: ``"accuracy"`` of classes and masks, ``"R2"``, ``"MSE"``
        or ``"tau"`` of numbers, ``"AUC"`` of masks.
    group
        The section of the league that it belongs to.
    at
        The snapshot that readers of a single one read; None: the reader's own. Readers of several keep theirs.
    budget
        What every `NetworkReader` gets that reads this task: ``epochs``, ``batch``, ``rate`` or ``weight_decay``, the
        same for all. What is not there is the reader's own.
    """

    name: str
    population: xr.Dataset | xr.DataTree
    property: str = ""
    masks: xr.DataArray | None = None
    score: str = "accuracy"
    group: str = ""
    at: int | None = None
    budget: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score not in scoring.MEASURES:
            raise ValueError(f"{self.name}: unknown score {self.score!r}. {nearest(self.score, scoring.MEASURES)}")
        if bool(self.property) == (self.masks is not None):
            raise ValueError(f"{self.name}: a task reads either a property or masks, not both and not neither")
        for name in self.budget:
            if name not in _BUDGET:
                raise ValueError(f"{self.name}: a budget has no {name!r}. {nearest(name, _BUDGET)}")


def league(
    tasks: Iterable[Task],
    readers: Mapping[str, Reader],
    seeds: Sequence[int] = (0,),
    *,
    keep: str | Path | None = None,
    workers: int | None = None,
) -> xr.Dataset:
    """Let every reader read every task, by the same networks, split and seeds, and make one table of it.

    Parameters
    ----------
    tasks
        The rows.
    readers
        By the name that the table and its figures have for them: what `nwslib.meta.read` takes.
    seeds
        Of the readers.
    keep
        A folder in which readings are kept: a call that was cut short goes on where it stopped, and a reader that is
        added later is read alone.
    workers
        Processes, as in `nwslib.meta.read_all`. Seconds are those of a fit in the company of as many.

    Returns
    -------
    xarray.Dataset
        As `nwslib.analysis.league.row` describes it, with one entry along ``task`` per task.

    Raises
    ------
    ValueError
        If there is no task or no reader, two tasks share a name, or a reader can't read a task.

    Examples
    --------
    >>> from nwslib import meta, space
    >>> from nwslib.snapshots import fake
    >>> networks = fake.population(space.sample("nws_small", 40, seed=0), signal=2)
    >>> population = xr.concat([one.drop_dims("evaluation") for one in networks], "model", data_vars="all")
    >>> task = Task("optimizer, fake", population, "optimizer")
    >>> readers = {"every layer": meta.StatisticsReader(), "whole vector": meta.StatisticsReader(per="vector")}
    >>> league([task], readers, workers=1)["reader"].values.tolist()
    ['every layer', 'whole vector']
    """
    tasks = list(tasks)
    if not tasks or not readers:
        raise ValueError(f"a league has tasks and readers, not {len(tasks)} and {len(readers)}")
    found = []
    for task in tasks:
        every = readings(task, readers, seeds, keep=keep, workers=workers)
        found.append(scoring.row(task.name, every, task.score, task.group))
    return scoring.together(*found)


def readings(
    task: Task,
    readers: Mapping[str, Reader],
    seeds: Sequence[int] = (0,),
    *,
    keep: str | Path | None = None,
    workers: int | None = None,
) -> dict[str, xr.Dataset]:
    """Read one task with every reader.

    Parameters
    ----------
    task, readers, seeds, keep, workers
        As in `league`.

    Returns
    -------
    dict of str to xarray.Dataset
        By the name of the reader, what `nwslib.meta.read` gives.
    """
    asked = [_set(reader, task) for reader in readers.values()]
    if task.masks is not None:
        calls = [partial(read_masks, task.population, task.masks, one, seeds=seeds, keep=keep) for one in asked]
        every = side_by_side(calls, [reader.device for reader in asked], workers)
        return dict(zip(readers, every, strict=True))
    options = {"keep": keep, "workers": workers, **_seeds(seeds)}
    if len(seeds) == 1:
        asked = [replace(reader, seed=seeds[0]) for reader in asked]
    every = read_all(task.population, [(task.property, reader) for reader in asked], **options)
    return dict(zip(readers, every, strict=True))


def learning_curve(
    task: Task,
    readers: Mapping[str, Reader],
    counts: Sequence[int],
    seeds: Sequence[int] = (0,),
    *,
    keep: str | Path | None = None,
    workers: int | None = None,
) -> xr.Dataset:
    """Score readers that learn from more and more of the training networks, always on the same test networks.

    Where the task's budget has a number of epochs, fewer networks are seen more often, so that the work is the same.

    Parameters
    ----------
    task
        What is read; its population is of one architecture.
    readers
        As in `league`.
    counts
        Numbers of training networks. With one seed, the fewer are among the more; classes are as frequent as in all.
    seeds
        Of the readers, and of the order in which networks are added.
    keep, workers
        As in `league`.

    Returns
    -------
    xarray.Dataset
        What `nwslib.analysis.league.row` gives, without ``task`` and with the dimension ``trained_on``, the counts.

    Raises
    ------
    ValueError
        If a count is below 2 or above the number of training networks.
    """
    [node] = nodes(task.population)
    known = len(readable(node, "train"))
    for count in counts:
        if not 2 <= count <= known:
            raise ValueError(f"a reader learns from 2 to {known} of these networks, not from {count}")
    points = []
    for count in counts:
        parts = [
            readings(_fewer(task, node, count, seed), readers, [seed], keep=keep, workers=workers) for seed in seeds
        ]
        every = {name: _side_by_side([part[name] for part in parts], seeds) for name in readers}
        points.append(scoring.row(task.name, every, task.score, task.group).squeeze("task").drop_vars("trained_on"))
    return xr.concat(points, xr.DataArray(list(counts), dims="trained_on", name="trained_on"))


def _fewer(task: Task, node: xr.Dataset, count: int, seed: int) -> Task:
    """Leave some training networks, the first in an order that depends on the seed alone, and all test networks."""
    side = readable(node, "train")
    order = np.random.default_rng([seed, _ORDER]).permutation(len(side))
    if task.property and side.column(task.property).dtype.kind != "f":
        order = order[_in_turn(side.column(task.property)[order])]
    chosen = np.concatenate([side.positions[0][order[:count]], readable(node, "test").positions[0]])
    longer = {"epochs": round(task.budget["epochs"] * len(side) / count)} if "epochs" in task.budget else {}
    return replace(task, population=node.isel(model=np.sort(chosen)), budget={**task.budget, **longer})


def _in_turn(labels: np.ndarray) -> np.ndarray:
    """Order things so that in any first part of them every class is as frequent as in all, in the order given."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def _side_by_side(parts: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Put readings of the same test networks by readers of several seeds side by side."""
    if len(parts) == 1:
        return parts[0]
    scored = [name for name in ("prediction", *_OF_MASKS) if name in parts[0]]
    shared = parts[0].drop_vars(["seed", "probability", "run_accuracy", *scored], errors="ignore")
    own = [part[scored].reset_coords(drop=True) for part in parts]
    means = {name: np.mean([part.attrs[name] for part in parts]) for name in _COSTS if name in parts[0].attrs}
    return shared.merge(xr.concat(own, "seed").assign_coords(seed=list(seeds))).assign_attrs(shared.attrs | means)


def _seeds(seeds: Sequence[int]) -> dict[str, Sequence[int]]:
    return {"seeds": list(seeds)} if len(seeds) > 1 else {}


def _set(reader: Reader, task: Task) -> Reader:
    """Give a reader the snapshot and the budget of a task."""
    if task.at is not None and np.ndim(reader.snapshot) == 0:
        reader = replace(reader, snapshot=task.at)
    return replace(reader, **task.budget) if isinstance(reader, NetworkReader) else reader
