"""The footprint of a hyper-parameter: how much of it is read, when, and from whom. Matrices and lines of scores.

They are made from readings (`nwslib.meta.read`), each number with its interval and what chance gives.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from nwslib.analysis.moments import binned, epochs_of, snapshot_by_snapshot
from nwslib.analysis.scores import chance, interval, per_network, r2, scaled, share
from nwslib.space import PROPERTIES

_VIEW = ("method", "part", "kinds", "variable", "length")


def score(reading: xr.Dataset) -> xr.Dataset:
    """Score a reading, for each snapshot apart where it has several.

    Parameters
    ----------
    reading
        What `nwslib.meta.read` gives.

    Returns
    -------
    xarray.Dataset
        ``score`` (accuracy, or R2), ``low``, ``high``, and ``chance``, with the dimension ``snapshot`` where
        the reading has it; the attribute ``measure`` is ``"accuracy"`` or ``"R2"``.

    Examples
    --------
    >>> columns = {"truth": ("model", ["a", "b"]), "prediction": (("model", "snapshot"), [["a", "a"], ["a", "b"]])}
    >>> reading = xr.Dataset(columns, {"class": ["a", "b"], "train_networks": ("class", [5, 5])})
    >>> score(reading.assign_attrs(task="classification"))["score"].values.tolist()
    [0.5, 1.0]
    """
    if reading.attrs["task"] == "classification":
        found = share(reading["prediction"] == reading["truth"]).rename(mean="score").drop_vars("networks")
        return found.assign(chance=found["score"] * 0 + chance(reading)).assign_attrs(measure="accuracy")
    if "snapshot" in reading["prediction"].dims:
        parts = [score(reading.isel(snapshot=place)) for place in range(reading.sizes["snapshot"])]
        return xr.concat(parts, reading["snapshot"], combine_attrs="override")
    truth = scaled(reading["truth"], reading).values[:, None]
    prediction = per_network(scaled(reading["prediction"], reading)).values.reshape(len(truth), -1)  # (m, seeds)
    low, high = interval(r2, truth, prediction)
    columns = {"score": r2(truth.T, prediction.T).mean(), "low": low, "high": high, "chance": 0.0}  # 0: of the mean
    return xr.Dataset(columns, attrs={"measure": "R2"})


def how_much(readings: Iterable[xr.Dataset], views: Iterable[str] | None = None) -> xr.Dataset:
    """Put the scores of readings into a matrix: properties by what was seen of the weights, and how.

    Parameters
    ----------
    readings
        Of classes and of numbers, each of one snapshot.
    views
        A name for the view of each reading: with it, an SVM of classes and a ridge regression of numbers can share one.
        By default it is made of those of method, part, kinds, variable and length that differ.

    Returns
    -------
    xarray.Dataset
        Dimensions ``property``, ``view``: ``score``, ``low``, ``high``, ``chance``; NaN where nothing was read.
        ``measure`` (property) says what the score is. Properties are in the order of the study, views in that of the
        readings.

    Raises
    ------
    ValueError
        If there is no reading, or there are two of one property with one view.
    """
    readings = list(readings)
    views = _views(readings) if views is None else list(views)
    rows = {}
    for reading, view in zip(readings, views, strict=True):
        _refuse_second(rows, (reading.attrs["property"], view))
        rows[reading.attrs["property"], view] = score(reading)
    known = [*PROPERTIES, *(name for name, _ in rows)]
    properties = sorted({name for name, _ in rows}, key=known.index)
    matrix = _matrix(rows, property=properties, view=list(dict.fromkeys(views)))
    measures = {name: one.attrs["measure"] for (name, _), one in rows.items()}
    return matrix.assign_coords(measure=("property", [measures[name] for name in properties]))


def when(readings: Iterable[xr.Dataset]) -> xr.Dataset:
    """Put readings that learned from one snapshot each, and were read at several, into a matrix.

    Parameters
    ----------
    readings
        Of one property, each with the dimension ``snapshot``: ``meta.read(..., snapshot=5, at=[1, 5, 20])``.

    Returns
    -------
    xarray.Dataset
        Dimensions ``trained_at``, ``read_at``: what `score` gives.

    Raises
    ------
    ValueError
        If there is no reading, a reading learned from several snapshots or was read at one, there are two that learned
        from the same, or of several properties.
    """
    rows, properties = {}, set()
    for reading in readings:
        learned = json.loads(reading.attrs["parameters"])["snapshot"]
        if isinstance(learned, list) or "snapshot" not in reading["prediction"].dims:
            raise ValueError(
                "a row is one snapshot learned from, read at several: use read(..., snapshot=5, at=[1, 20])"
            )
        _refuse_second(rows, learned)
        rows[learned] = score(reading).rename(snapshot="read_at")
        properties.add(reading.attrs["property"])
    if len(properties) != 1:
        raise ValueError(f"a matrix is of one property, not of {', '.join(sorted(properties)) or 'none'}")
    ordered = dict(sorted(rows.items()))
    found = xr.concat(ordered.values(), "trained_at", join="outer", combine_attrs="override")
    return found.assign_coords(trained_at=[*ordered]).assign_attrs(property=properties.pop())


def against_epochs(reading: xr.Dataset, epoch: xr.DataArray, edges: Sequence[float] | None = None) -> xr.Dataset:
    """Give the accuracy of a reading against the epochs that a network was trained, in place of the share of its run.

    Parameters
    ----------
    reading
        Of classes, with the dimension ``snapshot``.
    epoch
        ``epoch`` (model, snapshot) of the population.
    edges
        Borders of the bins of epochs, each with its left border; 0, 1, 2, 4, 8, ... by default.

    Returns
    -------
    xarray.Dataset
        Dimension ``epoch``, the mean in a bin that is not empty: ``score``, ``low``, ``high``, ``chance``, ``networks``
        (a network counts with the mean over its snapshots in the bin) and the coordinates ``left``, ``right``.

    Raises
    ------
    ValueError
        If the reading is not of classes or has one snapshot, or `epoch` lacks one of its networks or snapshots.
    """
    if reading.attrs["task"] != "classification":
        raise ValueError(f"an accuracy is of classes, and {reading.attrs['property']} is a number")
    epochs = epochs_of(reading, epoch)
    right = snapshot_by_snapshot(reading["prediction"] == reading["truth"])
    if edges is None:
        edges = [0, *2 ** np.arange(np.ceil(np.log2(max(2, epochs.max().item() + 1))) + 1)]
    found, inside = binned(right, epochs, edges)
    found = share(found).rename(mean="score")
    found = found.assign(chance=found["score"] * 0 + chance(reading))
    found = found.assign_coords(left=("bin", edges[:-1]), right=("bin", edges[1:]))
    found = found.assign_coords(epoch=("bin", epochs.where(inside).mean(["model", "snapshot"]).values))
    return found.isel(bin=(found["networks"] > 0).values).swap_dims(bin="epoch").assign_attrs(measure="accuracy")


def transfer(readings: Mapping[tuple[str, str], xr.Dataset]) -> xr.Dataset:
    """Put readings that learned from some networks, and were read on others, into a matrix.

    Parameters
    ----------
    readings
        By what was learned from and what was read: ``{("mnist", "fashion"): meta.read(..., on=...)}``. Each of one
        snapshot.

    Returns
    -------
    xarray.Dataset
        Dimensions ``trained_on``, ``read_on``, in the order in which they come: what `score` gives; NaN where nothing
        was read.

    Raises
    ------
    ValueError
        If there is no reading.
    """
    trained, read = (list(dict.fromkeys(pair[side] for pair in readings)) for side in (0, 1))
    matrix = _matrix({pair: score(one) for pair, one in readings.items()}, trained_on=trained, read_on=read)
    measures = sorted({score(one).attrs["measure"] for one in readings.values()})
    return matrix.assign_attrs(measure=", ".join(measures))


def _views(readings: list[xr.Dataset]) -> list[str]:
    """Name what each reading saw, and how, by what differs between them."""
    every = [{"method": one.attrs["method"], **json.loads(one.attrs["parameters"])} for one in readings]
    seen = [[one.get(name) or "" for name in _VIEW] for one in every]
    differ = [place for place in range(len(_VIEW)) if len({view[place] for view in seen}) > 1] or [0]
    return [", ".join(str(view[place]) for place in differ if view[place]) for view in seen]


def _matrix(rows: Mapping[tuple, xr.Dataset], **names: Sequence) -> xr.Dataset:
    """Put scores by pairs of names into a matrix with NaN where there is none."""
    if not rows:
        raise ValueError("a matrix needs at least one reading")
    shape = [len(known) for known in names.values()]
    columns = {name: np.full(shape, np.nan) for name in ("score", "low", "high", "chance")}
    for pair, one in rows.items():
        place = tuple(known.index(name) for known, name in zip(names.values(), pair, strict=True))
        for name, column in columns.items():
            column[place] = one[name].item()
    dims = tuple(names)
    return xr.Dataset({name: (dims, column) for name, column in columns.items()}, names)


def _refuse_second(rows: Mapping, key: object) -> None:
    if key in rows:
        raise ValueError(f"two readings have one place in the matrix: {key}")
