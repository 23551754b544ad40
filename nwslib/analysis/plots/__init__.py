"""Figures: one function per kind, axes in, axes out."""

from nwslib.analysis.plots.look import PALETTE, style
from nwslib.analysis.plots.populations import (
    curves,
    design_overview,
    distances,
    image_grid,
    landscape,
    layer_spreads,
    status_curves,
    trajectory,
    weight_histogram,
)
from nwslib.analysis.plots.readings import (
    accuracy_along,
    accuracy_bars,
    accuracy_by,
    accuracy_points,
    claims,
    confusion,
    r2_by,
)
from nwslib.analysis.plots.speed import growth, rates

__all__ = [
    "PALETTE",
    "accuracy_along",
    "accuracy_bars",
    "accuracy_by",
    "accuracy_points",
    "claims",
    "confusion",
    "curves",
    "design_overview",
    "distances",
    "growth",
    "image_grid",
    "landscape",
    "layer_spreads",
    "r2_by",
    "rates",
    "status_curves",
    "style",
    "trajectory",
    "weight_histogram",
]
