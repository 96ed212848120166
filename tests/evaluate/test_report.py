from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recdistill.config.job import Evaluate
from recdistill.errors import UserError
from recdistill.evaluate.caveats import caveats
from recdistill.evaluate.metrics import sigmoid
from recdistill.evaluate.report import evaluate

SETTINGS = Evaluate(resamples=200)
NO_GAP = {"mean": -1.0, "reason": "no gap to recover: -1"}


def logits(world, name):
    import pyarrow.parquet as pq

    path = next(model.path for model in world.models if model.name == name)
    return pq.read_table(path)["logit"].to_numpy()


def test_holds_every_key_of_the_contract(report):
    assert report["version"] == 1
    assert report["params"] == {"foundation": 400_000, "student": 10_000, "compression": 40.0}
    assert list(report["models"]) == ["foundation", "expert", "committee", "alone", "single", "diverse"]
    for model in report["models"].values():
        for metric in ("auc", "ne", "log_loss", "calibration"):
            assert model[metric]["low"] <= model[metric]["mean"] <= model[metric]["high"]
    assert list(report["gap"]) == ["auc", "ne"]
    assert list(report["gap_recovered"]) == ["single", "diverse"]
    assert report["teacher_forwards"]["saved"] == 9_000
    assert report["seeds"] == [0, 1, 2]
    assert report["timings"] == {"ingest": 1.5, "distill": 75.0}
    assert report["regime"] == "out_of_fold"
    assert report["dataset"]["rows"] == {"train": 10, "validation": 0, "test": 3000}
    assert not {"generated", "date", "time"} & set(report)


def test_metrics_are_those_of_scikit_learn_and_means_over_seeds(world, report):
    label, foundation = world.label, logits(world, "foundation")
    assert report["models"]["foundation"]["auc"]["mean"] == pytest.approx(roc_auc_score(label, foundation), abs=1e-7)
    entropy = log_loss(label, np.full(len(label), label.mean()))
    assert report["models"]["foundation"]["ne"]["mean"] == pytest.approx(
        log_loss(label, sigmoid(foundation)) / entropy, rel=1e-6
    )
    each = [roc_auc_score(label, logits(world, f"alone-{seed}")) for seed in range(3)]
    alone = report["models"]["alone"]
    assert alone["auc"]["mean"] == pytest.approx(np.mean(each), abs=1e-7)
    assert [alone["per_seed"][str(seed)]["auc"] for seed in range(3)] == pytest.approx(each, abs=1e-7)


def test_an_expert_is_judged_on_the_rows_it_answers(world, report):
    inside = world.country == 1
    expert = report["models"]["expert"]
    assert expert["coverage"] == pytest.approx(inside.mean())
    assert expert["auc"]["mean"] == pytest.approx(
        roc_auc_score(world.label[inside], logits(world, "expert")[inside]), abs=1e-7
    )
    assert report["against"]["best_member"]["auc"]["reference"] == "foundation"


def test_the_committee_is_the_mean_logit_of_those_who_answer(world, report):
    mean = np.nanmean([logits(world, "foundation"), logits(world, "expert")], axis=0)
    assert report["models"]["committee"]["coverage"] == 1
    assert report["models"]["committee"]["auc"]["mean"] == pytest.approx(roc_auc_score(world.label, mean), abs=1e-6)
    assert report["models"]["committee"]["parameters"] == 800_000


def test_gap_and_recovery_follow_from_the_means(report):
    for metric, sign in (("auc", 1), ("ne", -1)):
        value = {name: sign * model[metric]["mean"] for name, model in report["models"].items()}
        gap = value["foundation"] - value["alone"]
        assert report["gap"][metric]["mean"] == pytest.approx(gap, rel=1e-5)
        for method in ("single", "diverse"):
            found = report["gap_recovered"][method][metric]
            assert found["mean"] == pytest.approx((value[method] - value["alone"]) / gap, rel=1e-5)
            assert found["low"] < found["mean"] < found["high"]
        assert 0.9 < report["gap_recovered"]["diverse"][metric]["mean"] < 1.1
        committee = report["against"]["committee"][metric]
        assert committee["gap"]["mean"] == pytest.approx(value["committee"] - value["alone"], rel=1e-5)


def test_diverse_is_compared_with_foundation_and_baselines_and_plus_is_better(report):
    foundation, *baselines = report["comparisons"]
    assert (foundation["method"], foundation["against"]) == ("diverse", "foundation")
    value = {name: model["ne"]["mean"] for name, model in report["models"].items()}
    assert foundation["ne"]["mean"] == pytest.approx(value["foundation"] - value["diverse"], abs=1e-7)
    assert foundation["ne"]["low"] < foundation["ne"]["mean"] < foundation["ne"]["high"]
    assert [(row["method"], row["against"]) for row in baselines] == [("diverse", "alone"), ("diverse", "single")]
    for row in baselines:
        assert row["auc"]["low"] > 0 and row["ne"]["low"] > 0


