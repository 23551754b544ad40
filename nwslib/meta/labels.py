"""What a reader is asked for: properties as classes or numbers, the guard of the split, the balance of the classes."""

from collections.abc import Collection

import numpy as np

LOGARITHMIC = ("learning_rate", "weight_decay")  # numbers that span orders of magnitude: their log10 is read
_AFTER = "_after"


def task_of(values: np.ndarray, property: str) -> str:
    """Say whether a property of the training networks is read as classes or as a number, and check that it can be.

    Parameters
    ----------
    values
        The property of each training network, shape (m,).
    property
        Its name.

    Returns
    -------
    str
        ``"regression"`` for real numbers, else ``"classification"``.

    Raises
    ------
    ValueError
        If the property has a single value, a class has a single network, a number is not finite, or one whose
        logarithm is read is not positive.
    """
    classes, counts = np.unique(values, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"{property} is {classes[0]!s} in every training network: there is nothing to tell apart")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"{property} is not known for {np.sum(~np.isfinite(values))} of {len(values)} networks")
        if logarithmic(property) and not (values > 0).all():
            raise ValueError(f"{property} is read as its logarithm and must be positive, not {values.min()}")
        return "regression"
    if counts.min() < 2:
        raise ValueError(
            f"{property} is {classes[counts.argmin()]!s} in only 1 training network, and a class needs at least 2"
        )
    return "classification"


def logarithmic(property: str) -> bool:
    """Say whether the logarithm of a number is read, and not the number as it is.

    Examples
    --------
    >>> logarithmic("learning_rate"), logarithmic("test_accuracy")
    (True, False)
    """
    return property.removesuffix(_AFTER) in LOGARITHMIC


def to_scale(values: np.ndarray, property: str) -> np.ndarray:
    """Put numbers on the scale on which they are read: their log10, or as they are; any shape."""
    return np.log10(values) if logarithmic(property) else np.asarray(values, dtype=float)


def from_scale(values: np.ndarray, property: str) -> np.ndarray:
    """Put what was read back into the property's own unit; the inverse of `to_scale`.

    An estimate of a power of ten beyond 300, of a fit that diverged, counts as 300: no number would hold it.
    """
    return 10 ** np.clip(values, -300, 300) if logarithmic(property) else values


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
        Class of each training network, shape (m,); numbers count as one class.
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
    classes = np.zeros(len(labels)) if labels.dtype.kind == "f" else labels
    for label in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == label))
        held[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return held


def balance(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw as many networks of every class as the rarest has; drawn anew for each epoch, none is lost for good.

    Parameters
    ----------
    labels
        Class of each network, shape (m,); of numbers, all networks are drawn.
    generator
        Source of the draw.

    Returns
    -------
    numpy.ndarray
        Positions of the chosen networks, shape (classes * rarest,).
    """
    if labels.dtype.kind == "f":
        return generator.permutation(len(labels))
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rarest = min(map(len, members))
    return np.concatenate([generator.permutation(positions)[:rarest] for positions in members])
