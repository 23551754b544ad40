"""Every random draw of training: a pure function of (network seed, purpose, epoch, step).

A draw belongs to its network, never to the batch it is computed in, so a network is the same alone or in a crowd, and
after a restart. The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011): a keyed bijection of a counter, computed here for a whole batch of networks as integer tensor
operations. Integers are bit-identical on every device; real numbers derived from them are so on one device type.
"""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nwslib.snapshots.layout import Layout
from nwslib.snapshots.layout import Tensor as LayoutTensor

WEIGHTS, SPLIT, ORDER, AUGMENTATION, DROPOUT, NOISE, EVALUATION, LABEL_NOISE = range(8)
NOISE_BANK = 1 << 20

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Encrypt counters with Philox4x32-10.

    Parameters
    ----------
    counter
        Four tensors of 32-bit words held in int64, of shapes that broadcast.
    key
        Two tensors, likewise.

    Returns
    -------
    tuple of four torch.Tensor
        Words in [0, 2**32), int64, of the broadcast shape.

    Notes
    -----
    Salmon et al., SC 2011; the constants are those of the authors' reference implementation.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap, but their upper and lower 32 bits are those of the unsigned product.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((product1 >> 32) & _WORD) ^ c1 ^ k0, ((product0 >> 32) & _WORD) ^ c3 ^ k1
        c1, c3 = product1 & _WORD, product0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def words(seeds: Tensor, purpose: int, epoch: Tensor | int, step: Tensor | int, count: int) -> Tensor:
    """Draw 32-bit words for several networks.

    Parameters
    ----------
    seeds
        Shape (m,), int64.
    purpose
        One of this module's purposes: streams of different purposes are independent.
    epoch, step
        Shape (m,), or one for all.
    count
        Words per network.

    Returns
    -------
    torch.Tensor
        Shape (m, count), int64 in [0, 2**32).

    Examples
    --------
    >>> words(torch.tensor([7, 8]), ORDER, 0, 0, 3).shape
    torch.Size([2, 3])
    """
    index = torch.arange(-(-count // 4), device=seeds.device)[None, :]
    column = lambda value: (value if isinstance(value, Tensor) else seeds.new_full((1,), value)).reshape(-1, 1)  # noqa: E731
    key = (column(seeds) & _WORD, (column(seeds) >> 32) & _WORD)
    blocks = philox((index, column(step), column(epoch), column(purpose)), key)
    return torch.stack(torch.broadcast_tensors(*blocks), dim=-1).flatten(1)[:, :count]


def uniform(bits: Tensor) -> Tensor:
    """Map 32-bit words to float64 in the open interval (0, 1)."""
    return (bits.double() + 0.5) * 2.0**-32


def normal(bits: Tensor) -> Tensor:
    """Map 32-bit words to standard normal float64, by the inverse of the distribution function."""
    return torch.special.ndtri(uniform(bits))


def truncated_normal(bits: Tensor) -> Tensor:
    """Map 32-bit words to normal float64 cut off at two standard deviations, rescaled to variance one.

    Notes
    -----
    TensorFlow's truncated normal, rescaled by 0.87962566 as its variance-scaling initialisers do.
    """
    low = 0.5 * math.erfc(math.sqrt(2.0))
    return torch.special.ndtri(low + (1 - 2 * low) * uniform(bits)) / 0.87962566103423978


def initial_weights(layout: Layout, seed: int, initialization: str, device: torch.device | str = "cpu") -> Tensor:
    """Draw the initial weight vector of one network.

    Parameters
    ----------
    layout
        Of the network.
    seed
        Of the network.
    initialization
        ``"constant"`` (0.1), ``"normal"`` (mean 0, standard deviation 1), ``"glorot_uniform"`` or ``"glorot_normal"``:
        of the kernels. Biases, betas and moving means start at 0, moving variances at 1, gammas at normal(1, 0.002).
    device
        Where to put it.

    Returns
    -------
    torch.Tensor
        Shape (w,), float64.

    Notes
    -----
    Eilertsen et al., ECAI 2020; fans and truncation as in TensorFlow 1.

    Examples
    --------
    >>> from nwslib.population.networks import cnn
    >>> initial_weights(cnn.layout(16, 3, 3, 2, 4, 32), seed=1, initialization="constant")[:2]
    tensor([0.1000, 0.1000], dtype=torch.float64)
    """
    bits = words(torch.tensor([seed], device=device), WEIGHTS, 0, 0, layout.size)[0]
    vector = torch.empty(layout.size, dtype=torch.float64, device=device)
    for tensor in layout.tensors:
        place = layout.slices[tensor.name]
        vector[place] = _initial(tensor, bits[place], initialization)
    return vector


def glorot_weights(layout: Layout, seeds: Tensor) -> Tensor:
    """Draw the initial weights of several networks: kernels uniform as Glorot and Bengio, AISTATS 2010, biases 0.

    Parameters
    ----------
    layout
        Of the networks.
    seeds
        Shape (m,), int64.

    Returns
    -------
    torch.Tensor
        Shape (m, w), float64, on the device of the seeds.
    """
    return torch.stack([initial_weights(layout, seed, "glorot_uniform", seeds.device) for seed in seeds.tolist()])


def split(seed: int, images: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Split a network's images nine to one into training and validation.

    Returns
    -------
    tuple of torch.Tensor
        Indices of the training images and of the validation images, int64, each in ascending order.

    Examples
    --------
    >>> train, valid = split(seed=1, images=100)
    >>> len(train), len(valid)
    (90, 10)
    """
    keys = words(torch.tensor([seed], device=device), SPLIT, 0, 0, images)[0]
    order = torch.argsort(keys, stable=True)
    valid = images // 10
    return order[valid:].sort().values, order[:valid].sort().values


def balanced_count(labels: Tensor) -> int:
    """Count the images of an epoch: the rarest class's, times the number of classes.

    Parameters
    ----------
    labels
        Shape (images,), int64, of the training part.
    """
    counts = torch.bincount(labels)
    return int(counts.min()) * len(counts)


def epoch_order(seed: int, epoch: int, labels: Tensor) -> Tensor:
    """Draw which training images an epoch visits, and in what order.

    Every class is cut down to the size of the rarest, anew in each epoch; then all are shuffled.

    Parameters
    ----------
    seed, epoch
        Of the network, and from 0.
    labels
        Shape (images,), int64 from 0, of the training part.

    Returns
    -------
    torch.Tensor
        Positions in `labels`, int64, of length ``balanced_count(labels)``.

    Examples
    --------
    >>> epoch_order(1, 0, torch.tensor([0, 0, 0, 1])).shape
    torch.Size([2])
    """
    images = len(labels)
    bits = words(torch.tensor([seed], device=labels.device), ORDER, epoch, 0, 2 * images)[0]
    by_class = torch.argsort((labels << 32) | bits[:images], stable=True)
    counts = torch.bincount(labels)
    starts = torch.cumsum(counts, 0) - counts
    rank = torch.arange(images, device=labels.device) - starts[labels[by_class]]
    kept = by_class[rank < counts.min()]
    return kept[torch.argsort(bits[images:][kept], stable=True)]


@dataclass(frozen=True)
class Augmentation:
    """One draw of the augmentation for each image: every field has shape (m, b), float32 (``noise_start``: int64)."""

    shift_x: Tensor  # pixels of a 32x32 image
    shift_y: Tensor
    rotation: Tensor  # radians
    zoom: Tensor  # factor
    shear_x: Tensor  # radians
    shear_y: Tensor
    brightness: Tensor  # added
    contrast: Tensor  # factor about the image's channel mean
    hue: Tensor  # turns
    saturation: Tensor  # factor
    noise: Tensor  # standard deviation
    noise_start: Tensor  # where in the bank of normal numbers the image's noise starts


RANGES = {
    "shift_x": (-3.0, 3.0),
    "shift_y": (-3.0, 3.0),
    "rotation": (-math.radians(15), math.radians(15)),
    "zoom": (0.901, 1.099),
    "shear_x": (-math.radians(3), math.radians(3)),
    "shear_y": (-math.radians(3), math.radians(3)),
    "brightness": (-0.2, 0.2),
    "contrast": (0.5, 1.5),
    "hue": (-0.08, 0.08),
    "saturation": (0.3, 1.5),
    "noise": (0.0, 0.03),
}


def augmentation(
    seeds: Tensor, epoch: Tensor | int, step: Tensor | int, batch: int, *, purpose: int = AUGMENTATION
) -> Augmentation:
    """Draw the augmentation of one step for several networks: for every image its own.

    Parameters
    ----------
    seeds, epoch, step
        Shape (m,).
    batch
        Images per network.
    purpose
        AUGMENTATION, or EVALUATION for draws of their own.

    Returns
    -------
    Augmentation
        Fields of shape (m, b).

    Notes
    -----
    The ranges of Eilertsen et al.; there colour and noise were drawn once per batch, here per image.
    """
    per_image = len(RANGES) + 1
    bits = words(seeds, purpose, epoch, step, per_image * batch).unflatten(1, (batch, per_image))
    share = uniform(bits)
    fields = {
        name: (low + (high - low) * share[..., k]).float() for k, (name, (low, high)) in enumerate(RANGES.items())
    }
    return Augmentation(**fields, noise_start=bits[..., -1] % NOISE_BANK)


def colour_per_batch(draw: Augmentation) -> Augmentation:
    """Give all images of a batch the colour and the noise level of its first, as the study's code did."""
    names = ("brightness", "contrast", "hue", "saturation", "noise")
    return replace(draw, **{name: getattr(draw, name)[:, :1].expand_as(getattr(draw, name)) for name in names})


@functools.cache
def noise_bank(device: torch.device | str = "cpu") -> Tensor:
    """Draw the bank of standard normal numbers that pixel noise is read from, each image from its own start.

    A fresh normal number per pixel would cost more than the network itself: 768 per image of 16x16x3 take longer to
    draw than its 0.4 MFLOP to compute. The bank is drawn once per device and shared: do not write to it.

    Returns
    -------
    torch.Tensor
        Float32; an image may start at any of the first NOISE_BANK numbers.
    """
    largest_image = 32 * 32 * 3
    bits = words(torch.tensor([0], device=device), NOISE, 0, 0, NOISE_BANK + largest_image)[0]
    return normal(bits).float()


def dropout_mask(seeds: Tensor, epoch: Tensor | int, step: Tensor | int, batch: int, units: int) -> Tensor:
    """Draw which units are kept in one step: each with probability one half, so one random bit each.

    Parameters
    ----------
    seeds, epoch, step
        Shape (m,).
    batch, units
        Images per network; units of all hidden dense layers together.

    Returns
    -------
    torch.Tensor
        Shape (m, b, units), bool, True where kept.

    Examples
    --------
    >>> dropout_mask(torch.tensor([1]), 0, 0, batch=2, units=48).shape
    torch.Size([1, 2, 48])
    """
    per_image = -(-units // 32)
    bits = words(seeds, DROPOUT, epoch, step, per_image * batch).to(torch.int64)
    places = torch.arange(32, device=seeds.device)
    mask = (bits[..., None] >> places) & 1
    return mask.reshape(len(seeds), batch, 32 * per_image)[..., :units].bool()


def _initial(tensor: LayoutTensor, bits: Tensor, initialization: str) -> Tensor:
    if tensor.kind == "kernel":
        return _initial_kernel(tensor, bits, initialization)
    if tensor.kind == "gamma":
        return 1 + 0.002 * normal(bits)
    return torch.full(bits.shape, 1.0 if tensor.kind == "variance" else 0.0, dtype=torch.float64, device=bits.device)


def _initial_kernel(tensor: LayoutTensor, bits: Tensor, initialization: str) -> Tensor:
    if initialization == "constant":
        return torch.full(bits.shape, 0.1, dtype=torch.float64, device=bits.device)
    if initialization == "normal":
        return normal(bits)
    units = tensor.shape[0]
    fan_in = tensor.size // units
    receptive = fan_in // tensor.shape[tensor.axes.index("source")] if tensor.part == "convolution" else 1
    fan_out = receptive * units
    if initialization == "glorot_uniform":
        return (2 * uniform(bits) - 1) * math.sqrt(6 / (fan_in + fan_out))
    if initialization == "glorot_normal":
        return truncated_normal(bits) * math.sqrt(2 / (fan_in + fan_out))
    raise ValueError(f"unknown initialization {initialization!r}")
