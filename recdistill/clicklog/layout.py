"""Which typed columns a `dataset:` section asks for, and from which raw columns.

Columns of a typed batch:

- `$position` int64: the row's number in the whole log; `example_id` int64;
- `label` int8 (0 or 1; null where a log to be scored does not say), `weight` and `true_probability` float32,
  `time` int64 (microseconds, or the rank), each where the log has it and it is asked for;
- `$draw` float64 in [0, 1) for a random split;
- `u0`, `u1`, ... string: the users of `split` and of histories;
- `f0`, `f1`, ... for the features in order: string (single), list of string (bag), float64 (dense and bucket); a
  history and a match have none. Numbered, because names that differ only in case are the same to DuckDB.
"""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa

from recdistill.config.dataset import Bag, Dataset, Feature, History, Match, Single


class Layout:
    """The columns that a `dataset:` section asks for.

    With `scoring`, only what is needed to encode features: no weight, no split, and no time unless a history needs it.
    """

    def __init__(self, spec: Dataset, scoring: bool = False) -> None:
        self.spec = spec
        histories = [feature for feature in spec.features.values() if isinstance(feature, History)]
        self.time = spec.time if histories or not scoring else None
        self.weight = None if scoring else spec.weight
        self.true_probability = None if scoring else spec.true_probability
        self.draws = spec.split.by == "random" and not scoring
        self.split_user = None if scoring else spec.split.user
        users = [*([self.split_user] if self.split_user else []), *(feature.user for feature in histories)]
        self.users = {name: f"u{index}" for index, name in enumerate(dict.fromkeys(users))}
        self.features = {name: f"f{index}" for index, name in enumerate(spec.features)}
        self.label_matters = any(feature.outcome != "any" for feature in histories)

    def raw(self, name: str) -> str:
        """The raw column that a feature reads."""
        return getattr(self.spec.features[name], "column", None) or name

    @cached_property
    def needs(self) -> list[str]:
        """Raw columns that must be there, the label apart."""
        time = self.time.column if self.time else None
        given = [name for name in (self.spec.example_id, self.weight, self.true_probability, time) if name]
        features = [self.raw(name) for name, feature in self.spec.features.items() if _is_read(feature)]
        return list(dict.fromkeys([*given, *self.users, *features]))

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of typed batches."""
        fields = {"$position": pa.int64(), "example_id": pa.int64(), "label": pa.int8()}
        if self.weight:
            fields["weight"] = pa.float32()
        if self.time:
            fields["time"] = pa.int64()
        if self.true_probability:
            fields["true_probability"] = pa.float32()
        if self.draws:
            fields["$draw"] = pa.float64()
        fields |= dict.fromkeys(self.users.values(), pa.string())
        for name, column in self.features.items():
            feature = self.spec.features[name]
            if _is_read(feature):
                fields[column] = _feature_type(feature)
        return pa.schema(fields)


def _is_read(feature: Feature) -> bool:
    """Whether a feature has a column of the log's, and does not come of others."""
    return not isinstance(feature, History | Match)


def _feature_type(feature: Feature) -> pa.DataType:
    if isinstance(feature, Single):
        return pa.string()
    return pa.list_(pa.string()) if isinstance(feature, Bag) else pa.float64()
