"""Fit networks that read whole networks: one reader, and one training loop for all of them."""

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from nwslib.meta.fit import PRECISIONS, on_threads
from nwslib.meta.labels import balance, from_scale, hold_out, refuse_seen, shuffle, task_of, to_scale
from nwslib.meta.masks import labels_of
from nwslib.meta.networks.dmc import parameter_count
from nwslib.meta.runs import runs_view
from nwslib.meta.statistics import score
from nwslib.meta.views import Networks, readable, select
from nwslib.population.device import resolve_device
from nwslib.population.progress import report
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import layout_of
from nwslib.snapshots.units import permutation
from nwslib.space import nearest

#: Networks that read networks, and the modules that build them.
NETWORKS: Mapping[str, str] = {
    "flat": "flat",
    "deepsets": "deepsets",
    "settransformer": "settransformer",
    "graph": "graph",
    "probe": "probe",
    "statistics": "statistics",
    "dmc": "dmc_whole",
}

_SELECTION = ("part", "kinds", "min_test_accuracy")
_ORDERS = 48  # permutations that are drawn for a fit; two in a row make 2,304
_WARM_UP = 0.1  # share of the steps
_LARGEST_NORM = 1.0  # of a gradient
_CONSTANT = 1e-6  # spread of a tensor, against its size, below which it is taken as constant


