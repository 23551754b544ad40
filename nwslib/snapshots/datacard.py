"""The data card of a population: what it holds, what is constant, what is missing, and what to beware of."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nwslib.snapshots.contents import Contents
from nwslib.snapshots.imagesets import CHANCE, source_of
from nwslib.snapshots.layout import LABELS, Layout, Tensor
from nwslib.snapshots.schema import COORDINATES, OPTIONAL_VARIABLES, STATUS, UNSOUND, VARIABLES, Variable, not_measured
from nwslib.snapshots.summary import size
from nwslib.space import base_set

CODE = "https://github.com/nwslib/nwslib"
STUDY = (
    "Eilertsen, Jönsson, Ropinski, Unger, Ynnerman: Classifying the classifier: dissecting the weight space of neural "
    "networks. 24th European Conference on Artificial Intelligence (ECAI), 2020, arXiv:2002.05688"
)
_FEW = 12  # so many values, architectures, reasons or faults are listed; of more, a range or a number is given
_FAMILIES = {"cnn": "convolutional"}


@dataclass(frozen=True)
class Licence:
    """A licence for data: its SPDX identifier, its name, and where its text is."""

    spdx: str
    name: str
    url: str


@dataclass(frozen=True)
class Statement:
    """What only those know who publish a population.

    Attributes
    ----------
    title
        Of the data set.
    licence
        Of the weights and everything beside them.
    authors
        ``"Family, Given"`` for people, anything else for groups.
    date
        Of the release, ISO 8601.
    """

    title: str
    licence: Licence
    authors: tuple[str, ...]
    date: str


@dataclass(frozen=True)
class Facts:
    """What is known of a population that is to be published.

    Attributes
    ----------
    contents
        What its folder holds.
    twins
        How many networks ended with the same weights as one before them, bit for bit.
    rows
        How many rows the design has; None: unknown.
    faults
        What a validation found.
    """

    contents: Contents
    twins: int = 0
    rows: int | None = None
    faults: tuple[str, ...] = ()

    @property
    def networks(self) -> int:
        """How many there are."""
        return len(self.contents.table["model"])

    @property
    def missing(self) -> int:
        """How many rows of the design are not there; where its length is unknown, up to the last that is there."""
        models = set(self.contents.table["model"])
        return len(set(range(max(models) + 1 if self.rows is None else self.rows)) - models)

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """The layout of each architecture, those with most networks first."""
        count = Counter(self.contents.table["node"])
        order = sorted(count, key=lambda node: (-count[node], node))
        return {node: Layout.from_json(self.contents.nodes[node]["layout"]) for node in order}

    @property
    def snapshots(self) -> list[int]:
        """How many snapshots networks have."""
        return sorted({shape.snapshots for shape in self.contents.shapes.values()})

    @property
    def raw_bytes(self) -> int:
        """What all weights at all snapshots take without compression."""
        count = Counter(self.contents.table["node"])
        return sum(
            4 * count[node] * layout.size * self.contents.shapes[node].snapshots
            for node, layout in self.layouts.items()
        )

    @property
    def bytes(self) -> int:
        """What the shards take."""
        return sum(facts["bytes"] for facts in self.contents.files.values())

    @property
    def columns(self) -> dict[str, Variable]:
        """Every variable and coordinate that the shards have, in the order of the schema."""
        optional = {name for shape in self.contents.shapes.values() for name in shape.variables}
        return {
            **VARIABLES,
            **{name: one for name, one in OPTIONAL_VARIABLES.items() if name in optional},
            "snapshot": COORDINATES["snapshot"],
            **self.contents.properties(),
            **{name: COORDINATES[name] for name in LABELS},
        }

    @property
    def properties(self) -> dict[str, list]:
        """The values of each property, networks without it left out."""
        names = ["family", *(name for name, one in self.contents.properties().items() if not one.required)]
        table = self.contents.table
        return {name: [value for value in table[name] if value not in (None, "")] for name in names}

    @property
    def constant(self) -> dict[str, Any]:
        """The properties that have one value in all networks."""
        return {name: values[0] for name, values in self.properties.items() if len(set(values)) == 1}

    @property
    def varying(self) -> dict[str, list]:
        """The values of the other properties."""
        return {name: values for name, values in self.properties.items() if len(set(values)) > 1}

    @property
    def image_sets(self) -> dict[str, int]:
        """How many networks ended on each image set."""
        return dict(sorted(Counter(self._sets()).items()))

    def _sets(self) -> list[str]:
        return self.properties.get("dataset_after", self.properties.get("dataset", []))

    def accuracies(self, dataset: str | None = None) -> np.ndarray:
        """Give the final test accuracies of networks that neither diverged nor failed, of one image set or of all."""
        table = self.contents.table
        sets = self._sets() or [None] * self.networks
        found = [
            value
            for value, status, name in zip(table["test_accuracy"], table["status"], sets, strict=True)
            if value is not None and status not in UNSOUND and dataset in (None, name)
        ]
        return np.array(found, float)

    def attribute(self, name: str) -> list[str]:
        """List what the architectures say in an attribute, each text once."""
        return list(dict.fromkeys(own[name] for own in self.contents.nodes.values() if name in own))


def text(facts: Facts, statement: Statement) -> str:
    """Write the data card as Markdown.

    Parameters
    ----------
    facts
        Of the population.
    statement
        Of those who publish it.

    Returns
    -------
    str
        The page; every number in it comes from the population.
    """
    sections = {
        "How to read it": _reading(facts),
        "How much there is": _amounts(facts),
        "What each column means": _glossary(facts),
        "What is constant, and what varies": _values(facts),
        "What is left out, and what was kept": _exclusions(facts),
        "The image sets": _images(facts),
        "How the networks were trained": _training(facts),
        "What to beware of": "\n".join(f"- {limit}" for limit in limits(facts)),
        "Licence": _licence(statement),
        "How to cite": _citation(statement),
    }
    parts = [f"# {_plain(statement.title)}", description(facts)]
    parts += [f"## {title}\n\n{section}" for title, section in sections.items() if section]
    return "\n\n".join(parts) + "\n"


def description(facts: Facts) -> str:
    """Say in three sentences what a population is.

    Parameters
    ----------
    facts
        Of the population.
    """
    moments = " or ".join(map(str, facts.snapshots))
    kept = "as they were at the end" if moments == "1" else f"at {moments} moments from initialisation to the end"
    named = [name for name in facts.properties if name != "family"]
    return (
        f"{_crowd(facts)}, each with all its weights {kept} of its training. "
        f"Every weight has a name (layer, kind, unit, source, place in its kernel), and every network its "
        f"{f'{len(named)} properties' if named else 'seed'}, its learning curves, and how and why its training ended. "
        "It is made to ask what the weights of a network tell about the network: how it was trained, on what, and how "
        "well it does."
    )


def default_title(facts: Facts) -> str:
    """Name a population that nobody has named.

    Parameters
    ----------
    facts
        Of the population.
    """
    return f"{_crowd(facts)}: their weights, labelled, and how they were trained"


def limits(facts: Facts) -> Iterator[str]:
    """Tell what a user has to beware of, as far as it concerns this population.

    Parameters
    ----------
    facts
        Of the population.

    Yields
    ------
    str
        A limit, in Markdown.
    """
    kinds = {tensor.kind for layout in facts.layouts.values() for tensor in layout.tensors}
    if kinds & {"mean", "variance"}:
        yield (
            "The moving mean and variance of the batch norms are part of the weight vector (`kind` is `mean` or "
            "`variance`). They are statistics of the images that went through the network, and carry the image set and "
            "the augmentation directly: show every result also without them."
        )
    begun = set(facts.varying.get("initialization", [])) & {"constant", "normal"}
    if begun:
        yield (
            f"Networks that began with {' or '.join(sorted(begun))} weights are trivially told from the others: show a "
            "result for `initialization` together with the chance level and the result at snapshot 1."
        )
    sizes = sorted({layout.size for layout in facts.layouts.values()})
    if len(sizes) > 1:
        yield (
            f"The length of the weight vector alone, {len(sizes):,} lengths in {len(facts.layouts):,} architectures, "
            "tells much of the architecture: whoever reads architecture from weights is to hide the length."
        )
    status = Counter(facts.contents.table["status"])
    if status["stopped"]:
        yield (
            f"{status['stopped']:,} of {facts.networks:,} networks ended at a limit of the training, not because they "
            "had converged (`status` is `stopped`)."
        )
    table, shapes = facts.contents.table, facts.contents.shapes
    short = sum(
        exports < shapes[node].snapshots for exports, node in zip(table["n_exports"], table["node"], strict=True)
    )
    if short:
        yield (
            f"{short:,} networks have fewer exports than snapshots (`n_exports`), so that some of their snapshots are "
            "the same export; `epoch` tells which."
        )
    yield from _limits_of_values(facts)


def _limits_of_values(facts: Facts) -> Iterator[str]:
    if facts.attribute("keep_bits"):
        yield (
            f"Weights are rounded to {_and(facts.attribute('keep_bits'))} bits of their mantissa (BitRound); a network "
            "that is rebuilt from them computes nearly, not exactly, what it computed."
        )
    unknown = sorted({name for own in facts.contents.nodes.values() for name in not_measured(own)})
    if unknown:
        yield f"Nobody measured {_and(f'`{name}`' for name in unknown)}: NaN throughout."
    if any(value is not None for value in facts.contents.table["seconds"]):
        yield (
            "`seconds` is the wall time of a network among others that were trained at the same time; it does not tell "
            "how long one network takes alone."
        )
    if facts.image_sets and not facts.attribute("source"):
        yield (
            "Networks may have seen fewer images than an image set holds: its version is a hash of exactly the pixels "
            "and labels that were used."
        )
    yield "Meta-classifiers are to be trained on networks whose `split` is `train`, and judged on the others only."


def _crowd(facts: Facts) -> str:
    families = sorted(set(facts.contents.table["family"]))
    named = _and(_FAMILIES.get(name, _plain(name)) for name in families)
    return f"{facts.networks:,} small {named} network{'s' * (facts.networks > 1)}"


def _reading(facts: Facts) -> str:
    node, layout = next(iter(facts.layouts.items()))
    shard = next(file for file, own in facts.contents.files.items() if own["node"] == node)
    chosen = [name for name in facts.varying if isinstance(facts.varying[name][0], str)]
    name = next((name for name in ("optimizer", *chosen) if name in facts.varying), "split")
    value = facts.contents.table[name][facts.contents.table["node"].index(node)]
    last, layer = facts.contents.shapes[node].snapshots, layout.tensors[0].layer
    return f"""With [nwslib]({CODE}), in this folder:

