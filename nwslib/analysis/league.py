"""The league: how well readers read the same networks, who is ahead by more than chance, and what others published."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nwslib.analysis.results import claim
from nwslib.analysis.scores import accuracy_interval, chance, interval, per_network, r2, scaled, tau, tau_interval
from nwslib.space import nearest

#: What a score can be, and whether more of it is better.
MEASURES: Mapping[str, bool] = {"accuracy": True, "R2": True, "MSE": False, "tau": True, "AUC": True}
KINDS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "regression": ("R2", "MSE", "tau"),
    "mask": ("accuracy", "AUC"),
}


@dataclass(frozen=True)
class Published:
    """A figure from a paper: context for a row of the league, never measured on our networks.

    Attributes
    ----------
    task
        Of `TASKS`.
    method
        What the paper calls the reader.
    measure
        One of `MEASURES`.
    value
        Accuracies are shares.
    source
        Where it is printed: a number of arXiv.
    differs
        What about those networks is not as in our zoo.
    """

    task: str
    method: str
    measure: str
    value: float
    source: str
    differs: str


_WS_KAN = "arXiv:2602.16316"
_SCALE_GMN = "arXiv:2406.10685"
_SCALING = "arXiv:2405.20231"
_UNSAID = "same task, our zoo: number of networks, split, grid and threshold of theirs are not published"
_SPLINES = "same task, our zoo: theirs are Kolmogorov-Arnold networks, whose number, split and grid are not published"
_ENCODED = "same task, our zoo: 2-32-32-1 SIRENs without augmentation, 55,000 to train with"
_RESIDUAL = "same task, our zoo: 10,000 ResNet-8 of 78,042 parameters, split 50/25/25, 5 runs"


def _figures(
    measure: str, source: str, differs: str, tasks: Iterable[str], rows: Mapping[str, tuple]
) -> list[Published]:
    tasks = list(tasks)
    return [
        Published(task, method, measure, value, source, differs)
        for method, values in rows.items()
        for task, value in zip(tasks, values, strict=True)
    ]


_IMAGES = [f"image class, {name}" for name in ("mnist", "fashion", "cifar10")]
_ACCURACIES = [f"test accuracy, {name}" for name in ("mnist", "fashion", "kmnist")]
_MASKS = [f"pruning mask, {name}" for name in ("mnist", "fashion", "kmnist")]
_RESNET = ["test accuracy, resnet8"]

#: The ten rows on which readers are compared in the literature.
TASKS = (*_IMAGES, *_ACCURACIES, *_MASKS, *_RESNET)

#: What others reach on them, as far as it is published.
PUBLISHED = (
    *_figures(
        "accuracy",
        _WS_KAN,
        _SPLINES,
        _IMAGES,
        {
            "WS-KAN": (0.943, 0.846, 0.422),
            "Set Transformer": (0.875, 0.802, 0.343),
            "MLP, aligned": (0.810, 0.736, 0.300),
            "DMC": (0.734, 0.731, 0.330),
            "MLP, augmented": (0.627, 0.630, 0.282),
            "DeepSets": (0.591, 0.659, 0.232),
            "MLP": (0.341, 0.413, 0.168),
        },
    ),
    *_figures(
        "accuracy",
        _SCALE_GMN,
        _ENCODED,
        _IMAGES,
        {
            "ScaleGMN-B": (0.9659, 0.8078, 0.3882),
            "NG-GNN": (0.914, 0.680, 0.360),
            "DWSNet": (0.857, 0.671, 0.345),
            "NFN": (0.791, 0.689, 0.286),
        },
    ),
    *_figures(
        "MSE", _WS_KAN, _UNSAID, _ACCURACIES, {"WS-KAN": (3.29e-3, 2.94e-3, 1.45e-3), "DMC": (7e-3, 6.46e-3, 3.27e-3)}
    ),
    *_figures("R2", _WS_KAN, _UNSAID, _ACCURACIES, {"WS-KAN": (0.948, 0.923, 0.957)}),
    *_figures(
        "accuracy", _WS_KAN, _UNSAID, _MASKS, {"WS-KAN": (0.9793, 0.9893, 0.9772), "DMC": (0.9307, 0.9659, 0.9139)}
    ),
    *_figures(
        "R2",
        _SCALING,
        _RESIDUAL,
        _RESNET,
        {"statistics, MLP": (0.976,), "DMC": (0.950,), "DeepSets": (0.855,), "MLP": (0.330,)},
    ),
    *_figures("tau", _SCALING, _RESIDUAL, _RESNET, {"statistics, MLP": (0.866,), "DMC": (0.787,)}),
)


def published(task: str, measure: str | None = None) -> tuple[Published, ...]:
    """Give what others reach on a task, the best first.

    Parameters
    ----------
    task
        One of `TASKS`.
    measure
        One of `MEASURES`; all by default.

    Returns
    -------
    tuple of Published
        Perhaps none.

    Raises
    ------
    ValueError
        If the task or the measure is unknown.

    Examples
    --------
    >>> [(one.method, one.value) for one in published("test accuracy, mnist", "MSE")]
    [('WS-KAN', 0.00329), ('DMC', 0.007)]
    """
    if task not in TASKS:
        raise ValueError(f"nothing is published of task {task!r}. {nearest(task, TASKS)}")
    if measure is not None:
        _check_measure(measure)
    found = [one for one in PUBLISHED if one.task == task and measure in (None, one.measure)]
    return tuple(sorted(found, key=lambda one: -one.value if MEASURES[one.measure] else one.value))


def row(task: str, readings: Mapping[str, xr.Dataset], score: str, group: str = "") -> xr.Dataset:
    """Score the readings of one task, and say how far each is behind the best.

    Parameters
    ----------
    task
        Its name.
    readings
        By the name of the reader: readings (`nwslib.meta.read`) of the same test networks by the same seeds, or
        readings of masks: ``accuracy`` and ``AUC`` (model, or model and seed), each over the weights of a network, and
        ``base_rate`` (model), what naming the commoner label reaches; the attribute ``task`` is ``"mask"``.
    score
        The measure that counts, one of `MEASURES`.
    group
        The section of the league that the task belongs to.

    Returns
    -------
    xarray.Dataset
        Dimensions ``task`` (1), ``reader``, ``measure``. ``score`` with ``low`` and ``high``; ``baseline`` (task,
        measure), what a reader reaches that does not look: the chance level, R2 of the mean, the error of always giving
        the median of the training networks, the base rate of the mask. ``behind`` (task, reader), by how much the best
        reader's score is better, with the paired interval ``behind_low``, ``behind_high``; ``parameters``,
        ``seconds_to_train`` and ``seconds_per_network`` (task, reader), the mean over seeds, NaN where unknown;
        ``counts`` (task), the measure that counts; ``trained_on`` and ``networks`` (task), numbers of networks.

    Raises
    ------
    ValueError
        If there is no reading, the measure does not suit the task, or the test networks differ.
    """
    _check_readings(task, readings, score)
    measures = KINDS[next(iter(readings.values())).attrs["task"]]
    columns = {name: [_scored(reading, measure) for measure in measures] for name, reading in readings.items()}
    values = np.array([[[one[key] for one in every] for every in columns.values()] for key in ("score", "low", "high")])
    found = xr.Dataset(
        {name: (("reader", "measure"), values[place]) for place, name in enumerate(("score", "low", "high"))},
        {"reader": list(readings), "measure": list(measures)},
    )
    first = next(iter(readings.values()))
    found["baseline"] = ("measure", [_baseline(first, measure) for measure in measures])
    found = found.assign(_behind(readings, score, found["score"].sel(measure=score).values))
    for name in ("parameters", "seconds_to_train", "seconds_per_network"):
        found[name] = ("reader", [_cost(reading, name) for reading in readings.values()])
    found = found.expand_dims(task=[task])
    about = {"counts": score, "group": group, "networks": first.sizes["model"]}
    about["trained_on"] = int(first.attrs["networks_trained_on"])
    return found.assign_coords({name: ("task", [value]) for name, value in about.items()})


def together(*tables: xr.Dataset) -> xr.Dataset:
    """Put tables of different tasks below each other; readers and measures that a task lacks are NaN.

    Parameters
    ----------
    *tables
        From `row`, or from this function.

    Returns
    -------
    xarray.Dataset
        As `row` gives it, readers and measures in the order in which they first occur.

    Raises
    ------
    ValueError
        If there is no table, or a task occurs twice.
    """
    names = [name for one in tables for name in one["task"].values.tolist()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a league has at least one task, and each task once, not {names}")
    readers = dict.fromkeys(name for one in tables for name in one["reader"].values.tolist())
    measures = [name for name in MEASURES if any(name in one["measure"].values for one in tables)]
    full = [one.reindex(reader=list(readers), measure=measures) for one in tables]
    found = xr.concat(full, "task", data_vars="all", coords="different", compat="equals", join="exact")
    return found.assign_coords(task=names)  # concatenated, text of several lengths would be objects


def best(table: xr.Dataset, over: Mapping[str, Iterable[str]]) -> xr.Dataset:
    """Name the best reader of each task, and say which others it beats by more than the interval.

    Parameters
    ----------
    table
        From `row` or `together`.
    over
        By a word, such as ``"DMC"``: the readers that have to be beaten; those that a task lacks don't count.

    Returns
    -------
    xarray.Dataset
        Dimension ``task``: ``reader``, ``score``, ``low``, ``high``, ``counts``; and with the dimension ``other``, the
        words of `over`: ``ahead``, by how much the best reader is better than the best of those, ``ahead_low``,
        ``ahead_high``, NaN where the task has none of them, and ``beaten``, whether the whole interval is above 0. A
        reader that is the best and among those is 0 ahead of itself.

    Raises
    ------
    ValueError
        If a reader in `over` is unknown.

    Notes
    -----
    The best reader is chosen on the networks that it is tested on, of as many as there are, so its lead is slightly
    flattered.
    """
    known = table["reader"].values.tolist()
    for name in [name for names in over.values() for name in names]:
        if name not in known:
            raise ValueError(f"unknown reader {name!r}. {nearest(name, known)}")
    counts = table["counts"]
    own = table[["score", "low", "high"]].sel(measure=counts).drop_vars("measure")
    first = table["behind"].fillna(np.inf).argmin("reader")
    found = own.isel(reader=first).reset_coords("reader").assign(counts=counts)
    lead = {}
    for word, names in over.items():
        some = table[["behind", "behind_low", "behind_high"]].where(table["reader"].isin(list(names)))
        lead[word] = some.isel(reader=some["behind"].fillna(np.inf).argmin("reader")).drop_vars("reader")
    ahead = xr.concat(list(lead.values()), "other").assign_coords(other=list(lead))
    ahead = ahead.rename({name: name.replace("behind", "ahead") for name in ahead.data_vars}).transpose("task", "other")
    return found.merge(ahead).assign(beaten=ahead["ahead_low"] > 0)


def in_words(verdict: xr.Dataset, prefix: str = "") -> dict[str, str]:
    """Say who is best at what, for the text of a page.

    Parameters
    ----------
    verdict
        From `best`.
    prefix
        In front of each name.

    Returns
    -------
    dict of str to str
        ``best``: of each task the reader and its score; ``tasks``: how many there are; ``networks``: on how many
        networks each was tested; ``first``: how often each reader is the best; and for each word of ``other``, how many
        tasks its readers read, ``with_DMC``, and on how many they are beaten, ``beats_DMC``.
    """
    scores = [
        f"{task}: {reader} ({score:.1%})" if counts == "accuracy" else f"{task}: {reader} ({counts} {score:.3g})"
        for task, reader, score, counts in zip(
            *(verdict[name].values.tolist() for name in ("task", "reader", "score", "counts")), strict=True
        )
    ]
    names, times = np.unique(verdict["reader"].values, return_counts=True)
    found = {"best": "; ".join(scores), "tasks": str(len(scores))}
    found["networks"] = ", ".join(f"{count:,}" for count in dict.fromkeys(verdict["networks"].values.tolist()))
    found["first"] = ", ".join(f"{names[place]} ({times[place]})" for place in np.argsort(-times, kind="stable"))
    for word, there in (("with", verdict["ahead"].notnull()), ("beats", verdict["beaten"])):
        found |= {f"{word}_{other}": str(int(there.sel(other=other).sum())) for other in verdict["other"].values}
    return {prefix + name: text for name, text in found.items()}


def claims(table: xr.Dataset, plain: Iterable[str], figure: str) -> list[dict[str, object]]:
    """State of each task how well its best reader reads it, with the baseline and the best plain reader beside it.

    Parameters
    ----------
    table
        From `row` or `together`.
    plain
        The plain readers.
    figure
        Name of the figure that shows it.

    Returns
    -------
    list of dict
        For `nwslib.analysis.results.save`.
    """
    verdict, plain = best(table, {"plain": plain}), list(plain)
    found = []
    for task in table["task"].values.tolist():
        one, counts = verdict.sel(task=task), verdict["counts"].sel(task=task).item()
        column = table.sel(task=task, measure=counts)
        simple = column.sel(reader=plain)
        simplest = simple["score"][int(simple["behind"].fillna(np.inf).argmin("reader"))].item()
        found.append(
            claim(
                f"{task} by {one['reader'].item()}",
                one["score"].item(),
                (one["low"].item(), one["high"].item()),
                chance=column["baseline"].item(),
                baseline=simplest,
                networks=one["networks"].item(),
                figure=figure,
                unit=counts,
            )
        )
    return found


def _check_readings(task: str, readings: Mapping[str, xr.Dataset], score: str) -> None:
    _check_measure(score)
    if not readings:
        raise ValueError(f"{task}: a row of the league has at least one reader")
    first = next(iter(readings.values()))
    kind = first.attrs.get("task")
    if kind not in KINDS:
        raise ValueError(f"{task}: not a reading: the attribute 'task' is {kind!r}. {nearest(kind, KINDS)}")
    if score not in KINDS[kind]:
        raise ValueError(f"{task}: {score!r} is no score of a {kind}. {nearest(score, KINDS[kind])}")
    for name, reading in readings.items():
        if not np.array_equal(reading["id"].values, first["id"].values):
            raise ValueError(f"{task}: all readers read the same test networks, but {name!r} read others")
        if reading.sizes.get("seed", 1) != first.sizes.get("seed", 1):
            raise ValueError(f"{task}: all readers have as many seeds, but {name!r} has others")


def _check_measure(measure: str) -> None:
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}. {nearest(measure, MEASURES)}")


def _scored(reading: xr.Dataset, measure: str) -> dict[str, float]:
    """Give a score with its interval."""
    if measure == "tau":
        truth, prediction = _numbers(reading)
        value = tau(truth.T, prediction.T).mean()
        return dict(zip(("score", "low", "high"), (value, *tau_interval(truth[:, 0], prediction)), strict=True))
    columns, statistic = _columns(reading, measure)
    value = statistic(*(column.reshape(1, -1) for column in columns)).item()
    if reading.attrs["task"] == "classification":  # of a reader that is always right, resampling sees no doubt
        return dict(zip(("score", "low", "high"), (value, *accuracy_interval(reading)), strict=True))
    return dict(zip(("score", "low", "high"), (value, *interval(statistic, *columns)), strict=True))


def _columns(reading: xr.Dataset, measure: str) -> tuple[tuple[np.ndarray, ...], Callable[..., np.ndarray]]:
    """Give what a score is computed from, (m, seeds) each, and how: of (draws, n) it makes (draws,)."""
    if reading.attrs["task"] == "mask":
        return (_seeds(per_network(reading[measure]).values),), _mean
    if measure == "accuracy":
        return (_seeds(per_network(reading["prediction"] == reading["truth"]).values.astype(float)),), _mean
    truth, prediction = _numbers(reading)
    if measure == "MSE":
        return ((truth - prediction) ** 2,), _mean
    return (np.broadcast_to(truth, prediction.shape), prediction), r2


def _mean(values: np.ndarray) -> np.ndarray:
    """Give the mean of what is known, of (draws, n); NaN where nothing is."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    return np.divide(np.where(known, values, 0).sum(axis=1), counts, out=np.full(len(values), np.nan), where=counts > 0)


