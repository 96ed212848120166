"""The commands for people who begin, and for people who look back: `init`, `settings`, `compare` and `track`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recdistill.errors import UserError
from recdistill.files import write_text
from recdistill.remote import local

if TYPE_CHECKING:
    from recdistill.init.draft import Draft


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(
        epilog="Examples: recdistill init data/sample/clicks.csv.gz --out mine.yaml"
        "\n\nrecdistill init logs/day-*.parquet --label bought --out mine.yaml"
    )(init)
    app.command(
        epilog="Examples: recdistill settings student\n\nrecdistill settings teachers.members"
        "\n\nrecdistill settings distill.train.patience"
    )(settings)
    app.command(
        epilog="Examples: recdistill compare runs/monday runs/tuesday\n\nrecdistill compare runs/* --html nights.html"
        "\n\nRuns of one job with --set teachers.seed=0, 1 and 2 show what holds beyond one training of its teachers."
    )(compare)
    app.command(
        epilog="Examples: recdistill track runs/demo --to sqlite:///runs/mlflow.db"
        "\n\nMLFLOW_TRACKING_URI=http://tracking:5000 recdistill track runs/service/nights/*"
    )(track)


def init(
    logs: Annotated[list[str], typer.Argument(metavar="LOG...", help="The click log's files.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="JOB.yaml", help="The job file to write; a new one.", callback=local),
    ],
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN[=VALUE]", help="The label, if it cannot be told, and what makes a row positive."),
    ] = None,
) -> None:
    """Looks at a click log, writes a job file for it, and tells what it was unsure of."""
    if out.exists():
        raise UserError(f"{out}: is there already, and may hold your changes; name another file with --out")
    from recdistill.init.draft import draft
    from recdistill.init.jobfile import render

    found = draft(logs, label)
    write_text(out, render(found, logs, out))
    _tell(found)
    typer.echo(f"job: {out}\nnext: recdistill run {out} --out runs/{out.stem}")


def _tell(found: Draft) -> None:
    from recdistill.screen import columns_table, print_table

    print_table(columns_table(found))
    if found.doubts:
        typer.echo("Unsure, so look here first:")
        for sentence in found.doubts:
            typer.echo(f"- {sentence}")


def settings(
    path: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="A section or setting; all where absent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Lists what a job file may say: every setting, what it takes, its default and what it is for."""
    from recdistill.config.settings import groups
    from recdistill.screen import print_table, settings_tables

    found = groups(path)
    if as_json:
        typer.echo(json.dumps([asdict(group) for group in found], indent=1, ensure_ascii=False))
        return
    for table in settings_tables(found):
        print_table(table)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs; the first is the yardstick.")
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page of its own, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Puts runs side by side, and tests methods and runs that were judged on the same rows against each other."""
    from recdistill.evaluate.compare import compare as compare_runs
    from recdistill.evaluate.compare_page import headline, render_comparison
    from recdistill.screen import comparison_tables, print_table

    unfinished = [run for run in runs if run.is_dir() and not (run / "report.json").is_file()]
    if len(unfinished) < len(runs):
        runs = [run for run in runs if run not in unfinished]
        for run in unfinished:
            typer.echo(f"{run}: not finished, so it is left out", err=True)
    found = compare_runs(runs)
    if html is not None:
        write_text(html, render_comparison(found))
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    typer.echo(headline(found))
    for table in comparison_tables(found):
        print_table(table)
    for pair in found["refused"]:
        typer.echo(f"{pair['run']} and {pair['against']}: {pair['reason']}.")
    if html is not None:
        typer.echo(f"page: {html}")


def track(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.", show_default=False)],
    to: Annotated[str, typer.Option(metavar="URI", envvar="MLFLOW_TRACKING_URI", help="The server or database.")],
) -> None:
    """Sends settings, numbers with intervals and the page of finished runs to MLflow; never a model, never twice."""
    from recdistill.track import track as send

    for run in runs:
        typer.echo(f"{run}: {'tracked' if send(run, to) else 'is there already'}")
