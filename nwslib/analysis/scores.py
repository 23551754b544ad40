"""How well a property was read: accuracy, R2, mean absolute error, chance level, and intervals over networks.

A *predictions* dataset, or reading, is what `nwslib.meta.read` gives: ``truth`` and ``prediction`` with the dimension
``model``. Where ``prediction`` has more dimensions (``seed``, ``snapshot``), a network counts with its mean over them.
"""

import json
from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr

DRAWS = 2000
LEVEL = 0.95


def accuracy(predictions: xr.Dataset) -> float:
    """Give the share of test networks whose property was named correctly.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> accuracy(xr.Dataset({"truth": ("model", ["adam", "adam"]), "prediction": ("model", ["adam", "momentum"])}))
    0.5
    """
    return float(_correct(predictions).mean())


def chance_level(labels_train: np.ndarray, labels_test: np.ndarray) -> float:
    """Give what a reader reaches that does not look, by the better of two ways to guess.

    It names the class that is most frequent in training, always; or every class equally often.

    Parameters
    ----------
    labels_train, labels_test
        Class of each training and of each test network; of two equally frequent classes the first in order counts.

    Returns
    -------
    float
        The larger of the share of the test networks that have the most frequent class, and one over the classes.

    Examples
    --------
    >>> chance_level(["adam", "adam", "momentum"], ["adam", "adam", "adam", "momentum"])
    0.75
    """
    classes, counts = np.unique(labels_train, return_counts=True)
    always = (np.asarray(labels_test) == classes[counts.argmax()]).mean()
    return float(max(always, 1 / len(classes)))


def chance(predictions: xr.Dataset) -> float:
    """Give the chance level of a reading, as `chance_level` has it.

    Parameters
    ----------
    predictions
        ``truth``, and the coordinate ``train_networks`` (class).

    Returns
    -------
    float
        Between 0 and 1.
    """
    labels_train = np.repeat(predictions["class"].values, predictions["train_networks"].values)
    return chance_level(labels_train, predictions["truth"].values)


