"""What an executed chapter must look like before it is kept or published."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nwslib.book.project import code_cells, literals, parse, source, tags

_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_FAILURE_MARKER = "papermill-error-cell-tag"


def faults(notebook: dict) -> Iterator[str]:
    """Yield what makes an executed notebook unfit to be shown.

    An error, output on stderr (a warning is an error), a cell that was not executed, a figure cell without a picture,
    or no time at which papermill ended.
    """
    original = _positions(notebook)
    for number, cell in code_cells(notebook):
        where = f"cell {original[number]}"
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                yield f"{where}: {output['ename']}: {_one_line(output['evalue'])}"
            elif output.get("name") == "stderr":
                yield f"{where} wrote to stderr, and a warning is an error: {_one_line(_text(output['text']))}"
        if source(cell).strip() and cell.get("execution_count") is None:
            yield f"{where} was not executed"
        if "figure" in tags(cell) and not any("image/png" in data for data in _data(cell)):
            yield f"{where} is tagged figure and shows none"
    if not notebook.get("metadata", {}).get("papermill", {}).get("end_time"):
        yield "papermill did not end"


def last_cell(notebook: dict) -> int | None:
    """Give the cell (from 1, as in the committed notebook) that papermill was executing when it stopped."""
    original = _positions(notebook)
    begun = [number for number, cell in code_cells(notebook) if _begun(cell)]
    return original[begun[-1]] if begun else None


def cells_begun(path: Path) -> tuple[int, int]:
    """Count the code cells that papermill has begun, and all, in a notebook that it is still writing."""
    try:
        cells = [cell for _, cell in code_cells(json.loads(path.read_text(encoding="utf-8")))]
    except (OSError, ValueError):  # caught between two writes
        return 0, 0
    return sum(map(_begun, cells)), len(cells)


def clean(notebook: dict, parameter_file: str) -> dict:
    """Give an executed notebook without what differs between two equal runs, but for dates and durations.

    Paths of this machine are left out and random identifiers (in xarray's tables) numbered; the injected parameters are
    headed by the name of their file.
    """
    numbers: dict[str, str] = {}
    numbered = _UUID.sub(lambda found: numbers.setdefault(found[0], f"id-{len(numbers) + 1}"), json.dumps(notebook))
    notebook = json.loads(numbered)
    papermill = notebook["metadata"].get("papermill", {})
    kept = {key: value for key, value in papermill.items() if key not in ("input_path", "output_path")}
    cells = [
        _headed(cell, parameter_file) if "injected-parameters" in tags(cell) else cell for cell in notebook["cells"]
    ]
    return notebook | {"metadata": notebook["metadata"] | {"papermill": kept}, "cells": cells}


def for_page(notebook: dict) -> dict:
    """Give an executed notebook as a page shows it.

    Without widgets and the cell that is only for Colab, and with one parameters cell: the committed one with its
    comments, the values those of this run.
    """
    metadata = {key: value for key, value in notebook["metadata"].items() if key != "widgets"}
    used = next((cell for cell in notebook["cells"] if "injected-parameters" in tags(cell)), None)
    cells = [_shown(cell) for cell in notebook["cells"] if cell is not used]
    if used:
        cells = [_with_values(cell, used) if "parameters" in tags(cell) else cell for cell in cells]
    return notebook | {"metadata": metadata, "cells": cells}


def _begun(cell: dict) -> bool:
    return bool(cell.get("metadata", {}).get("papermill", {}).get("start_time"))


def _headed(cell: dict, parameter_file: str) -> dict:
    lines = source(cell).splitlines()
    text = "\n".join([f"# Parameters of this run: {parameter_file}", *lines[1:]])
    return cell | {"id": "injected-parameters", "source": text}


def _shown(cell: dict) -> dict:
    if cell.get("cell_type") != "code":
        return cell
    widget = "application/vnd.jupyter.widget-view+json"
    outputs = [output for output in cell.get("outputs", []) if widget not in output.get("data", {})]
    hidden = ["remove-cell"] if "colab" in tags(cell) else []
    return cell | {"outputs": outputs, "metadata": cell["metadata"] | {"tags": [*tags(cell), *hidden]}}


def _with_values(cell: dict, used: dict) -> dict:
    """Put the values of the injected cell into the text of the parameters cell."""
    values = dict(literals(parse(used)))
    lines = [line.encode() for line in source(cell).splitlines()]  # the parser counts columns in bytes
    for statement in reversed(parse(cell).body):
        name, value = statement.targets[0].id, statement.value
        if name in values:
            before, after = (
                lines[value.lineno - 1][: value.col_offset],
                lines[value.end_lineno - 1][value.end_col_offset :],
            )
            lines[value.lineno - 1 : value.end_lineno] = [before + repr(values[name]).encode() + after]
    header = source(used).splitlines()[0]
    return cell | {"source": "\n".join([header, *(line.decode() for line in lines)])}


def _positions(notebook: dict) -> dict[int, int]:
    """Map each cell's position to that in the committed notebook, where papermill has added no cell."""
    positions, added = {}, 0
    for number, cell in enumerate(notebook["cells"], 1):
        added += bool({"injected-parameters", _FAILURE_MARKER}.intersection(tags(cell)))
        positions[number] = number - added
    return positions


def _data(cell: dict) -> Iterator[dict]:
    return (output.get("data", {}) for output in cell.get("outputs", []))


def _text(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
