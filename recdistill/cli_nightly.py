"""The commands of the nightly service: `nightly`, `promote`, `rollback` and `registry`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recdistill import launch
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.progress import on_stderr
from recdistill.remote import local

if TYPE_CHECKING:
    from recdistill.nightly.registry import Verdict

BLOCKED = 3
"""The exit status of a night whose student a gate kept from promotion."""

Service = Annotated[Path, typer.Argument(metavar="SERVICE", help="The service's folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(
        epilog="Example: recdistill nightly pipelines/jobs/nightly.yaml --day 2026-01-05 --out runs/service"
        "\n\nExits with 3 when a gate blocks promotion."
    )(nightly)
    app.command(epilog="Example: recdistill promote runs/service --day 2026-01-05")(promote)
    app.command(epilog="Example: recdistill rollback runs/service --why 'fewer clicks since Monday'")(rollback)
    app.command(epilog="Example: recdistill registry runs/service --json | jq .champion.model")(registry)


def nightly(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job description.", show_default=False)],
    days: Annotated[
        list[str], typer.Option("--day", metavar="YYYY-MM-DD", help="The night's day; may be given again.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SERVICE", help="The service's folder.", callback=local)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the job.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
    as_json: AsJson = False,
) -> None:
    """Runs a day's night, and promotes its student if it passes every gate."""
    _check(days)
    job = load_job(job_file, overrides or [])
    if launch.must_start(job):
        raise typer.Exit(launch.start(job.launch.ranks))
    from recdistill.nightly.night import whole_night

    verdicts = []
    with launch.in_ranks(job) as leads:
        if not leads:
            return
        with on_stderr(quiet) as progress:
            for day in sorted(set(days)):
                verdicts.append(whole_night(job, day, out, progress))
                if not as_json:
                    _tell(verdicts[-1])
    if as_json:
        _print([asdict(verdict) for verdict in verdicts])
    if any(verdict.outcome == "blocked" for verdict in verdicts):
        raise typer.Exit(BLOCKED)


def _check(days: list[str]) -> None:
    for day in days:
        try:
            known = date.fromisoformat(day).isoformat() == day
        except ValueError:
            known = False
        if not known:
            raise UserError(f"--day {day}: expected a day as the log writes it, YYYY-MM-DD, such as 2026-01-05")


def _there(service: Path) -> None:
    if not service.is_dir():
        raise UserError(
            f"{service}: no service is here; `recdistill nightly JOB.yaml --day DAY --out {service}`, with a day of "
            "the log such as 2026-01-05, begins one"
        )


def promote(
    service: Service,
    day: Annotated[str, typer.Option("--day", metavar="YYYY-MM-DD", help="The night whose student is to serve.")],
    force: Annotated[
        bool, typer.Option(help="Also when it is older than the champion, or was rolled back. No gate is left out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Makes a finished night's student the champion, if it passes every gate."""
    from recdistill.nightly.registry import promote as promote_night

    _check([day])
    _there(service)
    verdict = promote_night(service, day, force)
    if as_json:
        _print(asdict(verdict))
    else:
        _tell(verdict)
    if verdict.outcome == "blocked":
        raise typer.Exit(BLOCKED)


def rollback(
    service: Service,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the registry.")] = "",
) -> None:
    """Puts the champion before this one in its place."""
    from recdistill.nightly.registry import rollback as roll_back

    _there(service)
    champion = roll_back(service, why)
    typer.echo(f"champion: {champion['day']}, {service / champion['model']}")


def registry(service: Service, as_json: AsJson = False) -> None:
    """Tells which student serves, and every promotion, block and rollback before it."""
    from recdistill.nightly.registry import registry as read

    _there(service)
    known = read(service)
    if as_json:
        _print(known)
        return
    for entry in known["history"]:
        reason = f": {entry['why']}" if entry.get("why") else ""
        typer.echo(f"{entry['at']}  {entry['day']}  {entry['event']}{reason}")
    champion = known["champion"]
    typer.echo(f"champion: {champion['day']}, {service / champion['model']}" if champion else "champion: none yet")


def _tell(verdict: Verdict) -> None:
    for gate in verdict.gates:
        typer.echo(f"  {'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.why}")
    forwards = verdict.night["teacher_forwards"]
    typer.echo(f"{verdict.day}: {verdict.outcome}: {verdict.why} ({forwards['reused']:,} teacher answers reused)")


def _print(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
