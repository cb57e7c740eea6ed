"""Reports: from a folder of results to tables, plots and one page, and from two folders to ratios.

`write_report` makes ``plots/`` and ``report.html`` in a folder, whole or cut short; `compare` holds two sets of runs
against each other. Everything is derived from what `bench.results.read_folder` finds: a report can be made again at
will, elsewhere and later.
"""

from bench.report.compare import Comparison, compare, incomparable
from bench.report.data import ExperimentView, PointView, Prediction, experiments_of
from bench.report.page import write_report
from bench.report.terminal import print_tables

__all__ = [
    "write_report",
    "print_tables",
    "compare",
    "Comparison",
    "incomparable",
    "experiments_of",
    "ExperimentView",
    "PointView",
    "Prediction",
]
