"""Read properties from summary statistics of the weights: a linear machine, or gradient boosting."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import xarray as xr
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from nwslib.meta.labels import from_scale, refuse_seen, shuffle, task_of, to_scale
from nwslib.meta.views import described, statistics_view
from nwslib.space import nearest

MACHINES = ("linear", "boosting")

_VIEW = ("snapshot", "per", "part", "kinds", "variable", "length", "runs", "since", "min_test_accuracy")
_FOLDS = 5
_BINS = 32  # of a feature, for boosting: 255 took six times as long on 360 networks and read no better
_FEW = 10_000  # samples from which on several threads gain more than they cost


@dataclass
class StatisticsReader:
    """Reads a property from statistics of the weights; the simple reader that any deep one has to beat.

    A property that has classes is named by a linear support vector machine, and a real number is estimated by ridge
    regression, on the scale of `nwslib.meta.labels`; or both by gradient boosting. For the linear machines a feature is
    replaced by its quantile among the training networks, because features span many orders of magnitude. Classes are
    weighted by the inverse of their frequency in training. Of several snapshots or runs each is a sample; a network's
    runs are averaged.

    Attributes
    ----------
    machine
        ``"linear"`` or ``"boosting"``.
    snapshot, per, part, kinds, variable, length, runs, since, min_test_accuracy
        What is summarised, as in `nwslib.meta.statistics_view`.
    permuted
        Whether the hidden units of the test networks are permuted, consistently, before they are read: a control.
    cost
        Weight of the errors of the support vector machine against its margin. On 240 networks of nws_small, mean
        cross-validated accuracy over six properties differs by less than 0.02 between 0.003 and 0.1.
    probabilities
        Whether the support vector machine gives probabilities: a logistic regression of its margins on training
        networks held out in five folds, which takes five more fits. Boosting has its own.
    seed
        Of the permutation where labels are shuffled, of the folds, and of nothing else.
    """

    machine: str = "linear"
    snapshot: int | Sequence[int] = 20
    per: str = "layer"
    part: str = "all"
    kinds: str = "all"
    variable: str = "weights"
    length: int | None = None
    runs: int = 1
    since: int | None = None
    permuted: bool = False
    min_test_accuracy: float = 0.0
    cost: float = 0.01
    probabilities: bool = False
    seed: int = 0
    pipeline: Pipeline | None = field(default=None, init=False, repr=False)
    calibration: LogisticRegression | None = field(default=None, init=False, repr=False)
    task: str = field(default="", init=False, repr=False)
    target: str = field(default="", init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    median: float = field(default=float("nan"), init=False, repr=False)

    device = "cpu"

    @property
    def method(self) -> str:
        """What a table calls it."""
        if self.machine == "boosting":
            return "statistics, boosting"
        return "statistics, ridge" if self.task == "regression" else "statistics, linear SVM"

    def fit(self, data: xr.Dataset | xr.DataTree | xr.DataArray, property: str, *, shuffled: bool = False) -> Self:
        """Learn to read a property from the networks of the training split.

        Parameters
        ----------
        data
            A population, or its `statistics_view` made with this reader's arguments.
        property
            Any column of the networks; of one that each snapshot has, such as ``"test_accuracy"``, the last.
        shuffled
            Permute the labels over the training networks: a control.

        Returns
        -------
        StatisticsReader
            Itself, fitted.

        Raises
        ------
        ValueError
            If a parameter or the property is unknown, the property does not vary, or the view was made with other
            arguments.
        """
        if self.machine not in MACHINES:
            raise ValueError(f"unknown machine {self.machine!r}. {nearest(self.machine, MACHINES)}")
        features = _features(self, data, "train", self.snapshot, property)
        values = features[property].values
        self.task = task_of(values, property)
        labels = shuffle(values, self.seed) if shuffled else values
        if self.task == "regression":
            labels = to_scale(labels, property)
            self.median = float(from_scale(np.median(labels), property))
        samples, networks = _samples(features)
        machine = _machine(self, len(samples))
        with threadpool_limits(1 if len(samples) < _FEW else None, "openmp"):
            self.pipeline = machine.fit(samples, labels[networks])
        self.calibration = _calibrated(machine, samples, labels, networks, self.seed) if self._calibrates else None
        self.target, self.seen = property, frozenset(features["id"].values.tolist())
        return self

    def predictions(
        self, data: xr.Dataset | xr.DataTree | xr.DataArray, snapshot: int | Sequence[int] | None = None
    ) -> xr.Dataset:
        """Read the property of the networks of the test split.

        Parameters
        ----------
        data
            A population, or a `statistics_view` of it.
        snapshot
            Other snapshots than those fitted on; needs the population.

        Returns
        -------
        xarray.Dataset
            ``truth`` (model) and ``prediction`` (model, and snapshot where several were asked for), in the property's
            own unit; for classes ``probability`` (..., class), where the reader has them; where it reads runs,
            ``run_accuracy``, the share of the runs that name the class right, each alone.

        Raises
        ------
        ValueError
            If the reader is not fitted, or has seen one of the networks.
        """
        if self.pipeline is None:
            raise ValueError("the reader is not fitted: call fit first")
        features = _features(self, data, "test", self.snapshot if snapshot is None else snapshot, self.target)
        refuse_seen(features["id"].values, self.seen)
        ordered = features.transpose("model", "snapshot", "run", "feature", missing_dims="ignore")
        found = _read(self, ordered)
        found.attrs = {"left_out": features.attrs["left_out"]}
        return found

    def predict(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> xr.DataArray:
        """Give the prediction for each test network, dimension ``model``."""
        return self.predictions(data)["prediction"]

    def predict_proba(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> xr.DataArray:
        """Give the probabilities of the classes, dimensions ``model``, ``class``.

        Raises
        ------
        ValueError
            If the reader has none.
        """
        found = self.predictions(data)
        if "probability" not in found:
            raise ValueError("no probabilities: read classes, with probabilities=True or machine='boosting'")
        return found["probability"]

    def score(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> float:
        """Give the share of test networks that are named correctly, or R2 of a number on its scale."""
        return score(self.predictions(data), self.task, self.target)

    @property
    def _calibrates(self) -> bool:
        return self.probabilities and self.machine == "linear" and self.task == "classification"


def score(found: xr.Dataset, task: str, property: str) -> float:
    """Give the share of networks named correctly, or R2 of a number on the scale on which it is read.

    Parameters
    ----------
    found
        ``truth`` and ``prediction``.
    task
        ``"classification"`` or ``"regression"``.
    property
        What was read.

    Returns
    -------
    float
        At most 1.
    """
    if task == "classification":
        return float((found["prediction"] == found["truth"]).mean())
    truth, prediction = (
        found[name].copy(data=to_scale(found[name].values, property)) for name in ("truth", "prediction")
    )
    return float(1 - ((truth - prediction) ** 2).mean() / truth.var())


def _machine(reader: StatisticsReader, samples: int) -> Pipeline:
    if reader.machine == "boosting":
        options = {"max_bins": _BINS, "early_stopping": False, "random_state": reader.seed}
        if reader.task == "regression":
            return make_pipeline(HistGradientBoostingRegressor(**options))
        return make_pipeline(HistGradientBoostingClassifier(class_weight="balanced", **options))
    # The primal problem converges in a few Newton steps; the dual needs up to a million iterations here.
    support = LinearSVC(C=reader.cost, dual=False, class_weight="balanced")
    last = RidgeCV(np.logspace(-1, 5, 13)) if reader.task == "regression" else support
    quantiles = QuantileTransformer(n_quantiles=min(samples, 100), subsample=None)
    return make_pipeline(quantiles, StandardScaler(), last)


def _features(
    reader: StatisticsReader,
    data: xr.Dataset | xr.DataTree | xr.DataArray,
    split: str,
    snapshot: int | Sequence[int],
    property: str,
) -> xr.DataArray:
    arguments = {name: getattr(reader, name) for name in _VIEW} | {"snapshot": snapshot}
    arguments["permuted"] = reader.permuted and split == "test"
    if not isinstance(data, xr.DataArray):
        return statistics_view(data, split=split, columns=(property,), **arguments)
    for name, value in described(arguments).items():
        if data.attrs.get(name) != value:
            raise ValueError(f"the view has {name}={data.attrs.get(name)}, but the reader asks for {value}")
    if property not in data.coords:
        known = [name for name, column in data.coords.items() if column.dims == ("model",)]
        raise ValueError(f"unknown property {property!r}. {nearest(property, known)}")
    side = data.isel(model=data["split"].values == split)
    if not side.sizes["model"]:
        raise ValueError(f"the view holds no network of the {split} split")
    return side


def _samples(features: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Give one row per network, snapshot and run, and the number of its network."""
    rows = features.values.reshape(features.sizes["model"], -1, features.sizes["feature"])
    return rows.reshape(-1, rows.shape[2]), np.repeat(np.arange(len(rows)), rows.shape[1])


