"""What the command line prints: tables for people, made from the same values that `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recdistill.doctor import Check

_STYLE = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def print_table(table: Table) -> None:
    """Prints to standard output, unfolded where that is no terminal."""
    console = Console()
    Console(width=None if console.is_terminal else 200, highlight=False).print(table)


def gap_table(report: dict[str, Any]) -> Table:
    """One line a model: AUC, NE, and how much of the gap each method recovers, with intervals; below, what weakens it.

    Args:
        report: the content of `report.json`.
    """
    params, shares = report["params"], report["gap_recovered"]
    table = Table(
        title=f"Student {params['student']:,} parameters, foundation {params['foundation']:,} "
        f"({params['compression']:.1f}x)",
        caption=escape("\n".join(report["warnings"])) or None,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("model")
    for column in ("AUC", "NE", "AUC gap recovered", "NE gap recovered"):
        table.add_column(column, justify="right")
    for name, model in report["models"].items():
        recovered = [_interval(shares[name][metric], ".0%") if name in shares else "" for metric in ("auc", "ne")]
        table.add_row(escape(name), _interval(model["auc"], ".4f"), _interval(model["ne"], ".4f"), *recovered)
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """One line a check, and what to do about the ones that are not well."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in checks:
        advice = f"\n-> {check.advice}" if check.advice else ""
        table.add_row(f"[{_STYLE[check.status]}]{check.status}[/]", check.name, escape(check.found + advice))
    return table


def _interval(stat: dict[str, Any] | None, form: str) -> str:
    if stat is None or stat["mean"] is None:
        return "-"
    low, high = (("?" if stat[bound] is None else format(stat[bound], form)) for bound in ("low", "high"))
    return f"{stat['mean']:{form}} [{low}, {high}]"
