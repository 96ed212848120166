from __future__ import annotations

from pathlib import Path

import pytest

from recdistill.teachers.work import earlier_version


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("final", "final"),
        ("fold-0", "fold-0"),
        ("fold-2", None),
        ("until-2026-01-02", "until-2026-01-02"),
        ("until-2026-01-05", "until-2026-01-03"),  # it has not learned from a day after the 3rd
        ("until-2026-01-01", None),
    ],
)
def test_a_version_begins_at_one_that_has_not_seen_what_it_scores(
    name: str, expected: str | None, tmp_path: Path
) -> None:
    for other in ("final", "fold-0", "fold-1", "until-2026-01-02", "until-2026-01-03"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "teacher.json").touch()
    (tmp_path / "until-2026-01-04").mkdir()  # not finished
    assert earlier_version(tmp_path, name) == (tmp_path / expected if expected else None)
