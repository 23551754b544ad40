"""Pruning labels: which weights of a classifier carry what its layers compute, by an oracle that looks at images."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from nwslib.population import operators
from nwslib.population.images import ImageSet
from nwslib.population.networks import kan, smallcnn
from nwslib.snapshots import layout_of
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import UNSOUND
from nwslib.space import nearest

THRESHOLD = 1.0  # more than the mean of the layer
SAMPLE = 256

_BLOCK = 1 << 24  # numbers that the edges of a block of networks have in memory at once: 64 MiB


def masks(
    population: xr.Dataset,
    images: Mapping[str, ImageSet],
    *,
    snapshot: int | None = None,
    threshold: float = THRESHOLD,
    sample: int = SAMPLE,
    device: str | torch.device = "cpu",
) -> xr.DataArray:
    """Say of every weight of every classifier whether an oracle keeps or drops it.

    The oracle sees what the networks don't show: it sends training images through each network. A weight is kept if its
    `importance`, the mean magnitude of what it adds to its unit, is more than `threshold` times the mean importance in
    its layer. So a weight is dropped because it is small, or because what it reads is mostly silent: a pixel at the
    border, a unit that is rarely active. Image networks have no oracle: what their units read is of like magnitude
    everywhere, so it would say no more than the size of the weights.

    Parameters
    ----------
    population
        One architecture, of family ``"mlp"``, ``"smallcnn"`` or ``"kan"``.
    images
        An image set for each name in the networks' ``dataset``, of their image size.
    snapshot
        Number of the snapshot; the last by default.
    threshold
        Times the mean importance of the layer.
    sample
        Training images of each set, evenly spaced; all where there are fewer.
    device
        Where networks compute.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``weight``, float32: 1 keep, 0 drop, NaN where nobody asks: biases, and networks that
        diverged or failed. On ``model`` stands ``id``. The attributes are the arguments, ``oracle`` in words, and
        ``base_rate``, the share of the weights asked about that is kept (NaN where all diverged or failed).

    Raises
    ------
    ValueError
        If the family has no oracle, an image set is missing or of another size, the snapshot is unknown, or a number is
        out of range.

    Notes
    -----
    Pruning masks as something to read from weights are a task of WS-KAN (arXiv:2602.16316), which calls its oracle an
    activation threshold and publishes neither the threshold nor the share kept, so that this one is ours.
    Importance as mean magnitude of what an edge passes on: Liu et al., "KAN: Kolmogorov-Arnold networks", 2024
    (arXiv:2404.19756), for splines; Sun et al., "A simple and effective pruning approach for large language models",
    2023 (arXiv:2306.11695), for weights, with the root mean square of the inputs.

    Measured on classifiers of mnist at 16x16, with all degrees of label noise: at the mean of the layer 0.30 of the
    weights of perceptrons are kept, 0.38 of small CNNs, 0.43 of Kolmogorov-Arnold networks; at half of it 0.40, 0.60
    and 0.76. Of perceptrons, which read silent pixels, the commoner label of each place alone names 0.86 right.
    """
    layout, place = layout_of(population), _place(population, snapshot)
    _check(layout, threshold, sample)
    chosen = {name: _sample(name, images, sample, device) for name in np.unique(population["dataset"].values).tolist()}
    _check_sizes(population, chosen)
    sound = ~np.isin(population["status"].values, UNSOUND)
    keep = np.full((population.sizes["model"], layout.size), np.nan, "float32")
    for name, pixels in chosen.items():
        rows = np.flatnonzero(sound & (population["dataset"].values == name))
        for block in np.array_split(rows, -(-len(rows) // _at_once(layout, pixels))) if len(rows) else ():
            vectors = torch.from_numpy(population["weights"][block, place].values).to(device)
            keep[block] = _kept(layout, importance(layout, vectors, pixels, _order(population)), threshold)
    about = {"threshold": threshold, "sample": sample, "snapshot": int(population["snapshot"].values[place])}
    asked = keep[np.isfinite(keep)]
    about |= {"base_rate": float(asked.mean(dtype="float64")) if asked.size else np.nan}
    about |= {"oracle": _ORACLE.format(threshold=threshold)}
    coordinates = {"model": population["model"].values, "id": ("model", population["id"].values)}
    return xr.DataArray(keep, coordinates, ("model", "weight"), name="keep", attrs=about)


_ORACLE = "kept: mean magnitude of its contribution over images is more than {threshold:g} times the mean of its layer"


@torch.no_grad()
def importance(layout: Layout, vectors: Tensor, images: Tensor, order: int = kan.ORDER) -> Tensor:
    """Give the mean magnitude of what each weight adds to its unit, over images and, in a convolution, positions.

    Parameters
    ----------
    layout
        Of the networks.
    vectors
        Their weights, shape (m, w).
    images
        Shape (b, y, x, c), in [0, 1], the same for all networks.
    order
        Of the B-splines of a Kolmogorov-Arnold network.

    Returns
    -------
    torch.Tensor
        Shape (m, w): of a kernel's weight, its magnitude times the mean magnitude of what it reads; of the weights of a
        spline edge, all the same, the mean magnitude of the edge's function; NaN of biases.
    """
    parts = vectors.split([tensor.size for tensor in layout.tensors], dim=1)
    named = zip(layout.tensors, parts, strict=True)
    tensors = {tensor.name: part.unflatten(1, tensor.shape) for tensor, part in named}
    x = images.to(vectors.dtype)[None].expand(len(vectors), *images.shape)  # (m, b, y, x, c)
    found = dict(_FAMILIES[layout.family](tensors, x, order))
    nothing = torch.full_like(vectors, torch.nan)
    for tensor in layout.tensors:
        if tensor.name in found:
            nothing[:, layout.slices[tensor.name]] = found[tensor.name].flatten(1)
    return nothing


def _perceptron(tensors: Mapping[str, Tensor], x: Tensor, order: int) -> Iterator[tuple[str, Tensor]]:
    x = x.flatten(2)
    for layer in _layers(tensors, "kernel"):
        kernel = tensors[f"{layer}.kernel"]
        yield f"{layer}.kernel", _dense(kernel, x)
        x = F.relu(operators.dense(x, kernel.flatten(2), tensors[f"{layer}.bias"]))


def _convolutional(tensors: Mapping[str, Tensor], x: Tensor, order: int) -> Iterator[tuple[str, Tensor]]:
    networks, x = len(x), operators.side_by_side(x)
    for layer in [name for name in _layers(tensors, "kernel") if name != "output"]:
        kernel = tensors[f"{layer}.kernel"]
        size = kernel.shape[-1]
        mean = F.pad(x.abs().mean(0), [size // 2] * 4)  # (m*i, y, x)
        windows = mean.unfold(1, size, smallcnn.STRIDE).unfold(2, size, smallcnn.STRIDE).mean((1, 2))  # (m*i, ky, kx)
        yield f"{layer}.kernel", kernel.abs() * windows.unflatten(0, (networks, 1, -1))
        x = F.relu(operators.convolve_maps(x, kernel, tensors[f"{layer}.bias"], smallcnn.STRIDE))
    yield "output.kernel", _dense(tensors["output.kernel"], operators.mean_pixels(x, networks))


def _splines(tensors: Mapping[str, Tensor], x: Tensor, order: int) -> Iterator[tuple[str, Tensor]]:
    x = 2 * x.flatten(2) - 1
    for layer in _layers(tensors, "base"):
        base, spline, coefficients = (tensors[f"{layer}.{kind}"] for kind in ("base", "spline", "coefficients"))
        edges = torch.cat([base[..., None], spline[..., None] * coefficients], -1).transpose(1, 2)  # (m, i, o, k)
        expanded = kan.expand(x, coefficients.shape[-1] - order, order).unflatten(1, (x.shape[2], -1))  # (m, i, k, b)
        passed = edges @ expanded  # (m, i, o, b)
        x, mean = passed.sum(1).transpose(1, 2), passed.abs_().mean(-1).transpose(1, 2)
        for kind in ("base", "spline"):
            yield f"{layer}.{kind}", mean
        yield f"{layer}.coefficients", mean[..., None].expand_as(coefficients)


_FAMILIES: dict[str, Callable[..., Iterator[tuple[str, Tensor]]]] = {
    "mlp": _perceptron,
    "smallcnn": _convolutional,
    "kan": _splines,
}


def _layers(tensors: Mapping[str, Tensor], kind: str) -> list[str]:
    return [name.removesuffix(f".{kind}") for name in tensors if name.endswith(f".{kind}")]


def _dense(kernel: Tensor, x: Tensor) -> Tensor:
    """Give the importance of a kernel (m, o, ...) that reads inputs (m, b, i)."""
    return kernel.abs() * x.abs().mean(1).reshape(len(kernel), 1, *kernel.shape[2:])


def _kept(layout: Layout, found: Tensor, threshold: float) -> np.ndarray:
    """Compare with the mean of the layer; of a spline edge, whose weights agree, every tensor has the same mean."""
    keep = torch.full_like(found, torch.nan)
    for tensor in layout.tensors:
        part = found[:, layout.slices[tensor.name]]
        if tensor.kind != "bias":
            keep[:, layout.slices[tensor.name]] = (part > threshold * part.mean(1, keepdim=True)).to(keep.dtype)
    return keep.cpu().numpy()


def _at_once(layout: Layout, images: Tensor) -> int:
    """Say how many networks make a block, by the numbers that their largest layer has for an image."""
    pixels, channels = images[0, ..., 0].numel(), images.shape[-1]
    largest = pixels * channels
    for tensor in layout.tensors:
        if tensor.part == "convolution":
            largest = max(largest, tensor.shape[0] * -(-pixels // smallcnn.STRIDE**2))
        elif tensor.kind == "base":
            largest = max(largest, tensor.size)
    return max(1, _BLOCK // (largest * len(images)))


def _check(layout: Layout, threshold: float, sample: int) -> None:
    if layout.family not in _FAMILIES:
        raise ValueError(f"no oracle prunes networks of family {layout.family!r}. {nearest(layout.family, _FAMILIES)}")
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, not {threshold!r}: at 0 all but silent weights are kept")
    if not isinstance(sample, int) or sample < 1:
        raise ValueError(f"sample must be a whole number of images, at least 1, not {sample!r}")


def _check_sizes(population: xr.Dataset, chosen: Mapping[str, Tensor]) -> None:
    """Refuse images of another size, which a small CNN would take."""
    sizes = np.unique(population["image_size"].values).tolist() if "image_size" in population.variables else ()
    for name, pixels in chosen.items():
        if any(pixels.shape[1] != size for size in sizes):
            raise ValueError(
                f"the networks read images of size {sizes}, but those of {name!r} are of {pixels.shape[1]}"
            )


def _place(population: xr.Dataset, snapshot: int | None) -> int:
    known = population["snapshot"].values.tolist()
    if snapshot is not None and snapshot not in known:
        raise ValueError(f"there is no snapshot {snapshot!r}. {nearest(snapshot, known)}")
    return -1 if snapshot is None else known.index(snapshot)


def _sample(name: str, images: Mapping[str, ImageSet], sample: int, device: str | torch.device) -> Tensor:
    """Give some training images of a set, (b, y, x, c) from 0 to 1, as its classifiers see them."""
    if name not in images:
        raise ValueError(f"the networks were trained on {name!r}, whose images are missing. {nearest(name, images)}")
    every = images[name].train_images
    places = torch.linspace(0, len(every) - 1, min(sample, len(every))).round().long()
    chosen = every[places.to(every.device)].to(device)
    return chosen[..., : images[name].channels].float() / 255


def _order(population: xr.Dataset) -> int:
    """Give the order of the B-splines, one for all networks of a layout."""
    return int(population["order"].values[0]) if "order" in population.variables else kan.ORDER
