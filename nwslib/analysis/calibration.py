"""Whether a reader is right as often as it says it is: reliability, calibration error, Brier score."""

import numpy as np
import xarray as xr

from nwslib.analysis.scores import DRAWS, LEVEL, interval, share

BINS = 10


def reliability(predictions: xr.Dataset, bins: int = BINS) -> xr.Dataset:
    """Compare, bin by bin, how sure a reader was of what it named with how often it was right.

    Parameters
    ----------
    predictions
        A reading of classes with ``probability`` (..., class).
    bins
        Bins of equal width from 0 to 1.

    Returns
    -------
    xarray.Dataset
        Dimension ``bin``: ``confidence``, the mean probability of the named class; ``accuracy``, the share that was
        right, with ``low`` and ``high``; ``predictions``, how many fell into the bin, one for each network and seed;
        NaN where none did. The coordinates ``left`` and ``right`` (bin) are the bin's edges.

    Raises
    ------
    ValueError
        If the reading has no probabilities or more than one snapshot, or there is less than one bin.

    Notes
    -----
    Bins: Guo et al., "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> probability = (("model", "class"), [[0.9, 0.1], [0.7, 0.3]])
    >>> reading = xr.Dataset({"truth": ("model", ["a", "b"]), "probability": probability}, {"class": ["a", "b"]})
    >>> found = reliability(reading, bins=2)
    >>> found["confidence"].values.tolist(), found["accuracy"].values.tolist(), found["predictions"].values.tolist()
    ([nan, 0.8], [nan, 0.5], [0, 2])
    """
    confidence, right = (_over_networks(values) for values in _named(predictions))
    places = xr.DataArray(np.arange(_at_least_one(bins)), dims="bin")
    inside = _bins(confidence, bins) == places
    found = share(right.where(inside))
    held = confidence.where(inside)
    columns = {"confidence": held.mean(["model", "seed"]), "accuracy": found["mean"]}
    columns |= {"low": found["low"], "high": found["high"], "predictions": inside.sum(["model", "seed"])}
    edges = np.linspace(0, 1, bins + 1)
    return xr.Dataset(columns).assign_coords(left=("bin", edges[:-1]), right=("bin", edges[1:]))


def error(predictions: xr.Dataset, bins: int = BINS, draws: int = DRAWS, level: float = LEVEL) -> dict[str, float]:
    """Give the expected calibration error: how far confidence lies from the share that is right, on average.

    Parameters
    ----------
    predictions
        As for `reliability`.
    bins
        Bins of equal width.
    draws, level
        As in `nwslib.analysis.scores.interval`.

    Returns
    -------
    dict
        ``error``; ``low`` and ``high`` of its interval; ``chance``, the mean error of a perfectly calibrated reader
        that is as sure and is tested on as many networks: it is not 0, because few networks fall into a bin; and
        ``chance_high``, which 95 in 100 such readers stay below: whether there is an error at all is judged by that.

    Raises
    ------
    ValueError
        If the reading has no probabilities or more than one snapshot, or there is less than one bin.

    Notes
    -----
    The error: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015. Resampling
    inflates it once more, so the interval is the basic one, the percentiles mirrored at the error, and ends at 0; with
    200 networks, 72 in 100 intervals of perfect readers held 0, and 93 of those of a reader with an error of 0.21. The
    perfect reader is drawn by consistency resampling: Bröcker and Smith, "Increasing the reliability of reliability
    diagrams", Weather and Forecasting 22, 2007; all seeds are right together about a network, or wrong.
    """
    confidence, right = (_over_networks(values).values for values in _named(predictions))
    _at_least_one(bins)

    def score(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
        places = _bins(confidence, bins)
        gaps = [np.where(places == place, right - confidence, 0).sum(axis=1) for place in range(bins)]
        return np.abs(gaps).sum(axis=0) / confidence.shape[1]

    found = score(confidence.reshape(1, -1), right.reshape(1, -1)).item()
    low, high = interval(score, confidence, right, draws=draws, level=level)
    luck = np.random.default_rng(0).random((draws, len(confidence), 1))
    perfect = [score(confidence.reshape(1, -1), (one < confidence).reshape(1, -1)).item() for one in luck]
    bounds = {"low": max(0.0, 2 * found - high), "high": max(0.0, 2 * found - low)}
    luck_high = float(np.quantile(perfect, 0.95))
    return {"error": found, **bounds, "chance": float(np.mean(perfect)), "chance_high": luck_high}


def brier(predictions: xr.Dataset, draws: int = DRAWS, level: float = LEVEL) -> dict[str, float]:
    """Give the Brier score: the squared distance of the probabilities from the truth, on average.

    Parameters
    ----------
    predictions
        As for `reliability`, with the coordinate ``train_networks`` (class).
    draws, level
        As in `nwslib.analysis.scores.interval`.

    Returns
    -------
    dict
        ``brier``, from 0 (sure and right) to 2 (sure and wrong), ``low`` and ``high`` of its interval, and
        ``baseline``, the score of always giving the shares of the classes in training.

    Raises
    ------
    ValueError
        If the reading has no probabilities, or more than one snapshot.

    Notes
    -----
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950.
    """
    probability = _probability(predictions)
    truth = (predictions["truth"] == predictions["class"]).astype(float)
    distances = _over_networks(((probability - truth) ** 2).sum("class")).values
    shares = predictions["train_networks"] / predictions["train_networks"].sum()
    low, high = interval(lambda one: one.mean(axis=1), distances, draws=draws, level=level)
    baseline = ((shares - truth) ** 2).sum("class").mean().item()
    return {"brier": float(distances.mean()), "low": low, "high": high, "baseline": baseline}


def _probability(predictions: xr.Dataset) -> xr.DataArray:
    if "probability" not in predictions:
        method = predictions.attrs.get("method", "this reader")
        raise ValueError(f"calibration is of probabilities, and {method} gives none: choose a reader that does")
    return predictions["probability"]


def _named(predictions: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Give the probability of each named class, and whether it is right."""
    probability = _probability(predictions)
    named = probability["class"].values[probability.argmax("class").values]
    return probability.max("class"), (predictions["truth"] == probability.max("class").copy(data=named)).astype(float)


def _over_networks(values: xr.DataArray) -> xr.DataArray:
    """Give values the dimensions ``model`` and ``seed``, and no coordinates."""
    rest = [dimension for dimension in values.dims if dimension not in ("model", "seed")]
    if rest:
        raise ValueError(f"calibration is of one {rest[0]} at a time: choose it with reading.isel({rest[0]}=...)")
    bare = values.drop_vars([*values.coords])
    return (bare if "seed" in bare.dims else bare.expand_dims("seed")).transpose("model", "seed")


def _bins(confidence: xr.DataArray | np.ndarray, bins: int) -> xr.DataArray | np.ndarray:
    """Number the bins that probabilities fall into; 1 belongs to the last."""
    return np.minimum((confidence * bins).astype(int), bins - 1)


def _at_least_one(bins: int) -> int:
    if bins < 1:
        raise ValueError(f"reliability needs at least 1 bin, not {bins}")
    return bins
