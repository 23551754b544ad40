"""Which weights a reader goes by: saliency averaged over layers, kinds, and places in convolution kernels.

*Saliency* is a variable of what `nwslib.meta.saliency` gives: the mean absolute gradient, or gradient times weight,
with the dimension ``weight`` and its labels, and perhaps ``class``. NaN where no run covered a weight. It may have the
dimension ``model`` as well, and then intervals say what other networks would show.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nwslib.analysis.scores import mean
from nwslib.snapshots.layout import LABELS
from nwslib.space import nearest


def by_label(saliency: xr.DataArray, *labels: str) -> xr.Dataset:
    """Say how much a weight of a layer, or of a kind, counts, against the mean of all weights.

    Parameters
    ----------
    saliency
        Of single weights.
    *labels
        ``"layer"``, ``"kind"``, ``"part"``, ``"unit"``, ...; with several, weights that share all of them are put
        together.

    Returns
    -------
    xarray.Dataset
        A dimension for each label, its values in the order of the vector, besides those of `saliency`: ``ratio`` of
        the mean of the weights that carry the label to the mean of all, 1 if a weight counts as any other;
        ``share``, what they add to the sum of all; ``weights``, how many were covered. NaN where none was. Where
        saliency has the dimension ``model``, ``low`` and ``high`` of the ratio, over networks.

    Raises
    ------
    ValueError
        If saliency is negative or 0 throughout, or a label is unknown.

    Notes
    -----
    Gradients as saliency: Simonyan et al., "Deep inside convolutional networks", 2013 (arXiv:1312.6034); times the
    weight: Shrikumar et al., "Not just a black box", 2016 (arXiv:1605.01713).

    Examples
    --------
    >>> saliency = xr.DataArray([3.0, 1.0, 1.0, 1.0], {"layer": ("weight", ["a", "a", "b", "b"])}, ("weight",))
    >>> by_label(saliency, "layer")["ratio"].values.tolist()
    [1.3333333333333333, 0.6666666666666666]
    """
    return _averaged(_relative(saliency, labels), labels)


def by_kernel_position(saliency: xr.DataArray) -> xr.Dataset:
    """Say how much a weight counts by its place in the kernel of a convolution.

    Parameters
    ----------
    saliency
        Of single weights.

    Returns
    -------
    xarray.Dataset
        Dimensions ``layer``, ``row``, ``column``, as `by_label` gives it for the kernels of the convolutions; the ratio
        is still to the mean of all weights.

    Raises
    ------
    ValueError
        If there is no convolution, or saliency is negative or 0 throughout.
    """
    relative = _relative(saliency, ("layer", "part", "kind", "row", "column"))
    kernels = (relative["part"].values == "convolution") & (relative["kind"].values == "kernel")
    if not kernels.any():
        raise ValueError("no weight of this saliency is in the kernel of a convolution")
    return _averaged(relative.isel(weight=kernels), ("layer", "row", "column"))


def _relative(saliency: xr.DataArray, labels: Sequence[str]) -> xr.DataArray:
    """Divide by the mean over all weights; keep their number, by which shares are known."""
    for label in labels:
        known = [name for name in LABELS if name in saliency.coords]
        if label not in known:
            raise ValueError(f"the weights have no label {label!r}. {nearest(label, known)}")
    if saliency.min() < 0:
        raise ValueError("saliency is a mean of absolute values, and cannot be negative")
    level = saliency.mean("weight")
    if (level == 0).any() or not saliency.notnull().any():
        raise ValueError("saliency is 0 throughout: nothing can be said of single weights")
    return (saliency / level).assign_attrs(weights=int(_covered(saliency).sum()))


def _covered(saliency: xr.DataArray) -> np.ndarray:
    """Say which weights have a saliency at all: (w,)."""
    return saliency.notnull().any([name for name in saliency.dims if name != "weight"]).values


def _averaged(relative: xr.DataArray, labels: Sequence[str]) -> xr.Dataset:
    """Average over the weights that share all labels, and over networks where there are several."""
    names = {label: list(dict.fromkeys(relative[label].values.tolist())) for label in labels}
    places = [[names[label].index(value) for value in relative[label].values.tolist()] for label in labels]
    shape = tuple(map(len, names.values()))
    cells, covered = np.ravel_multi_index(places, shape), _covered(relative)
    counts = np.bincount(cells[covered], minlength=int(np.prod(shape)))
    rest = relative.transpose(..., "weight").isel(weight=0)
    flat = relative.transpose(..., "weight").values.reshape(-1, len(cells))[:, covered]
    sums = np.stack([np.bincount(cells[covered], row, minlength=len(counts)) for row in flat])
    ratios = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0).reshape(*rest.shape, *shape)
    others = {name: rest[name].values for name in rest.dims if name in rest.coords}
    ratio = xr.DataArray(ratios, {**others, **names}, (*rest.dims, *labels))
    found = xr.Dataset({"ratio": ratio})
    if "model" in ratio.dims:
        found = mean(ratio).rename(mean="ratio").drop_vars("networks")
    weights = xr.DataArray(counts.reshape(shape), dims=labels)
    share = (found["ratio"] * weights / relative.attrs["weights"]).where(weights > 0, 0)
    return found.assign(share=share, weights=weights)
