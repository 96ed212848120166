"""How drafted models are sized and trained."""

from __future__ import annotations

import pytest

from recdistill.init.sizes import choose_teacher, choose_training


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "checks"),
    [(1_000, 256, 30, 1), (275_000, 1024, 29, 1), (1_000_000, 1024, 8, 1), (100_000_000, 4096, 2, 4)],
)
def test_a_student_sees_millions_of_rows_and_is_looked_at_often(
    rows: int, batch: int, epochs: int, checks: int
) -> None:
    """A short log again and again, until it has learned; a long one hardly twice, and is checked on the way."""
    train, tune = choose_training(rows)
    assert (train.batch_size, train.epochs, train.checks_per_epoch) == (batch, epochs, checks)
    assert train.epochs * train.checks_per_epoch >= 8 and train.patience == 3
    assert tune.trials == (2 if rows < 2_000_000 else 1)
    assert train.embedding_rate in tune.embedding_rate or tune.trials == 1
    assert choose_teacher(rows).embedding_rates == tune.embedding_rate
