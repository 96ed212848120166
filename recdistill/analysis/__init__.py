"""Finished runs for notebooks: what a run folder holds, as pandas frames and as figures for print.

    run = analysis.open_run("runs/demo")
    run.recovered()           # a frame
    analysis.gap_bars(run)    # a figure

Nothing is computed again.
"""

from recdistill.analysis.figures import (
    Picture,
    calibration_curves,
    gap_bars,
    importance_map,
    ladder,
    nights,
    recovered_by_run,
    trade_off,
    training_curves,
)
from recdistill.analysis.view import RunView, find_runs, open_run, readable, side_by_side
from recdistill.analysis.work import run_job, split_ids

__all__ = [
    "Picture",
    "RunView",
    "calibration_curves",
    "find_runs",
    "gap_bars",
    "importance_map",
    "ladder",
    "nights",
    "open_run",
    "readable",
    "recovered_by_run",
    "run_job",
    "side_by_side",
    "split_ids",
    "trade_off",
    "training_curves",
]