def _calibrated(
    machine: Pipeline, samples: np.ndarray, labels: np.ndarray, networks: np.ndarray, seed: int
) -> LogisticRegression:
    """Learn what margins mean, from those of networks that the machine was not fitted on."""
    _, counts = np.unique(labels, return_counts=True)
    folds = StratifiedGroupKFold(min(_FOLDS, counts.min()), shuffle=True, random_state=seed)
    margins = cross_val_predict(
        machine, samples, labels[networks], groups=networks, cv=folds, method="decision_function"
    )
    return LogisticRegression(max_iter=1000).fit(margins.reshape(len(samples), -1), labels[networks])


def _read(reader: StatisticsReader, features: xr.DataArray) -> xr.Dataset:
    """Read features (model, [snapshot,] [run,] feature)."""
    inner = features.dims[:-1]
    kept = [name for name in inner if name != "run"]
    about = {name: column for name, column in features.coords.items() if name != "feature"}
    rows = features.values.reshape(-1, features.sizes["feature"])
    shape = [features.sizes[name] for name in inner]
    found = xr.Dataset({"truth": ("model", features[reader.target].values)}, about)
    if reader.task == "regression":
        estimates = xr.DataArray(reader.pipeline.predict(rows).reshape(shape), dims=inner)
        estimates = estimates.mean("run") if "run" in inner else estimates
        return found.assign(prediction=from_scale(estimates, reader.target))
    classes = reader.pipeline[-1].classes_
    scores, certain = _scores(reader, rows)
    scores = xr.DataArray(scores.reshape(*shape, len(classes)), dims=(*inner, "class"))
    mean = scores.mean("run") if "run" in inner else scores
    found["prediction"] = (kept, classes[mean.argmax("class").values])
    if certain:
        found = found.assign_coords({"class": classes})
        found["probability"] = mean.assign_coords({"class": classes})
    if "run" in inner:
        alone = xr.DataArray(classes[scores.argmax("class").values], dims=inner) == found["truth"].variable
        found["run_accuracy"] = alone.mean("run")
    return found


def _scores(reader: StatisticsReader, rows: np.ndarray) -> tuple[np.ndarray, bool]:
    """Give a score of every class for each row, and whether the scores are probabilities."""
    if reader.machine == "boosting":
        return reader.pipeline.predict_proba(rows), True
    margins = reader.pipeline.decision_function(rows)
    if reader.calibration is not None:
        return reader.calibration.predict_proba(margins.reshape(len(rows), -1)), True
    return (margins if margins.ndim == 2 else np.column_stack([-margins, margins])), False