```python
from nwslib import snapshots

networks = snapshots.open_population(".")["{node}"].to_dataset()  # labelled; read when it is used
chosen = networks.isel(model=networks["{name}"].values == {json.dumps(value, ensure_ascii=False)})
weights = chosen["weights"].sel(snapshot={last}).isel(weight=chosen["layer"].values == "{layer}")
table = snapshots.table(".").to_dataframe()  # one row per network
```

With any library that reads NetCDF-4, for instance xarray:

```python
import xarray

shard = xarray.open_dataset("{shard}")
```

`sha256sum -c SHA256SUMS` checks that all files are whole, `python -m nwslib.snapshots validate .` what is in them."""


def _amounts(facts: Facts) -> str:
    count, shapes = Counter(facts.contents.table["node"]), facts.contents.shapes
    splits = Counter(zip(facts.contents.table["status"], facts.contents.table["split"], strict=True))
    rows = [
        (f"`{name}`", *(f"{splits[name, split]:,}" for split in ("train", "test")))
        for name in STATUS
        if splits[name, "train"] + splits[name, "test"]
    ]
    architectures = [
        (f"`{node}`", f"{count[node]:,}", f"{layout.size:,}", f"{len(layout.tensors)}", f"{shapes[node].snapshots}")
        for node, layout in facts.layouts.items()
    ]
    lengths = [layout.size for layout in facts.layouts.values()]
    between = f" of {min(lengths):,} to {max(lengths):,} weights" if len(set(lengths)) > 1 else ""
    shown = _table(("architecture", "networks", "weights", "tensors", "snapshots"), architectures[:_FEW])
    more = len(architectures) - _FEW
    left = f"\n\nand {more:,} more architectures; `manifest.json` lists all." if more > 0 else ""
    held = len(facts.contents.files)
    return (
        f"{facts.networks:,} networks of {len(architectures):,} architecture{'s' * (len(architectures) > 1)}{between} "
        f"in {held:,} file{'s' * (held > 1)}; {facts.raw_bytes // 4:,} weights, all snapshots counted. They take "
        f"{size(facts.bytes)}, {facts.bytes / facts.raw_bytes:.2f} of what the weights alone would take as float32.\n\n"
        f"{_table(('status', 'train', 'test'), rows)}\n\n{shown}{left}\n\n{_layers(facts)}\n\n{_accuracies(facts)}"
    ).strip()


def _layers(facts: Facts) -> str:
    """List the layers of the architecture with most networks, in the order of the weight vector."""
    node, layout = next(iter(facts.layouts.items()))
    layers: dict[str, list[Tensor]] = {}
    for tensor in layout.tensors:
        layers.setdefault(tensor.layer, []).append(tensor)
    rows = [
        (
            f"`{name}`",
            tensors[0].part,
            ", ".join(f"{one.kind} {'×'.join(map(str, one.shape))}" for one in tensors),
            f"{sum(one.size for one in tensors):,}",
        )
        for name, tensors in layers.items()
    ]
    more = f"\n\nand {len(rows) - 2 * _FEW:,} more layers." if len(rows) > 2 * _FEW else ""
    table = _table(("layer", "part", "tensors, in order", "weights"), rows[: 2 * _FEW])
    return f"The weight vector of `{node}`, from its first weight to its last:\n\n{table}{more}"


def _accuracies(facts: Facts) -> str:
    rows = []
    for name in facts.image_sets or [None]:
        found = facts.accuracies(name)
        found = found[np.isfinite(found)]
        if found.size:
            spread = (f"{value:.3f}" for value in np.quantile(found, (0, 0.5, 1)))
            rows.append((f"`{name}`" if name else "all", f"{len(found):,}", *spread))
    if not rows:
        return ""
    header = ("final test accuracy on", "networks", "least", "median", "most")
    return f"{_table(header, rows)}\n\nWithout networks that diverged or failed."


def _glossary(facts: Facts) -> str:
    rows = [
        (f"`{name}`", ", ".join(one.dims), one.type, one.units, _plain(one.meaning))
        for name, one in facts.columns.items()
    ]
    return (
        "Along `model` lie networks, along `snapshot` moments of a network's training, along `weight` the weights of "
        "its vector, and along `evaluation` all evaluations of its training, one before the first epoch and one after "
        "each.\n\n" + _table(("name", "dimensions", "type", "units", "meaning"), rows)
    )


def _values(facts: Facts) -> str:
    constant = [(f"`{name}`", _plain(value)) for name, value in facts.constant.items()]
    varying = [(f"`{name}`", _told(values, facts.networks)) for name, values in facts.varying.items()]
    parts = []
    if constant:
        parts.append(f"The same in all networks that have it:\n\n{_table(('property', 'value'), constant)}")
    if varying:
        parts.append(f"Varying (networks in brackets):\n\n{_table(('property', 'values'), varying)}")
    return "\n\n".join(parts)


def _told(values: Sequence[Any], networks: int) -> str:
    """List values with their numbers, or give the range of numbers that are too many to list."""
    counts = Counter(values)
    absent = f"; {networks - len(values):,} networks have none" if len(values) < networks else ""
    if len(counts) > _FEW and not isinstance(values[0], str):
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        return f"from {low:.4g} to {high:.4g}, median {middle:.4g}; {len(counts):,} different values{absent}"
    order = sorted(counts) if len(counts) <= _FEW else sorted(counts, key=lambda value: (-counts[value], value))
    more = f" and {len(counts) - _FEW:,} more" if len(counts) > _FEW else ""
    return ", ".join(f"{_plain(value)} ({counts[value]:,})" for value in order[:_FEW]) + more + absent


def _exclusions(facts: Facts) -> str:
    status = Counter(facts.contents.table["status"])
    rows = [
        ("diverged: weights or loss became infinite or NaN; NaN is in their weights", f"{status['diverged']:,}", "yes"),
        ("failed: the training broke off with an error, see `reason`", f"{status['failed']:,}", "yes"),
        *_at_chance(facts),
        ("final weights equal to those of another network, bit for bit", f"{facts.twins:,}", "yes"),
        (_missing(facts), f"{facts.missing:,}", "no"),
    ]
    reasons = Counter(zip(facts.contents.table["status"], facts.contents.table["reason"], strict=True)).most_common()
    ends = [(f"`{name}`", _plain(reason) or "unknown", f"{number:,}") for (name, reason), number in reasons[:_FEW]]
    more = f"\n\nand {len(reasons) - _FEW:,} other reasons." if len(reasons) > _FEW else ""
    faults = "no fault was found."
    if facts.faults:
        told = [f"- {_plain(fault)}" for fault in facts.faults[:_FEW]]
        told += [f"- and {len(facts.faults) - _FEW:,} more"] * (len(facts.faults) > _FEW)
        faults = f"{len(facts.faults):,} found.\n\n" + "\n".join(told)
    return (
        "Nothing was taken out when the population was released: leave out what your question needs left out, and say "
        f"so.\n\n{_table(('what', 'networks', 'in the data?'), rows)}\n\nHow and why training ended:\n\n"
        f"{_table(('status', 'reason', 'networks'), ends)}{more}\n\n"
        f"Every file was read and checked against the schema before the release: {faults}"
    )


def _at_chance(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Count networks that learned little, where the number of classes is known."""
    known = facts.image_sets and all(source_of(name) for name in facts.image_sets)
    found = facts.accuracies()
    if known and np.isfinite(found).any():
        for limit, meaning in ((CHANCE, "a guess among ten equally frequent classes"), (2 * CHANCE, "twice that")):
            number = int((found < limit + 1e-6).sum())  # stored as float32
            yield f"final test accuracy at most {limit:.2f}: {meaning}", f"{number:,}", "yes"


