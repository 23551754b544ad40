"""What a reader is asked to name: labels of networks, the guard of the split, and the balance of the classes."""

from collections.abc import Collection

import numpy as np


def class_labels(values: np.ndarray, property: str) -> np.ndarray:
    """Check that a property of the training networks can be read as classes.

    Parameters
    ----------
    values
        The property of each training network, shape (m,).
    property
        Its name.

    Returns
    -------
    numpy.ndarray
        `values`.

    Raises
    ------
    ValueError
        If the property is continuous, has a single value, or a class has a single network.
    """
    if values.dtype.kind == "f":
        raise ValueError(f"{property} is continuous: read it with StatisticsRegressor")
    classes, counts = np.unique(values, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"{property} is {classes[0]!s} in every training network: there is nothing to tell apart")
    if counts.min() < 2:
        raise ValueError(
            f"{property} is {classes[counts.argmin()]!s} in only 1 training network, and a class needs at least 2"
        )
    return values


def shuffle(values: np.ndarray, seed: int) -> np.ndarray:
    """Permute labels over the training networks: the control whose score must be at chance."""
    return np.random.default_rng([seed, 1]).permutation(values)


def refuse_seen(ids: np.ndarray, seen: Collection[str]) -> None:
    """Refuse to read networks that the reader was fitted on.

    Raises
    ------
    ValueError
        If an id is among those seen.
    """
    leaked = [name for name in ids.tolist() if name in seen]
    if leaked:
        raise ValueError(f"{len(leaked)} of these networks were seen in training, the first {leaked[0]!r}")


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose validation networks among the training networks, the same share of each class.

    Parameters
    ----------
    labels
        Label of each training network, shape (m,).
    share
        Share of the networks, more than 0 and less than 1; at least one of each class, and never all.
    seed
        Seed of the draw.

    Returns
    -------
    numpy.ndarray
        True for a validation network, shape (m,).
    """
    generator = np.random.default_rng([seed, 2])
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return held


def balance(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw as many networks of every class as the rarest has; drawn anew for each epoch, none is lost for good.

    Parameters
    ----------
    labels
        Label of each network, shape (m,).
    generator
        Source of the draw.

    Returns
    -------
    numpy.ndarray
        Positions of the chosen networks, shape (classes * rarest,).
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rarest = min(map(len, members))
    return np.concatenate([generator.permutation(positions)[:rarest] for positions in members])
