from __future__ import annotations

from pathlib import Path

import pytest

from recdistill.config.load import load_job
from recdistill.errors import UserError


def test_a_job_has_one_rank_unless_it_says_otherwise(job_file: Path) -> None:
    assert (load_job(job_file).launch.ranks, load_job(job_file).launch.row_wise) == (1, [])
    job = load_job(job_file, ["launch.ranks=4", 'launch.row_wise="user, C1..C3"'])
    assert (job.launch.ranks, job.launch.row_wise) == (4, ["user", "C1", "C2", "C3"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("launch.ranks=0", "launch.ranks"),
        ("launch.ranks=two", "launch.ranks"),
        ("launch.row_wise=[usr]", "no feature 'usr' in dataset.features; did you mean 'user'"),
        ("launch.row_wise=[age]", "'age' has no table of its own; a dense feature needs none"),
        ("launch.row_wise=[C2]", "'C2' has no table of its own; name 'user', whose table it shares"),
    ],
)
def test_a_mistake_is_told(job_file: Path, change: str, told: str) -> None:
    job_file.write_text(job_file.read_text().replace("C1..C3: {kind: single}", "C2: {kind: single, share: user}"))
    with pytest.raises(UserError, match=told):
        load_job(job_file, [change])