def interval(
    score: Callable[..., np.ndarray], *columns: np.ndarray, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Give the percentile bootstrap interval of a score over networks.

    Parameters
    ----------
    score
        Takes columns of shape (draws, m) and gives scores of shape (draws,).
    *columns
        What the score is computed from, one value per network, each of shape (m,).
    draws
        Number of resamples of the networks.
    level
        Share of the resampled scores within the interval.
    seed
        Seed of the resampling.

    Returns
    -------
    tuple of float
        Lower and upper bound.

    Notes
    -----
    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979.

    Examples
    --------
    >>> interval(lambda right: right.mean(axis=1), np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)
    """
    networks = len(columns[0])
    sampled = np.random.default_rng(seed).integers(networks, size=(draws, networks))
    tail = (1 - level) / 2
    low, high = np.quantile(score(*(np.asarray(column)[sampled] for column in columns)), [tail, 1 - tail])
    return float(low), float(high)


def accuracy_interval(predictions: xr.Dataset, draws: int = DRAWS, level: float = LEVEL) -> tuple[float, float]:
    """Give the bootstrap interval of the accuracy over networks.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.
    draws, level
        As in `interval`.

    Returns
    -------
    tuple of float
        Lower and upper bound. Where every network is right, or every one wrong, resampling sees no doubt, and the
        bound on the other side is the exact one of Clopper and Pearson.
    """
    correct = _correct(predictions)
    certain = ((1 - level) / 2) ** (1 / len(correct))
    if correct.min() == 1:
        return certain, 1.0
    if correct.max() == 0:
        return 0.0, 1 - certain
    return interval(lambda right: right.mean(axis=1), correct, draws=draws, level=level)


def p_value(predictions: xr.Dataset, draws: int = DRAWS, seed: int = 0) -> float:
    """Give how often an accuracy as high arises when the predictions are permuted over the test networks.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.
    draws
        Number of permutations.
    seed
        Seed of the permutations.

    Returns
    -------
    float
        At least 1 / (draws + 1); a reader that always names one class gets 1.

    Notes
    -----
    Phipson and Smyth, "Permutation p-values should never be zero", 2010: the observed order counts as a permutation.
    """
    rest = [dimension for dimension in predictions["prediction"].dims if dimension != "model"]
    others = predictions["truth"].rename(model="other")
    agreement = (predictions["prediction"] == others).mean(rest).transpose("model", "other").values  # (m, m)
    networks = np.arange(len(agreement))
    permuted = np.random.default_rng(seed).permuted(np.broadcast_to(networks, (draws, len(networks))), axis=1)
    # Sums of the same shares in another order differ by rounding.
    reached = agreement[networks, permuted].mean(axis=1) >= agreement[networks, networks].mean() - 1e-12
    return float((reached.sum() + 1) / (draws + 1))


def confusion(predictions: xr.Dataset) -> xr.DataArray:
    """Count which class was taken for which.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.

    Returns
    -------
    xarray.DataArray
        Dimensions ``truth``, ``prediction``: numbers of test networks, classes in order.
    """
    truth, prediction = xr.broadcast(predictions["truth"], predictions["prediction"])
    named = [truth.values, prediction.values, predictions.get("class", truth).values]
    classes = np.unique(np.concatenate([np.ravel(names) for names in named]))
    places = (np.searchsorted(classes, truth.values.ravel()), np.searchsorted(classes, prediction.values.ravel()))
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, places, 1)
    return xr.DataArray(counts, {"truth": classes, "prediction": classes}, ("truth", "prediction"), name="networks")


def r2(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Give the share of the variance that is explained, over the last axis.

    Parameters
    ----------
    truth, prediction
        Shape (..., m).

    Returns
    -------
    numpy.ndarray
        Shape (...): 1 is perfect, 0 is no better than the mean of the test networks themselves.
    """
    error = ((truth - prediction) ** 2).sum(axis=-1)
    return 1 - error / ((truth - truth.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)


def mae(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Give the mean absolute error over the last axis."""
    return np.abs(truth - prediction).mean(axis=-1)


def summary(predictions: xr.Dataset) -> dict[str, object]:
    """Sum up one reading as a row of a table.

    Parameters
    ----------
    predictions
        What `nwslib.meta.read` gives.

    Returns
    -------
    dict
        What was read and how (``property``, ``method``, ``snapshot``, ``part``, ``batch_norm``, ``length``, ``seed``,
        ``shuffled``), the ``networks`` it was tested on, and ``low`` and ``high`` of the score. For classes:
        ``accuracy``, ``chance``, ``p_value``, ``above_chance`` and ``classes``. For
        numbers, all on log10: ``r2``, ``mae``, and ``baseline``, the mean absolute error of always giving the median
        of the training networks.

    Notes
    -----
    A reading is called above chance only where `low` exceeds the chance level and `p_value` is below 0.05: in a small
    test set, the class that is most frequent in training can be so rare that guessing at random beats it.

    Raises
    ------
    ValueError
        If the dataset is no reading.
    """
    if predictions.attrs.get("task") not in ("classification", "regression"):
        raise ValueError("not a reading: the attribute 'task' is neither 'classification' nor 'regression'")
    scores = _classification(predictions) if predictions.attrs["task"] == "classification" else _regression(predictions)
    return {**_description(predictions), "networks": predictions.sizes["model"], **scores}


def table(readings: Iterable[xr.Dataset]) -> xr.Dataset:
    """Sum up several readings of one kind as a table.

    Parameters
    ----------
    readings
        Of classes, or of numbers, not of both.

    Returns
    -------
    xarray.Dataset
        Dimension ``reading``, one variable per entry of `summary`.

    Raises
    ------
    ValueError
        If there is no reading, or there are both kinds.
    """
    rows = [summary(reading) for reading in readings]
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("a table needs at least one reading, all of classes or all of numbers")
    return xr.Dataset({name: ("reading", np.array([row[name] for row in rows])) for name in rows[0]})


def together(*tables: xr.Dataset) -> xr.Dataset:
    """Put tables of readings of one kind below each other.

    Parameters
    ----------
    *tables
        From `table`.

    Returns
    -------
    xarray.Dataset
        Dimension ``reading``, the columns that all of them have.
    """
    shared = [name for name in tables[0].data_vars if all(name in one for one in tables)]
    return xr.concat([one[shared] for one in tables], "reading")


def above_chance(table: xr.Dataset) -> list[str]:
    """List the properties that a table of readings finds above chance, in its order.

    Parameters
    ----------
    table
        From `table`, of classes.

    Returns
    -------
    list of str
        Names of properties, each once.
    """
    found = zip(table["property"].values.tolist(), table["above_chance"].values.tolist(), strict=True)
    return list(dict.fromkeys(name for name, above in found if above))


def _correct(predictions: xr.Dataset) -> np.ndarray:
    """Give for each network whether it was named correctly, or how often: shape (m,)."""
    right = predictions["prediction"] == predictions["truth"]
    return right.mean([dimension for dimension in right.dims if dimension != "model"]).values.astype(float)


def _description(predictions: xr.Dataset) -> dict[str, object]:
    parameters = json.loads(predictions.attrs["parameters"])
    snapshot = parameters["snapshot"]
    return {
        "property": predictions.attrs["property"],
        "method": predictions.attrs["method"],
        "snapshot": f"{min(snapshot)} to {max(snapshot)}" if isinstance(snapshot, list) else snapshot,
        "part": parameters["part"],
        "batch_norm": str(parameters["batch_norm"]),
        "length": parameters.get("length", 0),
        "seed": predictions.attrs["seed"],
        "shuffled": bool(predictions.attrs["shuffled"]),
    }


def _classification(predictions: xr.Dataset) -> dict[str, object]:
    low, high = accuracy_interval(predictions)
    level, p = chance(predictions), p_value(predictions)
    return {
        "accuracy": accuracy(predictions),
        "low": low,
        "high": high,
        "chance": level,
        "p_value": p,
        "above_chance": low > level and p < 0.05,
        "classes": predictions.sizes["class"],
    }


def _regression(predictions: xr.Dataset) -> dict[str, object]:
    truth, prediction = np.log10(predictions["truth"].values), np.log10(predictions["prediction"].values)
    low, high = interval(r2, truth, prediction)
    median = np.log10(predictions.attrs["train_median"])
    return {
        "r2": float(r2(truth, prediction)),
        "low": low,
        "high": high,
        "mae": float(mae(truth, prediction)),
        "baseline": float(mae(truth, np.full_like(truth, median))),
    }
