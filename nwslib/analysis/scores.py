"""How well a property was read: accuracy, R2, errors, tau, chance level, and intervals over networks and seeds.

A *predictions* dataset, or reading, is what `nwslib.meta.read` gives: ``truth`` and ``prediction`` with the dimension
``model``. Where ``prediction`` has the dimension ``seed``, every network was read by several readers, and intervals
speak of other networks and of other seeds. Over any further dimension (``snapshot``), a network counts with its mean.
"""

import json
from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr

DRAWS = 2000
LEVEL = 0.95

_ROUNDING = 1e-12  # of sums of shares
_BLOCK = 1 << 23  # numbers that a resampled column has in memory at once


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


def balanced_accuracy(predictions: xr.Dataset) -> float:
    """Give the mean, over the classes that were tested, of the share of their networks that was named correctly.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.

    Returns
    -------
    float
        Between 0 and 1; one over the number of classes for a reader that always names the same one.

    Notes
    -----
    Brodersen et al., "The balanced accuracy and its posterior distribution", ICPR 2010.

    Examples
    --------
    >>> truth, named = ["adam", "adam", "adam", "momentum"], ["adam"] * 4
    >>> balanced_accuracy(xr.Dataset({"truth": ("model", truth), "prediction": ("model", named)}))
    0.5
    """
    correct, truth = _correct(predictions), predictions["truth"].values
    return float(np.mean([correct[truth == name].mean() for name in np.unique(truth)]))