def test_a_foundation_that_does_not_answer_every_row_is_no_rival(make_world):
    world = make_world({"alone": 1.0, "diverse": 0.5})
    partial = logits(world, "foundation")
    partial[::2] = np.nan
    world.models = [model for model in world.models if model.name != "foundation"]
    world.score("foundation", partial)
    comparisons = evaluate(world.dataset, world.models, SETTINGS, {})["comparisons"]
    assert [row["against"] for row in comparisons] == ["alone"]


def test_methods_are_compared_on_the_same_resamples_of_rows_and_seeds(make_world):
    world = make_world({"alone": 1.0}, rows=500)
    for seed in range(3):
        same = logits(world, f"alone-{seed}")
        world.score(f"diverse-{seed}", same, "diverse", seed)
    _, row = evaluate(world.dataset, world.models, SETTINGS, {})["comparisons"]
    assert row["auc"] == row["ne"] == {"mean": 0, "low": 0, "high": 0}


def test_the_oracle_is_the_best_possible(world, report):
    assert report["oracle"]["auc"]["mean"] == pytest.approx(roc_auc_score(world.label, world.truth), abs=1e-4)
    assert all(
        report["oracle"]["ne"]["mean"] < model["ne"]["mean"]
        for name, model in report["models"].items()
        if name != "expert"
    )


def test_slices_importance_and_reliability_are_there(report):
    (part,) = report["slices"]
    assert part["feature"] == "country" and part["values"][0]["value"] == "de"
    assert list(part["values"][0]["models"]) == ["foundation", "alone", "single", "diverse"]
    assert [day["value"] for day in report["days"]] == ["2026-01-02", "2026-01-03"]
    assert report["importance"]["slices"][0]["values"][0]["importance"] == pytest.approx(
        {"foundation": 0.3, "expert": 0.7}, rel=1e-5
    )
    curve = report["reliability"]["diverse"]
    assert sum(curve["share"]) == pytest.approx(1)
    assert len(curve["prediction"]) == len(curve["rate"]) == 15


def test_points_of_the_trade_off_are_told_there_alone(world):
    again = [
        replace(model, name=f"saved-{model.name}", saved=0.5) for model in world.models if model.method == "diverse"
    ]
    settings = Evaluate(resamples=100, slices=["country"])
    pairs = {0.0: (100, 100), 0.5: (100, 50)}
    found = evaluate(world.dataset, [*world.models, *again], settings, {"saved": 0.0, "pairs": pairs})
    assert [point["saved"] for point in found["curve"]] == [0.0, 0.5]
    for rows in (found["days"], found["slices"][0]["values"]):
        assert list(rows[0]["models"]) == ["foundation", "alone", "single", "diverse"]


def test_what_teachers_are_worth_comes_with_normal_intervals(world, report):
    assert report["worth"]["rows"] == 1500
    expert = report["worth"]["teachers"]["expert"]
    assert expert == pytest.approx(
        {"mean": 0.0004, "low": 0.0004 - 1.959964 * 0.0005, "high": 0.0004 + 1.959964 * 0.0005}
    )
    for none in ({}, {"worth": None}, {"worth": {"rows": 9, "teachers": {}}}):
        assert evaluate(world.dataset, world.models, SETTINGS, none)["worth"] is None


def test_the_same_job_gives_the_same_bytes(world, report):
    again = evaluate(world.dataset, list(reversed(world.models)), Evaluate(resamples=400, slices=["country"]), {})
    for key in ("gap", "gap_recovered", "slices"):
        assert json.dumps(again[key], sort_keys=True) == json.dumps(report[key], sort_keys=True)


def test_no_gap_gives_no_ratio_and_says_so(make_world):
    world = make_world({"alone": 0.3, "diverse": 0.3})
    found = evaluate(world.dataset, world.models, SETTINGS, {})
    assert found["gap_recovered"] == {"diverse": {"auc": None, "ne": None}}
    assert found["gap"]["auc"]["reason"].startswith("no gap to recover")
    assert any(sentence.startswith("AUC: no gap to recover") for sentence in found["warnings"])


def test_one_class_is_null_with_a_reason(make_world):
    world = make_world(rows=100)
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in world.dataset.parts("test"):
        table = pq.read_table(part.path, partitioning=None)
        zeros = pa.array(np.zeros(table.num_rows, np.float32))
        pq.write_table(table.set_column(table.column_names.index("label"), "label", zeros), part.path)
    world.score("foundation", world.truth)
    world.score("alone-0", world.truth, "alone", 0)
    found = evaluate(world.dataset, world.models, SETTINGS, {})
    json.dumps(found, allow_nan=False)
    assert found["models"]["alone"]["auc"] == {
        "mean": None,
        "low": None,
        "high": None,
        "reason": "not defined on these rows",
    }
    assert found["models"]["alone"]["log_loss"]["mean"] > 0
    assert any("one class only" in sentence for sentence in found["warnings"])


