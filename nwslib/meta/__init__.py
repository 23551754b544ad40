"""Networks, and plain statistics, that read networks."""

from nwslib.meta.fit import RunReader
from nwslib.meta.read import held_out, read, transfer
from nwslib.meta.runs import Runs, runs_view
from nwslib.meta.statistics import StatisticsReader
from nwslib.meta.views import matching, readable, select, statistics_view

__all__ = [
    "RunReader",
    "Runs",
    "StatisticsReader",
    "held_out",
    "matching",
    "read",
    "readable",
    "runs_view",
    "select",
    "statistics_view",
    "transfer",
]