def interval(
    score: Callable[..., np.ndarray], *columns: np.ndarray, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Give the percentile bootstrap interval of a score over networks, and over seeds where there are several.

    Parameters
    ----------
    score
        Takes columns of shape (draws, n), one number for each network and seed, and gives scores of shape (draws,).
    *columns
        What the score is computed from, each of shape (m,), or (m, seeds).
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
    Over networks: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979. Networks and
    seeds are resampled crossed: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007. Of s seeds,
    s - 1 are drawn, or the variance that they bring would be too small by the factor (s - 1) / s: Rao and Wu,
    "Resampling inference with complex survey data", JASA 83, 1988. Measured with 80 networks and 3 seeds whose spread
    equals the error from the networks: 95 in 100 intervals held the truth, and 92 when all three seeds were drawn.

    Examples
    --------
    >>> interval(lambda right: right.mean(axis=1), np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)
    """
    found = _resampled_scores(score, columns, draws, seed)
    tail = (1 - level) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def mean(values: xr.DataArray, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> xr.Dataset:
    """Give the mean over networks, and seeds, with its bootstrap interval, for all other places at once.

    Parameters
    ----------
    values
        Dimension ``model``, perhaps ``seed``, and any others. NaN where a network has no number.
    draws, level, seed
        As in `interval`, which gives the same bounds for one place.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``low``, ``high`` and ``networks`` (those that have a number) with the other dimensions; NaN where no
        network has one.

    Examples
    --------
    >>> found = mean(xr.DataArray([[0.0, 1.0], [1.0, 1.0]], dims=("model", "place")))
    >>> found["mean"].values.tolist(), found["networks"].values.tolist()
    ([0.5, 1.0], [2, 2])
    """
    values = values.drop_vars([name for name in values.coords if name not in values.dims])  # networks have a seed, too
    values = values if "seed" in values.dims else values.expand_dims("seed", -1)
    stacked = values.transpose("model", "seed", ...).astype(float)
    over = stacked.isel(model=0, seed=0, drop=True)
    flat = stacked.values.reshape(*stacked.shape[:2], -1)  # (m, seeds, places)
    networks, seeds = _resampled(*flat.shape[:2], draws, seed)
    present = np.isfinite(flat)
    sums, counts = (_weighted(networks, seeds, one) for one in (np.where(present, flat, 0), present.astype(float)))
    bounds = np.full((2, flat.shape[2]), np.nan)
    seen = present.any(axis=(0, 1))
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)[:, seen]
    bounds[:, seen] = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    columns = {"mean": stacked.mean(["model", "seed"]).values.ravel(), "low": bounds[0], "high": bounds[1]}
    columns["networks"] = present.any(axis=1).sum(axis=0)
    coordinates = {name: column for name, column in over.coords.items() if column.dims}
    return xr.Dataset({n: (over.dims, column.reshape(over.shape)) for n, column in columns.items()}, coordinates)


def share(right: xr.DataArray, draws: int = DRAWS, level: float = LEVEL) -> xr.Dataset:
    """Give the share of the networks that something is true of, with its interval, for all other places at once.

    Parameters
    ----------
    right
        As `mean` takes it: true or false, or how often, from 0 to 1.
    draws, level
        As in `interval`.

    Returns
    -------
    xarray.Dataset
        As `mean` gives it. Where it is true of every network, or of none, resampling sees no doubt, and the bound on
        the other side is the exact one of Clopper and Pearson.
    """
    found = mean(right, draws, level)
    certain = ((1 - level) / 2) ** (1 / found["networks"].where(found["networks"] > 0))
    found["low"] = found["low"].where(found["mean"] < 1 - _ROUNDING, certain)
    found["high"] = found["high"].where(found["mean"] > _ROUNDING, 1 - certain)
    return found


def per_network(values: xr.DataArray) -> xr.DataArray:
    """Average over all dimensions but ``model``, which comes first then, and ``seed``.

    Examples
    --------
    >>> per_network(xr.DataArray([[0.0, 1.0, 2.0]], dims=("snapshot", "model"))).values.tolist()
    [0.0, 1.0, 2.0]
    """
    rest = [dimension for dimension in values.dims if dimension not in ("model", "seed")]
    return values.mean(rest).transpose("model", ...)


def accuracy_interval(predictions: xr.Dataset, draws: int = DRAWS, level: float = LEVEL) -> tuple[float, float]:
    """Give the bootstrap interval of the accuracy over networks and seeds.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.
    draws, level
        As in `interval`.

    Returns
    -------
    tuple of float
        Lower and upper bound, as `share` has them.
    """
    correct = _correct(predictions)
    found = share(xr.DataArray(correct, dims=("model", "seed")[: correct.ndim]), draws, level)
    return found["low"].item(), found["high"].item()


def balanced_interval(predictions: xr.Dataset, draws: int = DRAWS, level: float = LEVEL) -> tuple[float, float]:
    """Give the bootstrap interval of the balanced accuracy over networks and seeds.

    Parameters
    ----------
    predictions
        ``truth`` and ``prediction``.
    draws, level
        As in `interval`.

    Returns
    -------
    tuple of float
        Lower and upper bound. Without doubt, where every network is right, as for `accuracy_interval`.
    """
    correct = _correct(predictions)
    if correct.min() == correct.max():
        return accuracy_interval(predictions, draws, level)
    classes, codes = np.unique(predictions["truth"].values, return_inverse=True)

    def score(right: np.ndarray, code: np.ndarray) -> np.ndarray:
        members = [code == place for place in range(len(classes))]
        counts = np.stack([member.sum(axis=1) for member in members])  # a resample may lack a class
        shares = np.stack([(right * member).sum(axis=1) for member in members]) / np.maximum(counts, 1)
        return shares.sum(axis=0) / (counts > 0).sum(axis=0)

    return interval(score, correct, codes, draws=draws, level=level)


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
    reached = agreement[networks, permuted].mean(axis=1) >= agreement[networks, networks].mean() - _ROUNDING
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
        Dimensions ``truth``, ``prediction``: numbers of test networks, classes in order. A network that was named
        several times, by several seeds, counts with a share for each.
    """
    truth, prediction = xr.broadcast(predictions["truth"], predictions["prediction"])
    named = [truth.values, prediction.values, predictions.get("class", truth).values]
    classes = np.unique(np.concatenate([np.ravel(names) for names in named]))
    places = (np.searchsorted(classes, truth.values.ravel()), np.searchsorted(classes, prediction.values.ravel()))
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, places, predictions.sizes["model"] / prediction.size)
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
        Shape (...): 1 is perfect, 0 is no better than the mean of the test networks themselves; 0, too, where the truth
        is the same for all, as in a resample of few networks, because there is nothing to explain.
    """
    error = ((truth - prediction) ** 2).sum(axis=-1)
    total = ((truth - truth.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    varies = truth.min(axis=-1) < truth.max(axis=-1)
    return 1 - np.divide(error, total, out=np.ones_like(error), where=varies)


def mae(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Give the mean absolute error over the last axis."""
    return np.abs(truth - prediction).mean(axis=-1)


