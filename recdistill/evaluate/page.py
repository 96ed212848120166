"""report.html from report.json's content alone: one file, nothing fetched, the same bytes for the same report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from recdistill.evaluate.lineup import ALONE, DIVERSE

DASH = "\u2013"
MINUS = "\u2212"
REGIMES = {
    "later_days": "teachers scored only days later than those they were trained on",
    "prequential": "teachers scored each day before they learned from it",
    "out_of_fold": "teachers scored only folds that they had not seen",
    "in_sample": "teachers scored rows that they were trained on",
}


def render(report: dict[str, Any]) -> str:
    """The report as a self-contained HTML page.

    Args:
        report: what `evaluate` returned, or report.json read back.
    """
    from recdistill.evaluate import plots

    hero = hero_of(report["gap_recovered"])
    shown = [report["foundation"], ALONE, *([hero] if hero else [])]
    return template("page.html").render(
        report=report,
        hero=hero,
        rivals=rivals(report, hero),
        headline=headline(report),
        verdict=verdict,
        regime=_regime(report),
        bars={metric: Markup(plots.recovered_bars(report, metric, hero or "")) for metric in report["gap"]},
        trade_offs={metric: Markup(plots.trade_off(report, metric)) for metric in report["gap"]},
        reliability=Markup(plots.reliability(report, shown)),
    )


def _regime(report: dict[str, Any]) -> str:
    """Which rows teachers scored."""
    said = REGIMES.get(report["regime"], "the run did not say which rows teachers scored")
    said = said[0].upper() + said[1:]
    return f"{said}, but for {', '.join(names)}" if (names := report.get("in_sample")) else said


def template(name: str) -> Template:
    """A page's template, with the filters that write numbers."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": share,
        "number": number,
        "signed": signed,
        "count": count,
        "duration": duration,
        "shade": shade,
    }
    return environment.get_template(name)


def hero_of(methods: Iterable[str]) -> str | None:
    """The distilling method that a first screen is about: `diverse`, or the last one that was trained in its place."""
    found = list(methods)
    return DIVERSE if DIVERSE in found else found[-1] if found else None


def rivals(report: dict[str, Any], hero: str | None) -> list[tuple[str, str, float]]:
    """Beside the hero, for each metric that has a gap: its best baseline, and the share that this one recovers."""
    out = []
    for metric in report["gap"]:
        shares = {name: found[metric] for name, found in report["gap_recovered"].items() if name != hero}
        known = {name: share["mean"] for name, share in shares.items() if share}
        if known:
            best = max(known, key=lambda name: known[name])
            out.append((metric, best, known[best]))
    return out


def headline(report: dict[str, Any]) -> str:
    """The answer in one sentence."""
    hero = hero_of(report["gap_recovered"])
    if hero is None:
        return "No student was taught: there is only the student alone."
    found = {metric.upper(): stat for metric, stat in report["gap_recovered"][hero].items()}
    shares = [_part(metric, stat) for metric, stat in found.items() if stat]
    without = [metric for metric, stat in found.items() if not stat]
    if not shares:
        defined = any(stat["mean"] is not None for stat in report["gap"].values())
        if not defined:
            return "The gap is not defined on these test rows."
        return f"There is no gap to recover{_beside_alone(report, hero)}."
    more = f"; in {without[0]} there is none to recover" if without else ""
    return f"{hero.capitalize()} recovers {' and '.join(shares)}{more}."


def _beside_alone(report: dict[str, Any], hero: str) -> str:
    """What teachers brought, where it is no part of a gap. Of several runs together there are no comparisons."""
    meant = {"method": hero, "against": ALONE}
    pairs = [pair["ne"] for pair in report.get("comparisons", []) if meant.items() <= pair.items()]
    found = verdict(pairs[0]) if pairs else "not known"
    if found == "not known":
        return ""
    if found == "no clear difference":
        return f", and no clear difference between {hero} and the student alone"
    return f"; {hero} is {found} than the student alone by {number(abs(pairs[0]['mean']))} NE"


def _part(metric: str, stat: dict[str, Any]) -> str:
    noise = " (within its noise)" if verdict(stat) not in ("better", "worse") else ""
    return f"{share(stat['mean'])} of the {metric} gap{noise}"


def verdict(stat: dict[str, Any]) -> str:
    """What an interval of a difference says; positive is better."""
    if stat["low"] is None or stat["high"] is None:
        return "not known"
    return "better" if stat["low"] > 0 else "worse" if stat["high"] < 0 else "no clear difference"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return DASH if value is None else f"{value:.0%}".replace("-", MINUS)


def number(value: float | None, digits: int = 4) -> str:
    """A metric."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def count(value: int | None) -> str:
    """A number of things, with thin spaces between thousands."""
    return DASH if value is None else f"{value:,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shade(value: float | None) -> str:
    """The background of a heat map's cell: white for 0, blue for 1; text on it stays dark enough to read."""
    return f"rgba(31, 78, 156, {0.55 * min(max(value or 0.0, 0.0), 1.0):.3f})"
