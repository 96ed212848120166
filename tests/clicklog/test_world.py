"""The world behind a simulated log: every part of it matters, none of it decides alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recdistill.clicklog import world as module
from recdistill.clicklog.clicklaw import DEVICES, SHARES, SPREAD, sigmoid
from recdistill.clicklog.world import World
from recdistill.config.dataset import Simulation


@pytest.fixture(scope="module")
def world() -> World:
    return World(Simulation())


@pytest.fixture(scope="module")
def drawn(world):
    rng = np.random.default_rng(0)
    return world.impressions(24 * rng.random(40_000), rng)


def test_every_term_tells_what_the_others_do_not(world, drawn):
    rows, z = drawn
    at_home = np.eye(4)[rows.domain]
    within = z - at_home @ np.linalg.lstsq(at_home, z, rcond=None)[0]
    assert within.std() == pytest.approx(SPREAD, rel=0.2)
    assert sum(SHARES.values()) == pytest.approx(1)
    terms = world._law.terms(rows)
    for name in SHARES:
        others = np.column_stack([at_home, *(term for other, term in terms.items() if other != name)])
        rest = z - others @ np.linalg.lstsq(others, z, rcond=None)[0]
        assert 0.3 * SHARES[name] < rest.var() / SPREAD**2 < 1.3 * SHARES[name], name


def test_no_term_comes_near_the_whole(world, drawn):
    rows, z = drawn
    label = np.random.default_rng(1).random(len(z)) < sigmoid(z)
    best = roc_auc_score(label, z)
    assert all(roc_auc_score(label, term) < best - 0.1 for term in world._law.terms(rows).values())


def test_the_taste_is_not_additive_in_user_and_item(drawn):
    """Rows of one pair agree, and pairs differ by more than their user and their item account for."""
    rows, z = drawn
    busiest = [np.bincount(positions).argsort()[-40:] for positions in (rows.user, rows.item)]
    kept = np.isin(rows.user, busiest[0]) & np.isin(rows.item, busiest[1])
    design = [
        np.eye(40)[np.searchsorted(np.sort(busy), found[kept])]
        for busy, found in zip(busiest, (rows.user, rows.item), strict=True)
    ]
    additive = np.hstack(design)
    rest = z[kept] - additive @ np.linalg.lstsq(additive, z[kept], rcond=None)[0]
    assert rest.var() > 0.3 * z[kept].var()


def test_symptoms_tell_of_the_latent_vector(world):
    """Items of one category lie closer together than items do."""
    latent, category = world.items.traits["latent"], world.items.traits["category"]
    groups = [latent[category == value] for value in np.unique(category) if (category == value).sum() > 3]
    inside = sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)
    whole = sum(((group - latent.mean(axis=0)) ** 2).sum() for group in groups)
    assert inside < 0.8 * whole


def test_a_day_is_the_same_however_it_is_reached():
    first, second = World(Simulation()), World(Simulation())
    for _ in range(3):
        first.next_day()
        second.next_day()
        second.impressions(np.linspace(0, 23, 100), second.rows_rng(0))
    hour = np.linspace(0, 23, 500)
    rows = [w.impressions(hour, w.rows_rng(7)) for w in (first, second)]
    assert np.array_equal(rows[0][1], rows[1][1])
    assert np.array_equal(first.item_counters, second.item_counters)


@pytest.mark.parametrize("drift", [0.0, 0.1, 1.0])
def test_a_day_moves_vectors_by_drift_and_leaves_their_spread(drift):
    world = World(Simulation(drift=drift, users=4_000))
    before = world.users.traits["latent"].copy()
    ids = world.users.ids.copy()
    world.next_day()
    stayed = world.users.ids == ids
    after = world.users.traits["latent"]
    assert (~stayed).mean() == pytest.approx(module.TURNOVER * drift, abs=0.02)
    assert after.std() == pytest.approx(1, abs=0.03)
    alike = np.corrcoef(before[stayed].ravel(), after[stayed].ravel())[0, 1]
    assert alike == pytest.approx(np.sqrt(1 - drift**2), abs=0.03)
    assert len(set(world.users.ids)) == 4_000


def test_counters_follow_popularity_and_liking(world):
    """And nothing else: they are known before the day's first row."""
    views, clicks = world.item_counters
    popularity = world._traffic @ world.items.popularity()
    assert np.corrcoef(views, popularity)[0, 1] > 0.99
    seen = views > 500
    rate = clicks[seen] / views[seen]
    assert np.corrcoef(rate, world.items.traits["bias"][seen])[0, 1] > 0.9


def test_picks_follow_the_odds_of_their_group():
    rng = np.random.default_rng(0)
    weight = np.array([[1.0, 3.0, 0.0], [0.0, 1.0, 1.0]])
    group = np.repeat([0, 1], 20_000)
    picks = module._pick(module._odds(weight), group, rng)
    for g in (0, 1):
        share = np.bincount(picks[group == g], minlength=3) / 20_000
        assert share == pytest.approx(weight[g] / weight[g].sum(), abs=0.02)


def test_devices_are_mostly_the_users_own(world, drawn):
    rows, _ = drawn
    own = (rows.device == world.users.traits["device"][rows.user]).mean()
    assert own == pytest.approx(0.75 + 0.25 / DEVICES, abs=0.02)