def _missing(facts: Facts) -> str:
    if facts.rows is None:
        return "rows missing before the last one that is there; how many the design has is not recorded"
    return f"rows of the design that are missing, of {facts.rows:,}: not trained when this was released"


def _images(facts: Facts) -> str:
    if not facts.image_sets:
        return ""
    versions = facts.contents.shared["parameters"].get("images", {})
    versions = versions if isinstance(versions, dict) else {}
    rows = []
    for name, networks in facts.image_sets.items():
        known = source_of(name)
        told = (known.content, known.source, known.licence) if known else ("", "unknown to nwslib", "unknown")
        rows.append((f"`{name}`", f"{networks:,}", _plain(versions.get(name, "not recorded")), *told))
    partial = any(base_set(name) != name for name in facts.image_sets)
    return (
        "No image is in these files. Networks were trained on:\n\n"
        + _table(("image set", "networks", "version", "content", "source", "licence of the images"), rows)
        + ("\n\nBrackets name the part of an image set that was used." if partial else "")
    )


def _training(facts: Facts) -> str:
    shared = facts.contents.shared
    parameters = {name: value for name, value in shared["parameters"].items() if name != "images"}
    rows = [(f"`{name}`", _plain(_compact(value))) for name, value in parameters.items()]
    rows += [
        ("source", _plain("; ".join(facts.attribute("source")) or f"trained with nwslib, {CODE}")),
        ("library, protocol, schema", _versions(facts)),
        ("device", _plain("; ".join(facts.attribute("device")))),
        ("implementation", _plain("; ".join(sorted(map(_joined, facts.attribute("implementation")))))),
        ("last network written", max(facts.attribute("created_at"))),
    ]
    learned = (
        "Each learned to name the class of an image, with the images, the optimiser and the rest that its row tells. "
        "The protocol carries forward that of the study which is cited below; nwslib's book describes it.\n\n"
    )
    trained_here = facts.image_sets and not facts.attribute("source")
    return learned * bool(trained_here) + _table(("parameter", "value"), rows)


