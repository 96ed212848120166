"""The command `recdistill`: reads the command line, calls the library, prints."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from recdistill import __version__, cli_nightly, cli_people, launch
from recdistill.config.load import load_job
from recdistill.errors import UserError, sentence_of
from recdistill.files import read_json
from recdistill.progress import on_stderr
from recdistill.remote import local
from recdistill.runs import Run

log = logging.getLogger(__name__)

app = typer.Typer(
    name="recdistill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: recdistill run pipelines/jobs/demo.yaml --out runs/demo",
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job description.", show_default=False)]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="The run folder; made when absent.", callback=local)
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the job; may be given again."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
STRANGE = 0.5
"""A share of values that training never saw: with more, the log may be written in another way."""
AsJson = Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")]


def main() -> None:
    """The console entry. It exits with 0, 1 (a fault of recdistill's), 2 (unusable input) or 130 (interrupted)."""
    # Read by OpenMP when torch is first imported: spinning threads cost several times the work on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What torch's C++ warns of under several ranks is no concern of a user's, and no logger of Python's hears it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app()
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except OSError as error:
        said = sentence_of(error)
        if said is None:
            _crashed(error)
        _complain(said)
        sys.exit(2)
    except UnicodeEncodeError as error:
        near = str(error.object)[max(0, error.start - 50) : error.end + 50]
        _complain(f"{near!r}: not text in UTF-8; name another file or folder")
        sys.exit(2)
    except Exception as error:
        _crashed(error)


def _crashed(error: Exception) -> NoReturn:
    """One sentence on standard error; the traceback goes to the run's log, or to a file of its own."""
    path = getattr(error, "log_file", None)
    if path is None:
        descriptor, name = tempfile.mkstemp(prefix="recdistill-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
        path = Path(name)
    first = (str(error).splitlines() or [""])[0]
    _complain(f"a fault in recdistill ({type(error).__name__}: {first}); the traceback is in {path}")
    sys.exit(1)


def _complain(text: str) -> None:
    launch.first_to_tell()
    print(f"recdistill: {text}", file=sys.stderr)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"recdistill {__version__}")
        raise typer.Exit


@app.callback()
def _recdistill(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Distils a committee of large click models into one small student, and tells how much of the gap it recovered."""


@app.command(epilog="Example: recdistill doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Checks the installation and the machine, and says what to do about each fault."""
    from recdistill.doctor import examine
    from recdistill.screen import checks_table, print_table

    checks = examine(Path(os.environ.get("RECDISTILL_DATA", "../shared/data")), Path.cwd())
    if as_json:
        _print_json([vars(check) for check in checks])
    else:
        print_table(checks_table(checks))
    if any(check.status == "fault" for check in checks):
        raise typer.Exit(1)


@app.command(
    epilog="Examples: recdistill simulate --rows 1000000 --days 14 --out logs/simulated"
    "\n\nrecdistill simulate pipelines/jobs/demo.yaml --out runs/demo"
)
def simulate(
    out: Out,
    job_file: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="A job with `dataset.simulate`.", show_default=False)
    ] = None,
    rows: Annotated[int | None, typer.Option(min=100, help="Impressions, without a job (200,000).")] = None,
    days: Annotated[int | None, typer.Option(min=3, max=3650, help="Days, without a job (10).")] = None,
    overrides: Overrides = [],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Writes a generated click log whose best possible quality is known: a job's, or one of its own."""
    if job_file is not None:
        if rows is not None or days is not None:
            raise UserError("a job says itself how many rows and days; use --set dataset.simulate.rows=... with it")
        _through("simulate", job_file, out, overrides, quiet, as_json)
        return
    from recdistill.clicklog.simulate import simulate as write_log
    from recdistill.config.dataset import Simulation

    sizes = {name: value for name, value in (("rows", rows), ("days", days)) if value is not None}
    with on_stderr(quiet) as progress:
        files = write_log(Simulation(**sizes), out, progress)
    if as_json:
        _print_json({"paths": files.paths, "format": files.format})
    else:
        typer.echo("\n".join(files.paths))


def _stage_command(name: str, what: str) -> None:
    """Adds the command that runs a job up to and with the stage `name`."""
    what += " Stages before it are done first, where they are missing."

    @app.command(name, help=what, epilog=f"Example: recdistill {name} pipelines/jobs/demo.yaml --out runs/demo")
    def command(
        job_file: JobFile,
        out: Out,
        overrides: Overrides = [],
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        _through(name, job_file, out, overrides, quiet, as_json)


_stage_command("ingest", "Reads the click log into the dataset: days of encoded rows, and their schema.")
_stage_command("teach", "Trains the job's teachers and freezes them.")
_stage_command("cache", "Has the teachers score the rows that they have not seen.")
_stage_command("distill", "Trains the students: every method, every seed.")
_stage_command("evaluate", "Compares students and teachers, and writes report.json and report.html.")
_stage_command("export", "Writes the student alone, ready to score: the last stage, and so the whole job.")


@app.command(
    epilog="Examples: recdistill plan pipelines/jobs/demo.yaml --out runs/demo"
    "\n\nrecdistill plan pipelines/jobs/criteo.yaml --out runs/criteo --ranks 8"
)
def plan(
    job_file: JobFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="An ingested run's folder.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, max=256, help="Ranks (launch.ranks).", show_default=False)] = None,
    overrides: Overrides = [],
    as_json: AsJson = False,
) -> None:
    """Shows each model's tables, their shards and the bytes of each rank. Exits with 1 where they do not fit."""
    job = load_job(job_file, overrides)
    from recdistill.plan import plan_job
    from recdistill.screen import plan_tables, print_table

    found = plan_job(job, out, ranks or job.launch.ranks)
    if as_json:
        _print_json(found)
    else:
        for table in plan_tables(found):
            print_table(table)
    if not found["fits"]:
        raise typer.Exit(1)


@app.command(epilog="Example: recdistill score runs/demo/student new-log.parquet --out scores.parquet")
def score(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="An exported student's folder.")],
    logs: Annotated[list[str], typer.Argument(metavar="LOG...", help="Click log files, as the job's were.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.parquet", help="Where probabilities go.", callback=local)
    ],
    quiet: Quiet = False,
) -> None:
    """Writes a click probability for each row of a log, in its order."""
    from recdistill.export import score as write_scores

    with on_stderr(quiet) as progress:
        unseen = write_scores(student, logs, out, progress)
    strange = [f"{name} ({share:.0%} of the rows)" for name, share in unseen.items() if share > STRANGE]
    if strange:
        what = "mostly values that training never saw; is it written as in the log that the student learned from?"
        typer.echo(f"{', '.join(strange)}: {what}", err=True)
    typer.echo(out)


