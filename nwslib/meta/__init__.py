"""Networks, and plain statistics, that read networks."""

from nwslib.meta.fit import RunClassifier, read
from nwslib.meta.statistics import StatisticsClassifier, StatisticsRegressor
from nwslib.meta.views import Runs, readable, runs_view, select, statistics_view

__all__ = [
    "RunClassifier",
    "Runs",
    "StatisticsClassifier",
    "StatisticsRegressor",
    "read",
    "readable",
    "runs_view",
    "select",
    "statistics_view",
]
