"""Read properties from summary statistics of the weights: a linear support vector machine, and a ridge regression."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import xarray as xr
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.svm import LinearSVC

from nwslib.meta.labels import class_labels, refuse_seen, shuffle
from nwslib.meta.views import statistics_view
from nwslib.space import PROPERTIES, nearest

_VIEW = ("snapshot", "per", "part", "batch_norm", "run", "since", "min_test_accuracy")


@dataclass
class StatisticsClassifier:
    """Names a property from statistics of the weights with a linear support vector machine.

    A feature is replaced by its quantile among the training networks, because features span many orders of magnitude.
    Classes are weighted by the inverse of their frequency in training. There are no probabilities: the machine has
    none.

    Attributes
    ----------
    per, snapshot, part, batch_norm, run, since, min_test_accuracy
        What is summarised, as in `nwslib.meta.views.statistics_view`.
    cost
        Weight of the errors against the margin. On 240 networks of nws_small, mean cross-validated accuracy over six
        properties differs by less than 0.02 between 0.003 and 0.1.
    seed
        Seed of the label permutation where labels are shuffled; nothing else is random.
    """

    per: str = "layer"
    snapshot: int = 20
    part: str = "all"
    batch_norm: bool | str = True
    run: tuple[int, int] | None = None
    since: int | None = None
    min_test_accuracy: float = 0.0
    cost: float = 0.01
    seed: int = 0
    pipeline: Pipeline | None = field(default=None, init=False, repr=False)
    target: str = field(default="", init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    method = "statistics, linear SVM"
    device = "cpu"

    def fit(self, data: xr.Dataset | xr.DataTree | xr.DataArray, property: str, *, shuffled: bool = False) -> Self:
        """Learn to name a property from the networks of the training split.

        Parameters
        ----------
        data
            A population, or its `statistics_view` made with this reader's arguments.
        property
            Any column of the networks that has classes.
        shuffled
            Permute the labels over the training networks: a control.

        Returns
        -------
        StatisticsClassifier
            Itself, fitted.

        Raises
        ------
        ValueError
            If the property is unknown, continuous or does not vary, or the view was made with other arguments.
        """
        features = _features(self, data, "train")
        labels = class_labels(_column(features, property), property)
        labels = shuffle(labels, self.seed) if shuffled else labels
        # The primal problem converges in a few Newton steps; the dual needs up to a million iterations here.
        machine = LinearSVC(C=self.cost, dual=False, class_weight="balanced")
        self.pipeline = _pipeline(machine, len(labels)).fit(features.values, labels)
        self.target, self.seen = property, frozenset(features["id"].values.tolist())
        return self

    def predictions(self, data: xr.Dataset | xr.DataTree | xr.DataArray, snapshot: int | None = None) -> xr.Dataset:
        """Name the property of the networks of the test split.

        Parameters
        ----------
        data
            A population, or a `statistics_view` of it.
        snapshot
            Another snapshot than the one fitted on; needs the population.

        Returns
        -------
        xarray.Dataset
            ``truth`` and ``prediction``, dimension ``model``, with every coordinate of the networks.

        Raises
        ------
        ValueError
            If the reader is not fitted, or has seen one of the networks.
        """
        return _predictions(self, data, snapshot)

    def predict(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> xr.DataArray:
        """Give the prediction for each test network, dimension ``model``."""
        return self.predictions(data)["prediction"]

    def score(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> float:
        """Give the share of test networks that are named correctly."""
        found = self.predictions(data)
        return float((found["prediction"] == found["truth"]).mean())


@dataclass
class StatisticsRegressor:
    """Estimates a positive, continuous property from statistics of the weights: ridge regression of its log10.

    Attributes
    ----------
    per, snapshot, part, batch_norm, run, since, min_test_accuracy
        What is summarised, as in `nwslib.meta.views.statistics_view`.
    seed
        Seed of the permutation where values are shuffled; nothing else is random.
    """

    per: str = "layer"
    snapshot: int = 20
    part: str = "all"
    batch_norm: bool | str = True
    run: tuple[int, int] | None = None
    since: int | None = None
    min_test_accuracy: float = 0.0
    seed: int = 0
    pipeline: Pipeline | None = field(default=None, init=False, repr=False)
    target: str = field(default="", init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    median: float = field(default=float("nan"), init=False, repr=False)

    method = "statistics, ridge"
    device = "cpu"

    def fit(self, data: xr.Dataset | xr.DataTree | xr.DataArray, property: str, *, shuffled: bool = False) -> Self:
        """Learn to estimate a property from the networks of the training split.

        Parameters
        ----------
        data
            A population, or its `statistics_view` made with this reader's arguments.
        property
            A column of positive numbers, such as ``"learning_rate"``.
        shuffled
            Permute the values over the training networks: a control.

        Returns
        -------
        StatisticsRegressor
            Itself, fitted; the penalty is chosen by leave-one-out among the training networks.

        Raises
        ------
        ValueError
            If the property is unknown or not positive, or the view was made with other arguments.
        """
        features = _features(self, data, "train")
        values = _column(features, property)
        if values.dtype.kind not in "fi" or not (values > 0).all():
            raise ValueError(f"{property} is no positive number: read it with StatisticsClassifier")
        targets = np.log10(shuffle(values, self.seed) if shuffled else values)
        self.pipeline = _pipeline(RidgeCV(np.logspace(-1, 5, 13)), len(targets)).fit(features.values, targets)
        self.target, self.seen = property, frozenset(features["id"].values.tolist())
        self.median = float(10 ** np.median(targets))
        return self

    def predictions(self, data: xr.Dataset | xr.DataTree | xr.DataArray, snapshot: int | None = None) -> xr.Dataset:
        """Estimate the property of the networks of the test split.

        Parameters
        ----------
        data
            A population, or a `statistics_view` of it.
        snapshot
            Another snapshot than the one fitted on; needs the population.

        Returns
        -------
        xarray.Dataset
            ``truth`` and ``prediction`` in the property's own unit, dimension ``model``.

        Raises
        ------
        ValueError
            If the reader is not fitted, or has seen one of the networks.
        """
        found = _predictions(self, data, snapshot)
        return found.assign(prediction=10 ** found["prediction"])

    def predict(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> xr.DataArray:
        """Give the estimate for each test network, dimension ``model``."""
        return self.predictions(data)["prediction"]

    def score(self, data: xr.Dataset | xr.DataTree | xr.DataArray) -> float:
        """Give R2 of log10 of the property over the test networks."""
        found = np.log10(self.predictions(data)[["truth", "prediction"]])
        error = ((found["truth"] - found["prediction"]) ** 2).sum()
        return float(1 - error / ((found["truth"] - found["truth"].mean()) ** 2).sum())


def _pipeline(last: LinearSVC | RidgeCV, networks: int) -> Pipeline:
    quantiles = QuantileTransformer(n_quantiles=min(networks, 100), subsample=None)
    return make_pipeline(VarianceThreshold(), quantiles, StandardScaler(), last)


def _features(
    reader: StatisticsClassifier | StatisticsRegressor,
    data: xr.Dataset | xr.DataTree | xr.DataArray,
    split: str,
    snapshot: int | None = None,
) -> xr.DataArray:
    arguments = {name: getattr(reader, name) for name in _VIEW}
    if snapshot is not None:
        arguments["snapshot"] = snapshot
    if not isinstance(data, xr.DataArray):
        return statistics_view(data, split=split, **arguments)
    for name, value in arguments.items():
        if data.attrs.get(name) != str(value):
            raise ValueError(f"the view has {name}={data.attrs.get(name)}, but the reader asks for {value}")
    side = data.isel(model=data["split"].values == split)
    if not side.sizes["model"]:
        raise ValueError(f"the view holds no network of the {split} split")
    return side


def _column(features: xr.DataArray, property: str) -> np.ndarray:
    if property not in features.coords:
        raise ValueError(f"unknown property {property!r}. {nearest(property, PROPERTIES)}")
    return features[property].values


def _predictions(
    reader: StatisticsClassifier | StatisticsRegressor,
    data: xr.Dataset | xr.DataTree | xr.DataArray,
    snapshot: int | None,
) -> xr.Dataset:
    if reader.pipeline is None:
        raise ValueError("the reader is not fitted: call fit first")
    features = _features(reader, data, "test", snapshot)
    refuse_seen(features["id"].values, reader.seen)
    found = features.isel(feature=0, drop=True)
    return xr.Dataset(
        {
            "truth": ("model", found[reader.target].values),
            "prediction": ("model", reader.pipeline.predict(features.values)),
        },
        found.coords,
        {"left_out": features.attrs["left_out"]},
    )
