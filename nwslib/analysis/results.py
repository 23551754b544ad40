"""What a chapter found: claims with number, interval and chance level, in one small NetCDF file per chapter."""

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from nwslib import __version__, resolve

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_TEXT = ("claim", "unit", "figure", "chapter", "parameter_file", "created_at", "library_version", "device")
_NUMBERS = ("number", "low", "high", "chance", "networks")


def claim(
    text: str,
    number: float,
    interval: tuple[float, float],
    *,
    chance: float = np.nan,
    networks: int,
    figure: str,
    unit: str = "accuracy",
) -> dict[str, Any]:
    """State one finding.

    Parameters
    ----------
    text
        The finding in words, without its number.
    number, interval
        What was measured, and its 95 % interval (low, high).
    chance
        What guessing gives; NaN where there is no such thing.
    networks
        Networks behind the number.
    figure
        Name of the figure that shows it.
    unit
        What the number is.

    Returns
    -------
    dict
        For `save`.

    Examples
    --------
    >>> claim("adam can be told", 0.9, (0.8, 1.0), chance=0.3, networks=60, figure="bars")["number"]
    0.9
    """
    low, high = interval
    return {
        "claim": text,
        "number": float(number),
        "low": float(low),
        "high": float(high),
        "chance": float(chance),
        "networks": float(networks),
        "figure": figure,
        "unit": unit,
    }


def claims_of(table: xr.Dataset, figure: str, wording: str = "{property} from {method}") -> list[dict[str, Any]]:
    """State one claim per row of a table of readings.

    Parameters
    ----------
    table
        From `nwslib.analysis.scores.table`, of classes or of numbers.
    figure
        Name of the figure that shows it.
    wording
        The claim, with names of the table's variables in braces.

    Returns
    -------
    list of dict
        For `save`.

    Raises
    ------
    KeyError
        If the wording names what the table has not.
    """
    score = "accuracy" if "accuracy" in table else "r2"
    claims = []
    for place in range(table.sizes["reading"]):
        row = {name: values.item() for name, values in table.isel(reading=place).data_vars.items()}
        words = {name: str(value).replace("_", " ") for name, value in row.items()}
        interval = (row["low"], row["high"])
        chance = row.get("chance", 0.0)  # R2 of the mean is 0
        unit = "accuracy" if score == "accuracy" else "R2"
        claims.append(
            claim(
                wording.format(**words),
                row[score],
                interval,
                chance=chance,
                networks=row["networks"],
                figure=figure,
                unit=unit,
            )
        )
    return claims


def save(
    folder: Path,
    chapter: str,
    claims: Iterable[Mapping[str, Any]],
    *,
    device: str,
    parameters: Mapping[str, Any],
    tables: Mapping[str, xr.Dataset] | None = None,
) -> Path:
    """Keep a chapter's claims, with what made them.

    Parameters
    ----------
    folder
        Of the results; made if it is not there.
    chapter
        Name of the chapter: of the file, and of its parameter file.
    claims
        From `claim` and `claims_of`.
    device
        The device that the numbers were computed on.
    parameters
        The chapter's parameters.
    tables
        What figures were drawn from, by name, for `beside`.

    Returns
    -------
    pathlib.Path
        Of the file; an older one of this name is replaced at once or not at all.

    Raises
    ------
    ValueError
        If there is no claim.
    """
    rows = [dict(row) for row in claims]
    if not rows:
        raise ValueError(f"chapter {chapter!r} claims nothing: there is nothing to save")
    profile = os.environ.get("NWS_PROFILE", "")
    about = {
        "chapter": chapter,
        "parameter_file": f"params/{profile}/{chapter}.yaml" if profile else "the notebook's own",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "library_version": __version__,
        "device": device,
    }
    rows = [row | about for row in rows]
    data = {name: ("row", np.array([row[name] for row in rows], dtype=str)) for name in _TEXT}
    data |= {name: ("row", np.array([row[name] for row in rows], dtype=float)) for name in _NUMBERS}
    dataset = xr.Dataset(data, attrs={**about, "parameters": json.dumps(dict(parameters))})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chapter}.nc"
    draft = path.with_name(f".{path.name}.new")
    kept = {f"/{name}": table for name, table in (tables or {}).items()}
    xr.DataTree.from_dict({"/": dataset, **kept}).to_netcdf(draft, engine="netcdf4")
    draft.replace(path)
    return path


def beside(chapter: str, name: str, live: xr.Dataset, folder: Path | None = None) -> dict[str, xr.Dataset]:
    """Put what a figure is drawn from beside that of the archived reference run.

    Parameters
    ----------
    chapter, name
        Of the chapter, and of the table that it saved.
    live
        The table of this run.
    folder
        Of the archive; by default the repository's ``results/reference``.

    Returns
    -------
    dict
        ``"this run"``: `live`, and ``"reference run"``: the archived table; without the latter where there is none, and
        while the reference run itself is being made.
    """
    path = (resolve("results/reference") if folder is None else folder) / f"{chapter}.nc"
    if os.environ.get("NWS_PROFILE") == "reference" or not path.exists():
        return {"this run": live}
    with xr.open_datatree(path, engine="netcdf4") as kept:
        archived = {"reference run": kept[name].to_dataset(inherit=False).load()} if name in kept.children else {}
    return {"this run": live, **archived}


def load(folder: Path) -> xr.Dataset:
    """Collect the claims of all chapters that have been run.

    Parameters
    ----------
    folder
        Of the results.

    Returns
    -------
    xarray.Dataset
        Dimension ``row``: the claims, chapter by chapter in alphabetical order.

    Raises
    ------
    FileNotFoundError
        If no chapter has left results there.
    """
    paths = sorted(folder.glob("[!.]*.nc"))
    if not paths:
        raise FileNotFoundError(f"no chapter has left results in {folder}: run the chapters before this one first")
    parts = []
    for path in paths:
        with xr.open_dataset(path, engine="netcdf4") as part:
            parts.append(part.load())
    return xr.concat(parts, "row", combine_attrs="drop")


def page(claims: xr.Dataset) -> "Styler":
    """Lay out claims as the table that the results page shows.

    Parameters
    ----------
    claims
        From `load`.

    Returns
    -------
    pandas.io.formats.style.Styler
        One row per claim, in a notebook an HTML table: the number with its interval, the chance level, the networks
        behind it, a link to the figure, and the parameter file.
    """
    frame = claims.to_dataframe()
    shown = pd.DataFrame(
        {
            "claim": frame["claim"],
            "number (interval)": [_number(row) for row in frame.to_dict("records")],
            "chance": [f"{value:.2f}" if np.isfinite(value) else "" for value in frame["chance"]],
            "networks": frame["networks"].astype(int),
            "figure": [_link(chapter, name) for chapter, name in zip(frame["chapter"], frame["figure"], strict=True)],
            "parameter file": frame["parameter_file"],
        }
    )
    return shown.style.hide(axis="index").set_table_attributes('class="dataframe claims"').set_uuid("claims")


def _number(row: Mapping[str, Any]) -> str:
    unit = "" if row["unit"] == "accuracy" else f" {row['unit']}"
    return f"{row['number']:.3g} ({row['low']:.3g} to {row['high']:.3g}){unit}"


def _link(chapter: str, figure: str) -> str:
    return "" if figure == "none" else f'<a href="{chapter}.html#{figure}">{figure.removeprefix("fig-")}</a>'
