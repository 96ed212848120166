"""The page of `recdistill compare`: one file, from what `compare` returned alone."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from recdistill.evaluate.lineup import ALONE
from recdistill.evaluate.page import headline as headline_of_one
from recdistill.evaluate.page import hero_of, template, verdict

COURSE = 3
"""From this many runs of one job on, their order is worth a figure."""


def render_comparison(found: dict[str, Any]) -> str:
    """The comparison as a self-contained HTML page.

    Args:
        found: what `compare` returned.
    """
    from recdistill.evaluate import run_plots

    runs = found["runs"]
    metrics = list(runs[0]["gap"])
    nights = len(runs) >= COURSE and len({run["name"] for run in runs}) == 1
    return template("compare.html").render(
        found=found,
        headline=headline(found),
        verdict=verdict,
        methods=list(dict.fromkeys(name for run in runs for name in run["models"])),
        inside={run["label"]: _square(found["inside"], run["label"]) for run in runs},
        trainings=_square(together["pairs"], together["label"]) if (together := found["trainings"]) else {},
        recovered={metric: Markup(run_plots.recovered_by_run(runs, metric)) for metric in metrics},
        course={metric: Markup(run_plots.course(runs, metric)) for metric in metrics} if nights else {},
    )


def headline(found: dict[str, Any]) -> str:
    """The answer in one sentence."""
    runs, between = found["runs"], found["between"]
    if len(runs) == 1:
        return f"One run, {runs[0]['label']}: its methods, tested against each other."
    if together := found["trainings"]:
        shares = {name: one["gap_recovered"] for name, one in together["models"].items() if one["gap_recovered"]}
        sentence = headline_of_one({"gap": together["gap"], "gap_recovered": shares})
        return f"Over {together['label']} of the teachers: {sentence[0].lower()}{sentence[1:]}"
    if not between:
        return f"{len(runs)} runs, judged on different rows: side by side, with no paired test."
    hero = hero_of(dict.fromkeys(pair["method"] for pair in between if pair["method"] != ALONE)) or ALONE
    pairs = [pair for pair in between if pair["method"] == hero]
    first = pairs[0]["against"]
    if len(pairs) == 1:
        said = {metric: verdict(pairs[0][metric]) for metric in ("auc", "ne")}
        words = " and ".join(f"{word} in {metric.upper()}" for metric, word in said.items())
        return f"On the same rows, {hero} of {pairs[0]['run']} against that of {first}: {words}."
    counts = {word: sum(verdict(pair["ne"]) == word for pair in pairs) for word in ("better", "worse")}
    told = " and ".join(f"{word} in {times}" for word, times in counts.items())
    return f"On the same rows, {hero} against that of {first}, in NE: of {len(pairs)} runs {told}."


def _square(pairs: list[dict[str, Any]], run: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Per method, per other method, the differences; both ways round."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for pair in pairs:
        if pair["run"] == run:
            one, other = pair["method"], pair["against"]
            there = {metric: pair[metric] for metric in ("auc", "ne")}
            out.setdefault(other, {})[one] = {metric: _turned(stat) for metric, stat in there.items()}
            out.setdefault(one, {})[other] = there
    return out


def _turned(stat: dict[str, Any]) -> dict[str, Any]:
    """The same difference seen from the other side."""
    turn = {"mean": "mean", "low": "high", "high": "low"}
    return {end: None if stat[from_] is None else -stat[from_] for end, from_ in turn.items()}
