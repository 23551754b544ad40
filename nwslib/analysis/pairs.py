"""How much one reading differs from another of the same networks, compared network by network."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nwslib.analysis.scores import interval, per_network, scaled


def difference(values: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Give the mean difference between two columns of the same networks, with its interval.

    Parameters
    ----------
    values, reference
        One number per network, each of shape (m,), in the same order; or (m, seeds), the seeds in one order too.

    Returns
    -------
    dict
        ``change``, and ``low`` and ``high`` of its 95 % interval, from resampling the networks and the seeds. What the
        networks have in common cancels, so it is narrower than the intervals of the two means.

    Raises
    ------
    ValueError
        If the networks, or the seeds where both have several, are not as many.

    Examples
    --------
    >>> difference(np.array([0.9, 0.7, 0.8]), np.array([1.0, 0.8, 0.9]))["high"] < 0
    True
    """
    columns = [np.reshape(column, (len(column), -1)).astype(float) for column in (values, reference)]
    (networks, seeds), (others, further) = (column.shape for column in columns)
    if networks != others or (seeds != further and 1 not in (seeds, further)):
        raise ValueError(
            f"compared network by network, and seed by seed: not {networks} networks and {seeds} seeds with {others} "
            f"and {further}"
        )
    gains = columns[0] - columns[1]  # (m, seeds)
    low, high = interval(lambda gain: gain.mean(axis=1), gains)
    return {"change": float(gains.mean()), "low": low, "high": high}


def change(reading: xr.Dataset, reference: xr.Dataset) -> dict[str, float]:
    """Give how much higher the score of a reading is than that of another one.

    Parameters
    ----------
    reading, reference
        What `nwslib.meta.read` gives, of one property and the same test networks; of the same seeds, or with one.

    Returns
    -------
    dict
        As `difference`: of the accuracy, or of R2, whose variance of the truth is held fixed.

    Raises
    ------
    ValueError
        If the property, the networks or the seeds differ.
    """
    asked = [one.attrs["property"] for one in (reading, reference)]
    if asked[0] != asked[1]:
        raise ValueError(f"two readings of one property can be compared, not one of {asked[0]} and one of {asked[1]}")
    if not reading["truth"].equals(reference["truth"]):
        raise ValueError("two readings can be compared only on the same test networks")
    seeds = [one["seed"].values.tolist() for one in (reading, reference) if "seed" in one.dims]
    if len(seeds) == 2 and seeds[0] != seeds[1]:
        raise ValueError(f"two readings can be compared only by the same seeds, not by {seeds[0]} and {seeds[1]}")
    return difference(_shares(reading), _shares(reference))


def enough(changes: Mapping[int, Mapping[str, float]]) -> int:
    """Give the least of something from which on no loss is seen.

    Parameters
    ----------
    changes
        By how much there is of it, what `difference` gives against having all of it.

    Returns
    -------
    int
        A key of which, and of all larger ones, the interval does not lie below zero; 0 where there is none.

    Examples
    --------
    >>> enough({1: {"high": -0.1}, 3: {"high": 0.02}, 7: {"high": 0.01}})
    3
    """
    largest_loss = max((amount for amount, one in changes.items() if one["high"] < 0), default=-1)
    return min((amount for amount in changes if amount > largest_loss), default=0)


def _shares(reading: xr.Dataset) -> np.ndarray:
    """Give one number per network, and seed, of which the score is the mean; shape (m,) or (m, seeds)."""
    if reading.attrs["task"] == "classification":
        return per_network(reading["prediction"] == reading["truth"]).values
    truth = scaled(reading["truth"], reading)
    return per_network(1 - (truth - scaled(reading["prediction"], reading)) ** 2 / truth.var()).values
