from __future__ import annotations

from pathlib import Path

import pytest

from recdistill.errors import UserError
from recdistill.evaluate.lineup import line_up
from recdistill.evaluate.predictions import Scored


def teacher(name):
    return Scored(name, "teacher", None, None, 100, Path(name))


def student(method, seed):
    return Scored(f"{method}-{seed}", "student", method, seed, 10, Path(f"{method}-{seed}"))


COMMITTEE = Scored("committee", "committee", None, None, 200, Path("committee"))
WHOLE = [
    teacher("foundation"),
    teacher("ids"),
    COMMITTEE,
    *(student(m, s) for m in ("alone", "diverse") for s in (3, 1)),
]


def test_columns_are_teachers_committee_oracle_and_students_by_seed():
    lineup = line_up(WHOLE, "foundation")
    assert lineup.seeds == [1, 3]
    assert [path.name for path in lineup.paths("diverse")] == ["diverse-1", "diverse-3"]
    assert lineup.columns(oracle=True) == {
        "foundation": [0],
        "ids": [1],
        "committee": [2],
        "oracle": [3],
        "alone": [4, 5],
        "diverse": [6, 7],
    }
    assert lineup.columns(oracle=False)["diverse"] == [5, 6]


@pytest.mark.parametrize(
    ("models", "foundation", "words"),
    [
        (WHOLE, "founder", "the foundation 'founder' is not among the scored teachers, which are: foundation, ids"),
        ([teacher("foundation"), COMMITTEE, student("single", 0)], "foundation", "no student of method 'alone'"),
        ([teacher("foundation"), student("alone", 0)], "foundation", "the committee was not scored"),
        (WHOLE[:-1], "foundation", r"method 'diverse' has seeds \[3\]; expected those of 'alone': \[1, 3\]"),
        ([*WHOLE, student("alone", 1)], "foundation", "scored twice with seed 1"),
        ([*WHOLE, teacher("alone")], "foundation", "may not be called 'alone'"),
        ([*WHOLE, teacher("committee")], "foundation", "may not be called 'committee'"),
        ([*WHOLE, teacher("ids")], "foundation", "may not be called 'ids'"),
        ([*WHOLE, Scored("x", "student", "hint", None, 1, Path("x"))], "foundation", "no method or no seed"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(models, foundation, words):
    with pytest.raises(UserError, match=words):
        line_up(models, foundation)
