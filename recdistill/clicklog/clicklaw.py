"""How likely a click is in the simulated world.

A user and an item each have a latent vector of `LATENT` numbers, and an impression has an intent: what the user is
after now, a vector of signs. The click probability is `sigmoid(z)` with

    z = intercept[domain] + SPREAD * sum over terms of sqrt(SHARES[term]) * term

where every term has zero mean and unit variance over a reference sample of the first day:

- `user`, `item`: how much this user clicks; how good this item is, which differs from domain to domain;
- `taste`: u' M v, where M has full rank and is partly each domain's own;
- `intent`: s' N v, the match of intent and item;
- `network`: a frozen random network of two layers over u, v, s, hour, device and domain;
- `context`: each category has its best hour, and is liked differently in each domain and on each device;
- `price`: distance of the item's price from what the user would spend.

So every group of features tells a part and none tells all. Nothing here knows what models will be fitted, or how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LATENT = 6
DEVICES, CATEGORIES = 4, 16
SHARES = {"user": 0.06, "item": 0.08, "taste": 0.25, "intent": 0.2, "network": 0.15, "context": 0.2, "price": 0.06}
"""Each term's share of the variance of z within a domain, if terms were uncorrelated."""
SPREAD = 1.9
"""Standard deviation of z within a domain, if terms were uncorrelated."""
LOWEST_RATE, HIGHEST_RATE = 0.15, 0.3
"""Click rates of the first and of the last domain on the first day; the others lie evenly between."""

_DOMAIN_CODE = 4
_HIDDEN, _FAN_IN = 64, 4
"""Width of the frozen network, and how many inputs each of its units reads."""


@dataclass(frozen=True)
class Impressions:
    """Rows of one day. All arrays have length n; `user` and `item` are positions in their populations."""

    hour: Array
    """float64, in [0, 24)."""
    domain: Array
    device: Array
    user: Array
    item: Array
    user_latent: Array
    """float32 [n, LATENT], as `item_latent` is."""
    item_latent: Array
    user_bias: Array
    item_bias: Array
    category: Array
    price: Array
    """Logarithm of the item's price, near N(0, 1)."""
    intent: Array
    """float32 [n, LATENT], each -1 or 1."""
    query: Array
    """int64 [n, 4]: words of the intent, -1 where there is none. No term reads them."""


class ClickLaw:
    """Coefficients drawn once; they never change."""

    def __init__(self, domains: int, rng: np.random.Generator) -> None:
        self._quality = rng.normal(size=(domains, LATENT)) / np.sqrt(LATENT)
        self._taste = rng.normal(size=(LATENT, LATENT)) + 0.7 * rng.normal(size=(domains, LATENT, LATENT))
        self._match = rng.normal(size=(LATENT, LATENT))
        self._best_hour = 24 * rng.random(CATEGORIES)
        self._domain_liking = rng.normal(size=(domains, CATEGORIES))
        self._device_liking = rng.normal(size=(DEVICES, CATEGORIES))
        self._budget = rng.normal(size=LATENT) / np.sqrt(LATENT)
        self._domain_code = rng.normal(size=(domains, _DOMAIN_CODE))
        inputs = 3 * LATENT + 2 + _DOMAIN_CODE + DEVICES
        reads = rng.random((inputs, _HIDDEN)).argsort(axis=0) < _FAN_IN
        self._first_layer = rng.normal(size=(inputs, _HIDDEN)) * reads
        self._first_bias = rng.normal(size=_HIDDEN)
        self._second_layer = rng.normal(size=_HIDDEN)
        self._scale = dict.fromkeys(SHARES, (0.0, 1.0))
        self._intercept = np.zeros(domains)

    def standardise(self, reference: Impressions) -> None:
        """Gives the terms zero mean and unit variance on these rows, and each domain its click rate."""
        self._scale = {name: (term.mean(), term.std()) for name, term in self.terms(reference).items()}
        z = self.logit(reference)
        rates = np.linspace(LOWEST_RATE, HIGHEST_RATE, len(self._intercept))
        self._intercept = np.array([_intercept(z[reference.domain == d], rate) for d, rate in enumerate(rates)])

    def logit(self, rows: Impressions) -> Array:
        """The log-odds of a click, float64 [n]."""
        z = self._intercept[rows.domain]
        for name, term in self.terms(rows).items():
            mean, scale = self._scale[name]
            z = z + SPREAD * np.sqrt(SHARES[name]) * (term - mean) / scale
        return z

    def terms(self, rows: Impressions) -> dict[str, Array]:
        """The terms of z before they are standardised, each [n]."""
        u, v = rows.user_latent, rows.item_latent
        since_best_hour = 2 * np.pi / 24 * (rows.hour - self._best_hour[rows.category])
        liking = self._domain_liking[rows.domain, rows.category] + self._device_liking[rows.device, rows.category]
        return {
            "user": rows.user_bias,
            "item": rows.item_bias + (v * self._quality[rows.domain]).sum(axis=1),
            "taste": np.einsum("nk,nkj,nj->n", u, self._taste[rows.domain], v),
            "intent": ((rows.intent @ self._match) * v).sum(axis=1),
            "network": self._network(rows),
            "context": np.sqrt(2) * np.cos(since_best_hour) + liking,
            "price": -np.abs(rows.price - u @ self._budget),
        }

    def _network(self, rows: Impressions) -> Array:
        angle = 2 * np.pi / 24 * rows.hour[:, None]
        device = rows.device[:, None] == np.arange(DEVICES)
        latents = [rows.user_latent, rows.item_latent, rows.intent]
        inputs = np.hstack([*latents, np.sin(angle), np.cos(angle), self._domain_code[rows.domain], device])
        return np.tanh(inputs @ self._first_layer + self._first_bias) @ self._second_layer


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


def _intercept(z: Array, rate: float) -> float:
    """The b for which sigmoid(b + z) has the mean `rate`, by bisection."""
    low, high = -30.0, 30.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + z).mean() < rate else (low, middle)
    return low
