"""Tells people: a webhook is sent one JSON object, `text` for humans and the rest for programs."""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recdistill.config import Job

VARIABLE = "RECDISTILL_WEBHOOK"
TIMEOUT_SECONDS = 5.0
WAITS = (0.5, 2.0)
"""Seconds before the second attempt and before the third."""

log = logging.getLogger(__name__)


def alert(job: Job, day: str, event: str, why: str, **more: Any) -> bool:
    """Posts to the job's webhook, three times at most; returns whether it was delivered.

    A webhook that does not answer is written to the log and never stops a night.
    """
    url = os.environ.get(VARIABLE) or job.service.alert
    if not url:
        return False
    text = f"recdistill {job.name}, {day}: {event}: {why}"
    body = json.dumps({"text": text, "job": job.name, "day": day, "event": event, "why": why, **more}).encode()
    for wait in (*WAITS, None):
        try:
            _post(url, body)
            return True
        except (OSError, ValueError) as error:
            log.warning("the webhook did not take the alert (%s): %s", error, text)
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if wait is None or refused or isinstance(error, ValueError):
                return False
            time.sleep(wait)
    return False


@contextmanager
def watched(job: Job, day: str) -> Iterator[None]:
    """Alerts when the block fails; the failure goes on its way."""
    try:
        yield
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        alert(job, day, "failed", f"{type(error).__name__}: {first}")
        raise


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read()
