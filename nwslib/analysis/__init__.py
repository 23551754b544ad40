"""What was read from weights: scores, maps and figures. Works without torch."""

from nwslib.analysis import maps, plots, scores

__all__ = ["maps", "plots", "scores"]