def mse(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Give the mean squared error over the last axis."""
    return ((truth - prediction) ** 2).mean(axis=-1)


def tau(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Give Kendall's tau-b over the last axis: by how much more pairs of networks are in the right order than not.

    Parameters
    ----------
    truth, prediction
        Shape (..., m).

    Returns
    -------
    numpy.ndarray
        Shape (...), between -1 and 1; 0 where either is the same for all networks, because nothing is put in order.

    Notes
    -----
    Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945.

    Examples
    --------
    >>> round(float(tau(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.1, 0.5]))), 3)
    0.333
    """
    truth, prediction = np.broadcast_arrays(truth, prediction)
    rows = zip(truth.reshape(-1, truth.shape[-1]), prediction.reshape(-1, truth.shape[-1]), strict=True)
    once = np.ones((1, truth.shape[-1]))
    return np.reshape([_resampled_tau(*row, once) for row in rows], truth.shape[:-1])


def tau_interval(
    truth: np.ndarray, prediction: np.ndarray, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Give the bootstrap interval of Kendall's tau-b over networks and seeds.

    Parameters
    ----------
    truth
        Shape (m,).
    prediction
        Shape (m,), or (m, seeds).
    draws, level, seed
        As in `interval`.

    Returns
    -------
    tuple of float
        Lower and upper bound.
    """
    prediction = prediction.reshape(len(truth), -1)
    networks, seeds = (
        _times(drawn, number)
        for drawn, number in zip(_resampled(*prediction.shape, draws, seed), prediction.shape, strict=True)
    )
    taus = np.stack([_resampled_tau(truth, column, networks) for column in prediction.T], axis=1)  # (draws, seeds)
    found = (seeds * taus).sum(axis=1) / seeds.sum(axis=1)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def scaled(values: xr.DataArray, predictions: xr.Dataset) -> xr.DataArray:
    """Put numbers of a reading on the scale on which they were read.

    Parameters
    ----------
    values
        ``truth`` or ``prediction`` of the reading, or any number in its unit.
    predictions
        What `nwslib.meta.read` gives.

    Returns
    -------
    xarray.DataArray
        Their log10; as they are where the attribute ``scale`` is ``"linear"``.
    """
    return values if predictions.attrs.get("scale") == "linear" else np.log10(values)


def summary(predictions: xr.Dataset) -> dict[str, object]:
    """Sum up one reading as a row of a table.

    Parameters
    ----------
    predictions
        What `nwslib.meta.read` gives.

    Returns
    -------
    dict
        What was read and how (``property``, ``method``, ``snapshot``, ``part``, ``kinds``, ``variable``, ``permuted``,
        ``length``, ``seed``, ``seeds``, ``shuffled``, ``trained_on``, ``read_on``; empty where a method has no such
        thing), the ``networks`` it was tested on, and ``low`` and ``high`` of the score. For classes: ``accuracy``,
        ``chance``, ``p_value``, ``above_chance``, ``classes``, and ``balanced`` with ``balanced_low`` and
        ``balanced_high``. For numbers, all on their scale (`scaled`): ``r2``, ``mae``, and ``baseline``, the mean
        absolute error of always giving the median of the training networks, with ``gain``, by how much the reader's is
        less, and ``gain_low`` and ``gain_high``. For numbers on a linear scale also ``mse`` and ``tau``, each with
        ``_low`` and ``_high``.

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
        Of classes, or of numbers on one scale, not of both.

    Returns
    -------
    xarray.Dataset
        Dimension ``reading``, one variable per entry of `summary`.

    Raises
    ------
    ValueError
        If there is no reading, or several kinds.
    """
    rows = [summary(reading) for reading in readings]
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("a table needs at least one reading, all of classes or all of numbers on one scale")
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
    found = xr.concat([one[shared] for one in tables], "reading")
    mixed = [name for name in found.data_vars if found[name].dtype == object]  # a number here, a range of numbers there
    return found.assign({name: found[name].astype(str) for name in mixed})


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
    """Give for each network, and seed, whether it was named correctly, or how often: shape (m,) or (m, seeds)."""
    return per_network(predictions["prediction"] == predictions["truth"]).values.astype(float)


def _resampled(networks: int, seeds: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw networks (draws, m) and, apart from them, seeds (draws, seeds - 1, or 1 where there is one)."""
    random = np.random.default_rng(seed)
    return random.integers(networks, size=(draws, networks)), random.integers(seeds, size=(draws, max(1, seeds - 1)))


def _resampled_scores(score: Callable[..., np.ndarray], columns: tuple, draws: int, seed: int) -> np.ndarray:
    """Give the score of each resample, a bounded number of them at a time."""
    columns = np.broadcast_arrays(*(np.reshape(column, (len(column), -1)) for column in columns))
    networks, seeds = _resampled(*columns[0].shape, draws, seed)
    blocks = np.array_split(np.arange(draws), -(-draws * columns[0].size // _BLOCK))
    return np.concatenate(
        [
            score(
                *(
                    column[networks[block][:, :, None], seeds[block][:, None]].reshape(len(block), -1)
                    for column in columns
                )
            )
            for block in blocks
        ]
    )


def _weighted(networks: np.ndarray, seeds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Add up values (m, seeds, places) over the networks and seeds of every resample: (draws, places)."""
    networks, seeds = _times(networks, values.shape[0]), _times(seeds, values.shape[1])
    return sum(seeds[:, place, None] * (networks @ values[:, place]) for place in range(values.shape[1]))


def _times(drawn: np.ndarray, number: int) -> np.ndarray:
    """Count how often each of a number of things was drawn in every resample: (draws, number)."""
    places = drawn + number * np.arange(len(drawn))[:, None]
    return np.bincount(places.ravel(), minlength=len(drawn) * number).reshape(-1, number).astype(float)


def _description(predictions: xr.Dataset) -> dict[str, object]:
    attributes, parameters = predictions.attrs, json.loads(predictions.attrs["parameters"])
    snapshot = parameters["snapshot"]
    return {
        "property": attributes["property"],
        "method": attributes["method"],
        "snapshot": f"{min(snapshot)} to {max(snapshot)}" if isinstance(snapshot, list) else snapshot,
        **{name: str(parameters.get(name, "")) for name in ("part", "kinds", "variable")},
        "permuted": bool(parameters.get("permuted", False)),
        "length": parameters.get("length", 0),
        "seed": str(attributes["seed"]),
        "seeds": predictions.sizes.get("seed", 1),
        "shuffled": bool(attributes["shuffled"]),
        **{name: attributes.get(name, "") for name in ("trained_on", "read_on")},
    }


def _classification(predictions: xr.Dataset) -> dict[str, object]:
    low, high = accuracy_interval(predictions)
    balanced_low, balanced_high = balanced_interval(predictions)
    level, p = chance(predictions), p_value(predictions)
    return {
        "accuracy": accuracy(predictions),
        "low": low,
        "high": high,
        "chance": level,
        "p_value": p,
        "above_chance": low > level and p < 0.05,
        "balanced": balanced_accuracy(predictions),
        "balanced_low": balanced_low,
        "balanced_high": balanced_high,
        "classes": predictions.sizes["class"],
    }


def _regression(predictions: xr.Dataset) -> dict[str, object]:
    truth = scaled(predictions["truth"], predictions).values[:, None]  # (m, 1)
    prediction = per_network(scaled(predictions["prediction"], predictions)).values.reshape(
        len(truth), -1
    )  # (m, seeds)
    median = scaled(predictions.attrs["train_median"], predictions)
    error, baseline = np.abs(truth - prediction), np.abs(truth - median)
    low, high = interval(r2, truth, prediction)
    gain_low, gain_high = interval(lambda gain: gain.mean(axis=1), baseline - error)
    return {
        "r2": float(r2(truth.T, prediction.T).mean()),
        "low": low,
        "high": high,
        "mae": float(error.mean()),
        "baseline": float(baseline.mean()),
        "gain": float((baseline - error).mean()),
        "gain_low": gain_low,
        "gain_high": gain_high,
        **(_linear(truth, prediction) if predictions.attrs.get("scale") == "linear" else {}),
    }


def _linear(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Score numbers (m, 1) and their estimates (m, seeds) by what is usual on a linear scale."""
    low, high = interval(lambda error: error.mean(axis=1), (truth - prediction) ** 2)
    tau_low, tau_high = tau_interval(truth[:, 0], prediction)
    return {
        "mse": float(mse(truth.T, prediction.T).mean()),
        "mse_low": low,
        "mse_high": high,
        "tau": float(tau(truth.T, prediction.T).mean()),
        "tau_low": tau_low,
        "tau_high": tau_high,
    }


def _resampled_tau(truth: np.ndarray, prediction: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Give tau-b of every resample from how often each network is in it (draws, m): three quadratic forms."""
    signs = [np.sign(column[:, None] - column) for column in (truth, prediction)]  # (m, m)
    agreement, *untied = (
        np.einsum("dm,dm->d", times @ pairs, times) for pairs in (signs[0] * signs[1], *map(np.abs, signs))
    )
    scale = np.sqrt(untied[0] * untied[1])
    return np.divide(agreement, scale, out=np.zeros_like(agreement), where=scale > 0)
