"""What varies: the hyper-parameter spaces of all network families, their vocabulary, and designs drawn from them.

A *design* is an ``xarray.Dataset`` over the dimension ``model``: one row of hyper-parameters per network, all of one
family. In a design that `switch` made, networks change course in mid-training.
"""

from nwslib.space.columns import COLUMNS, Column, switch_columns
from nwslib.space.designs import complete, image_sets, row_keys, sample, varying
from nwslib.space.families import COLLECTIONS, FAMILIES, Family, family_of
from nwslib.space.switches import switch
from nwslib.space.vocabulary import (
    ARCHITECTURE,
    CONSTANTS,
    EMBEDDED_SETS,
    GREY_SETS,
    PROPERTIES,
    PUBLISHED_SETS,
    SHARD_ROWS,
    STUDY_SETS,
    SWITCH_COLUMNS,
    SWITCHABLE,
    VOCABULARY,
    base_set,
    channels,
    nearest,
)

__all__ = [
    "ARCHITECTURE",
    "COLLECTIONS",
    "COLUMNS",
    "CONSTANTS",
    "EMBEDDED_SETS",
    "FAMILIES",
    "GREY_SETS",
    "PROPERTIES",
    "PUBLISHED_SETS",
    "SHARD_ROWS",
    "STUDY_SETS",
    "SWITCHABLE",
    "SWITCH_COLUMNS",
    "VOCABULARY",
    "Column",
    "Family",
    "base_set",
    "channels",
    "complete",
    "family_of",
    "image_sets",
    "nearest",
    "row_keys",
    "sample",
    "switch",
    "switch_columns",
    "varying",
]
