"""What was read from weights: scores, maps, figures and claims. Works without torch."""

from nwslib.analysis import maps, plots, results, scores
from nwslib.analysis.prose import glue

__all__ = ["glue", "maps", "plots", "results", "scores"]
