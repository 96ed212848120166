"""Writes the click log of a simulated world (`world`, `clicklaw`), one Parquet file a day.

    recdistill simulate --rows 1000000 --days 14 --out logs/simulated

A day's file depends on the settings and on the day alone, so days that are there already are kept, and a killed run
goes on where it stopped. Rows are drawn in chunks: memory does not grow with them.

Columns: `example_id`, `time` (milliseconds since 1970, UTC, ascending), `label`, `true_probability`, and every column
that `FEATURES` names; `age`, `brand` and `price` have gaps, `query` is often empty. `true_probability` is the click
probability of a row *in this log*: where each negative survives with probability w = `negative_keep_rate`, a click of
log-odds z has log-odds z - log(w) among the rows that are left. It scores the best possible AUC and NE.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.clicklaw import Array, sigmoid
from recdistill.clicklog.schema import ROW_GROUP_ROWS
from recdistill.clicklog.world import World
from recdistill.config.dataset import Files, Simulation
from recdistill.errors import UserError
from recdistill.files import atomic, fingerprint
from recdistill.progress import Progress, silent

FEATURES: dict[str, dict[str, Any]] = {
    "domain, hour, weekday": {"kind": "single"},
    "user, age, country, device": {"kind": "single"},
    "item, category, brand": {"kind": "single"},
    "tags, query": {"kind": "bag"},
    "price": {"kind": "dense", "transform": "log"},
    "user_views, user_clicks, item_views, item_clicks": {"kind": "dense", "transform": "log"},
    "clicked": {"kind": "history", "user": "user", "of": "item", "last": 20},
}
"""Every feature of the log, as a job's `dataset.features` has them."""

CHUNK_ROWS = ROW_GROUP_ROWS
"""Rows drawn at once, and so a row group's."""

_VERSION = 1
"""Goes up when the same settings give other rows."""
_ACTIVITY = (3, 2, 1, 1, 1, 2, 4, 6, 7, 7, 7, 7, 8, 8, 7, 7, 7, 8, 9, 11, 12, 11, 9, 6)
"""How busy each hour of a day is."""
_MS_PER_HOUR = 3_600_000
_SCHEMA = pa.schema(
    {
        "example_id": pa.int64(),
        "time": pa.int64(),
        "label": pa.int8(),
        "true_probability": pa.float64(),
        "domain": pa.string(),
        "hour": pa.int8(),
        "weekday": pa.int8(),
        "user": pa.int64(),
        "age": pa.string(),
        "country": pa.string(),
        "device": pa.string(),
        "item": pa.int64(),
        "category": pa.string(),
        "brand": pa.string(),
        "tags": pa.list_(pa.string()),
        "query": pa.list_(pa.string()),
        "price": pa.float64(),
        "user_views": pa.int64(),
        "user_clicks": pa.int64(),
        "item_views": pa.int64(),
        "item_clicks": pa.int64(),
    }
)


def simulate(spec: Simulation, out: Path, report: Progress = silent) -> Files:
    """Writes `out/day=YYYY-MM-DD.parquet` for each day that is not there yet.

    Args:
        spec: size, seed and drift of the world.
        out: a folder for this log alone, made when absent.
        report: told how many of `spec.rows` are done.

    Returns:
        The `log:` section of a job that reads these files.

    Raises:
        UserError: `out` holds a day of another simulation.
    """
    out = Path(out)
    mark = fingerprint([_VERSION, spec.model_dump(mode="json")])
    paths = [out / f"day={_midnight(spec, day):%Y-%m-%d}.parquet" for day in range(spec.days)]
    _refuse_strangers(out, paths, mark)
    missing = {day: path for day, path in enumerate(paths) if not path.exists()}
    if missing:
        _write_days(spec, missing, mark, report)
    return Files(paths=[f"{glob.escape(str(out))}/day=*.parquet"], format="parquet")


