"""Figures of several runs; each takes records as `compare` gives them, in the runs' order."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from recdistill.evaluate.lineup import ALONE
from recdistill.evaluate.page import hero_of
from recdistill.evaluate.plots import INK, LOOKS, MUTED, STRONG, WARM, figure_of, share_axis, styled, svg, whisker

Record = dict[str, Any]


def recovered_by_run(records: list[Record], metric: str) -> str:
    """`draw_recovered_by_run` as SVG; empty where no run has a gap."""
    methods = with_a_gap(records, metric)
    if not methods:
        return ""
    with styled():
        figure, axes = figure_of(1.0 + 0.16 * len(records) * len(methods) + 0.2 * len(methods) + 0.2 * len(records))
        draw_recovered_by_run(axes, records, metric)
        return svg(figure, f"runs-{metric}", f"Share of the {metric.upper()} gap that each method recovers, by run")


def draw_recovered_by_run(axes: Axes, records: list[Record], metric: str) -> None:
    """A point per method and run: the share of that run's gap that it recovers, with its interval."""
    methods = with_a_gap(records, metric)
    drawn = [at for at, record in enumerate(records) if any(_share(record, name, metric) for name in methods)]
    offsets = dict(zip(drawn, _spread(len(drawn), 0.3), strict=True))
    shown = []
    for at, (record, (colour, marker)) in enumerate(zip(records, itertools.cycle(LOOKS), strict=False)):
        found, offset = {name: _share(record, name, metric) for name in methods}, offsets.get(at, 0.0)
        for position, share in enumerate(found.values()):
            if share:
                shown.append(share)
                whisker(axes, position + offset, share, colour, 0.0)
        points = [(share["mean"], row + offset) for row, share in enumerate(found.values()) if share]
        if points:
            across, down = zip(*points, strict=True)
            axes.plot(across, down, linestyle="", marker=marker, color=colour, markersize=5, label=record["label"])
    share_axis(axes, methods, shown, "foundation")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12 if len(methods) > 3 else -0.22), ncols=2)


def course(records: list[Record], metric: str) -> str:
    """`draw_course` as SVG."""
    with styled():
        figure, axes = figure_of(3.0)
        draw_course(axes, records, metric)
        return svg(figure, f"course-{metric}", f"{metric.upper()} from run to run")


def draw_course(axes: Axes, records: list[Record], metric: str) -> None:
    """A metric from run to run: the foundation, the student alone, and the method that the runs are about.

    Intervals stand side by side, to be told apart; a line breaks off where a run has no such model.
    """
    lines = {
        "foundation": [record["models"][record["foundation"]][metric] for record in records],
        ALONE: [record["models"][ALONE][metric] for record in records],
    }
    hero = hero_of(name for name, model in records[-1]["models"].items() if model["gap_recovered"])
    if hero is not None:
        lines[hero] = [record["models"].get(hero, {}).get(metric) for record in records]
    looks = [(INK, "s"), (WARM, "^"), (STRONG, "o")]
    for (name, stats), (colour, marker), aside in zip(lines.items(), looks, _spread(len(lines), 0.07), strict=False):
        places = np.arange(len(records)) + aside
        mean, low, high = (
            [np.nan if not stat or stat[end] is None else stat[end] for stat in stats]
            for end in ("mean", "low", "high")
        )
        axes.plot(places, mean, color=colour, marker=marker, markersize=4.5, label=name)
        axes.vlines(places, low, high, color=colour, linewidth=1, alpha=0.6)
    axes.set_xticks(range(len(records)), [_short(record["label"]) for record in records])
    axes.tick_params(axis="x", labelrotation=45 if len(records) > 4 else 0, colors=MUTED)
    axes.set(ylabel=f"{metric.upper()} ({'higher' if metric == 'auc' else 'lower'} is better)")
    axes.margins(x=0.05)
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _spread(many: int, reach: float) -> list[float]:
    """So many places around 0."""
    return np.linspace(-reach, reach, many).tolist() if many > 1 else [0.0] * many


def with_a_gap(records: list[Record], metric: str) -> list[str]:
    """Methods that recover something of a gap in some run, in order."""
    every = [name for record in records for name in record["models"] if _share(record, name, metric)]
    return list(dict.fromkeys(every))


def _share(record: Record, name: str, metric: str) -> dict[str, Any] | None:
    found = (record["models"].get(name) or {}).get("gap_recovered")
    return found[metric] if found else None


def _short(label: str) -> str:
    return label if len(label) <= 14 else f"...{label[-12:]}"
