"""Labelled weights on disk: layouts, the schema of a population, and the store. Imports no torch."""

from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.schema import layout_of, validate
from nwslib.snapshots.store import networks, open_population, remaining, same, table, verify, write

__all__ = [
    "Layout",
    "Tensor",
    "layout_of",
    "networks",
    "open_population",
    "remaining",
    "same",
    "table",
    "validate",
    "verify",
    "write",
]
