"""Where in the weights a property is read, and how sure a reader is of each network: from the runs that it saw.

Arrays that figures are drawn from, made from `nwslib.meta.RunReader.predict_runs`, with intervals and chance.
"""

import numpy as np
import xarray as xr

from nwslib.analysis.moments import of_networks
from nwslib.analysis.scores import chance_level, share


def along(runs: xr.DataArray, truth: xr.DataArray) -> xr.Dataset:
    """Say what a reader makes of the runs at each place of the weight vector.

    Parameters
    ----------
    runs
        Probabilities (model, snapshot, run, class) with the coordinate ``start`` (model, run), of networks of one
        architecture, for instance 100 runs: from `nwslib.meta.RunReader.predict_runs`.
    truth
        The right class of each network, dimension ``model``.

    Returns
    -------
    xarray.Dataset
        ``probability`` (snapshot, truth, run, class), the mean over the networks of each true class; ``accuracy``
        (snapshot, run), the share of the networks that the run names rightly, with ``low``, ``high`` and ``chance``,
        the share of the most frequent class; the coordinate ``start`` (run), the first weight of the run, and
        ``networks`` (truth).

    Raises
    ------
    ValueError
        If the runs begin at other places in some of the networks.

    Notes
    -----
    Protocol: Eilertsen et al., ECAI 2020 (arXiv:2002.05688), with 100 places.
    """
    return _at_places(_named_rightly(runs, truth), _bare(runs), truth).assign_coords(start=("run", _starts(runs)))


def by_label(runs: xr.DataArray, truth: xr.DataArray, labels: np.ndarray, length: int) -> xr.Dataset:
    """Say what a reader makes of the runs that lie in a layer, in a unit, in weights of a kind, ...

    Parameters
    ----------
    runs, truth
        As for `along`.
    labels
        A label for each of the weights that the runs were cut from, in their order: of a node of the population
        ``node["layer"].values``, or for the units of one layer ``node["unit"].where(node["layer"] == "conv1", -1)``. A
        weight with the label -1 or ``""`` counts for nothing.
    length
        Weights in a run. It counts for a label by the share of its weights that carry it.

    Returns
    -------
    xarray.Dataset
        As `along` gives it, with the dimension ``label``, in the order of the vector, in place of ``run``; ``runs``
        (label) says how many runs' worth of weights were seen. What no run touched is left out.

    Raises
    ------
    ValueError
        If the runs begin at other places in some of the networks, or reach beyond the labels.
    """
    labels, starts = np.asarray(labels), _starts(runs)
    if starts.max() + length > len(labels):
        raise ValueError(
            f"a run ends at weight {starts.max() + length}, but there are {len(labels)} labels: every weight that runs "
            "were cut from needs one"
        )
    names = [name for name in dict.fromkeys(labels.tolist()) if name not in (-1, "")]
    carried = np.stack([np.cumsum(np.append(False, labels == name)) for name in names])  # (label, w + 1)
    shares = (carried[:, starts + length] - carried[:, starts]) / length
    touched = shares.sum(axis=1) > 0
    counts = shares[touched].sum(axis=1)
    weights = xr.DataArray(shares[touched] / counts[:, None], {"label": np.array(names)[touched]}, ("label", "run"))
    right, seen = (xr.dot(one, weights, dim="run") for one in (_named_rightly(runs, truth), _bare(runs)))
    return _at_places(right, seen, truth).assign_coords(runs=("label", counts))


