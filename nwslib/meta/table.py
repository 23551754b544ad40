"""Read properties from the table of networks, and not from their weights: the controls that a claim has to beat."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import xarray as xr
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold

from nwslib.meta.labels import from_scale, refuse_seen, shuffle, task_of, to_scale
from nwslib.meta.statistics import score
from nwslib.meta.views import Networks, readable
from nwslib.space import nearest

LENGTH = "weights"

_NAMES = ("model", "seed", "shard")  # numbers that name a network and measure nothing
_AFTER = "_after"
_TREES = 50
_LEAVES = (1, 5, 20)
_FOLDS = 3


@dataclass
class TableReader:
    """Reads a property from columns of the table of networks, such as their number of weights or their accuracy.

    What these few numbers give away is no footprint in the weights. Extremely randomised trees, classes weighted by the
    inverse of their frequency in training, predict; how many networks a leaf holds is chosen by cross-validation among
    the training networks.

    Attributes
    ----------
    columns
        ``"weights"``, the length of the weight vector; or any column of numbers on the networks, such as ``"steps"``;
        or one that each snapshot has, such as ``"test_accuracy"``.
    snapshot
        The snapshot at which such a column is read.
    min_test_accuracy
        Which networks, as in `nwslib.meta.readable`.
    seed
        Of trees and folds, and of the permutation where labels are shuffled.

    Notes
    -----
    Geurts, Ernst, Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006. On 480 networks of nws_small, a
    single tree with its leaves chosen alike names the image set as often from the test accuracy (0.47), but less often
    from four columns (0.54, and not 0.67). Gradient boosting does as well there (0.71), but names dense depths in
    nws_main from the length less often (0.86 after 750 training networks, and not 0.94).
    """

    columns: Sequence[str] = (LENGTH,)
    snapshot: int = 20
    min_test_accuracy: float = 0.0
    seed: int = 0
    trees: ExtraTreesClassifier | ExtraTreesRegressor | None = field(default=None, init=False, repr=False)
    task: str = field(default="", init=False, repr=False)
    target: str = field(default="", init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    median: float = field(default=float("nan"), init=False, repr=False)

    device = "cpu"

    @property
    def method(self) -> str:
        """What a table calls it."""
        return f"table, {', '.join(self.columns)}"

    def fit(self, data: xr.Dataset | xr.DataTree, property: str, *, shuffled: bool = False) -> Self:
        """Learn to read a property from the networks of the training split.

        Parameters
        ----------
        data
            A population or one node of it; no weight is read.
        property
            Any column of the networks.
        shuffled
            Permute the labels over the training networks: a control.

        Returns
        -------
        TableReader
            Itself, fitted.

        Raises
        ------
        ValueError
            If the property is unknown or does not vary; or a column is unknown, no number, not known for all networks,
            merely names networks, or is the property itself.
        """
        _refuse_answers(self.columns, property)
        if np.ndim(self.snapshot):
            raise ValueError(f"a table is learned from at one snapshot, not at {list(self.snapshot)}")
        networks = readable(data, "train", min_test_accuracy=self.min_test_accuracy)
        values = networks.column(property)
        self.task = task_of(values, property)
        labels = shuffle(values, self.seed) if shuffled else values
        if self.task == "regression":
            labels = to_scale(labels, property)
            self.median = float(from_scale(np.median(labels), property))
        features = _features(networks, self.columns, [self.snapshot])[:, 0]
        self.trees = _search(self.task, labels, self.seed).fit(features, labels).best_estimator_
        self.target, self.seen = property, frozenset(networks.column("id").tolist())
        return self

    def predictions(self, data: xr.Dataset | xr.DataTree, snapshot: int | Sequence[int] | None = None) -> xr.Dataset:
        """Read the property of the networks of the test split.

        Parameters
        ----------
        data
            A population or one node of it.
        snapshot
            Other snapshots than the one fitted on.

        Returns
        -------
        xarray.Dataset
            ``truth`` (model), ``prediction`` (model) in the property's own unit and, for classes, ``probability``
            (model, class). All but ``truth`` have the dimension ``snapshot`` where several were asked for.

        Raises
        ------
        ValueError
            If the reader is not fitted or has seen one of the networks, or a column is not known for all of them.
        """
        if self.trees is None:
            raise ValueError("the reader is not fitted: call fit first")
        networks = readable(data, "test", min_test_accuracy=self.min_test_accuracy)
        refuse_seen(networks.column("id"), self.seen)
        asked = self.snapshot if snapshot is None else snapshot
        moments = np.atleast_1d(asked).tolist()
        features = _features(networks, self.columns, moments)
        rows, shape = features.reshape(-1, len(self.columns)), features.shape[:2]
        coordinates = networks.coordinates(self.target) | {"snapshot": moments}
        found = xr.Dataset({"truth": ("model", networks.column(self.target))}, coordinates)
        found.attrs = {"left_out": json.dumps(networks.left_out)}
        inner = ("model", "snapshot")
        if self.task == "regression":
            found["prediction"] = (inner, from_scale(self.trees.predict(rows).reshape(shape), self.target))
        else:
            probability = self.trees.predict_proba(rows).reshape(*shape, -1)
            found = found.assign_coords({"class": self.trees.classes_})
            found["probability"] = ((*inner, "class"), probability)
            found["prediction"] = (inner, self.trees.classes_[probability.argmax(axis=2)])
        return found if np.ndim(asked) else found.isel(snapshot=0, drop=True)

    def predict(self, data: xr.Dataset | xr.DataTree) -> xr.DataArray:
        """Give the most probable class, or the estimate, of each test network, dimension ``model``."""
        return self.predictions(data)["prediction"]

    def predict_proba(self, data: xr.Dataset | xr.DataTree) -> xr.DataArray:
        """Give the probabilities of the classes, dimensions ``model``, ``class``.

        Raises
        ------
        ValueError
            If the property is a number.
        """
        found = self.predictions(data)
        if "probability" not in found:
            raise ValueError(f"{self.target} is a number and has no probabilities: call predict")
        return found["probability"]

    def score(self, data: xr.Dataset | xr.DataTree) -> float:
        """Give the share of test networks that are named correctly, or R2 of a number on its scale."""
        return score(self.predictions(data), self.task, self.target)


def _refuse_answers(columns: Sequence[str], property: str) -> None:
    """Refuse columns that hold the answer, or name a network."""
    if isinstance(columns, str) or not columns:
        raise ValueError(f"columns are several names, at least one, not {columns!r}: ({LENGTH!r},) is the length only")
    for name in columns:
        if name.removesuffix(_AFTER) == property.removesuffix(_AFTER):
            raise ValueError(f"{property} can't be read from {name}, which holds it")
        if name in _NAMES:
            raise ValueError(f"{name} names a network, and measures nothing of it: choose another column")


def _features(networks: Networks, columns: Sequence[str], moments: Sequence[int]) -> np.ndarray:
    """Give the columns at some snapshots, shape (m, s, columns)."""
    pairs = list(zip(networks.nodes, networks.positions, strict=True))
    features = [np.concatenate([_column(*pair, name, moments) for pair in pairs]) for name in columns]
    for name, column in zip(columns, features, strict=True):
        unknown = ~np.isfinite(column)
        if unknown.any():
            moment = moments[int(unknown.any(axis=0).argmax())]
            raise ValueError(f"{name} is not known for {unknown.sum(axis=0).max()} networks at snapshot {moment}")
    return np.stack(features, axis=2)


def _column(node: xr.Dataset, positions: np.ndarray, name: str, moments: Sequence[int]) -> np.ndarray:
    """Give one column of some networks of one architecture, shape (m, s)."""
    if name == LENGTH:
        return np.full((len(positions), len(moments)), float(node.sizes["weight"]))
    known = [one for one in node.variables if node[one].dims in (("model",), ("model", "snapshot"))]
    known = [one for one in known if node[one].dtype.kind in "fiu" and one not in _NAMES]
    if name not in known:
        raise ValueError(f"{name!r} is no column of numbers. {nearest(name, [LENGTH, *known])}")
    if "snapshot" not in node[name].dims:
        return np.repeat(node[name].values[positions, None].astype(float), len(moments), axis=1)
    numbers = node["snapshot"].values.tolist()
    for moment in moments:
        if moment not in numbers:
            raise ValueError(f"there is no snapshot {moment!r}. {nearest(moment, numbers)}")
    return node[name].values[positions][:, [numbers.index(moment) for moment in moments]].astype(float)


def _search(task: str, labels: np.ndarray, seed: int) -> GridSearchCV:
    """Give trees whose leaves are chosen by cross-validation."""
    options = {"n_estimators": _TREES, "max_features": None, "random_state": seed}
    if task == "regression":
        trees, measure = ExtraTreesRegressor(**options), "neg_mean_absolute_error"
        folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    else:
        trees, measure = ExtraTreesClassifier(class_weight="balanced", **options), "balanced_accuracy"
        _, counts = np.unique(labels, return_counts=True)
        folds = StratifiedKFold(min(_FOLDS, counts.min()), shuffle=True, random_state=seed)
    return GridSearchCV(trees, {"min_samples_leaf": _LEAVES}, scoring=measure, cv=folds)
