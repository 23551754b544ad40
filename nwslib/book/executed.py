"""What an executed chapter must look like before it is kept or published."""

import json
from collections.abc import Iterator
from pathlib import Path

from nwslib.book.project import code_cells, source, tags

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
    """Give an executed notebook without this machine's paths, its injected parameters headed by their file."""
    papermill = notebook["metadata"].get("papermill", {})
    kept = {key: value for key, value in papermill.items() if key not in ("input_path", "output_path")}
    cells = [
        _headed(cell, parameter_file) if "injected-parameters" in tags(cell) else cell for cell in notebook["cells"]
    ]
    return notebook | {"metadata": notebook["metadata"] | {"papermill": kept}, "cells": cells}


def for_page(notebook: dict) -> dict:
    """Give an executed notebook as a page shows it: without widgets and without the cell that is only for Colab."""
    metadata = {key: value for key, value in notebook["metadata"].items() if key != "widgets"}
    return notebook | {"metadata": metadata, "cells": [_shown(cell) for cell in notebook["cells"]]}


def _begun(cell: dict) -> bool:
    return bool(cell.get("metadata", {}).get("papermill", {}).get("start_time"))


def _headed(cell: dict, parameter_file: str) -> dict:
    lines = source(cell).splitlines()
    return cell | {"source": "\n".join([f"# Parameters of this run: {parameter_file}", *lines[1:]])}


def _shown(cell: dict) -> dict:
    if cell.get("cell_type") != "code":
        return cell
    widget = "application/vnd.jupyter.widget-view+json"
    outputs = [output for output in cell.get("outputs", []) if widget not in output.get("data", {})]
    hidden = ["remove-cell"] if "colab" in tags(cell) else []
    return cell | {"outputs": outputs, "metadata": cell["metadata"] | {"tags": [*tags(cell), *hidden]}}


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
