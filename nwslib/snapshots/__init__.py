"""Labelled weights on disk: layouts, the schema of a population, and the store. Imports no torch."""

from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.runs import take_runs
from nwslib.snapshots.schema import layout_of, validate
from nwslib.snapshots.store import convert, design_of, networks, open_population, remaining, same, table, verify, write

__all__ = [
    "Layout",
    "Tensor",
    "convert",
    "design_of",
    "layout_of",
    "networks",
    "open_population",
    "remaining",
    "same",
    "table",
    "take_runs",
    "validate",
    "verify",
    "write",
]
