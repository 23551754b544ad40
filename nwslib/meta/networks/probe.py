"""The probing network: learned inputs are passed through the networks, and their outputs are read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nwslib.population import operators
from nwslib.population.networks import FAMILIES, cnn
from nwslib.snapshots.layout import Layout
from nwslib.space import VOCABULARY, nearest

ACTIVATIONS = tuple(VOCABULARY["activation"])

#: Families whose layers are all dense, so that a unit answers to an input with one number.
DENSE_FAMILIES = ("kan", "mlp", "siren")

_LATENT, _CHANNELS = 32, 16  # of the generator of images
_PROBES = {"coordinates": 256, "images": 32}


class Probe(nn.Module):
    """Reads whole networks by what they answer to learned inputs.

    Networks of images get points of the plane; classifiers get images, which a linear generator makes from learned
    codes: a chain of linear maps prefers smooth images. The answers of a network to all inputs are read by a multilayer
    perceptron.

    The activation of a network is no weight, and it may be what is to be read. So networks of the study (family cnn)
    answer with every one of `activations`, side by side; batch norms use their stored statistics.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        Snapshots of a network that answer, side by side.
    outputs
        Scores of a network.
    width
        Units of the perceptron's hidden layers.
    probes
        Learned inputs; None: 256 points or 32 images.
    image_size
        Side of the learned images, in pixels, where the layout leaves it open.
    activations
        That networks of family cnn answer with. One, where all have the same.
    **settings
        Passed to the family's ``outputs``: ``frequency`` of sine networks, ``order`` of splines.

    Attributes
    ----------
    raw
        It takes weights as they are, not standardised: only so does a network compute what it computes.

    Notes
    -----
    Kahana, Horwitz, Shuval and Hoshen, "Deep linear probe generators for weight space learning", ICLR 2025
    (arXiv:2410.10811). Probing goes back to Herrmann, Faccio and Schmidhuber, "Learning useful representations of
    recurrent neural network weight matrices", ICML 2024.

    Laws: a network with its hidden units permuted consistently computes the same and is read alike; inconsistently, it
    computes something else. The same holds of every other symmetry of the function: signs of sine units, scales of
    relu units.
    """

    raw = True

    def __init__(
        self,
        layout: Layout,
        snapshots: int,
        outputs: int,
        *,
        width: int = 128,
        probes: int | None = None,
        image_size: int = 16,
        activations: Sequence[str] = ACTIVATIONS,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.layout, self.activations, self.settings = layout, tuple(activations), settings
        self.inputs = learned_inputs(layout, probes, image_size)
        probes = len(self.inputs.codes)
        answers = snapshots * probes * _outputs(layout) * (len(activations) if layout.family == "cnn" else 1)
        hidden = [nn.Linear(answers, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()]
        self.reader = nn.Sequential(*hidden, nn.Linear(width, outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map weights (b, s, w) to scores (b, outputs)."""
        # Logits of overfitted networks reach hundreds; their sign and their order of magnitude are what counts.
        return self.reader(torch.asinh(self.answers(vectors)).flatten(1))

    def answers(self, vectors: Tensor) -> Tensor:
        """Pass the learned inputs through all networks.

        Parameters
        ----------
        vectors
            Weights, shape (b, s, w).

        Returns
        -------
        torch.Tensor
            Shape (b, s, probes, o): outputs of the network, of family cnn with each activation in turn.
        """
        weights, inputs, family = vectors.flatten(0, 1), self.inputs(), FAMILIES[self.layout.family]
        tensors = _tensors(self.layout, weights)
        if family is cnn:
            images = inputs[:, :, :, None].expand(-1, -1, -1, len(weights), -1)
            found = torch.cat([_study_answers(tensors, images, name) for name in self.activations], dim=2)
        else:
            shared = inputs if inputs.dim() == 2 else inputs.expand(len(weights), *inputs.shape)
            found = family.outputs(tensors, shared, **self.settings)
        return found.unflatten(0, vectors.shape[:2])


def build(layout: Layout, snapshots: int, outputs: int, *, per_weight: bool = False, **more: Any) -> Probe:
    """Build a probing network.

    Parameters
    ----------
    layout, snapshots, outputs
        As for `Probe`.
    per_weight
        Refused: what a network answers says nothing of single weights.
    **more
        ``width``, ``probes``, ``image_size``, ``activations``, ``frequency``, ``order``, as for `Probe`.

    Returns
    -------
    Probe
        Maps raw weights (b, s, w) to scores (b, outputs). Its first weights come from torch's generator.

    Raises
    ------
    ValueError
        If scores of weights are asked for, or the family or an activation is unknown.

    Examples
    --------
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 2, 4, 32)
    >>> build(small, 1, 4, probes=2)(torch.ones(3, 1, small.size)).shape
    torch.Size([3, 4])
    """
    if per_weight:
        raise ValueError("a probing network reads what networks answer and scores no single weights. Nearest: 'graph'")
    if layout.family not in FAMILIES:
        raise ValueError(f"family {layout.family!r} can't be probed. {nearest(layout.family, FAMILIES)}")
    for name in ("width", "probes", "image_size"):
        if more.get(name) is not None and more[name] < 1:
            raise ValueError(f"{name} must be at least 1, not {more[name]}")
    for name in more.get("activations", ()):
        if name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {name!r}. {nearest(name, ACTIVATIONS)}")
    return Probe(layout, snapshots, outputs, **more)


