"""Claims from matrices of scores."""

from typing import Any

import numpy as np
import xarray as xr

from nwslib.analysis.results import claim


def claims(
    matrix: xr.Dataset, figure: str, wording: str, *, networks: int, baseline: xr.Dataset | None = None
) -> list[dict[str, Any]]:
    """State one claim per field of a matrix of properties by views.

    Parameters
    ----------
    matrix
        From `nwslib.analysis.footprints.how_much`, or alike: dimensions ``property`` and ``view``.
    figure
        Name of the figure that shows it.
    wording
        The claim, with ``{property}`` and ``{view}`` in braces.
    networks
        Networks behind each number.
    baseline
        A matrix of a simple reader, whose score for the same property and view stands beside each number, where it has
        one.

    Returns
    -------
    list of dict
        For `nwslib.analysis.results.save`; fields in which nothing was read are left out.

    Examples
    --------
    >>> columns = {name: (("property", "view"), [[0.9, np.nan]]) for name in ("score", "low", "high", "chance")}
    >>> matrix = xr.Dataset(columns, {"property": ["optimizer"], "view": ["kernels", "all"]})
    >>> [one["claim"] for one in claims(matrix, "fig-parts", "{property} from {view}", networks=60)]
    ['optimizer from kernels']
    """
    found = []
    for place in np.argwhere(matrix["score"].transpose("property", "view").notnull().values).tolist():
        one = matrix.isel(property=place[0], view=place[1])
        names = {name: one[name].item() for name in ("property", "view")}
        words = {name: str(value).replace("_", " ") for name, value in names.items()}
        measure = one["measure"].item() if "measure" in one else "accuracy"
        found.append(
            claim(
                wording.format(**words),
                one["score"].item(),
                (one["low"].item(), one["high"].item()),
                chance=one["chance"].item(),
                baseline=_score(baseline, names),
                networks=networks,
                figure=figure,
                unit=measure,
            )
        )
    return found


def _score(baseline: xr.Dataset | None, names: dict[str, Any]) -> float:
    if baseline is None or any(value not in baseline[name].values for name, value in names.items()):
        return np.nan
    return baseline["score"].sel(names).item()