@app.command(epilog="Example: recdistill onnx runs/demo/student --out student.onnx")
def onnx(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="An exported student's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.onnx", help="The file to write.", callback=local)],
) -> None:
    """Writes a student as one ONNX file, from the log's own values to a probability, for services without Python."""
    try:
        from recdistill.portable.file import write_onnx
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("onnx", "onnxruntime"):
            raise
        raise UserError("this needs onnx and onnxruntime, which `pip install -e '.[onnx]'` brings") from None
    from recdistill.screen import inputs_table, print_table

    print_table(inputs_table(write_onnx(student, out)))
    typer.echo(out)


@app.command(
    epilog="Examples: recdistill run pipelines/jobs/demo.yaml --out runs/demo"
    "\n\nrecdistill run pipelines/jobs/frappe.yaml --out runs/quick --set 'distill.seeds=[0, 1]' --set workers=2"
    "\n\nrecdistill run pipelines/jobs/demo.yaml --out runs/demo --quiet --json | jq .gap_recovered.diverse"
)
def run(
    job_file: JobFile,
    out: Out,
    overrides: Overrides = [],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Does every stage of a job. Run again, it does only what is missing or has changed."""
    _through("export", job_file, out, overrides, quiet, as_json, show_report=True)


cli_nightly.register(app)
cli_people.register(app)


def _through(
    upto: str,
    job_file: Path,
    out: Path,
    overrides: list[str],
    quiet: bool,
    as_json: bool,
    show_report: bool = False,
) -> None:
    """Runs a job up to a stage, then prints the report, or where the stage's results are."""
    job = load_job(job_file, overrides)
    if launch.must_start(job):
        raise typer.Exit(launch.start(job.launch.ranks))
    from recdistill.stages import run_job

    with launch.in_ranks(job) as leads:
        if not leads:
            return
        with on_stderr(quiet) as progress, Run(out, job, progress) as held:
            folder = _logged(lambda: run_job(job, held, upto, progress), held.log_file)
            timings = held.timings()
    if show_report or upto == "evaluate":
        _print_report(out, as_json)
    elif as_json:
        _print_json({"stage": upto, "folder": str(folder), "timings": timings})
    else:
        typer.echo(folder)


def _logged(work: Callable[[], Path], log_file: Path) -> Path:
    """Sees to it that what ends a run early stands in the run's own log."""
    try:
        return work()
    except KeyboardInterrupt:
        log.warning("interrupted")
        _complain("interrupted; run the same command again to go on")
        raise
    except UserError as error:
        log.error("%s", error)
        raise
    except Exception as error:
        log.exception("a fault")
        error.log_file = log_file  # type: ignore[attr-defined]
        raise


def _print_report(out: Path, as_json: bool) -> None:
    from recdistill.screen import gap_table, print_table

    report = read_json(out / "report.json")
    if as_json:
        _print_json(report)
        return
    print_table(gap_table(report))
    typer.echo(f"report: {out / 'report.html'}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
