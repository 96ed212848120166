"""Figures of runs, in the look of the report's page: readable in print, in grey too."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recdistill.analysis.view import METRICS, RunView
from recdistill.evaluate import plots, run_plots
from recdistill.evaluate.lineup import ALONE

WIDTH, SAID = 9.0, 0.7
"""Inches: how wide a picture is, and how high one of sentences."""


class Picture(Figure):
    """A figure that a notebook shows by itself, whatever its plotting backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=140)
        return buffer.getvalue()


def gap_bars(run: RunView) -> Picture:
    """For each metric, the share of the gap that each method recovers, with its interval."""

    def draw(axes: Axes, metric: str) -> None:
        if any(found[metric] for found in run.report["gap_recovered"].values()):
            plots.draw_recovered(axes, run.report, metric, run.hero or "")
        else:
            _say(axes, run.report["gap"][metric].get("reason") or "no student was taught")

    return _per_metric(draw, 0.9 + 0.36 * len(run.report["gap_recovered"]), "of the {} gap")


def ladder(run: RunView) -> Picture:
    """For each metric, a point a model with its interval, in the report's order: teachers, then students."""
    models = run.report["models"]

    def draw(axes: Axes, metric: str) -> None:
        for at, (name, model) in enumerate(models.items()):
            student = model["role"] == "student"
            colour = plots.STRONG if name == run.hero else plots.INK if student else plots.MUTED
            plots.whisker(axes, at, model[metric], colour)
            axes.plot(model[metric]["mean"], at, color=colour, marker="o" if student else "s")
        axes.set_yticks(range(len(models)), list(models))
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.axvline(models[ALONE][metric]["mean"], color=plots.RULE, linewidth=1, zorder=0)
        axes.set_xlabel("AUC (higher is better)" if metric == "auc" else "NE (lower is better)")

    return _per_metric(draw, 0.9 + 0.26 * len(models))


def calibration_curves(run: RunView, names: Sequence[str] | None = None) -> Picture:
    """The share of clicks against the mean prediction, bin by bin: foundation, student alone and hero by default."""
    shown = [run.report["foundation"], ALONE, *([run.hero] if run.hero else [])] if names is None else list(names)
    with plots.styled():
        figure = Picture(figsize=(WIDTH / 2, WIDTH / 2.2), layout="constrained")
        plots.draw_reliability(figure.add_subplot(), run.report, shown)
    return figure


def importance_map(run: RunView, feature: str | None = None) -> Picture:
    """Each teacher's mean importance, over all rows or by value of a slice feature."""
    frame = run.importance(feature)
    with plots.styled():
        figure = Picture(figsize=(WIDTH * 0.7, 0.5 + 0.32 * max(1, len(frame))), layout="constrained")
        axes = figure.add_subplot()
        if frame.empty:
            _say(axes, "no method of this run weighs its teachers")
            return figure
        values = frame.to_numpy(dtype=float)
        axes.imshow(values, cmap="Blues", vmin=0, vmax=max(1.6 * np.nanmax(values), 1e-9), aspect="auto")
        for row, column in np.ndindex(*values.shape):
            text = "" if np.isnan(values[row, column]) else f"{values[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center")
        axes.set_xticks(range(len(frame.columns)), list(frame.columns))
        axes.set_yticks(range(len(frame)), [str(value) for value in frame.index])
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
    return figure


def training_curves(run: RunView) -> Picture:
    """Validation NE from check to check, the mean over seeds, and the seeds' range as a band."""
    log = run.training()
    with plots.styled():
        figure = Picture(figsize=(WIDTH * 0.7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        if log.empty:
            _say(axes, "this run folder keeps no training.json")
            return figure
        for (method, found), (colour, marker) in zip(log["ne"].groupby("method", sort=False), _looks(), strict=False):
            by_check = found.groupby("check")
            checks = by_check.mean().index.to_numpy(dtype=float)
            axes.fill_between(checks, by_check.min(), by_check.max(), color=colour, alpha=0.12, linewidth=0)
            axes.plot(checks, by_check.mean(), color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=method)
        axes.set(xlabel="check on validation rows", ylabel="NE (lower is better)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def recovered_by_run(runs: Sequence[RunView]) -> Picture:
    """For each metric, a point per method and run: the share of that run's gap, with its interval."""
    records = [run.record for run in runs]

    def draw(axes: Axes, metric: str) -> None:
        if run_plots.with_a_gap(records, metric):
            run_plots.draw_recovered_by_run(axes, records, metric)
        else:
            _say(axes, f"no run has a gap in {metric.upper()} to recover")

    methods = max(len(run.report["gap_recovered"]) for run in runs)
    return _per_metric(draw, 1.3 + (0.2 + 0.16 * len(runs)) * methods, "of the {} gap")


def nights(runs: Sequence[RunView]) -> Picture:
    """For each metric, foundation, student alone and hero from run to run, in the order given."""
    records = [run.record for run in runs]
    return _per_metric(lambda axes, metric: run_plots.draw_course(axes, records, metric), 3.4)


def trade_off(run: RunView) -> Picture:
    """For each metric, the share of the gap that is recovered against the teacher passes done without."""
    curve = run.report["curve"]

    def draw(axes: Axes, metric: str) -> None:
        if not curve:
            _say(axes, "the job asks for no curve (teachers.route.curve)")
        elif curve[0]["recovered"][metric] is None:
            _say(axes, f"there is no gap in {metric.upper()} to recover")
        else:
            plots.draw_trade_off(axes, run.report, metric)
            axes.set_title(metric.upper())

    return _per_metric(draw, 3.4)


def _per_metric(draw: Callable[[Axes, str], None], height: float, title: str = "") -> Picture:
    """Axes side by side, one a metric; no higher than a sentence where there is nothing else to show."""
    with plots.styled():
        figure = Picture(figsize=(WIDTH, height), layout="constrained")
        for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
            if title:
                axes.set_xlabel(title.format(metric.upper()))
            draw(axes, metric)
        if not any(axes.axison for axes in figure.axes):
            figure.set_figheight(SAID)
    return figure


def _looks() -> Iterator[tuple[str, str]]:
    return itertools.cycle(plots.LOOKS)


def _say(axes: Axes, text: str) -> None:
    """A sentence in place of a figure."""
    axes.axis("off")
    lines = textwrap.fill(text, 48)  # not to run into the sentence beside it
    axes.text(0.5, 0.5, lines, ha="center", va="center", transform=axes.transAxes, color=plots.MUTED)
