"""One weight vector: its tensors in order, their offsets, and a label for every weight."""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import cache, cached_property

import numpy as np

from nwslib.space import nearest

_WORDS = ("layer", "part", "kind")
_NUMBERS = ("unit", "source", "row", "column")
LABELS = _WORDS + _NUMBERS


@dataclass(frozen=True)
class Tensor:
    """One tensor of a network, as it stands in the weight vector.

    Attributes
    ----------
    layer
        Name of its layer, ``"conv1"``, ``"dense2"``, ``"output"``.
    part
        ``"convolution"`` or ``"dense"``.
    kind
        ``"kernel"``, ``"bias"``, and of a batch norm ``"beta"``, ``"gamma"``, ``"mean"``, ``"variance"``.
    axes
        One word per axis of `shape`: ``unit`` (output channel or unit), ``source`` (input channel or unit), ``row`` and
        ``column`` (of a convolution kernel, or of the feature map that a first dense layer reads).
    shape
        Sizes of the axes.
    """

    layer: str
    part: str
    kind: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.shape) or not set(self.axes) <= set(_NUMBERS):
            raise ValueError(f"{self.name}: shape {self.shape} needs one axis each of {_NUMBERS}, not {self.axes}")
        if not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"{self.name}: a shape holds positive whole numbers, not {self.shape}")

    @property
    def name(self) -> str:
        """Layer and kind, ``"conv1.kernel"``."""
        return f"{self.layer}.{self.kind}"

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Which weight stands where in the vector of one architecture.

    Attributes
    ----------
    family
        Network family, ``"cnn"``.
    tensors
        In the order of the vector, each flattened with its last axis fastest.

    Examples
    --------
    >>> layout = Layout("cnn", (Tensor("conv1", "convolution", "bias", ("unit",), (4,)),))
    >>> layout.size, layout.slices["conv1.bias"]
    (4, slice(0, 4, None))
    """

    family: str
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        # The family is part of file names.
        if not isinstance(self.family, str) or not re.fullmatch("[a-z0-9]+", self.family):
            raise ValueError(f"a family is one word of small letters and digits, not {self.family!r}")
        names = [tensor.name for tensor in self.tensors]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a layout has at least one tensor, and no two of the same name: {names}")

    @cached_property
    def size(self) -> int:
        """Number of weights in the vector."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def name(self) -> str:
        """Family and the first 8 hexadecimal digits of the layout's hash, ``"cnn-1a2b3c4d"``."""
        return f"{self.family}-{hashlib.sha256(self.to_json().encode()).hexdigest()[:8]}"

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Place of each tensor in the vector, by name."""
        ends = np.cumsum([tensor.size for tensor in self.tensors]).tolist()
        return {tensor.name: slice(end - tensor.size, end) for tensor, end in zip(self.tensors, ends, strict=True)}

    def split(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Give each tensor as a view of the vector.

        Parameters
        ----------
        vector
            Shape (..., w).

        Returns
        -------
        dict of str to numpy.ndarray
            By name, shape (..., *tensor.shape).

        Raises
        ------
        ValueError
            If the vector's length is not the layout's.
        """
        if vector.shape[-1] != self.size:
            raise ValueError(f"{self.name} has {self.size} weights, but the vector has {vector.shape[-1]}")
        return {
            tensor.name: vector[..., self.slices[tensor.name]].reshape(*vector.shape[:-1], *tensor.shape)
            for tensor in self.tensors
        }

    def labels(self) -> dict[str, np.ndarray]:
        """Label every weight.

        Returns
        -------
        dict of str to numpy.ndarray
            ``layer``, ``part``, ``kind`` (text) and ``unit``, ``source``, ``row``, ``column`` (int32, -1 where a
            weight has none), each of shape (w,).
        """
        return {name: self.label(name) for name in LABELS}

    def label(self, name: str) -> np.ndarray:
        """Give one of the `labels`.

        Parameters
        ----------
        name
            One of `LABELS`.

        Returns
        -------
        numpy.ndarray
            Shape (w,).

        Raises
        ------
        ValueError
            If there is no such label.
        """
        if name in _NUMBERS:
            return np.concatenate([_positions(tensor, name) for tensor in self.tensors])
        if name not in _WORDS:
            raise ValueError(f"unknown label {name!r}. {nearest(name, LABELS)}")
        sizes = [tensor.size for tensor in self.tensors]
        return np.repeat([getattr(tensor, name) for tensor in self.tensors], sizes)

    def to_json(self) -> str:
        """Write the layout as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """Read a layout that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not the JSON of a layout.
        """
        return _parsed(text)


@cache  # each network of a population brings the same text
def _parsed(text: str) -> Layout:
    try:
        fields = json.loads(text)
        tensors = tuple(
            Tensor(**{**tensor, "axes": tuple(tensor["axes"]), "shape": tuple(tensor["shape"])})
            for tensor in fields["tensors"]
        )
        return Layout(fields["family"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not the JSON of a layout: {error}") from error


def _positions(tensor: Tensor, label: str) -> np.ndarray:
    if label not in tensor.axes:
        return np.full(tensor.size, -1, dtype="int32")
    return np.indices(tensor.shape, dtype="int32")[tensor.axes.index(label)].ravel()