def _seeds(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _numbers(reading: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Give truth (m, 1) and prediction (m, seeds) on the scale on which they were read."""
    truth, prediction = (scaled(reading[name], reading) for name in ("truth", "prediction"))
    return _seeds(truth.values), _seeds(per_network(prediction).values)


def _baseline(reading: xr.Dataset, measure: str) -> float:
    """Give what a reader reaches that does not look at the weights."""
    if measure in ("R2", "tau"):
        return 0.0
    if reading.attrs["task"] == "mask":
        return 0.5 if measure == "AUC" else float(reading["base_rate"].mean())
    if measure == "accuracy":
        return chance(reading)
    truth, _ = _numbers(reading)
    return float(((truth - scaled(reading.attrs["train_median"], reading)) ** 2).mean())


def _behind(readings: Mapping[str, xr.Dataset], score: str, values: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """Give by how much each reader is behind the best, with the paired interval: (reader,) each."""
    sign = 1 if MEASURES[score] else -1
    leader = int((sign * values).argmax())
    parts = {name: _columns(reading, score) for name, reading in readings.items()}
    leading, statistic = parts[list(readings)[leader]]
    rows = []
    for (columns, _), value in zip(parts.values(), values, strict=True):
        half = len(columns)

        def lead(*both: np.ndarray, half: int = half) -> np.ndarray:
            return sign * (statistic(*both[:half]) - statistic(*both[half:]))

        rows.append((sign * (values[leader] - value), *interval(lead, *leading, *columns)))
    return dict(
        zip(("behind", "behind_low", "behind_high"), (("reader", column) for column in np.array(rows).T), strict=True)
    )


def _cost(reading: xr.Dataset, name: str) -> float:
    return float(reading.attrs.get("parameter_count" if name == "parameters" else name, np.nan))
