"""The nightly service for Dagster: one asset a stage, one partition a day, and not a line of logic of its own.

    make service          # the page on http://127.0.0.1:3000, schedule and sensor running
    make service-check    # loads this file, runs one small day with its gates, exits

`RECDISTILL_JOB` names the job file, `RECDISTILL_SERVICE` the folder that the service keeps everything in. Each asset
asks for its night up to a stage: what is done is not done again, so a step that is retried goes on where it broke off.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.nightly.alerts import alert
from recdistill.nightly.gates import blocked
from recdistill.nightly.night import night
from recdistill.nightly.plan import by_day, changed, settled
from recdistill.nightly.registry import assess, promote
from recdistill.progress import silent

HERE = Path(__file__).resolve().parent
JOB = load_job(Path(os.environ.get("RECDISTILL_JOB", HERE / "jobs" / "nightly.yaml")))
SERVICE = Path(os.environ.get("RECDISTILL_SERVICE", "runs/service"))
RETRIES = dg.RetryPolicy(max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL)
GATES = {
    "rows": "the day has about as many rows as usual",
    "click_rate": "the day's click rate is about the usual one",
    "new_ids": "no feature has many more ids than the day before that training never saw",
    "psi": "no feature is distributed very differently from the training days",
    "champion_ne": "the unchanged champion is not suddenly bad, which would speak against the day",
    "calibration": "predictions are on average as high as clicks are frequent",
    "gap_recovered": "enough of the NE gap is recovered, and the foundation is not worse than the student alone",
    "compression": "the student is as small as the job asks",
    "auc": "on the same rows, the AUC is not worse than the champion's by more: its loss at worst, below 0 a gain",
    "ne": "on the same rows, the NE is not worse than the champion's by more: its loss at worst, below 0 a gain",
}
LABELS = {
    "auc": "AUC",
    "ne": "NE",
    "gap_ne": "NE gap",
    "gap_recovered_ne": "NE gap recovered (share)",
    "passes_saved": "passes saved (share)",
    "click_rate": "click rate",
    "full": "passes: all",
    "computed": "passes: computed",
    "reused": "passes: reused",
    "saved": "passes: left out by the router",
    "held_out": "passes: on held-out rows",
}
"""What the page calls a night's numbers; it sorts its plots by these names, capitals first."""


def partitions() -> dg.PartitionsDefinition:
    """The days that can have a night: all but the log's first two. A generated log ends, another one does not.

    The page plots the newest days; of days with an end, it takes those up to yesterday all the same, and shows nothing
    when the end is long past. So a generated log's days are a list.
    """
    simulated = JOB.dataset.simulate
    if simulated is None:
        return dg.DailyPartitionsDefinition(start_date=list(by_day(JOB))[2])
    first = date.fromisoformat(simulated.first_day)
    days = (first + timedelta(days=number) for number in range(2, simulated.days))
    return dg.StaticPartitionsDefinition([day.isoformat() for day in days])


DAYS = partitions()
stage = {"partitions_def": DAYS, "retry_policy": RETRIES, "group_name": "night"}


@contextmanager
def told(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Alerts when a step fails for good. Input that cannot be used is not tried again."""
    try:
        yield
    except UserError as error:
        alert(JOB, context.partition_key, "failed", str(error))
        raise dg.Failure(str(error), allow_retries=False) from error
    except Exception as error:
        if context.retry_number >= RETRIES.max_retries:
            alert(JOB, context.partition_key, "failed", f"{type(error).__name__}: {error}")
        raise


def through(context: dg.AssetExecutionContext, upto: str) -> dg.MaterializeResult:
    with told(context):
        folder = night(JOB, context.partition_key, SERVICE, upto)
    return dg.MaterializeResult(metadata={"folder": dg.MetadataValue.path(str(folder))})


@dg.asset(**stage)
def dataset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The night's days of the click log, encoded."""
    return through(context, "ingest")


@dg.asset(deps=[dataset], **stage)
def teachers(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Tonight's teachers, or those of the night that taught last."""
    return through(context, "teach")


@dg.asset(deps=[teachers], **stage)
def cache(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """What teachers say about the night's rows; days that they scored before are reused."""
    return through(context, "cache")


@dg.asset(deps=[cache], **stage)
def student(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Tonight's students, begun at those of the night before."""
    return through(context, "distill")


def shown(record: dict[str, Any]) -> dict[str, int | float]:
    """A night's numbers as the page shows and plots them; one that the night does not have is left out."""
    every = {**record["numbers"], **record["teacher_forwards"]}
    return {LABELS.get(name, name): rounded(value) for name, value in every.items() if value is not None}


def rounded(value: int | float) -> int | float:
    return round(value, 4) if isinstance(value, float) else value


@dg.asset(
    deps=[student],
    check_specs=[
        dg.AssetCheckSpec(name, asset="report", blocking=True, description=words) for name, words in GATES.items()
    ],
    **stage,
)
def report(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """How good tonight's student is, alone and beside the champion; every gate is a check."""
    day = context.partition_key
    with told(context):
        night(JOB, day, SERVICE)
        record, verdicts = assess(SERVICE, day)
        if blocked(verdicts):
            promote(SERVICE, day)  # refuses, writes down why, and alerts
    html = dg.MetadataValue.path(str(SERVICE / "nights" / day / "report.html"))
    yield dg.MaterializeResult(metadata={**shown(record), "report": html})
    judged = {gate.name: gate for gate in verdicts}
    for name in GATES:
        gate = judged.get(name)
        if gate is None:
            yield dg.AssetCheckResult(check_name=name, passed=True, metadata={"why": "there is no champion yet"})
            continue
        seen = {} if gate.value is None else {"value": rounded(gate.value)}
        yield dg.AssetCheckResult(
            check_name=name, passed=gate.passed, metadata={"why": gate.why, "bound": gate.bound, **seen}
        )


@dg.asset(deps=[report], **stage)
def champion(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The student that serves; `promote` asks the gates again, and refuses a day older than the champion's."""
    with told(context):
        verdict = promote(SERVICE, context.partition_key)
    if verdict.outcome == "blocked":
        raise dg.Failure(verdict.why, allow_retries=False)
    return dg.MaterializeResult(metadata={"outcome": verdict.outcome, "why": verdict.why})


one_night = dg.define_asset_job("night", dg.AssetSelection.groups("night"), executor_def=dg.in_process_executor)


@dg.sensor(job=one_night, minimum_interval_seconds=300, default_status=dg.DefaultSensorStatus.RUNNING)
def late_or_changed_days(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Runs a day's night again when its files came late or changed; once for each state of the files."""
    found = changed(settled(JOB, SERVICE, silent), SERVICE)
    if not found:
        yield dg.SkipReason("every day is as its night saw it")
    for day, mark in found.items():
        yield dg.RunRequest(run_key=f"{day}-{mark}", partition_key=day)


@dg.schedule(
    name="night_schedule", job=one_night, cron_schedule="30 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Runs the night of yesterday, at 03:30 UTC; a generated log has no yesterday once it has ended."""
    yesterday = (context.scheduled_execution_time.date() - timedelta(days=1)).isoformat()
    if yesterday not in DAYS.get_partition_keys():
        return dg.SkipReason(f"the log has no day {yesterday}")
    return dg.RunRequest(run_key=yesterday, partition_key=yesterday)


defs = dg.Definitions(
    assets=[dataset, teachers, cache, student, report, champion],
    jobs=[one_night],
    schedules=[nightly],
    sensors=[late_or_changed_days],
    executor=dg.in_process_executor,
)