def learned_inputs(layout: Layout, probes: int | None = None, image_size: int = 16) -> nn.Module:
    """Give inputs that can be learned, such as networks of a layout read.

    Parameters
    ----------
    layout
        Of the networks.
    probes
        How many; None: 256 points or 32 images.
    image_size
        Side of the images, in pixels, where the layout leaves it open.

    Returns
    -------
    torch.nn.Module
        Without arguments, gives points (b, 2) between -1 and 1, or images (b, y, x, c) between 0 and 1.

    Raises
    ------
    ValueError
        If a network reads neither 2 coordinates nor a square image, or the layer that tells its size is not there.
    """
    shape = _image_shape(layout, image_size)
    probes = _PROBES["images" if shape else "coordinates"] if probes is None else probes
    return _Images(probes, *shape) if shape else _Points(probes)


def layer_answers(layout: Layout, vectors: Tensor, inputs: Tensor, **settings: Any) -> dict[str, Tensor]:
    """Pass inputs through networks of dense layers, and give what every layer adds up.

    Parameters
    ----------
    layout
        Of the networks, of a family in `DENSE_FAMILIES`.
    vectors
        Weights, shape (b, s, w).
    inputs
        From `learned_inputs`.
    **settings
        As for `Probe`.

    Returns
    -------
    dict of str to torch.Tensor
        By layer, shape (b, s, probes, units), before the activation.
    """
    tensors = _tensors(layout, vectors.flatten(0, 1))
    shared = inputs if inputs.dim() == 2 else inputs.expand(vectors.shape[:2].numel(), *inputs.shape)
    found, before = {}, {}
    for layer in dict.fromkeys(tensor.layer for tensor in layout.tensors):
        own = {name: value for name, value in tensors.items() if name.startswith(f"{layer}.")}
        last = {name.replace(layer, "output", 1): value for name, value in own.items()}  # no activation behind it
        answers = FAMILIES[layout.family].outputs(before | last, shared, **settings)
        found[layer], before = answers.unflatten(0, vectors.shape[:2]), before | own
    return found


class _Points(nn.Module):
    """Learned points between -1 and 1 in both coordinates, spread at random at first."""

    def __init__(self, probes: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.atanh(1.9 * torch.rand(probes, 2) - 0.95))

    def forward(self) -> Tensor:
        """Give (b, 2)."""
        return torch.tanh(self.codes)


class _Images(nn.Module):
    """Learned images: codes, and a chain of linear maps that doubles the size twice."""

    def __init__(self, probes: int, rows: int, columns: int, channels: int) -> None:
        super().__init__()
        self.shape, start = (rows, columns), (math.ceil(rows / 4), math.ceil(columns / 4))
        self.codes = nn.Parameter(torch.randn(probes, _LATENT))
        self.first = nn.Linear(_LATENT, _CHANNELS * math.prod(start))
        doubled = [nn.ConvTranspose2d(_CHANNELS, out, 4, stride=2, padding=1) for out in (_CHANNELS, channels)]
        self.rest = nn.Sequential(nn.Unflatten(1, (_CHANNELS, *start)), *doubled)
        # Pixels with deviation 1 before the sigmoid: with torch's first weights all images were grey.
        nn.init.normal_(self.first.weight, std=_LATENT**-0.5)
        for convolution in doubled:
            nn.init.normal_(convolution.weight, std=(4 * _CHANNELS) ** -0.5)

    def forward(self) -> Tensor:
        """Give (b, y, x, c), between 0 and 1."""
        rows, columns = self.shape
        images = self.rest(self.first(self.codes))[:, :, :rows, :columns]
        return torch.sigmoid(images).permute(0, 2, 3, 1)


def _tensors(layout: Layout, weights: Tensor) -> dict[str, Tensor]:
    return {t.name: weights[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}


def _study_answers(tensors: Mapping[str, Tensor], images: Tensor, activation: str) -> Tensor:
    segments = operators.segments([activation] * images.shape[3])
    features = cnn.features(tensors, images, segments, None, biased=True)
    return cnn.outputs(tensors, features, segments, None)


def _outputs(layout: Layout) -> int:
    last = layout.tensors[-1]
    return last.shape[last.axes.index("unit")]


def _image_shape(layout: Layout, image_size: int) -> tuple[int, int, int] | None:
    """Give rows, columns and channels of the images that a classifier reads; None for networks of images."""
    tensors = {tensor.name: dict(zip(tensor.axes, tensor.shape, strict=True)) for tensor in layout.tensors}
    first = next(iter(tensors.values()))
    if layout.family == "cnn":
        rows = tensors.get("dense1.kernel", {}).get("row")
        if rows is None:
            raise ValueError(f"{layout.name} can't be probed: no dense1.kernel with rows tells what images it reads")
        return 2**cnn.BLOCKS * rows, 2**cnn.BLOCKS * rows, first["source"]
    if layout.family == "mlp":
        return first["row"], first["column"], first["source"]
    if layout.family in ("smallcnn", "resnet8"):
        return image_size, image_size, first["source"]
    return None if first["source"] == 2 else _square(layout, first["source"])


def _square(layout: Layout, pixels: int) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if side * side * channels == pixels:
            return side, side, channels
    raise ValueError(f"{layout.name} reads {pixels} inputs: neither 2 coordinates nor a square image")
