"""The simulated world: who is there, what they show of themselves, and what happens from one day to the next.

Nobody sees the latent vectors behind a click (`clicklaw`). A log shows *symptoms* of them, each modality its own: age,
country and device of a user's vector; category, brand, tags and price of an item's; a query's words of the intent;
click counters of how liked each one is. Users and items themselves are ids, whose vectors a model can only find out
from clicks. Domains share users and items in part: everybody is at home in one, often seen in some, rarely in the rest.

From day to day vectors, biases and popularity take a step of a stationary walk,
x <- sqrt(1 - drift^2) x + drift * noise, and a fraction `TURNOVER * drift` of users and of items is replaced by
newcomers with new ids.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recdistill.clicklog.clicklaw import (
    CATEGORIES,
    DEVICES,
    LATENT,
    SHARES,
    SPREAD,
    Array,
    ClickLaw,
    Impressions,
    sigmoid,
)
from recdistill.config.dataset import Simulation

Traits = dict[str, Array]

SYMPTOMS = {
    "age": 7,
    "country": 12,
    "device": DEVICES,
    "category": CATEGORIES,
    "brand": 30,
    "tags": 50,
    "query": 50,
}
"""How many values each symptom has."""
TURNOVER = 0.1
WINDOW = 7
"""Days behind the click counters."""

_MOVING = ("latent", "bias", "trend")
_REFERENCE_ROWS = 1 << 16
_LAWS, _BIRTHS, _STEPS, _COUNTERS, _REFERENCE, _ROWS = range(6)


class Population:
    """Users or items, always the same number of them; row i of each trait belongs to `ids[i]`."""

    def __init__(self, size: int, rng: np.random.Generator, draw: Callable[[int, np.random.Generator], Traits]) -> None:
        self._draw = draw
        self.traits = draw(size, rng)
        self.ids = np.arange(1, size + 1, dtype=np.int64)
        self.born = np.full(size, -WINDOW)

    def step(self, day: int, drift: float, rng: np.random.Generator) -> None:
        """Moves everybody on by a day, and replaces a few by newcomers born on `day`."""
        for name in _MOVING:
            trait = self.traits[name]
            noise = rng.standard_normal(trait.shape, dtype=np.float32)
            self.traits[name] = np.float32(np.sqrt(1 - drift**2)) * trait + np.float32(drift) * noise
        leaving = np.flatnonzero(rng.random(len(self.ids)) < TURNOVER * drift)
        for name, newcomers in self._draw(len(leaving), rng).items():
            self.traits[name][leaving] = newcomers
        self.ids[leaving] = self.ids.max() + 1 + np.arange(len(leaving))
        self.born[leaving] = day

    def popularity(self) -> Array:
        """The probability that an impression in a domain is of each one, float64 [domains, n]."""
        weight = self.traits["presence"].T * np.exp(self.traits["fame"] + 0.7 * self.traits["trend"])
        return weight / weight.sum(axis=1, keepdims=True)

    def counters(self, day: int, daily: Array, share: float, rng: np.random.Generator) -> Array:
        """Views and clicks in the `WINDOW` days before `day`, int64 [2, n].

        They are drawn from the latent state (`daily` expected views [n], and the bias, of which `share` is the share in
        z), not counted from the log's rows: no label can leak into them.
        """
        views = rng.poisson(daily * np.minimum(day - self.born, WINDOW))
        usual = np.log(0.2 / 0.8) + SPREAD * np.sqrt(share) * self.traits["bias"]
        return np.stack([views, rng.binomial(views, sigmoid(usual))])


class World:
    """The world on one day, `day` counting from 0. Memory grows with users, items and domains, not with rows."""

    def __init__(self, spec: Simulation) -> None:
        self._spec = spec
        self.day = 0
        laws = self._rng(_LAWS)
        self._symptoms = {name: _symptom(size, laws) for name, size in SYMPTOMS.items()}
        self._traffic = 1 / np.sqrt(1 + np.arange(spec.domains))
        self._traffic /= self._traffic.sum()
        self._price = laws.normal(size=LATENT) / np.sqrt(LATENT)
        self._law = ClickLaw(spec.domains, laws)
        births = self._rng(_BIRTHS)
        self.users = Population(spec.users, births, self._new_users)
        self.items = Population(spec.items, births, self._new_items)
        self._open_day()
        reference = self._rng(_REFERENCE)
        self._law.standardise(self._impressions(24 * reference.random(_REFERENCE_ROWS), reference))

    def next_day(self) -> None:
        """Goes on to the next day."""
        self.day += 1
        rng = self._rng(_STEPS, self.day)
        self.users.step(self.day, self._spec.drift, rng)
        self.items.step(self.day, self._spec.drift, rng)
        self._open_day()

    def rows_rng(self, chunk: int) -> np.random.Generator:
        """Random numbers for a chunk of this day's rows, independent of every other chunk's."""
        return self._rng(_ROWS, self.day, chunk)

    def impressions(self, hour: Array, rng: np.random.Generator) -> tuple[Impressions, Array]:
        """Who sees what at the given hours of this day (float64 [n]), and the log-odds of a click (float64 [n])."""
        rows = self._impressions(hour, rng)
        return rows, self._law.logit(rows)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._spec.seed, *stream])

    def _impressions(self, hour: Array, rng: np.random.Generator) -> Impressions:
        n = len(hour)
        domain = _pick(_odds(self._traffic[None]), np.zeros(n, dtype=np.int64), rng)
        user, item = _pick(self._user_odds, domain, rng), _pick(self._item_odds, domain, rng)
        users, items = self.users.traits, self.items.traits
        other_device = rng.random(n) < 0.25
        code = _code(users["latent"][user], rng)
        return Impressions(
            hour=hour,
            domain=domain,
            device=np.where(other_device, rng.integers(DEVICES, size=n), users["device"][user]),
            user=user,
            item=item,
            user_latent=users["latent"][user],
            item_latent=items["latent"][item],
            user_bias=users["bias"][user],
            item_bias=items["bias"][item],
            category=items["category"][item],
            price=items["price"][item],
            intent=_signs(code),
            query=_pick_bag(self._symptoms["query"], code, rng, fewest=0, most=4),
        )

    def _open_day(self) -> None:
        """What follows from today's populations: who appears how often, and the click counters."""
        rng = self._rng(_COUNTERS, self.day)
        users, items = self.users.popularity(), self.items.popularity()
        self._user_odds, self._item_odds = _odds(users), _odds(items)
        daily = self._spec.rows / self._spec.days * self._traffic
        self.user_counters = self.users.counters(self.day, daily @ users, SHARES["user"], rng)
        self.item_counters = self.items.counters(self.day, daily @ items, SHARES["item"], rng)

    def _new_users(self, n: int, rng: np.random.Generator) -> Traits:
        traits = self._newcomers(n, 0.5, rng)
        for name in ("age", "country", "device"):
            traits[name] = _pick(self._symptoms[name], _code(traits["latent"], rng), rng)
        traits["age"][rng.random(n) < 0.1] = -1
        return traits

    def _new_items(self, n: int, rng: np.random.Generator) -> Traits:
        traits = self._newcomers(n, 0.8, rng)
        for name in ("category", "brand"):
            traits[name] = _pick(self._symptoms[name], _code(traits["latent"], rng), rng)
        traits["brand"][rng.random(n) < 0.05] = -1
        traits["tags"] = _pick_bag(self._symptoms["tags"], _code(traits["latent"], rng), rng, fewest=1, most=5)
        traits["price"] = traits["latent"] @ self._price + 0.5 * rng.normal(size=n)
        traits["priced"] = rng.random(n) >= 0.02
        return traits

    def _newcomers(self, n: int, zipf: float, rng: np.random.Generator) -> Traits:
        """Traits that users and items have alike; their popularity falls with rank to the power of -`zipf`."""
        domains = self._spec.domains
        at_home = rng.integers(domains, size=n)[:, None] == np.arange(domains)
        visits = rng.random((n, domains)) < 0.3
        return {
            "latent": rng.standard_normal((n, LATENT), dtype=np.float32),
            "bias": rng.standard_normal(n, dtype=np.float32),
            "trend": rng.standard_normal(n, dtype=np.float32),
            "fame": -zipf * np.log(1e-3 + rng.random(n)),
            "presence": np.where(at_home, 1.0, np.where(visits, 0.5, 0.01)),
        }


