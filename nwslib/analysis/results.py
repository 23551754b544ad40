"""What a chapter found: claims with number, interval, chance and baseline, in one small NetCDF file per chapter."""

import html
import json
import os
import subprocess
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

_TEXT = ("claim", "unit", "figure", "chapter", "parameter_file", "commit", "created_at", "library_version", "device")
_NUMBERS = ("number", "low", "high", "chance", "baseline", "networks")


def claim(
    text: str,
    number: float,
    interval: tuple[float, float],
    *,
    chance: float = np.nan,
    baseline: float = np.nan,
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
    baseline
        What a simple reader gives, such as statistics of the whole vector; NaN where there is none.
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
        "baseline": float(baseline),
        "networks": float(networks),
        "figure": figure,
        "unit": unit,
    }


def claims_of(
    table: xr.Dataset,
    figure: str,
    wording: str = "{property} from {method}",
    *,
    baseline: xr.Dataset | None = None,
) -> list[dict[str, Any]]:
    """State one claim per row of a table of readings.

    Parameters
    ----------
    table
        From `nwslib.analysis.scores.table`, of classes or of numbers.
    figure
        Name of the figure that shows it.
    wording
        The claim, with names of the table's variables in braces.
    baseline
        A table of a simple reader: its score for the same property stands beside each number, where it has one.

    Returns
    -------
    list of dict
        For `save`.

    Raises
    ------
    KeyError
        If the wording names what the table has not.
    ValueError
        If the baseline is of another measure, or has two readings of one property.
    """
    score = "accuracy" if "accuracy" in table else "r2"
    simple = {} if baseline is None else _scores_of(baseline, score)
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
                baseline=simple.get(row["property"], np.nan),
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
        "commit": commit(),
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


def commit() -> str:
    """Give the commit of the repository that the library is run from.

    Returns
    -------
    str
        Its first twelve digits, and ``-dirty`` where files differ from it; ``""`` where the library is installed
        without a repository, or git cannot tell.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # in a repository of something else, perhaps, but not in its own
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


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
    parts = _claims_in(folder)
    if not parts:
        raise FileNotFoundError(f"no chapter has left results in {folder}: run the chapters before this one first")
    return xr.concat(parts, "row", combine_attrs="drop")


def archived(folder: Path) -> xr.Dataset | None:
    """Collect the claims that a reference run has left, to be shown beside those of this run.

    Parameters
    ----------
    folder
        Of the archive, ``results/reference``.

    Returns
    -------
    xarray.Dataset or None
        As `load` gives it; None where nothing has been archived yet, and while the reference run itself is being made.
    """
    if os.environ.get("NWS_PROFILE") == "reference":
        return None
    parts = _claims_in(folder)
    return xr.concat(parts, "row", combine_attrs="drop") if parts else None


def page(claims: xr.Dataset, archived: xr.Dataset | None = None) -> "Styler":
    """Lay out claims as the table that the results page shows.

    Parameters
    ----------
    claims
        From `load`.
    archived
        From `archived`: the same claims by a reference run, in a line of their own below those of this run.

    Returns
    -------
    pandas.io.formats.style.Styler
        One row per claim, in a notebook an HTML table: the number with its interval, chance level and baseline, the
        networks behind it, a link to the figure, the parameter file and the commit. With an archive, a claim has two
        rows, which name their run; one that only one of the runs makes has one.
    """
    if archived is None:
        shown = _cells(claims).drop(columns="chapter")
        return shown.style.hide(axis="index").set_table_attributes('class="dataframe claims"').set_uuid("claims")
    both = pd.concat([_cells(claims).assign(run="this run"), _cells(archived).assign(run="reference run")])
    order = {pair: place for place, pair in enumerate(dict.fromkeys(zip(both["chapter"], both["claim"], strict=True)))}
    both["place"] = [order[pair] for pair in zip(both["chapter"], both["claim"], strict=True)]
    both = both.sort_values("place", kind="stable").set_index(["place", "claim", "run"]).drop(columns="chapter")
    styled = both.style.hide(axis="index", level="place")
    return styled.set_table_attributes('class="dataframe claims"').set_uuid("claims")


def _cells(claims: xr.Dataset) -> pd.DataFrame:
    """Write claims as text for HTML, one row for each."""
    frame = claims.to_dataframe()
    text = {name: frame[name].map(html.escape) for name in _TEXT}
    return pd.DataFrame(
        {
            "chapter": text["chapter"],
            "claim": text["claim"],
            "number (interval)": [_number(row) for row in frame.to_dict("records")],
            **{
                name: [f"{value:.2f}" if np.isfinite(value) else "" for value in frame[name]]
                for name in ("chance", "baseline")
            },
            "networks": frame["networks"].astype(int),
            "figure": [_link(chapter, name) for chapter, name in zip(text["chapter"], text["figure"], strict=True)],
            "parameter file": text["parameter_file"],
            "commit": text["commit"],
        }
    )


def _number(row: Mapping[str, Any]) -> str:
    unit = "" if row["unit"] == "accuracy" else f" {html.escape(row['unit'])}"
    return f"{row['number']:.3g} ({row['low']:.3g} to {row['high']:.3g}){unit}"


def _link(chapter: str, figure: str) -> str:
    return "" if figure == "none" else f'<a href="{chapter}.html#{figure}">{figure.removeprefix("fig-")}</a>'


def _scores_of(baseline: xr.Dataset, score: str) -> dict[str, float]:
    if score not in baseline:
        raise ValueError(f"the baseline has no {score!r}: it is of another measure than the readings")
    pairs = list(zip(baseline["property"].values.tolist(), baseline[score].values.tolist(), strict=True))
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("the baseline has two readings of one property: choose one of them")
    return dict(pairs)


def _claims_in(folder: Path) -> list[xr.Dataset]:
    """Read the files of the chapters in a folder, in alphabetical order."""
    parts = []
    for path in sorted(folder.glob("[!.]*.nc")):
        with xr.open_dataset(path, engine="netcdf4") as part:
            parts.append(part.load())
    return parts
