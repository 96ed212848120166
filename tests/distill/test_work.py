from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recdistill.config.job import METHODS, Distill, Method
from recdistill.distill.train import Materials
from recdistill.distill.work import best_of, candidates, distill_unit
from recdistill.files import done, write_json

LISTS: dict[str, Any] = {
    "embedding_rate": [0.01, 0.02, 0.05],
    "dense_rate": [1e-4, 1e-3, 1e-2],
    "soft_weight": [0.5, 1, 2],
}


def settings(trials: int, **lists: Any) -> Distill:
    return Distill.model_validate({"tune": {"trials": trials, **(lists or LISTS)}, "train": {"dense_rate": 0.003}})


@pytest.mark.parametrize("trials", [1, 2, 6, 9])
def test_every_method_has_the_same_number_of_trials(trials: int) -> None:
    for method in METHODS:
        tried = candidates(method, settings(trials))
        assert len(tried) == trials
        assert len({trial.model_dump_json() for trial in tried}) == trials


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_as_they_stand_are_tried_first(method: Method) -> None:
    job = settings(5)
    first = candidates(method, job)[0]
    assert first.model_dump(exclude={"tune"}) == job.model_dump(exclude={"tune"})
    # Where they are in the lists as well, they are tried once.
    job = Distill.model_validate({"tune": {"trials": 50, "embedding_rate": [0.05, 0.1], "soft_weight": [1.0, 2.0]}})
    tried = candidates(method, job)
    assert (tried[0].train, tried[0].soft_weight) == (job.train, job.soft_weight)
    assert len(tried) == (2 if method == "alone" else 4) == len({trial.model_dump_json() for trial in tried})


def test_trials_come_from_the_lists_and_differ_by_seed() -> None:
    def drawn(seed: int) -> list[tuple[float, float, float]]:
        tried = candidates("diverse", settings(9, **LISTS, seeds=[seed]))[1:]
        return [(trial.train.embedding_rate, trial.train.dense_rate, trial.soft_weight) for trial in tried]

    for values in drawn(0):
        assert all(value in LISTS[name] for value, name in zip(values, LISTS, strict=True))
    assert drawn(0) == drawn(0) != drawn(1)


def test_alone_searches_no_teachers_weight() -> None:
    tried = candidates("alone", settings(9))
    assert {trial.soft_weight for trial in tried} == {1.0}


def test_a_trial_searches_no_further() -> None:
    """Its settings are inputs of its unit: what is left of the search would only make it look another."""
    for trial in candidates("mean", settings(6)):
        assert trial.tune.trials == 1 and not trial.tune.soft_weight


def test_the_best_trial_has_the_lowest_mean_validation_ne(tmp_path: Path) -> None:
    trials = []
    for number, nes in enumerate([[0.6, 0.9], [0.8, 0.6], [0.8, 0.8], [0.7, 0.7]]):
        trials.append([tmp_path / str(number) / str(seed) for seed in range(2)])
        for folder, ne in zip(trials[-1], nes, strict=True):
            write_json(folder / "training.json", {"validation_ne": ne})
    assert best_of(trials) == 1 and best_of([trial[:1] for trial in trials]) == 0


def test_a_unit_is_done_once(materials: Materials, quick: Distill, tmp_path: Path) -> None:
    arguments = (tmp_path / "unit", "mark", materials, "mean", 0, quick, "distill")
    distill_unit(*arguments)  # type: ignore[arg-type]
    assert done(tmp_path / "unit", "mark") and [path.name for path in tmp_path.iterdir()] == ["unit"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "unit").rglob("*")}
    distill_unit(*arguments)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "unit").rglob("*")} == before
