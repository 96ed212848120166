from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest

from recdistill.config.job import Evaluate
from recdistill.evaluate.page import duration, headline, render, shade, verdict
from recdistill.evaluate.report import evaluate


@pytest.fixture(scope="module")
def page(report):
    return render(report)


def test_answers_how_much_at_what_cost_and_whether_to_trust_it(page, report):
    top = page[: page.index("<section>")]
    shares = report["gap_recovered"]
    for metric in ("auc", "ne"):
        found = shares["diverse"][metric]
        assert f"{found['mean']:.0%} of the {metric.upper()} gap" in top
        assert f"{found['low']:.0%} to {found['high']:.0%}" in top
        best = max(shares.keys() - {"diverse"}, key=lambda name: shares[name][metric]["mean"])
        assert f"{metric.upper()}:&nbsp;{best}&nbsp;{shares[best][metric]['mean']:.0%}" in top
    for words in (
        "40\u00d7",
        "10\u202f000 of&nbsp;",
        ", 30%&nbsp;saved",
        "folds that they had not seen",
        "95%, 3 seeds",
    ):
        assert words in top
    for sentence in report["warnings"]:
        assert sentence in top


def test_holds_every_model_slice_importance_account_and_timing(page, report):
    for name, model in report["models"].items():
        assert f"<th>{name}" in page
        assert f"{model['auc']['mean']:.4f}" in page and f"{model['ne']['low']:.4f}" in page
    assert f"{report['oracle']['auc']['mean']:.4f}" in page
    assert f"{report['slices'][0]['values'][0]['models']['diverse']['auc']:.4f}" in page
    assert "(not seen in training)" in page
    assert "Students by mean, diverse were found to do better without zip, city" in page
    assert "Of the ids that student looks up 2\u202f100 have a row each, 3\u202f400 share one with others that" in page
    assert "390\u202f000" in page and "1 min 15 s" in page
    assert page.count("<svg") == 3


def test_says_what_each_teacher_is_worth(page, report):
    assert "on 1\u202f500 validation rows" in page and "+0.0200<small>+0.0180 to +0.0220</small>" in page
    assert "+0.0004<small>\u22120.0006 to +0.0014</small>" in page
    assert "NE without it" not in render({**report, "worth": None})


def test_the_trade_off_says_what_each_share_costs_in_both_metrics(report):
    stat = lambda mean: {"mean": mean, "low": mean - 0.001, "high": mean + 0.001}  # noqa: E731
    curve = [
        {
            "aimed": saved,
            "saved": saved,
            "recovered": {"auc": stat(0.9), "ne": stat(0.8)},
            "against_full": {"auc": stat(-0.3 * saved), "ne": stat(-0.5 * saved)},
        }
        for saved in (0.0, 0.5)
    ]
    text = render({**report, "curve": curve})
    full, half = re.findall(r"<tr><th>(?:0|50)%</th>\n(.*?)</tr>", text, re.DOTALL)
    assert full.count("<td>\u2013</td>") == 2 and half.count("<td>\u2013</td>") == 0
    assert "\u22120.1500<small>" in half and "\u22120.2500<small>" in half


def test_fetches_nothing(page):
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|url\((?!#)", page)


def test_is_the_same_bytes_when_rendered_again(page, report):
    assert render(copy.deepcopy(report)) == page


def test_is_well_formed_and_ids_are_unique(page):
    class Reader(HTMLParser):
        void = frozenset({"meta", "br"})

        def __init__(self):
            super().__init__()
            self.open, self.ids = [], []

        def handle_starttag(self, tag, attributes):
            self.ids += [value for name, value in attributes if name == "id"]
            if tag not in self.void:
                self.open.append(tag)

        def handle_startendtag(self, tag, attributes):
            self.ids += [value for name, value in attributes if name == "id"]

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids)) > 0
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(reader.ids)


def test_names_are_escaped(report):
    odd = copy.deepcopy(report)
    odd["slices"][0]["values"][0]["value"] = "<b>&"
    assert "&lt;b&gt;&amp;" in render(odd)


def test_says_that_there_is_no_gap(make_world):
    world = make_world({"alone": 0.3, "diverse": 0.3})
    page = render(evaluate(world.dataset, world.models, Evaluate(resamples=200), {}))
    assert "<h1>There is no gap to recover, and no clear difference between diverse and the student alone.</h1>" in page
    assert page.count("is not above zero") >= 2


def test_shows_a_report_of_nothing_but_the_student_alone(make_world):
    world = make_world({"alone": 1.0}, seeds=1)
    page = render(evaluate(world.dataset, world.models, Evaluate(resamples=200), {}))
    assert "<h1>No student was taught" in page


@pytest.mark.parametrize(
    ("auc", "ne", "gap", "expected"),
    [
        (0.5, None, 0.1, "Diverse recovers 50% of the AUC gap; in NE there is none to recover."),
        (-0.4, 1.2, 0.1, "Diverse recovers \u221240% of the AUC gap and 120% of the NE gap."),
        (0.1, 0.5, 0.1, "Diverse recovers 10% of the AUC gap (within its noise) and 50% of the NE gap."),
        (None, None, 0.1, "There is no gap to recover."),
        (None, None, None, "The gap is not defined on these test rows."),
    ],
)
def test_headline(auc, ne, gap, expected):
    found = {}
    for metric, mean in (("auc", auc), ("ne", ne)):
        found[metric] = None if mean is None else {"mean": mean, "low": mean - 0.2, "high": mean + 0.2}
    report = {"gap_recovered": {"diverse": found}, "gap": {"auc": {"mean": gap}, "ne": {"mean": gap}}}
    assert headline(report) == expected


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (0.001, "There is no gap to recover; diverse is better than the student alone by 0.0110 NE."),
        (-0.021, "There is no gap to recover; diverse is worse than the student alone by 0.0110 NE."),
        (-0.01, "There is no gap to recover, and no clear difference between diverse and the student alone."),
        (None, "There is no gap to recover."),
    ],
)
def test_headline_says_what_teachers_brought_where_there_is_no_gap(low, expected):
    high = None if low is None else low + 0.02
    stat = {"mean": None if low is None else (low + high) / 2, "low": low, "high": high}
    report = {"gap_recovered": {"diverse": {"auc": None, "ne": None}}, "gap": {"auc": {"mean": 0.1}}}
    pairs = [{"method": "diverse", "against": name, "ne": stat} for name in ("alone", "mean")]
    assert headline({**report, "comparisons": pairs}) == expected


def test_verdicts_durations_and_shades():
    assert verdict({"low": 0.1, "high": 0.2}) == "better"
    assert verdict({"low": -0.2, "high": -0.1}) == "worse"
    assert verdict({"low": -0.1, "high": 0.1}) == "no clear difference"
    assert verdict({"low": None, "high": None}) == "not known"
    assert [duration(seconds) for seconds in (3.21, 59.99, 75, 7300)] == [
        "3.2 s",
        "1 min 0 s",
        "1 min 15 s",
        "2 h 1 min",
    ]
    assert shade(None) == shade(0.0) == "rgba(31, 78, 156, 0.000)"
