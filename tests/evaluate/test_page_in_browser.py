"""The report's page in a real browser, on a desk and on a phone whose bars leave the page 664 pixels."""

from __future__ import annotations

from typing import Any

import pytest

from recdistill.evaluate.page import render
from tests.browser import Page

SIZES = [pytest.param(1280, 800, id="desk"), pytest.param(390, 664, id="phone")]
BOTTOMS = "[...document.querySelectorAll('h1, .card')].map(part => part.getBoundingClientRect().bottom)"
CUT = """
[...document.querySelectorAll('h1, .card, .card dt, .card dd, figure, svg text')]
    .filter(part => part.getBoundingClientRect().right > innerWidth + 1 || part.getBoundingClientRect().left < -1)
    .map(part => part.textContent)
"""
SMALLEST = "Math.min(...[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height))"


@pytest.fixture(scope="module")
def address(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_screen_says_how_much_of_the_gap_at_what_cost_and_whether_to_trust_it(
    screen: Page, address: str, report: dict[str, Any], width: int, height: int
) -> None:
    screen.open(address, width, height)
    assert all(0 < bottom <= height for bottom in screen.value(BOTTOMS))
    share = report["gap_recovered"]["diverse"]["ne"]["mean"]
    headline, *cards = screen.value("[...document.querySelectorAll('h1, .card')].map(part => part.innerText)")
    assert f"{share:.0%} of the NE gap" in headline
    for card, words in zip(
        cards,
        [
            ("How much of the gap is recovered?", f"{share:.0%}"),
            ("At what cost?", "40\u00d7"),
            ("Can it be trusted?", "fold"),
        ],
        strict=True,
    ):
        assert all(each in card for each in words)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_runs_over_the_edge_and_nothing_is_fetched(screen: Page, address: str, width: int, height: int) -> None:
    screen.open(address, width, height)
    assert screen.value("document.documentElement.scrollWidth") <= screen.value("innerWidth") == width
    assert screen.value(CUT) == []
    assert screen.value(SMALLEST) >= 9
    assert screen.errors == []
    assert screen.requests == [address]