def _versions(facts: Facts) -> str:
    shared = facts.contents.shared
    library = "; ".join(facts.attribute("library_version"))
    return _plain(f"{library}, {shared['protocol_version']}, {shared['schema_version']}")


def _joined(implementation: str) -> str:
    return ", ".join(f"{name} {_compact(value)}" for name, value in json.loads(implementation).items())


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _licence(statement: Statement) -> str:
    licence = statement.licence
    return (
        f"Weights, curves and labels: [{licence.name}]({licence.url}) ({licence.spdx}). The image sets are not part of "
        "the data and keep their own terms, which are told above; respect them where you use the images."
    )


def _citation(statement: Statement) -> str:
    authors = "; ".join(_plain(author) for author in statement.authors)
    return (
        f"{authors} ({statement.date[:4]}). {_plain(statement.title)} [data set]. `CITATION.cff` says the same for "
        f"programs. Add the DOI that the data repository gives. Please cite the study that it carries forward too:\n\n"
        f"> {STUDY}"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """Write a value on one line, with nothing in it that Markdown would take for a mark of its own."""
    text = " ".join(str(value).split())
    for mark in "\\|<`*[":
        text = text.replace(mark, f"\\{mark}")
    return text


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def measured(facts: Facts) -> list[dict[str, Any]]:
    """Describe each column for programs, as schema.org's ``PropertyValue``: name, meaning, units, type and range.

    Parameters
    ----------
    facts
        Of the population.

    Returns
    -------
    list of dict
        One per column.
    """
    found = []
    for name, one in facts.columns.items():
        entry: dict[str, Any] = {"@type": "PropertyValue", "name": name, "description": one.meaning}
        entry |= {"unitText": one.units} if one.units else {}
        if name in facts.constant:
            entry["value"] = facts.constant[name]
        elif name in facts.varying and one.type != "text":
            entry |= {"minValue": min(facts.varying[name]), "maxValue": max(facts.varying[name])}
        elif name in facts.varying:
            entry["value"] = sorted(set(facts.varying[name]))
        found.append(entry)
    return found
