from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from recdistill.config import Job
from recdistill.errors import UserError
from recdistill.nightly import alerts
from recdistill.nightly.alerts import alert, watched


class Hook(HTTPServer):
    """Takes posts; answers with the next of `answers`, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[dict] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.delenv(alerts.VARIABLE, raising=False)
    monkeypatch.setattr(alerts, "WAITS", (0.0, 0.0))
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def with_url(job: Job, url: str) -> Job:
    return job.model_copy(update={"service": job.service.model_copy(update={"alert": url})})


def test_a_post_says_what_happened(job: Job, hook: Hook) -> None:
    assert alert(with_url(job, hook.url), "2026-01-05", "promotion blocked", "ne: too high", gates=[1])
    (post,) = hook.posts
    assert post["text"] == "recdistill nightly, 2026-01-05: promotion blocked: ne: too high"
    assert post["event"] == "promotion blocked" and post["day"] == "2026-01-05" and post["gates"] == [1]


def test_the_variable_goes_before_the_job(job: Job, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(alerts.VARIABLE, hook.url)
    assert alert(with_url(job, "http://127.0.0.1:9/"), "2026-01-05", "failed", "x") and hook.posts


def test_a_server_in_trouble_is_tried_again(job: Job, hook: Hook) -> None:
    hook.answers = [503, 500]
    assert alert(with_url(job, hook.url), "2026-01-05", "failed", "x") and len(hook.posts) == 3
    hook.answers = [500, 500, 500]
    assert not alert(with_url(job, hook.url), "2026-01-05", "failed", "x") and len(hook.posts) == 6


def test_a_refusal_is_not_tried_again(job: Job, hook: Hook) -> None:
    hook.answers = [404]
    assert not alert(with_url(job, hook.url), "2026-01-05", "failed", "x") and len(hook.posts) == 1


def test_no_url_no_alert_and_nobody_there_is_no_failure(job: Job, hook: Hook) -> None:
    assert not alert(job, "2026-01-05", "failed", "x")
    assert not alert(with_url(job, "http://127.0.0.1:9/"), "2026-01-05", "failed", "x")


def test_a_failure_is_told_and_goes_on(job: Job, hook: Hook) -> None:
    with pytest.raises(UserError, match="no such day"), watched(with_url(job, hook.url), "2026-01-05"):
        raise UserError("no such day", "second line")
    (post,) = hook.posts
    assert post["event"] == "failed" and post["why"] == "UserError: no such day"
