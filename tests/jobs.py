"""How the jobs begin that tests run from the log to the report: their own sections follow."""

from __future__ import annotations

DATASET = """\
  example_id: example_id
  time: {column: time, unit: ms}
  split: {by: days, validation: 1, test: 1}
  features:
    domain, hour, user, item: {kind: single}
    tags: {kind: bag}
    price: {kind: dense, transform: log}
    clicked: {kind: history, user: user, of: item, last: 5}
"""


def over_simulated(name: str, log: str, **more: str) -> str:
    """The sections `name` and `dataset` of a job over a simulated log.

    Args:
        name: the job's name.
        log: the simulator's settings, as in `rows: 2500, days: 5`.
        more: further settings of the dataset.
    """
    further = "".join(f"  {key}: {value}\n" for key, value in more.items())
    return f"name: {name}\ndataset:\n  simulate: {{{log}}}\n{further}{DATASET}"