@dataclass
class NetworkReader:
    """Reads a property from whole weight vectors, or scores every weight, with a network that sees whole networks.

    All networks are of one architecture. Their weights lie on the device, each tensor of the layout brought to mean 0
    and spread 1 by what the training networks have. Every epoch draws as many networks of each class as the rarest
    class has; of a number, or of masks, all networks. A share of the training networks, drawn by `seed`, is held out;
    the epoch with the lowest loss on them (cross-entropy, or squared error) is kept.

    Attributes
    ----------
    network
        ``"flat"``, ``"deepsets"``, ``"settransformer"``, ``"graph"``, ``"probe"``, ``"statistics"`` or ``"dmc"``, as in
        `nwslib.meta.networks`; or a function like their ``build``.
    snapshot
        The snapshot, or several, which are all fed to the network together.
    part, kinds, variable, min_test_accuracy
        Which weights and networks, as in `nwslib.meta.select` and `nwslib.meta.readable`.
    width
        Of the network; None: its own.
    more
        Further arguments of the network's ``build``, by name.
    augmented
        Whether the hidden units of a network are permuted anew, consistently, at every visit in training.
    permuted
        Whether the hidden units of the test networks are permuted, consistently, before they are read: a control.
    epochs, batch, rate, weight_decay
        Training with AdamW: epochs, networks in a batch at most, highest learning rate, which is reached after a tenth
        of the steps and falls to 0 as a cosine, and decoupled weight decay.
    validation
        Share of the training networks held out.
    precision
        ``"float32"``, or ``"bfloat16"``: mixed precision, for devices that have fast units for it.
    seed
        Of first weights, dropout, held-out networks, draws and shuffled labels.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    threads
        Of a processor, as in `RunReader`.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019 (arXiv:1711.05101).
    """

    network: str | Callable[..., nn.Module] = "deepsets"
    snapshot: int | Sequence[int] = 20
    part: str = "all"
    kinds: str = "all"
    variable: str = "weights"
    width: int | None = None
    more: dict[str, Any] = field(default_factory=dict)
    augmented: bool = False
    permuted: bool = False
    min_test_accuracy: float = 0.0
    epochs: int = 60
    batch: int = 32
    rate: float = 1e-3
    weight_decay: float = 1e-2
    validation: float = 0.2
    precision: str = "float32"
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    module: nn.Module | None = field(default=None, init=False, repr=False)
    layout: Layout | None = field(default=None, init=False, repr=False)
    scale: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)
    task: str = field(default="", init=False, repr=False)
    target: str = field(default="", init=False, repr=False)
    classes: np.ndarray = field(default_factory=lambda: np.array([]), init=False, repr=False)
    median: float = field(default=float("nan"), init=False, repr=False)
    spread: float = field(default=float("nan"), init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    history: list[float] = field(default_factory=list, init=False, repr=False)
    seconds: float = field(default=float("nan"), init=False, repr=False)

    @property
    def method(self) -> str:
        """What a table calls it."""
        name = self.network if isinstance(self.network, str) else self.network.__name__
        return f"{name}, augmented" if self.augmented else name

    @property
    def parameters(self) -> int:
        """How many trainable parameters the fitted network has."""
        return parameter_count(self.module)

    def fit(self, data: xr.Dataset | xr.DataTree, property: str | xr.DataArray, *, shuffled: bool = False) -> Self:
        """Learn to read a property, or to score every weight, from the networks of the training split.

        Parameters
        ----------
        data
            A population of one architecture, or one node of it.
        property
            Any column of the networks, as in `RunReader.fit`; or masks with the dimensions ``model``, ``weight`` and
            the coordinate ``id`` of the networks: bool, or float with NaN where nothing is asked.
        shuffled
            Permute the labels, or masks, over the training networks: a control.

        Returns
        -------
        NetworkReader
            Itself, fitted; `history` holds the loss on the held-out networks after each epoch, `parameters` the number
            of trainable parameters, `seconds` the time it took.

        Raises
        ------
        ValueError
            If a parameter is out of range, the networks differ in architecture, the property is unknown or does not
            vary, or masks lack a network or a weight.
        """
        _check(self)
        began, device = time.perf_counter(), resolve_device(self.device)
        networks = readable(data, "train", **_chosen(self))
        self.layout, selected = _layout(networks, self.part, self.kinds)
        labels = self._learn_labels(networks, property, selected)
        labels = labels[shuffle(np.arange(len(labels)), self.seed)] if shuffled else labels
        vectors = _resident(self, data, "train", np.atleast_1d(self.snapshot).tolist(), device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), on_threads(self.threads):
            torch.manual_seed(self.seed)
            module = _build(self, vectors.shape[1]).to(device)
            self.scale = None if getattr(module, "raw", False) else _scale(vectors, self.layout)
            orders = _orders(layout_of(_only(networks)), selected, self.seed).to(device) if self.augmented else None
            inputs = _prepared(self, module, vectors)
            self.module, self.history = _train(self, module, inputs, labels, orders)
        self.seen, self.seconds = frozenset(networks.column("id").tolist()), time.perf_counter() - began
        return self

    def predictions(self, data: xr.Dataset | xr.DataTree, snapshot: int | Sequence[int] | None = None) -> xr.Dataset:
        """Read the networks of the test split.

        Parameters
        ----------
        data
            A population of the same architecture, or one node of it.
        snapshot
            Other snapshots than those fitted on. A reader of one reads each alone, one of several needs as many.

        Returns
        -------
        xarray.Dataset
            ``truth`` (model), ``prediction`` (model), in the property's own unit, and for classes ``probability``
            (model, class); all but ``truth`` have the dimension ``snapshot`` where a reader of one reads several. Of
            masks, ``probability`` and ``prediction`` (model, weight), and no truth. The attributes
            ``parameter_count``, ``seconds_to_train`` and ``seconds_per_network`` say what it costs, reading the files
            included.

        Raises
        ------
        ValueError
            If the reader is not fitted, has seen one of the networks, or the snapshots are not as many.
        """
        if self.module is None:
            raise ValueError("the reader is not fitted: call fit first")
        began = time.perf_counter()
        networks = readable(data, "test", **_chosen(self))
        refuse_seen(networks.column("id"), self.seen)
        if _layout(networks, self.part, self.kinds)[0] != self.layout:
            raise ValueError(f"the reader learned on networks of another architecture: {self.layout.name}")
        asked = self.snapshot if snapshot is None else snapshot
        groups = _moments(self, asked)
        moments = sorted({moment for group in groups for moment in group})
        vectors = _resident(self, data, "test", moments, self._device)
        with on_threads(self.threads):
            scores = [self._read(vectors[:, [moments.index(moment) for moment in group]]) for group in groups]
        found = self._described(networks, np.stack(scores, axis=1), groups)
        found.attrs = {
            "left_out": json.dumps(networks.left_out),
            "parameter_count": self.parameters,
            "seconds_to_train": round(self.seconds, 3),
            "seconds_per_network": round((time.perf_counter() - began) / len(networks), 6),
        }
        alone = np.ndim(asked) == 0 or np.ndim(self.snapshot) > 0
        return found.isel(snapshot=0, drop=True) if alone else found

    def predict(self, data: xr.Dataset | xr.DataTree) -> xr.DataArray:
        """Give the most probable class, the estimate, or the mask of each test network, dimension ``model`` first."""
        return self.predictions(data)["prediction"]

    def predict_proba(self, data: xr.Dataset | xr.DataTree) -> xr.DataArray:
        """Give the probabilities of the classes (``model``, ``class``), or of every weight (``model``, ``weight``).

        Raises
        ------
        ValueError
            If the property is a number.
        """
        found = self.predictions(data)
        if "probability" not in found:
            raise ValueError(f"{self.target} is a number and has no probabilities: call predict")
        return found["probability"]

    def score(self, data: xr.Dataset | xr.DataTree) -> float:
        """Give the share of test networks that are named correctly, or R2 of a number on its scale.

        Raises
        ------
        ValueError
            If it scores weights: whether a mask is right, `predictions` can't tell.
        """
        if self.task == "mask":
            raise ValueError("a population holds no masks to compare with: call predictions")
        return score(self.predictions(data), self.task, self.target)

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _read(self, vectors: Tensor) -> np.ndarray:
        """Give the scores of vectors (m, s, w): (m, outputs or w), float64."""
        inputs = _prepared(self, self.module, vectors)
        return _scores(self, self.module, inputs, torch.arange(len(inputs))).cpu().double().numpy()

    def _learn_labels(self, networks: Networks, property: str | xr.DataArray, selected: np.ndarray) -> np.ndarray:
        """Give what the module is to learn: codes of the classes, standardised numbers on their scale, or masks."""
        if isinstance(property, xr.DataArray):
            self.task, self.target = "mask", str(property.name or "mask")
            return _masks(networks, property)[:, selected]
        values = networks.column(property)
        self.task, self.target = task_of(values, property), property
        if self.task == "classification":
            self.classes, codes = np.unique(values, return_inverse=True)
            return codes
        numbers = to_scale(values, property)
        self.median, self.spread = float(np.median(numbers)), float(numbers.std())
        return ((numbers - self.median) / self.spread).astype("float32")

    def _described(self, networks: Networks, scores: np.ndarray, moments: Sequence[tuple[int, ...]]) -> xr.Dataset:
        """Give scores (m, s, outputs) their names."""
        dims = ("model", "snapshot")
        about = networks.coordinates(*([] if self.task == "mask" else [self.target]))
        found = xr.Dataset(coords={**about, "snapshot": [group[0] for group in moments]})
        if self.task == "mask":
            probability = np.exp(-np.logaddexp(0, -scores))
            places = {name: ("weight", self.layout.label(name)) for name in ("layer", "kind")}
            found = found.assign_coords(places).assign(probability=((*dims, "weight"), probability))
            return found.assign(prediction=found["probability"] > 0.5)
        found["truth"] = found[self.target].drop_vars(self.target)
        if self.task == "regression":
            return found.assign(prediction=(dims, from_scale(self.median + self.spread * scores[..., 0], self.target)))
        shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
        found = found.assign_coords({"class": self.classes})
        found["probability"] = ((*dims, "class"), shifted / shifted.sum(axis=-1, keepdims=True))
        return found.assign(prediction=(dims, self.classes[scores.argmax(axis=-1)]))


def _check(reader: NetworkReader) -> None:
    for name in ("width", "epochs", "batch", "threads"):
        if getattr(reader, name) is not None and getattr(reader, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(reader, name)}")
    if not reader.rate > 0:
        raise ValueError(f"rate must be positive, not {reader.rate}")
    if not 0 < reader.validation < 1:
        raise ValueError(f"validation must be more than 0 and less than 1, not {reader.validation}")
    if reader.precision not in PRECISIONS:
        raise ValueError(f"unknown precision {reader.precision!r}. {nearest(reader.precision, PRECISIONS)}")
    if isinstance(reader.network, str) and reader.network not in NETWORKS:
        raise ValueError(f"unknown network {reader.network!r}. {nearest(reader.network, NETWORKS)}")


def _chosen(reader: NetworkReader) -> dict[str, Any]:
    return {name: getattr(reader, name) for name in _SELECTION}


def _resident(
    reader: NetworkReader, data: xr.Dataset | xr.DataTree, split: str, snapshots: Sequence[int], device: torch.device
) -> Tensor:
    """Load the selected weights of some snapshots of all networks: (m, s, w)."""
    permuted = reader.permuted and split == "test"
    options = {**_chosen(reader), "variable": reader.variable, "permuted": permuted, "resident": "always"}
    view = runs_view(data, None, split=split, snapshots=snapshots, device=device, **options)
    return view.weights.view(len(view.networks), len(snapshots), view.length)


def _only(networks: Networks) -> xr.Dataset:
    """Give the one architecture that all networks have."""
    used = [node for node, rows in zip(networks.nodes, networks.positions, strict=True) if len(rows)]
    if len({layout_of(node) for node in used}) > 1:
        raise ValueError(
            f"whole networks are read of one architecture, not of {len(used)}: choose one node of the tree"
        )
    return used[0]


def _layout(networks: Networks, part: str, kinds: str) -> tuple[Layout, np.ndarray]:
    """Give the layout of the weights that are read, and their positions in the whole vector."""
    node = _only(networks)
    layout, selected = layout_of(node), select(node, part, kinds)
    starts = set(selected.tolist())
    kept = tuple(tensor for tensor in layout.tensors if layout.slices[tensor.name].start in starts)
    return Layout(layout.family, kept), selected


def _masks(networks: Networks, masks: xr.DataArray) -> np.ndarray:
    """Give the mask of each network (m, w), NaN where nothing is asked."""
    size, found = layout_of(_only(networks)).size, labels_of(networks, masks)
    if found.shape[1] != size:
        raise ValueError(f"the networks have {size} weights, but the masks {found.shape[1]}")
    return found


def _moments(reader: NetworkReader, asked: int | Sequence[int]) -> list[tuple[int, ...]]:
    """Give the snapshots that are fed together, for each time that a network is read."""
    numbers = tuple(int(number) for number in np.atleast_1d(asked))
    if np.ndim(reader.snapshot) == 0:
        return [(number,) for number in numbers]
    if len(numbers) != len(reader.snapshot):
        raise ValueError(f"the reader sees {len(reader.snapshot)} snapshots together, not {len(numbers)}")
    return [numbers]


def _build(reader: NetworkReader, snapshots: int) -> nn.Module:
    build = reader.network
    if isinstance(build, str):
        build = import_module(f"nwslib.meta.networks.{NETWORKS[build]}").build
    outputs = len(reader.classes) if reader.task == "classification" else 1
    options = reader.more if reader.width is None else {"width": reader.width, **reader.more}
    return build(reader.layout, snapshots, outputs, per_weight=reader.task == "mask", **options)


def _scale(vectors: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Learn the mean and the spread of each tensor, one number for each weight: twice (w,)."""
    sizes = [tensor.size for tensor in layout.tensors]
    moments = []
    for tensor in vectors.split(sizes, dim=2):
        spread, mean = torch.std_mean(tensor, correction=0)
        constant = spread <= _CONSTANT * mean.abs()
        moments.append((mean, spread.where(~constant, torch.ones_like(spread))))
    counts = torch.tensor(sizes, device=vectors.device)
    means, spreads = (torch.stack(column).repeat_interleave(counts) for column in zip(*moments, strict=True))
    return means, spreads


def _orders(layout: Layout, selected: np.ndarray, seed: int) -> Tensor:
    """Draw permutations of the hidden units, as places in the selected weights: (orders, w)."""
    keys = np.random.default_rng([seed, 4]).integers(2**63, size=_ORDERS)
    return torch.from_numpy(
        np.stack([np.searchsorted(selected, permutation(layout, int(key))[selected]) for key in keys])
    )


def _prepared(reader: NetworkReader, module: nn.Module, vectors: Tensor) -> Tensor:
    """Standardise vectors (m, s, w) in place, and do what a module does to them once and for all."""
    if reader.scale is not None:
        mean, spread = reader.scale
        vectors.sub_(mean).div_(spread)
    if not hasattr(module, "prepare"):
        return vectors
    with torch.inference_mode():
        return torch.cat([module.prepare(some) for some in vectors.split(reader.batch)]).clone()


def _train(
    reader: NetworkReader, module: nn.Module, inputs: Tensor, labels: np.ndarray, orders: Tensor | None
) -> tuple[nn.Module, list[float]]:
    """Train a module; give it as it was after the best epoch, and the loss on held-out networks after each."""
    held = hold_out(labels if labels.ndim == 1 else labels[:, 0], reader.validation, reader.seed)
    learned, watched = np.flatnonzero(~held), torch.from_numpy(np.flatnonzero(held))
    targets = torch.from_numpy(labels).to(inputs.device)
    fused = inputs.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(module.parameters(), lr=reader.rate, weight_decay=reader.weight_decay, fused=fused)
    draws = np.random.default_rng([reader.seed, 3])
    best, lowest, history = copy.deepcopy(module.state_dict()), float("inf"), []
    for epoch in range(reader.epochs):
        report(f"{reader.target} by {reader.method}: epoch {epoch + 1} of {reader.epochs}")
        module.train()
        batches = list(_batches(reader, labels, learned, draws))
        for number, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = reader.rate * _pace((epoch + (number + 1) / len(batches)) / reader.epochs)
            optimizer.zero_grad(set_to_none=True)
            seen, wanted = _visited(inputs, targets, rows.to(inputs.device), orders, draws)
            _loss(_output(reader, module, seen), wanted).backward()
            nn.utils.clip_grad_norm_(module.parameters(), _LARGEST_NORM)
            optimizer.step()
        history.append(_validate(reader, module, inputs, targets, watched))
        if history[-1] <= lowest:  # of an epoch that diverged, NaN, nothing is less
            best, lowest = copy.deepcopy(module.state_dict()), history[-1]
    report("")
    module.load_state_dict(best)
    return module.eval(), history


def _batches(
    reader: NetworkReader, labels: np.ndarray, learned: np.ndarray, draws: np.random.Generator
) -> Iterator[Tensor]:
    """Draw the networks of an epoch, in batches of nearly equal size."""
    balanced = balance(labels[learned], draws) if labels.ndim == 1 else np.arange(len(learned))
    rows = torch.from_numpy(draws.permutation(learned[balanced]))
    yield from rows.tensor_split(-(-len(rows) // reader.batch))


def _pace(done: float) -> float:
    """Give the share of the highest learning rate after a share of the training: up as a line, down as a cosine."""
    return float(min(done / _WARM_UP, 0.5 * (1 + np.cos(np.pi * done))))


def _visited(
    inputs: Tensor, targets: Tensor, rows: Tensor, orders: Tensor | None, draws: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Give some networks and their targets, the hidden units of each in an order of its own if there are orders."""
    seen, wanted = inputs[rows], targets[rows]
    if orders is None or seen.ndim < 3:  # statistics are the same in any order
        return seen, wanted
    first, second = torch.from_numpy(draws.integers(len(orders), size=(2, len(rows)))).to(inputs.device)
    order = orders[first].gather(1, orders[second])  # a permutation of a permutation is another one
    seen = seen.gather(2, order[:, None].expand_as(seen))
    return seen, wanted.gather(1, order) if wanted.ndim == 2 else wanted


def _output(reader: NetworkReader, module: nn.Module, seen: Tensor) -> Tensor:
    """Give scores (b, outputs or w) in float32, computed in the reader's precision."""
    mixed = reader.precision != "float32"
    compute = getattr(module, "read", module) if hasattr(module, "prepare") else module
    with torch.autocast(seen.device.type, dtype=PRECISIONS[reader.precision] if mixed else None, enabled=mixed):
        return compute(seen).float()


def _loss(scores: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Give the cross-entropy of classes, or of the weights that are asked for, or the squared error of numbers."""
    if wanted.ndim == 2:
        asked = ~wanted.isnan()
        return nn.functional.binary_cross_entropy_with_logits(scores[asked], wanted[asked])
    if wanted.is_floating_point():
        return nn.functional.mse_loss(scores.squeeze(1), wanted)
    return nn.functional.cross_entropy(scores, wanted, weight=weight)


def _validate(reader: NetworkReader, module: nn.Module, inputs: Tensor, targets: Tensor, rows: Tensor) -> float:
    """Give the loss on held-out networks, every class with the same weight."""
    scores, wanted = _scores(reader, module, inputs, rows), targets[rows.to(targets.device)]
    if wanted.is_floating_point():
        return float(_loss(scores, wanted))
    weight = 1 / torch.bincount(wanted, minlength=scores.shape[1]).clamp(min=1).to(scores.dtype)
    return float(_loss(scores, wanted, weight))


@torch.inference_mode()
def _scores(reader: NetworkReader, module: nn.Module, inputs: Tensor, rows: Tensor) -> Tensor:
    """Give the scores of some networks, float32."""
    module.eval()
    return torch.cat([_output(reader, module, inputs[some]) for some in rows.to(inputs.device).split(reader.batch)])
