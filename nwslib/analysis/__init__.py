"""What was read from weights: scores, maps, figures and claims. Works without torch."""

from nwslib.analysis import (
    calibration,
    footprints,
    interventions,
    maps,
    pairs,
    places,
    plots,
    results,
    saliency,
    scores,
)
from nwslib.analysis.prose import glue

__all__ = [
    "calibration",
    "footprints",
    "glue",
    "interventions",
    "maps",
    "pairs",
    "places",
    "plots",
    "results",
    "saliency",
    "scores",
]
