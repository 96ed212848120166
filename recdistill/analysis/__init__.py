"""Finished runs for notebooks: what a run folder holds, as pandas frames and as figures for print.

from recdistill import analysis

run = analysis.open_run("runs/demo")
run.recovered()           # a frame
analysis.gap_bars(run)    # a figure
"""

from recdistill.analysis.figures import (
    Picture,
    calibration_curves,
    gap_bars,
    importance_map,
    nights,
    recovered_by_run,
    trade_off,
    training_curves,
)
from recdistill.analysis.view import RunView, find_runs, open_run, readable, side_by_side

__all__ = [
    "Picture",
    "RunView",
    "calibration_curves",
    "find_runs",
    "gap_bars",
    "importance_map",
    "nights",
    "open_run",
    "readable",
    "recovered_by_run",
    "side_by_side",
    "trade_off",
    "training_curves",
]
