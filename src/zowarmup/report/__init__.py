"""Reports: a run directory, or many, in; one standalone HTML file out. Nothing here trains.

>>> from zowarmup import report
>>> report.load_run("nowhere")
Traceback (most recent call last):
zowarmup.errors.OutputError: nowhere: not a run directory: there is no such folder
hint: a run directory holds run.toml, metrics.jsonl and summary.json
"""

from __future__ import annotations

from zowarmup.report.grid import Cell, Grid, Trial, load_grid
from zowarmup.report.plain import csv, markdown, runs_csv
from zowarmup.report.records import FORMAT, RunRecord, load_run
from zowarmup.report.single import render, write
from zowarmup.report.tables import METRICS, table
from zowarmup.report.versus import compare

__all__ = [
    "FORMAT",
    "METRICS",
    "Cell",
    "Grid",
    "RunRecord",
    "Trial",
    "compare",
    "csv",
    "load_grid",
    "load_run",
    "markdown",
    "render",
    "runs_csv",
    "table",
    "write",
]
