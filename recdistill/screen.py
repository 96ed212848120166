"""What the command line prints: tables for people, made from the same values that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recdistill.doctor import Check

if TYPE_CHECKING:
    from recdistill.config.settings import Group
    from recdistill.init.draft import Draft
    from recdistill.portable.inputs import Input

PURPOSES = ("tables", "optimizer", "dense", "batch")
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


def columns_table(draft: Draft) -> Table:
    """One line a column of a log: what a job would take it for, and why."""
    rows = draft.sample.table.num_rows
    table = Table(title=f"{rows:,} rows looked at" + (", the whole log" if draft.sample.whole else ""))
    for column in ("column", "taken as", "why"):
        table.add_column(column)
    for name, role in draft.roles.named.items():
        table.add_row(escape(name), role, "")
    for choice in draft.choices:
        kind = choice.kind.kind if choice.kind else "left out"
        style = "bold red" if choice.suspicious else "" if choice.kind else "yellow"
        table.add_row(escape(choice.column), kind, escape(choice.reason), style=style)
    return table


def inputs_table(inputs: Sequence[Input]) -> Table:
    """One line for each thing that a student's ONNX file is handed."""
    table = Table(title="What the file is handed", title_justify="left")
    for column in ("input", "type", "what"):
        table.add_column(column)
    for one in inputs:
        table.add_row(escape(one.name), escape(one.type), escape(one.about))
    return table


def comparison_tables(found: dict[str, Any]) -> Iterator[Table]:
    """The content of `compare`: runs, models by run, what holds over trainings, tests inside runs and between them."""
    yield _runs_table(found["runs"])
    yield _models_table(found["runs"], "Models")
    together = found["trainings"]
    if together:
        yield _models_table([together], "Over trainings of the teachers")
    for title, column, pairs in (
        ("Models over trainings, on the same rows", "method", together["pairs"] if together else []),
        ("Models of one run, on the same rows", "method", found["inside"]),
        ("The same method in two runs, on the same rows", "run", found["between"]),
    ):
        if pairs:
            yield _pairs_table(f"{title}: plus is better, * where zero is outside the interval", column, pairs)


def _runs_table(runs: list[dict[str, Any]]) -> Table:
    table = Table(title="Runs", title_justify="left")
    table.add_column("run")
    for column in ("test rows", "seeds", "compression", "student", "passes saved", "seconds", "warnings"):
        table.add_column(column, justify="right")
    for run in runs:
        saved = "-" if run["passes_saved"] is None else f"{run['passes_saved']:.0%}"
        counts = [f"{run['test_rows']:,}", str(len(run["seeds"])), f"{run['params']['compression']:.1f}x"]
        counts += [f"{run['params']['student']:,}", saved, f"{run['seconds']:.0f}", str(len(run["warnings"]))]
        table.add_row(escape(run["label"]), *counts)
    return table


def _models_table(runs: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("model", "run"):
        table.add_column(column)
    for column in ("AUC", "NE", "AUC gap recovered", "NE gap recovered"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(name for run in runs for name in run["models"]):
        for run in runs:
            if name in run["models"]:
                model = run["models"][name]
                shares = model["gap_recovered"]
                recovered = [_interval(shares[metric], ".0%") if shares else "" for metric in ("auc", "ne")]
                metrics = [_interval(model[metric], ".4f") for metric in ("auc", "ne")]
                table.add_row(escape(name), escape(run["label"]), *metrics, *recovered)
        table.add_section()
    return table


def _pairs_table(title: str, first: str, pairs: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("run", "method") if first == "method" else ("method", "run"):
        table.add_column(column)
    table.add_column("against")
    for metric in ("AUC", "NE"):
        table.add_column(metric, justify="right")
    for pair in pairs:
        names = (pair["run"], pair["method"]) if first == "method" else (pair["method"], pair["run"])
        table.add_row(
            *map(escape, names), escape(pair["against"]), *(_difference(pair[metric]) for metric in ("auc", "ne"))
        )
    return table


def _difference(stat: dict[str, Any]) -> str:
    clear = None not in (stat["low"], stat["high"]) and (stat["low"] > 0 or stat["high"] < 0)
    return _interval(stat, "+.4f") + (" *" if clear else "  ")


def plan_tables(found: dict[str, Any]) -> list[Table]:
    """One line a model: what its fullest rank holds, in MiB; then one line a table: how it is cut, who has its rows.

    Args:
        found: what `plan_job` returns.
    """
    models = Table(
        title=f"{found['ranks']} x {found['device']}, {_mib(found['memory'])} MiB each; MiB of the fullest rank:",
        caption=escape("\n".join(model["why"] for model in found["models"] if "why" in model)) or None,
        title_justify="left",
        caption_justify="left",
    )
    tables = Table(title="Tables", title_justify="left")
    for column in ("model", "parameters", *PURPOSES, "in all", "whole, at the start", "fits"):
        models.add_column(column, justify="left" if column == "model" else "right")
    for column in ("model", "table", "rows", "cut", "rows of each rank"):
        tables.add_column(column, justify="right" if "rows" in column else "left")
    for model in found["models"]:
        fullest = max(model["bytes"], key=lambda one: sum(one.values()), default=None)
        parts = ["?"] * (len(PURPOSES) + 1) if fullest is None else [_mib(fullest[name]) for name in PURPOSES]
        parts += [] if fullest is None else [_mib(sum(fullest.values()))]
        verdict = "yes" if model["fits"] else "[bold red]no[/]"
        models.add_row(escape(model["model"]), f"{model['parameters']:,}", *parts, _mib(model["whole"]), verdict)
        for table in model["tables"]:
            rows = ", ".join(f"{rows:,}" for rows in table["rows_of_rank"])
            cut = "by rows" if table["sharding"] == "row_wise" else "whole"
            tables.add_row(escape(model["model"]), escape(table["table"]), f"{table['rows']:,}", cut, rows)
    return [models, tables]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"


def _interval(stat: dict[str, Any] | None, form: str) -> str:
    if stat is None or stat["mean"] is None:
        return "-"
    low, high = (("?" if stat[bound] is None else format(stat[bound], form)) for bound in ("low", "high"))
    return f"{stat['mean']:{form}} [{low}, {high}]"


def settings_tables(groups: Sequence[Group]) -> Iterator[Table]:
    """One table a section of a job file, one line a setting."""
    for group in groups:
        kind = f", kind: {group.kind}" if group.kind else ""
        title = f"[bold]{escape(group.path or 'job')}{kind}[/]\n{escape(group.about)}"
        table = Table(title=title, title_justify="left", title_style="")
        for column in ("setting", "takes", "default", "what"):
            table.add_column(column)
        for one in group.settings:
            default = "[yellow]needed[/]" if one.needed else escape(one.default)
            table.add_row(one.name, escape(one.takes), default, escape(one.about))
        yield table
