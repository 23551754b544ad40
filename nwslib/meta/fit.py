"""Fit networks that read runs of weights, with one training loop, and read a property in one call."""

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Protocol, Self

import numpy as np
import torch
import xarray as xr
from torch import nn

from nwslib import __version__
from nwslib.meta.labels import balance, class_labels, hold_out, refuse_seen, shuffle
from nwslib.meta.networks import dmc
from nwslib.meta.views import Runs, readable, runs_view
from nwslib.population.device import resolve_device
from nwslib.space import nearest

_VALIDATION_RUNS = 4
_INFERENCE_BATCH = 256


class Reader(Protocol):
    """What every reader of weights can do; each is a dataclass of its parameters."""

    method: str
    device: str
    seed: int

    def fit(self, data: xr.Dataset | xr.DataTree, property: str, *, shuffled: bool = False) -> Self:
        """Learn from the networks of the training split."""

    def predictions(self, data: xr.Dataset | xr.DataTree, snapshot: Any = None) -> xr.Dataset:
        """Name or estimate the property for the networks of the test split."""


@dataclass
class RunClassifier:
    """Names a property from runs of consecutive weights with a deep meta-classifier.

    Every epoch draws as many networks of each class as the rarest class has, and a new random run of every one. A share
    of the training networks, drawn by `seed`, is held out; the epoch with the lowest cross-entropy on them is kept.

    Attributes
    ----------
    network
        ``"pooled"`` (small, any length), ``"short"`` or ``"long"`` (the original), as in `nwslib.meta.networks.dmc`.
    length
        Weights in a run.
    snapshot
        The snapshot, or several, that training draws from.
    part, batch_norm, min_test_accuracy
        Which weights and networks, as in `nwslib.meta.views`.
    epochs, batch, rate, decay
        Training with Adam: epochs, runs in a batch at most, learning rate, and its factor after each epoch.
    visits
        Runs of each network and snapshot in an epoch.
    runs
        Evenly spaced runs of a network whose probabilities are averaged in a prediction.
    validation
        Share of the training networks held out.
    seed
        Of first weights, dropout, held-out networks, draws and shuffled labels.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Notes
    -----
    Protocol: Eilertsen et al., ECAI 2020 (arXiv:2002.05688); its settings are those of `original`, the defaults suit
    the small variant and a few hundred networks. There a network's snapshots could fall on both sides of the validation
    split; here networks are held out whole.
    """

    network: str = "pooled"
    length: int = 500
    snapshot: int | Sequence[int] = 20
    part: str = "all"
    batch_norm: bool | str = True
    min_test_accuracy: float = 0.0
    epochs: int = 20
    batch: int = 64
    rate: float = 5e-3
    decay: float = 0.9
    visits: int = 8
    runs: int = 64
    validation: float = 0.2
    seed: int = 0
    device: str = "auto"
    module: nn.Module | None = field(default=None, init=False, repr=False)
    target: str = field(default="", init=False, repr=False)
    classes: np.ndarray = field(default_factory=lambda: np.array([]), init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    history: list[float] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def original(cls, **changes: Any) -> Self:
        """Give the reader of the study: the short form, runs of 5,000, one visit, 50 epochs, rate 1e-3, decay 0.95."""
        study = {"network": "short", "length": 5000, "epochs": 50, "rate": 1e-3, "decay": 0.95, "visits": 1}
        return cls(**study | changes)

    @property
    def method(self) -> str:
        """What a table calls it."""
        return f"DMC, {self.network}"

    def fit(self, data: xr.Dataset | xr.DataTree, property: str, *, shuffled: bool = False) -> Self:
        """Learn to name a property from runs of the networks of the training split.

        Parameters
        ----------
        data
            A population or one node of it.
        property
            Any column of the networks that has classes.
        shuffled
            Permute the labels over the training networks: a control.

        Returns
        -------
        RunClassifier
            Itself, fitted; `history` holds the cross-entropy on the held-out networks after each epoch.

        Raises
        ------
        ValueError
            If a parameter is out of range, or the property is unknown, continuous or does not vary.
        """
        _check(self)
        device = resolve_device(self.device)
        networks_seen = readable(data, "train", **_selection(self))
        labels = class_labels(networks_seen.column(property), property)
        labels = shuffle(labels, self.seed) if shuffled else labels
        view = runs_view(data, split="train", snapshots=self.snapshot, device=device, **_selection(self))
        self.classes, codes = np.unique(labels, return_inverse=True)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            module = dmc.build(self.network, self.length, len(self.classes)).to(device)
            self.module, self.history = _train(self, module, view, codes, property)
        self.target, self.seen = property, frozenset(networks_seen.column("id").tolist())
        return self

    def predict_runs(
        self,
        data: xr.Dataset | xr.DataTree,
        snapshot: int | Sequence[int] | None = None,
        runs: int | None = None,
    ) -> xr.DataArray:
        """Give the probabilities of the classes for every one of some evenly spaced runs of each test network.

        Parameters
        ----------
        data
            A population or one node of it.
        snapshot
            Other snapshots than those fitted on.
        runs
            Number of runs; the reader's own by default.

        Returns
        -------
        xarray.DataArray
            Dimensions ``model``, ``snapshot``, ``run``, ``class``; the coordinate ``start`` (model, run) says where in
            the selected weights a run begins.

        Raises
        ------
        ValueError
            If the reader is not fitted, or has seen one of the networks.
        """
        if self.module is None:
            raise ValueError("the reader is not fitted: call fit first")
        refuse_seen(readable(data, "test", **_selection(self)).column("id"), self.seen)
        snapshots = self.snapshot if snapshot is None else snapshot
        device = next(self.module.parameters()).device
        view = runs_view(data, split="test", snapshots=snapshots, device=device, **_selection(self))
        rows = torch.arange(len(view.room))
        starts = view.spaced_starts(rows, min(self.runs if runs is None else runs, int(view.room.max())))
        scores = _scores(self.module, view, rows.repeat_interleave(starts.shape[1]), starts.flatten())
        shape = (len(view.networks), len(view.snapshots), starts.shape[1])
        return xr.DataArray(
            scores.softmax(1).cpu().numpy().reshape(*shape, len(self.classes)),
            {
                **view.networks.coordinates(),
                "snapshot": list(view.snapshots),
                "start": (("model", "run"), starts.view(shape)[:, 0].numpy()),
                "class": self.classes,
            },
            ("model", "snapshot", "run", "class"),
            name="probability",
            attrs={"left_out": json.dumps(view.networks.left_out)},
        )

    def predictions(self, data: xr.Dataset | xr.DataTree, snapshot: int | Sequence[int] | None = None) -> xr.Dataset:
        """Name the property of the networks of the test split.

        Parameters
        ----------
        data
            A population or one node of it.
        snapshot
            Other snapshots than those fitted on.

        Returns
        -------
        xarray.Dataset
            ``truth`` (model); ``probability`` (model, class), the mean over evenly spaced runs; ``prediction``, its
            largest; ``run_accuracy``, the share of the runs that name the class right, each alone. All but ``truth``
            have the dimension ``snapshot`` where several were asked for.

        Raises
        ------
        ValueError
            If the reader is not fitted, or has seen one of the networks.
        """
        runs = self.predict_runs(data, snapshot)
        truth = runs[self.target].rename("truth").drop_vars(self.target)
        probability = runs.mean("run")
        found = xr.Dataset({"truth": truth, "probability": probability})
        found["prediction"] = (probability.dims[:-1], self.classes[probability.argmax("class").values])
        right = self.classes[runs.argmax("class").values] == truth.values[:, None, None]
        found["run_accuracy"] = (probability.dims[:-1], right.mean(axis=2))
        found.attrs = {"left_out": runs.attrs["left_out"]}
        found = found.drop_vars("start", errors="ignore")
        single = np.ndim(self.snapshot if snapshot is None else snapshot) == 0
        return found.isel(snapshot=0, drop=True) if single else found

    def predict(self, data: xr.Dataset | xr.DataTree) -> xr.DataArray:
        """Give the most probable class of each test network, dimension ``model``."""
        return self.predictions(data)["prediction"]

    def predict_proba(self, data: xr.Dataset | xr.DataTree) -> xr.DataArray:
        """Give the mean probabilities over evenly spaced runs, dimensions ``model``, ``class``."""
        return self.predictions(data)["probability"]

    def score(self, data: xr.Dataset | xr.DataTree) -> float:
        """Give the share of test networks that are named correctly."""
        found = self.predictions(data)
        return float((found["prediction"] == found["truth"]).mean())


def read(
    population: xr.Dataset | xr.DataTree,
    property: str,
    reader: Reader,
    *,
    shuffled: bool = False,
    at: Any = None,
    **changes: Any,
) -> xr.Dataset:
    """Fit a reader on the training networks of a population and read the property of its test networks.

    Parameters
    ----------
    population
        A population or one node of it; its own ``split`` decides who is read and who is learned from.
    property
        What to read.
    reader
        A `StatisticsClassifier`, `StatisticsRegressor` or `RunClassifier`. A fresh copy is fitted.
    shuffled
        Permute the labels over the training networks: a control that must end at chance.
    at
        Other snapshots to read than those learned from.
    **changes
        Parameters of the reader to replace, such as ``snapshot=1`` or ``seed=2``.

    Returns
    -------
    xarray.Dataset
        ``truth`` and ``prediction`` (model), for some readers ``probability`` (model, class) and ``run_accuracy``; the
        coordinates of the networks; for classes ``train_networks`` (class), how many networks were learned from. The
        attributes say what was done; attribute ``task`` is ``"classification"`` or ``"regression"``.

    Raises
    ------
    ValueError
        If a parameter, the property or a snapshot is unknown, or the property cannot be read by this reader.
    """
    names = [field.name for field in fields(reader) if field.init]
    for name in changes:
        if name not in names:
            raise ValueError(f"{type(reader).__name__} has no parameter {name!r}. {nearest(name, names)}")
    reader = replace(reader, **changes)
    began = time.perf_counter()
    found = reader.fit(population, property, shuffled=shuffled).predictions(population, at)
    seconds = time.perf_counter() - began
    parameters = {name: getattr(reader, name) for name in names}
    selection = {name: parameters[name] for name in ("length", "part", "batch_norm") if name in parameters}
    train = readable(population, "train", min_test_accuracy=parameters["min_test_accuracy"], **selection)
    labels = train.column(property)
    if hasattr(reader, "median"):
        task = {"task": "regression", "train_median": reader.median}
    else:
        task = {"task": "classification"}
        classes, counts = np.unique(labels, return_counts=True)
        found = found.assign_coords({"class": classes, "train_networks": ("class", counts)})
    found.attrs = {
        **task,
        "property": property,
        "method": reader.method,
        "shuffled": int(shuffled),
        "seed": reader.seed,
        "parameters": json.dumps(parameters, default=list),
        "networks_trained_on": len(labels),
        "left_out_of_training": json.dumps(train.left_out),
        "left_out_of_test": found.attrs["left_out"],
        "seconds": round(seconds, 3),
        "device": str(resolve_device(reader.device)),
        "torch_version": torch.__version__,
        "library_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return found


def _selection(reader: RunClassifier) -> dict[str, Any]:
    return {name: getattr(reader, name) for name in ("length", "part", "batch_norm", "min_test_accuracy")}


def _check(reader: RunClassifier) -> None:
    for name in ("length", "epochs", "batch", "visits", "runs"):
        if getattr(reader, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(reader, name)}")
    for name in ("rate", "decay"):
        if not getattr(reader, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(reader, name)}")
    if not 0 < reader.validation < 1:
        raise ValueError(f"validation must be more than 0 and less than 1, not {reader.validation}")


def _train(
    reader: RunClassifier, module: nn.Module, view: Runs, codes: np.ndarray, property: str
) -> tuple[nn.Module, list[float]]:
    """Train a module on runs; give it as it was after the best epoch, and the validation loss after each."""
    from nwslib.population.progress import report

    device = view.weights.device
    held = hold_out(codes, reader.validation, reader.seed)
    learned, watched = np.flatnonzero(~held), np.flatnonzero(held)
    targets = torch.from_numpy(codes).repeat_interleave(len(view.snapshots)).to(device)  # one per row
    optimizer = torch.optim.Adam(module.parameters(), lr=reader.rate)
    draws = np.random.default_rng([reader.seed, 3])
    generator = torch.Generator().manual_seed(reader.seed)
    best, history = copy.deepcopy(module.state_dict()), []
    for epoch in range(reader.epochs):
        report(f"{property} from runs of {reader.length}: epoch {epoch + 1} of {reader.epochs}")
        optimizer.param_groups[0]["lr"] = reader.rate * reader.decay**epoch
        module.train()
        rows = _rows(learned[balance(codes[learned], draws)], view, reader.visits)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        for runs, names in _batches(view, targets, rows, view.random_starts(rows, generator), reader.batch):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(module(runs), names).backward()
            optimizer.step()
        history.append(_validate(module, view, targets, _rows(watched, view)))
        if history[-1] <= min(history):
            best = copy.deepcopy(module.state_dict())
    report("")
    module.load_state_dict(best)
    return module.eval(), history


def _rows(positions: np.ndarray, view: Runs, visits: int = 1) -> torch.Tensor:
    """Give the rows of some networks, all snapshots of each, `visits` times."""
    count = len(view.snapshots)
    return torch.from_numpy((positions[:, None] * count + np.arange(count)).ravel()).repeat(visits)


def _batches(
    view: Runs, targets: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut batches of nearly equal size, so that none is too small for its batch norms."""
    rows, starts = rows.to(targets.device), starts.to(targets.device)  # one transfer for all batches
    count = -(-len(rows) // batch)
    for some, places in zip(rows.tensor_split(count), starts.tensor_split(count), strict=True):
        yield view.gather(some, places), targets[some]


def _validate(module: nn.Module, view: Runs, targets: torch.Tensor, rows: torch.Tensor) -> float:
    """Give the cross-entropy of evenly spaced runs, every class with the same weight."""
    starts = view.spaced_starts(rows, _VALIDATION_RUNS)
    rows = rows.repeat_interleave(_VALIDATION_RUNS)
    scores, names = _scores(module, view, rows, starts.flatten()), targets[rows.to(targets.device)]
    weight = 1 / torch.bincount(names, minlength=scores.shape[1]).clamp(min=1).to(scores.dtype)
    return float(nn.functional.cross_entropy(scores, names, weight=weight))


@torch.inference_mode()
def _scores(module: nn.Module, view: Runs, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    module.eval()
    rows, starts = rows.to(view.weights.device), starts.to(view.weights.device)
    pairs = zip(rows.split(_INFERENCE_BATCH), starts.split(_INFERENCE_BATCH), strict=True)
    return torch.cat([module(view.gather(some, places)) for some, places in pairs])