def sure(runs: xr.DataArray, truth: xr.DataArray, test_accuracy: xr.DataArray | None = None) -> xr.Dataset:
    """Say of each network how sure a reader is of it, averaged over its runs, and what it takes it for.

    Parameters
    ----------
    runs
        Probabilities (model, snapshot, run, class), for instance of 64 runs.
    truth
        The right class of each network, dimension ``model``.
    test_accuracy
        How well each network does its own work, dimension ``model``.

    Returns
    -------
    xarray.Dataset
        Dimension ``model``, from the network that it is least sure of to the one it is surest of: ``truth``,
        ``prediction``, ``right``, ``of_truth`` and ``of_prediction``, the mean probabilities of the two classes, and
        ``quarter`` and ``three_quarters``, between which half of the runs have the probability of the right class;
        ``test_accuracy`` where it was given. The attribute ``chance`` is the share of the most frequent class. Which
        classes networks are taken for: `nwslib.analysis.scores.confusion` of this.

    Notes
    -----
    Protocol: Eilertsen et al., ECAI 2020 (arXiv:2002.05688), with 64 runs.
    """
    runs, names = _bare(runs), runs["class"].values
    averaged = runs.mean(["snapshot", "run"])
    of_truth = (runs * _is(truth, names)).sum("class")
    found = xr.Dataset({"truth": ("model", truth.values), "of_truth": of_truth.mean(["snapshot", "run"])})
    found["prediction"] = ("model", names[averaged.argmax("class").values])
    found["right"] = found["prediction"] == found["truth"]
    found["of_prediction"] = averaged.max("class").drop_vars("class", errors="ignore")
    for name, quantile in (("quarter", 0.25), ("three_quarters", 0.75)):
        found[name] = of_truth.quantile(quantile, ["snapshot", "run"]).drop_vars("quantile")
    if test_accuracy is not None:
        found["test_accuracy"] = ("model", of_networks(test_accuracy, truth).values)
    model = truth["model"].values if "model" in truth.coords else np.arange(truth.sizes["model"])
    found = found.assign_coords(model=model, **{"class": names}).sortby("of_truth")
    return found.assign_attrs(chance=chance_level(truth.values, truth.values))


def by_test_accuracy(networks: xr.Dataset, groups: int = 4) -> xr.Dataset:
    """Say how often networks are read rightly, from those that do their own work worst to those that do it best.

    Parameters
    ----------
    networks
        From `sure`, with ``test_accuracy``.
    groups
        How many groups, of equal size but for one network.

    Returns
    -------
    xarray.Dataset
        Dimension ``group``: ``test_accuracy``, the mean of the group; ``score``, the share that is read rightly, with
        ``low``, ``high``, ``chance`` and ``networks``.

    Raises
    ------
    ValueError
        If there is no ``test_accuracy``, or there are fewer networks than groups.
    """
    if "test_accuracy" not in networks:
        raise ValueError("the networks' own accuracy is not known: give test_accuracy to sure")
    if not 1 <= groups <= networks.sizes["model"]:
        raise ValueError(f"{networks.sizes['model']} networks do not make {groups} groups")
    ordered = networks.sortby("test_accuracy")
    parts = [ordered.isel(model=places) for places in np.array_split(np.arange(ordered.sizes["model"]), groups)]
    found = xr.concat([share(part["right"]).rename(mean="score") for part in parts], "group")
    found["test_accuracy"] = ("group", [part["test_accuracy"].mean().item() for part in parts])
    return found.assign(chance=found["score"] * 0 + networks.attrs["chance"]).assign_attrs(measure="accuracy")


def _bare(values: xr.DataArray) -> xr.DataArray:
    """Drop all coordinates but ``snapshot`` and ``class``."""
    return values.drop_vars([name for name in values.coords if name not in ("snapshot", "class")])


def _starts(runs: xr.DataArray) -> np.ndarray:
    """Give where runs begin, which has to be the same place in every network: (runs,)."""
    starts = runs["start"].transpose("model", "run").values
    if (starts != starts[0]).any():
        raise ValueError("runs begin at other places in some networks: choose networks of one architecture")
    return starts[0]


def _is(truth: xr.DataArray, names: np.ndarray) -> xr.DataArray:
    """Give 1 for the right class of each network, and 0 for the others: (model, class)."""
    return xr.DataArray(np.asarray(truth.values[:, None] == names, float), {"class": names}, ("model", "class"))


def _named_rightly(runs: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """Give 1 where the likeliest class is the right one: (model, snapshot, run)."""
    bare = _bare(runs)
    named = bare["class"].values[bare.argmax("class").values]
    likeliest = bare.max("class")
    return likeliest.copy(data=(named == truth.values.reshape(-1, *[1] * (named.ndim - 1))).astype(float))


def _at_places(right: xr.DataArray, probability: xr.DataArray, truth: xr.DataArray) -> xr.Dataset:
    """Average over networks: what is right over all of them, probabilities over those of each class."""
    found = share(right).rename(mean="accuracy").drop_vars("networks")
    names, counts = np.unique(truth.values, return_counts=True)
    by_truth = [probability.isel(model=truth.values == name).mean("model") for name in names]
    found["probability"] = xr.concat(by_truth, "truth")
    found["chance"] = found["accuracy"] * 0 + chance_level(truth.values, truth.values)
    return found.assign_coords(truth=names, networks=("truth", counts))
