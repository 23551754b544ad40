"""One weight vector: its tensors in order, their offsets, and a label for every weight."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

LABELS = ("layer", "part", "kind", "unit", "source", "row", "column")


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

    @property
    def name(self) -> str:
        """Layer and kind, ``"conv1.kernel"``."""
        return f"{self.layer}.{self.kind}"

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))


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

    @property
    def size(self) -> int:
        """Number of weights in the vector."""
        return sum(tensor.size for tensor in self.tensors)

    @property
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
        sizes = [tensor.size for tensor in self.tensors]
        words = {
            label: np.repeat([getattr(tensor, label) for tensor in self.tensors], sizes)
            for label in ("layer", "part", "kind")
        }
        numbers = {
            label: np.concatenate([_positions(tensor, label) for tensor in self.tensors])
            for label in ("unit", "source", "row", "column")
        }
        return words | numbers

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
        try:
            fields = json.loads(text)
            tensors = tuple(
                Tensor(**{**tensor, "axes": tuple(tensor["axes"]), "shape": tuple(tensor["shape"])})
                for tensor in fields["tensors"]
            )
            return cls(fields["family"], tensors)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not the JSON of a layout: {error}") from error


def _positions(tensor: Tensor, label: str) -> np.ndarray:
    if label not in tensor.axes:
        return np.full(tensor.size, -1, dtype="int32")
    return np.indices(tensor.shape, dtype="int32")[tensor.axes.index(label)].ravel()
