"""A report's warnings: sentences for whoever is about to believe it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recdistill.evaluate.gap import NO_GAP
from recdistill.evaluate.lineup import ALONE

ENOUGH_ROWS = 1000
"""Of each class: fewer make a small test set."""
ENOUGH_SEEDS = 5
NEAR = 0.01
"""Of their parameters, by which students within one budget may differ: cut tables leave some over."""


def caveats(report: dict[str, Any]) -> list[str]:
    """What weakens the report (report.json's content without its warnings); empty when nothing does."""
    return [*_on_training(report), *_on_rows(report), *_on_models(report)]


def _on_training(report: dict[str, Any]) -> Iterator[str]:
    seeds = len(report["seeds"])
    if report["regime"] == "in_sample":
        yield "Teachers scored rows that they were trained on (regime in_sample): an ablation, not evidence."
    if names := ", ".join(report.get("in_sample", [])):
        yield f"Of training rows {names} had learned (seen: in_sample): students trust what was said there too much."
    if seeds < ENOUGH_SEEDS:
        yield f"Seeds: {seeds}; a figure to quote needs at least {ENOUGH_SEEDS}."
    if seeds == 1:
        yield "With one seed, intervals leave out how much a student changes from one training to the next."


def _on_rows(report: dict[str, Any]) -> Iterator[str]:
    positives = report["dataset"]["test_positives"]
    fewest = min(positives, report["dataset"]["rows"]["test"] - positives)
    if not fewest:
        yield "The test rows hold one class only: AUC, NE and every gap are undefined."
        return
    if fewest < ENOUGH_ROWS:
        yield f"The test set is small: its rarer class has {fewest} rows, expected at least {ENOUGH_ROWS}."
    for metric, stat in report["gap"].items():
        if stat.get("reason"):
            yield f"{metric.upper()}: {stat['reason']}."
    if all(str(stat.get("reason")).startswith(NO_GAP) for stat in report["gap"].values()):
        if len(report["seeds"]) < ENOUGH_SEEDS and any((stat["mean"] or 0) > 0 for stat in report["gap"].values()):
            yield "Students differ by more than the gap, from one training to the next: more seeds may show one."
            return
        yield (
            "A student of this size needs no teachers to be about as good as the foundation: compare the metrics "
            "themselves, compress more (student.compression), or make the foundation stronger."
        )


def _on_models(report: dict[str, Any]) -> Iterator[str]:
    students = {name: model["parameters"] for name, model in report["models"].items() if model["role"] == "student"}
    sizes = [size for name, size in students.items() if name != ALONE] or list(students.values())
    if abs(students.get(ALONE, sizes[0]) - sizes[0]) > NEAR * sizes[0]:
        yield (
            f"The student trained alone has {students[ALONE]:,} parameters and the others {sizes[0]:,}: within one "
            "budget, each has the width that did best on validation rows."
        )
    if min(sizes) < max(sizes):
        yield f"Students differ in size ({min(sizes):,} to {max(sizes):,} parameters): their metrics do not compare."
