"""What was read from weights: scores, maps, figures and claims. Works without torch."""

from nwslib.analysis import maps, plots, results, scores
from nwslib.analysis.prose import glue, glue_figure

__all__ = ["glue", "glue_figure", "maps", "plots", "results", "scores"]
