"""What the stage `evaluate` judges: each model's test logits, its size, and how often teachers were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recdistill.clicklog.schema import Dataset, SplitName
from recdistill.config.job import Method
from recdistill.config.models import FileTeacher, Member
from recdistill.distill.word import write_word
from recdistill.evaluate.lineup import COMMITTEE
from recdistill.evaluate.report import Scored
from recdistill.models.shape import Shape
from recdistill.teachers.shards import TeacherCache, write_test_logits
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL
from recdistill.teachers.work import parameters_of


def committee(
    dataset: Dataset,
    caches: Sequence[TeacherCache],
    members: Mapping[str, Member],
    told: Sequence[SplitName],
    teachers: Path,
    work: Path,
) -> list[Scored]:
    """The teachers and their word (see `distill.word`), whose test logits are written into `work`.

    `teachers` holds a folder of versions for each.
    """
    models = []
    for cache in caches:
        path, member = work / "teachers" / f"{cache.name}.parquet", members[cache.name]
        write_test_logits(cache, dataset, path)
        size = member.parameters if isinstance(member, FileTeacher) else parameters_of(teachers / cache.name / FINAL)
        models.append(Scored(cache.name, "teacher", None, None, size, path))
    path, size = work / "teachers" / f"{COMMITTEE}.parquet", sum(model.parameters for model in models)
    write_word(caches, dataset, told, path)
    return [*models, Scored(COMMITTEE, "committee", None, None, size, path)]


def taught(
    name: str, method: Method, seeds: Sequence[int], folders: Sequence[Path], size: int, saved: float | None = None
) -> list[Scored]:
    """A method's students, one a seed, of `size` parameters; `saved` is the share of pairs that their router spared."""
    return [
        Scored(f"{name}/seed-{seed}", "student", method, seed, size, folder / "test.parquet", saved)
        for seed, folder in zip(seeds, folders, strict=True)
    ]


def account(model: str, shape: Shape | None, member: Member | None = None) -> dict[str, Any]:
    """A model's parameters; what says which ids share a row counts among those of `tables`.

    Where some share rows, also how many `ids` have a row `each`, share one by `likeness`, and by `hash`. `member` says
    how many where the model has no shape, being known by its answers alone.
    """
    if shape is None:
        assert isinstance(member, FileTeacher)
        return {"model": model, "tables": 0, "dense": member.parameters, "total": member.parameters}
    tables, total = shape.account()["tables"] + shape.clusters, shape.parameters()
    found = {"model": model, "tables": tables, "dense": total - tables, "total": total}
    each, alike = (sum(getattr(table, name) for table in shape.tables) for name in ("own", "clustered"))
    by_hash = sum(table.source_rows for table in shape.tables) - each - alike
    return {**found, "ids": {"each": each, "likeness": alike, "hash": by_hash}} if alike + by_hash else found


def forwards(caches: Sequence[TeacherCache], labels: Sequence[TeacherCache], shelf: Shelf | None) -> dict[str, int]:
    """Pairs of a row and a teacher that may score it: all there are, those computed, those reused from an earlier
    cache, those that a router spared; and `held_out`, those on validation and test rows, of which it spares none.
    """
    tonight = ("", shelf.night if shelf else "")
    shards = [shard for cache in (*caches, *labels) for shard in cache.manifest.shards]
    full, answered = sum(shard.eligible for shard in shards), sum(shard.rows for shard in shards)
    reused = sum(shard.rows for shard in shards if shard.night not in tonight)
    return {
        "full": full,
        "computed": answered - reused,
        "reused": reused,
        "saved": full - answered,
        "held_out": sum(shard.eligible for shard in shards if shard.split in ("validation", "test")),
    }