def _symptom(size: int, rng: np.random.Generator) -> Array:
    """Odds [2^LATENT, size] of a symptom's values given a code: a softmax over random directions."""
    directions = 3 / np.sqrt(LATENT) * rng.normal(size=(LATENT, size))
    return _odds(np.exp(_signs(np.arange(1 << LATENT)) @ directions))


def _code(latent: Array, rng: np.random.Generator) -> Array:
    """int64 [n]: the orthant that a noisy copy of each vector of [n, LATENT] lies in, one bit a sign."""
    noisy = latent + 0.3 * rng.standard_normal(latent.shape, dtype=np.float32)
    return (noisy > 0) @ (1 << np.arange(LATENT))


def _signs(code: Array) -> Array:
    """The orthant of each code as float32 [n, LATENT] of -1 and 1."""
    return np.where(code[:, None] >> np.arange(LATENT) & 1, np.float32(1), np.float32(-1))


def _odds(weight: Array) -> Array:
    """What `_pick` draws from: cumulative probabilities of weights [groups, n], plus the number of the group."""
    cumulative = np.cumsum(weight, axis=1, dtype=np.float64)
    return cumulative / cumulative[:, -1:] + np.arange(len(weight))[:, None]


def _pick(odds: Array, group: Array, rng: np.random.Generator) -> Array:
    """Draws a position for each row from row `group` of odds [groups, n]."""
    n = odds.shape[1]
    found = np.searchsorted(odds.ravel(), group + rng.random(len(group)), side="right") - group * n
    return np.minimum(found, n - 1)


def _pick_bag(odds: Array, group: Array, rng: np.random.Generator, fewest: int, most: int) -> Array:
    """int64 [n, most]: between `fewest` and `most` picks a row, repeats dropped; -1 stands for no value."""
    picks = np.stack([_pick(odds, group, rng) for _ in range(most)], axis=1)
    length = rng.integers(fewest, most + 1, size=len(group))
    picks[np.arange(most) >= length[:, None]] = -1
    picks.sort(axis=1)
    picks[:, 1:][picks[:, 1:] == picks[:, :-1]] = -1
    return picks