def _refuse_strangers(out: Path, expected: list[Path], mark: str) -> None:
    for path in sorted(out.glob("day=*.parquet")):
        try:
            found = (pq.read_schema(path).metadata or {}).get(b"simulation", b"").decode()
        except pa.ArrowInvalid:
            found = ""
        if path not in expected or found != mark:
            raise UserError(f"{path}: not a day of this simulation; choose another folder, or remove this file")


def _write_days(spec: Simulation, missing: dict[int, Path], mark: str, report: Progress) -> None:
    schema = _SCHEMA.with_metadata({"simulation": mark})
    world = World(spec)
    for day in range(max(missing) + 1):
        if day > 0:
            world.next_day()
        if day in missing:
            with atomic(missing[day]) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
                for done, table in _chunks(spec, world):
                    writer.write_table(table.cast(schema))
                    report.update("simulate", min(done, spec.rows - 1), spec.rows)
    report.update("simulate", spec.rows, spec.rows)


def _midnight(spec: Simulation, day: int) -> datetime:
    return datetime.fromisoformat(spec.first_day).replace(tzinfo=UTC) + timedelta(days=day)


def _chunks(spec: Simulation, world: World) -> Iterator[tuple[int, pa.Table]]:
    """The rows of the world's day in time order, a chunk at a time, each with the number of rows up to its end."""
    first, last = (spec.rows * day // spec.days for day in (world.day, world.day + 1))
    for start in range(first, last, CHUNK_ROWS):
        end = min(start + CHUNK_ROWS, last)
        example_id = np.arange(start, end)
        rng = world.rows_rng(start - first)
        quantile = (example_id - first + rng.random(len(example_id))) / (last - first)
        yield end, _table(spec, world, example_id, _hours(quantile), rng)


def _hours(quantile: Array) -> Array:
    """Hours in [0, 24) at these quantiles of a day's activity; ascending quantiles give ascending hours."""
    ends = np.cumsum([0, *_ACTIVITY]) / sum(_ACTIVITY)
    return np.minimum(np.interp(quantile, ends, np.arange(25)), np.nextafter(24, 0))


def _table(spec: Simulation, world: World, example_id: Array, hour: Array, rng: np.random.Generator) -> pa.Table:
    rows, z = world.impressions(hour, rng)
    label = rng.random(len(z)) < sigmoid(z)
    kept = label | (rng.random(len(z)) < spec.negative_keep_rate)
    midnight = _midnight(spec, world.day)
    user, item = world.users.traits, world.items.traits
    columns = {
        "example_id": example_id,
        "time": int(midnight.timestamp()) * 1000 + np.floor(hour * _MS_PER_HOUR),
        "label": label,
        "true_probability": sigmoid(z - np.log(spec.negative_keep_rate)),
        "domain": _names("domain", rows.domain),
        "hour": np.floor(hour),
        "weekday": np.full(len(z), midnight.weekday()),
        "user": world.users.ids[rows.user],
        "age": _names("age", user["age"][rows.user]),
        "country": _names("country", user["country"][rows.user]),
        "device": _names("device", rows.device),
        "item": world.items.ids[rows.item],
        "category": _names("category", rows.category),
        "brand": _names("brand", item["brand"][rows.item]),
        "tags": _lists("tag", item["tags"][rows.item]),
        "query": _lists("word", rows.query),
        "price": pa.array(np.round(20 * np.exp(rows.price), 2), mask=~item["priced"][rows.item]),
        "user_views": world.user_counters[0, rows.user],
        "user_clicks": world.user_counters[1, rows.user],
        "item_views": world.item_counters[0, rows.item],
        "item_clicks": world.item_counters[1, rows.item],
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in _SCHEMA]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA).filter(pa.array(kept))


def _names(prefix: str, position: Array) -> pa.Array:
    """Strings `prefix-0`, `prefix-1`, ...; null where the position is -1."""
    names = pa.array([f"{prefix}-{value}" for value in range(position.max(initial=0) + 1)])
    return names.take(pa.array(position, mask=position < 0))


def _lists(prefix: str, positions: Array) -> pa.Array:
    """A list of strings for each row of positions [n, most], without the -1."""
    there = positions >= 0
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _names(prefix, positions[there]))
