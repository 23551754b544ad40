"""Scores, maps and plots of what was read from weights."""
