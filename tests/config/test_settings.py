"""`recdistill settings`: what it says is what job files are checked against."""

from __future__ import annotations

import pytest
import yaml

from recdistill.config.job import Job
from recdistill.config.settings import Setting, groups
from recdistill.errors import UserError


def settings(path: str, kind: str = "") -> dict[str, Setting]:
    (group,) = [group for group in groups() if (group.path, group.kind) == (path, kind)]
    return {one.name: one for one in group.settings}


def test_every_setting_is_explained_once() -> None:
    every = groups()
    assert all(one.about for group in every for one in group.settings)
    assert all(group.about for group in every)
    places = [(group.path, group.kind, one.name) for group in every for one in group.settings]
    assert len(places) == len(set(places)) > 120


def test_values_and_defaults_are_those_of_the_sections() -> None:
    assert set(settings("")) == set(Job.model_fields)
    train = settings("distill.train")
    assert (train["epochs"].takes, train["epochs"].default, train["epochs"].needed) == (
        "whole number >= 1",
        "10",
        False,
    )
    assert train["dense_rate"].takes == "number > 0, <= 10"
    split = settings("dataset.split")
    assert (
        split["by"].needed and split["by"].takes == "days, random, user_order, time, order" and not split["by"].default
    )
    dlrm = settings("teachers.members.<name>", "dlrm")
    assert "kind" not in dlrm and dlrm["dropout"].about == settings("student")["dropout"].about
    assert yaml.safe_load(settings("distill")["methods"].default) == list(Job.model_fields["distill"].default.methods)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("student", [("student", "")]),
        ("teachers.route", [("teachers.route", "")]),
        ("student.share", [("student", "")]),
        ("workers", [("", "")]),
        (
            "teachers.members",
            [
                (f"teachers.members.<name>{more}", kind)
                for more, kind in [("", "dlrm"), (".train", ""), ("", "sklearn"), ("", "file")]
            ],
        ),
    ],
)
def test_a_place_may_be_named(path: str, found: list[tuple[str, str]]) -> None:
    assert [(group.path, group.kind) for group in groups(path)] == found


def test_a_place_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match="nothing in a job file is called 'studnt'; did you mean 'student'"):
        groups("studnt")
