"""What a population holds, in numbers, and laid out for a terminal."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nwslib.snapshots.contents import MANIFEST, Contents, read_filled
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import UNSOUND

_FEW = 6  # so many values, architectures or image sets are listed; of more, a range or a number is given
_WIDTH = 100


def summary(folder: str | Path) -> dict[str, Any]:
    """Say what a population holds, as numbers and text.

    Parameters
    ----------
    folder
        Where `nwslib.snapshots.write` wrote, finished or not.

    Returns
    -------
    dict
        How many networks, and how many by ``status``, ``split`` and architecture; ``properties`` (how often each value
        occurs, or the range); ``test_accuracy`` by image set, of networks that did not diverge or fail; ``files``,
        ``form``, and the attributes of the schema.

    Raises
    ------
    FileNotFoundError
        If there is no population.
    ValueError
        If the manifest or a part is truncated, foreign, or of another schema.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake, write
    >>> from nwslib.space import sample
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(folder, fake.population(sample("nws_small", 3, seed=0)))
    ...     summary(folder)["status"]
    {'converged': 3}
    """
    contents = read_filled(Path(folder))
    attributes = [contents.attributes(node) for node in sorted(contents.nodes)]
    told = {
        name: "; ".join(dict.fromkeys(one[name] for one in attributes if name in one))
        for name in ("source", "device", "library_version", "protocol_version", "schema_version")
    }
    return {
        "networks": len(contents.table["model"]),
        "status": _counts(contents.table["status"]),
        "split": _counts(contents.table["split"]),
        "architectures": {node: _architecture(contents, node) for node in sorted(contents.nodes)},
        "properties": {
            name: _values(contents.table[name]) for name, one in contents.properties().items() if not one.required
        },
        "test_accuracy": _accuracies(contents),
        "files": _files(contents),
        **_form(contents, attributes),
        "parameters": contents.shared["parameters"],
        **{name: text for name, text in told.items() if text},
        "created_at": max(one["created_at"] for one in attributes),
    }


def _counts(values: Iterable[Any]) -> dict[Any, int]:
    return dict(Counter(values).most_common())


def _architecture(contents: Contents, node: str) -> dict[str, int]:
    layout, shape = Layout.from_json(contents.nodes[node]["layout"]), contents.shapes[node]
    networks = contents.table["node"].count(node)
    return {"networks": networks, "weights": layout.size, "tensors": len(layout.tensors), "snapshots": shape.snapshots}


def _values(column: Iterable[Any]) -> dict[str, Any]:
    """Count values, or give the range of numbers that are too many to count."""
    known = [value for value in column if value is not None]
    if len(set(known)) <= _FEW or isinstance(known[0], str):
        return {"values": {str(value): number for value, number in sorted(Counter(known).items())}}
    return {"least": min(known), "most": max(known)}


def _accuracies(contents: Contents) -> dict[str, dict[str, Any]]:
    """Give the spread of final test accuracies, by the image set that networks ended on where they have one."""
    found: dict[str, list[float]] = {}
    table = contents.table
    sets = table.get("dataset_after", table.get("dataset", ["all"] * len(table["model"])))
    for name, status, accuracy in zip(sets, table["status"], table["test_accuracy"], strict=True):
        if status not in UNSOUND and accuracy is not None and np.isfinite(accuracy):
            found.setdefault(str(name), []).append(accuracy)
    return {
        name: {"networks": len(values)}
        | dict(zip(("least", "median", "most"), np.quantile(values, (0, 0.5, 1)).tolist(), strict=True))
        for name, values in sorted(found.items())
    }


def _files(contents: Contents) -> dict[str, int]:
    files = set(contents.table["file"])
    parts = {file for file in files if file.startswith("parts/")}
    manifest = contents.folder / MANIFEST
    used = [contents.folder / file for file in files] + [manifest] * manifest.is_file()
    return {"shards": len(files - parts), "parts": len(parts), "bytes": sum(path.stat().st_size for path in used)}


def _form(contents: Contents, attributes: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tell the form of the first file of each architecture, and how weights were rounded."""
    first = dict(zip(contents.table["node"], contents.table["file"], strict=True))
    forms = set()
    for file in first.values():
        with h5py.File(contents.folder / file) as opened:
            forms.add("archive" if opened["weights"].chunks else "working")
    bits = {one["keep_bits"] for one in attributes if "keep_bits" in one}
    return {"form": ", ".join(sorted(forms))} | ({"keep_bits": ", ".join(sorted(bits))} if bits else {})


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Lay a summary out for a terminal: one line for each thing that is there, aligned.

    Parameters
    ----------
    found
        From `summary`.

    Yields
    ------
    str
        A line, at most 100 characters wide.
    """
    files = found["files"]
    unmerged = f", {files['parts']:,} networks in parts, not merged yet" if files["parts"] else ""
    yield _line("networks", f"{found['networks']:,}: {_listed(found['status'])}")
    yield _line("split", _listed(found["split"]))
    rounded = f", {found['keep_bits']} bits of each mantissa kept" if "keep_bits" in found else ""
    yield _line("files", f"{files['shards']:,} shard{'s' * (files['shards'] != 1)}{unmerged}, {size(files['bytes'])}")
    yield _line("form", found["form"] + rounded)
    for name in ("source", "device", "created_at"):
        if name in found:
            yield _line(name, found[name])
    yield _line(
        "versions", ", ".join(f"{name} {found[f'{name}_version']}" for name in ("library", "protocol", "schema"))
    )
    yield _line("parameters", ", ".join(f"{name} {_plain(value)}" for name, value in found["parameters"].items()))
    yield ""
    yield from _grid(("architecture", "networks", "weights", "tensors", "snapshots"), found["architectures"])
    yield ""
    for name, values in found["properties"].items():
        yield _line(
            name, _listed(values["values"]) if "values" in values else f"{values['least']:.4g} to {values['most']:.4g}"
        )
    if found["test_accuracy"]:
        yield ""
        yield from _grid(("test_accuracy", "networks", "least", "median", "most"), found["test_accuracy"])


def _line(name: str, text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=f"{name:<15} ", subsequent_indent=" " * 16)


def _listed(counts: Mapping[str, int]) -> str:
    """List values with their numbers, the value alone where there is no other."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name or 'none'} ({number:,})" for name, number in list(counts.items())[: 2 * _FEW]]
    return ", ".join(shown) + (f" and {len(counts) - len(shown):,} more" if len(counts) > len(shown) else "")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items()) + ")"
    return str(value)


def _grid(header: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lay numbers out in columns, the rows with most networks first."""
    order = sorted(rows, key=lambda name: -rows[name]["networks"])
    yield f"{header[0]:<24}" + "".join(f"{name:>11}" for name in header[1:])
    for name in order[:_FEW]:
        cells = (
            f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
            for value in (rows[name][key] for key in header[1:])
        )
        yield f"  {name:<22}" + "".join(f"{cell:>11}" for cell in cells)
    if len(order) > _FEW:
        yield f"  and {len(order) - _FEW:,} more"


def size(number: float) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> size(1_500_000)
    '1.5 MB'
    """
    power = min(4, int(np.log10(max(number, 1)) // 3))
    return f"{number / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
