"""Networks, and plain statistics, that read networks."""

from nwslib.meta.fit import RunReader
from nwslib.meta.many import read_all
from nwslib.meta.read import held_out, read, transfer
from nwslib.meta.runs import Runs, runs_view
from nwslib.meta.saliency import saliency
from nwslib.meta.statistics import StatisticsReader
from nwslib.meta.table import TableReader
from nwslib.meta.views import matching, nodes, readable, select, statistics_view
from nwslib.meta.whole import NetworkReader

__all__ = [
    "NetworkReader",
    "RunReader",
    "Runs",
    "StatisticsReader",
    "TableReader",
    "held_out",
    "matching",
    "nodes",
    "read",
    "read_all",
    "readable",
    "runs_view",
    "saliency",
    "select",
    "statistics_view",
    "transfer",
]
