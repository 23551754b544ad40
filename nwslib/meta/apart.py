"""Read a property from the statistics of one layer, or of the weights of one kind, at a time."""

from dataclasses import replace

import numpy as np
import xarray as xr

from nwslib.meta.statistics import StatisticsReader
from nwslib.meta.views import statistics_view
from nwslib.space import nearest

BY = ("layer", "kind")


def read_apart(population: xr.Dataset, property: str, reader: StatisticsReader, by: str = "layer") -> xr.Dataset:
    """Fit a reader of statistics to each layer, or kind of weights, alone, and read the test networks from it.

    Parameters
    ----------
    population
        One architecture.
    property
        What to read; names a class.
    reader
        A fresh copy is fitted for each label.
    by
        ``"layer"``, or ``"kind"``: kernel, bias, beta, gamma, moving mean or variance of all layers.

    Returns
    -------
    xarray.Dataset
        ``truth`` (model) and ``prediction`` (model, label), labels in the order of the vector; ``train_networks``
        (class) and the attributes of a reading, so that `nwslib.analysis.footprints.score` scores every label.

    Raises
    ------
    ValueError
        If `by` is unknown, the reader is not one of statistics per layer at one snapshot, or the property is a number.
    """
    if by not in BY:
        raise ValueError(f"unknown by {by!r}. {nearest(by, BY)}")
    if reader.per != "layer" or np.ndim(reader.snapshot) > 0:
        raise ValueError(f"a reader apart sees one snapshot per='layer', not {reader.snapshot} per={reader.per!r}")
    names = ("snapshot", "per", "part", "kinds", "variable", "since", "min_test_accuracy")
    view = statistics_view(population, **{name: getattr(reader, name) for name in names})
    labels = np.array([_label(feature, by) for feature in view["feature"].values.tolist()])
    parts = []
    for label in dict.fromkeys(labels.tolist()):
        part = view.isel(feature=np.flatnonzero(labels == label))
        fitted = replace(reader).fit(part, property)
        if fitted.task == "regression":
            raise ValueError(f"{property} is a number, and has no classes to be named")
        parts.append(fitted.predictions(part).assign_coords(label=label))
    named = xr.concat([one["prediction"] for one in parts], "label", coords="minimal", compat="override", join="exact")
    found = parts[0][["truth"]].drop_vars("label").assign(prediction=named)
    classes, counts = np.unique(view[property].values[view["split"].values == "train"], return_counts=True)
    found = found.assign_coords({"class": classes, "train_networks": ("class", counts)}).transpose("model", ...)
    return found.assign_attrs(task=fitted.task, property=property, method=f"{fitted.method}, one {by}")


def _label(feature: str, by: str) -> str:
    """Give the layer or the kind of a feature such as ``"conv1.kernel mean"``."""
    layer, kind = feature.split(" ")[0].split(".")
    return layer if by == "layer" else kind