def test_sampled_negatives_are_undone_for_all_but_auc(make_world):
    """A model of the sampled log is calibrated on the whole traffic once the keep-rate is known."""
    rate = 0.2
    world = make_world({"alone": 1.0}, rows=4000, keep_rate=rate, seeds=1)
    found = evaluate(world.dataset, world.models, SETTINGS, {})
    label, score = world.label, logits(world, "foundation").astype(float)
    weight, moved = np.where(label > 0, 1, 1 / rate), sigmoid(score + np.log(rate))
    model = found["models"]["foundation"]
    assert model["auc"]["mean"] == pytest.approx(roc_auc_score(label, score), abs=1e-7)
    assert model["log_loss"]["mean"] == pytest.approx(log_loss(label, moved, sample_weight=weight), rel=1e-6)
    assert model["calibration"]["mean"] == pytest.approx((weight * moved).sum() / label.sum(), rel=1e-6)
    assert found["dataset"]["base_rate"] == pytest.approx(np.average(label, weights=weight))
    assert model["ne"]["low"] < model["ne"]["mean"] < model["ne"]["high"]


def test_weights_of_the_log_count(make_world):
    import pyarrow.parquet as pq

    world = make_world({"alone": 1.0}, weighted=True, seeds=1)
    found = evaluate(world.dataset, world.models, SETTINGS, {})
    parts = [pq.read_table(part.path, partitioning=None)["weight"].to_numpy() for part in world.dataset.parts("test")]
    expected = roc_auc_score(world.label, logits(world, "alone-0"), sample_weight=np.concatenate(parts))
    assert found["models"]["alone"]["auc"]["mean"] == pytest.approx(expected, abs=1e-7)


def test_a_foundation_that_skips_rows_is_no_yardstick(make_world):
    world = make_world(rows=300)
    world.score("foundation", np.where(world.country == 1, world.truth, np.nan))
    world.score("alone-0", world.truth, "alone", 0)
    world.score("single-0", world.truth, "single", 0)
    found = evaluate(world.dataset, world.models, SETTINGS, {})
    assert found["gap_recovered"]["single"]["auc"] is None
    assert "does not answer every row" in found["gap"]["auc"]["reason"]


def test_a_teacher_that_answers_no_test_row_has_no_metrics(make_world):
    world = make_world({"alone": 1.0}, rows=300)
    world.score("absent", np.full(300, np.nan))
    found = evaluate(world.dataset, world.models, SETTINGS, {})
    json.dumps(found, allow_nan=False)
    absent = found["models"]["absent"]
    assert absent["coverage"] == 0 and absent["auc"]["mean"] is None and absent["auc"]["reason"]
    assert found["models"]["committee"]["coverage"] == 1
    assert found["reliability"]["absent"] == {"share": [], "prediction": [], "rate": []}


def test_a_student_that_skips_a_row_is_refused(make_world):
    world = make_world(rows=300)
    world.score("foundation", world.truth)
    path = world.score("alone-0", np.where(world.country == 1, world.truth, np.nan), "alone", 0)
    with pytest.raises(UserError, match=f"{path.name}: a logit is null"):
        evaluate(world.dataset, world.models, SETTINGS, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"regime": "in_sample"}, "trained on (regime in_sample)"),
        ({"seeds": [0, 1]}, "Seeds: 2; a figure to quote needs at least 5."),
        ({"seeds": [0]}, "With one seed, intervals leave out"),
        ({"dataset": {"test_positives": 999, "rows": {"test": 5000}}}, "its rarer class has 999 rows"),
        ({"dataset": {"test_positives": 5000, "rows": {"test": 5000}}}, "one class only"),
        (
            {"models": {name: {"role": "student", "parameters": 9 + (name == "mean")} for name in ("mean", "diverse")}},
            "Students differ in size (9 to 10 parameters)",
        ),
        (
            {
                "models": {
                    "alone": {"role": "student", "parameters": 98},
                    "mean": {"role": "student", "parameters": 100},
                }
            },
            "alone has 98 parameters and the others 100",
        ),
        ({"gap": {metric: NO_GAP for metric in ("auc", "ne")}}, "needs no teachers"),
        ({"seeds": [0, 1], "gap": {metric: {**NO_GAP, "mean": 0.1} for metric in ("auc", "ne")}}, "more seeds may"),
    ],
)
def test_warns_of_what_weakens_it(change, words):
    fine = {
        "regime": "out_of_fold",
        "seeds": [0, 1, 2, 3, 4],
        "dataset": {"test_positives": 1000, "rows": {"test": 5000}},
        "gap": {"auc": {"mean": 0.1}},
        "models": {"alone": {"role": "student", "parameters": 10}},
    }
    assert caveats(fine) == []
    assert any(words in sentence for sentence in caveats({**fine, **change}))


def test_one_metric_without_a_gap_is_not_a_student_that_needs_no_teachers():
    gap = {"auc": {"mean": 0.1}, "ne": {"reason": "no gap to recover: -1"}}
    report = {
        "regime": "out_of_fold",
        "seeds": list(range(5)),
        "dataset": {"test_positives": 1000, "rows": {"test": 5000}},
    }
    assert caveats({**report, "gap": gap, "models": {"alone": {"role": "student", "parameters": 10}}}) == [
        "NE: no gap to recover: -1."
    ]
