"""Figures of reports, drawn on axes, and as SVG to be put inside a page: the same bytes for the same report.

Figures of a page are as wide as a phone, so that their letters stay legible there; their text is text, not outlines.
"""

from __future__ import annotations

import io
import itertools
import re
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

INK, MUTED, RULE = "#1a1a1a", "#5c6470", "#d5d9df"
STRONG, PLAIN, WARM = "#4a7cc9", "#b9c5d6", "#b3541e"
LOOKS = [(INK, "s"), (WARM, "^"), (STRONG, "o"), ("#2f7d5b", "D"), ("#8a5a9e", "v"), (MUTED, "P")]
"""Colours and markers of models or runs, told apart in grey too."""
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recdistill",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a run may be called what it likes
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": INK,
}
_WIDTH = 4.6
"""Inches of 72 pixels."""


def styled() -> AbstractContextManager[None]:
    """The look of every figure, for as long as the block lasts."""
    return style.context(["default", _STYLE])


def recovered_bars(report: dict[str, Any], metric: str, strongest: str) -> str:
    """`draw_recovered` as SVG; empty where there is no gap."""
    rows = sum(found[metric] is not None for found in report["gap_recovered"].values())
    if not rows:
        return ""
    with styled():
        figure, axes = figure_of(0.75 + 0.36 * rows)
        draw_recovered(axes, report, metric, strongest)
        return svg(figure, f"recovered-{metric}", f"Share of the {metric.upper()} gap that each method recovers")


def draw_recovered(axes: Axes, report: dict[str, Any], metric: str, strongest: str) -> None:
    """A bar per method: the share of the gap that it recovers, with its interval."""
    shares = {name: found[metric] for name, found in report["gap_recovered"].items() if found[metric]}
    for position, (name, share) in enumerate(shares.items()):
        axes.barh(position, share["mean"], height=0.62, color=STRONG if name == strongest else PLAIN)
        whisker(axes, position, share, INK)
    share_axis(axes, list(shares), list(shares.values()), str(report["foundation"]))


def trade_off(report: dict[str, Any], metric: str) -> str:
    """`draw_trade_off` as SVG; empty where there is no curve, or no gap."""
    if not report["curve"] or report["curve"][0]["recovered"][metric] is None:
        return ""
    with styled():
        figure, axes = figure_of(2.6)
        draw_trade_off(axes, report, metric)
        return svg(
            figure, f"trade-off-{metric}", f"Share of the {metric.upper()} gap recovered, by share of passes saved"
        )


def draw_trade_off(axes: Axes, report: dict[str, Any], metric: str) -> None:
    """What `diverse` recovers of the gap against the share of teacher passes that it did without, with intervals."""
    points = [(point["saved"], point["recovered"][metric]) for point in report["curve"]]
    axes.plot(
        [at for at, _ in points], [share["mean"] for _, share in points], color=STRONG, marker="o", markersize=4.5
    )
    for at, share in points:
        low, high = (share["mean"] if share[bound] is None else share[bound] for bound in ("low", "high"))
        axes.plot([at, at], [low, high], color=INK, linewidth=1.4, solid_capstyle="butt")
    axes.set_xlim(-0.03, max(at for at, _ in points) + 0.05)
    axes.set_ylim(*_bounds([share for _, share in points]))
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.axhline(0, color=INK, linewidth=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="teacher passes saved", ylabel="gap recovered")


def share_axis(axes: Axes, names: list[str], shares: list[dict[str, Any]], foundation: str) -> None:
    """Names from top to bottom, shares of a gap from left to right, with lines at nothing and all of it."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xlim(*_bounds(shares))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for at, text in ((0, "alone"), (1, foundation)):
        axes.annotate(text, (at, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center", color=MUTED)


def whisker(axes: Axes, position: float, share: dict[str, Any], colour: str, cap: float = 0.13) -> None:
    """The interval of a share; an end that is not bounded is left out."""
    low = share["mean"] if share["low"] is None else share["low"]
    high = share["mean"] if share["high"] is None else share["high"]
    axes.plot([low, high], [position, position], color=colour, linewidth=1.4, solid_capstyle="butt")
    for bound in (low, high):
        axes.plot([bound, bound], [position - cap, position + cap], color=colour, linewidth=1.4)


def _bounds(shares: list[dict[str, Any]]) -> tuple[float, float]:
    """From below 0% to above 100%, and further where shares are; a wild interval is cut, not to hide the rest."""
    means = [share["mean"] for share in shares]
    edges = [share[bound] for share in shares for bound in ("low", "high") if share[bound] is not None]
    low = max(min(0.0, *means, *edges), min(-1.0, *means))
    high = min(max(1.0, *means, *edges), max(2.0, *means))
    room = 0.06 * (high - low)
    return low - room, high + room


def reliability(report: dict[str, Any], names: list[str]) -> str:
    """`draw_reliability` as SVG; empty where no bin has a click."""
    if not any(_logarithmic(report["reliability"][name]) for name in names):
        return ""
    with styled():
        figure, axes = figure_of(4.0)
        draw_reliability(axes, report, names)
        return svg(figure, "reliability", "Share of clicks against mean prediction, bin by bin")


def draw_reliability(axes: Axes, report: dict[str, Any], names: list[str]) -> None:
    """Mean label against mean prediction, per bin, for some models; both axes logarithmic, as clicks are rare."""
    curves = {name: _logarithmic(report["reliability"][name]) for name in names}
    values = [value for pairs in curves.values() for pair in pairs for value in pair]
    if not values:
        return
    low, high = min(values) / 1.25, max(values) * 1.25
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
    for (name, pairs), (colour, marker) in zip(curves.items(), itertools.cycle(LOOKS), strict=False):
        prediction, rate = zip(*pairs, strict=True) if pairs else ((), ())
        axes.plot(prediction, rate, color=colour, marker=marker, markersize=4.5, linewidth=1.2, label=name)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="mean prediction", ylabel="share of clicks")
    _probability_ticks(axes, low, high)
    axes.legend(frameon=False, loc="upper left")


def _logarithmic(curve: dict[str, list[float]]) -> list[tuple[float, float]]:
    pairs = zip(curve["prediction"], curve["rate"], strict=True)
    return [pair for pair in pairs if min(pair) > 0]


def _probability_ticks(axes: Axes, low: float, high: float) -> None:
    steps = [digit * 10.0**power for power in range(-8, 1) for digit in (1, 2, 5)]
    steps = [step for step in steps if low <= step <= min(high, 1.0)]
    if len(steps) > 7:
        steps = [step for step in steps if f"{step:e}".startswith("1")]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(steps, [f"{step:.4g}" for step in steps])
        axis.set_minor_locator(NullLocator())


def figure_of(height: float) -> tuple[Figure, Axes]:
    """A figure of a page, `height` inches high, with one pair of axes."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure, name: str, description: str) -> str:
    """Only the svg element, without dates, sizes and namespaces, its ids made unique in the page by `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id=")|(url\(#)|(href="#)', lambda found: f"{found.group()}{name}-", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = f'<svg {box.group()} role="img" aria-label="{description}">'
    return head + text[text.index(">") + 1 :].rstrip()
