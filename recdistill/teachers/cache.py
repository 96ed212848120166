"""Filling the cache: each version of a teacher scores the rows that it has not seen, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recdistill import progress, ranks
from recdistill.clicklog.batches import Batch, Block, Rows, read_blocks
from recdistill.clicklog.schema import Dataset, Part
from recdistill.errors import UserError
from recdistill.files import read_json
from recdistill.spread import Spread, in_turn
from recdistill.teachers.calibration import alignment, calibrate, sample
from recdistill.teachers.codes import encode
from recdistill.teachers.protocol import SCORING_BATCH, Teacher, open_teacher
from recdistill.teachers.routes import Routed
from recdistill.teachers.shard_file import write_shard
from recdistill.teachers.shards import CachedVersion, Shard, shard_of, shard_path
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL, Version

ENOUGH = 100
"""Rows of either label that a day has at least where it calibrates its version."""

Write = Callable[[], None]
"""Writes a shard."""


def cache_version(
    name: str,
    teacher_folder: Path,
    version: Version,
    dataset: Dataset,
    out: Path,
    asked: Dataset | None = None,
    shelf: Shelf | None = None,
    routed: Routed | None = None,
    spread: Spread = in_turn,
) -> tuple[CachedVersion, list[Shard]]:
    """Writes the shards of one version into `out`; shards that are there already are kept.

    It scores the rows of `asked`, or of the dataset itself. Logits are calibrated on validation rows, or where a
    version scores a day of its own on a sample of that: days differ, and two numbers learned of one tell no label.
    Embeddings are moved into the space of the final version, by what both say about the same validation rows of the
    dataset. What is on the `shelf` is not scored again. Only rows that are `routed` to the teacher are scored, where
    anything is. Ranks share the parts, unless there is something else to `spread` them.
    """
    scorer = _Scorer(name, teacher_folder, version, dataset, shelf, routed)
    slope, intercept = scorer.calibration()
    work = _Parts(scorer, asked or dataset, out)
    everything = range(len(work.parts))
    if spread is in_turn:
        shards = ranks.deal(everything, work.several)
    else:
        shards = ranks.share(spread(everything, work) if ranks.leads() else None)
    progress.current().update(f"cache {name}/{version.name}", 1, 1)
    record = CachedVersion(
        fingerprint=scorer.fingerprint,
        learned_from=repr(version.learns),
        seen=version.seen,
        slope=slope,
        intercept=intercept,
    )
    return record, shards


class _Parts:
    """Writes the shards of parts, given by their places in `parts`, unless they are there."""

    def __init__(self, scorer: _Scorer, asked: Dataset, out: Path) -> None:
        self._scorer, self._asked, self._out = scorer, asked, out
        self.parts = [(rows, part) for rows in scorer.version.scores for part in rows.parts(asked)]

    def __call__(self, at: int) -> Shard:
        return next(self.several([at]))

    def several(self, places: Sequence[int]) -> Iterator[Shard]:
        """One part after the other; meanwhile the next one is read, and the last one is written."""
        work = f"cache {self._scorer.name}/{self._scorer.version.name}"
        with ThreadPoolExecutor(2) as pool:
            reading: Future[Callable[[], Write]] | None = None
            writing: Future[Shard] | None = None
            for at, following in itertools.zip_longest(places, places[1:]):
                score = (reading or pool.submit(self._read, at)).result()
                reading = None if following is None else pool.submit(self._read, following)
                write = score()
                del score  # and the block with it
                if writing is not None:
                    yield writing.result()
                writing = pool.submit(self._finish, at, write)
                progress.current().update(work, at, len(self.parts))
            if writing is not None:
                yield writing.result()

    def _path(self, at: int) -> Path:
        return shard_path(self._out, self.parts[at][1].key, self._scorer.version.name)

    def _read(self, at: int) -> Callable[[], Write]:
        """Reads the part, unless its shard is there; what is left to do is to score it, and then to write."""
        (rows, part), path = self.parts[at], self._path(at)
        if path.exists():
            return lambda: _nothing
        return partial(self._scorer.score, self._scorer.read(self._asked, rows, part), part, path)

    def _finish(self, at: int, write: Write) -> Shard:
        write()
        return shard_of(self._path(at), self.parts[at][1], self._scorer.version.name)


class _Scorer:
    """One version of a teacher, about to score parts of a dataset."""

    def __init__(
        self,
        name: str,
        folder: Path,
        version: Version,
        dataset: Dataset,
        shelf: Shelf | None,
        routed: Routed | None,
    ) -> None:
        self.name, self._folder, self.version, self._dataset = name, folder, version, dataset
        self._shelf, self._routed = shelf, routed
        self._teacher = open_teacher(folder / version.name)
        self._view = shelf.view(dataset) if shelf else None
        self.fingerprint: str = read_json(folder / version.name / "teacher.json")["fingerprint"]

    def __reduce__(self) -> Any:
        # Where it arrives it opens the teacher: a model is larger than its name.
        return _Scorer, (self.name, self._folder, self.version, self._dataset, self._shelf, self._routed)

    @cached_property
    def _sample(self) -> list[Batch]:
        rows = Rows("validation", domain=self.version.learns.domain)
        found = sample(self._dataset, rows, self._teacher.features, self._view)
        if not found:
            raise UserError(
                f"teacher {self.name!r}: no validation rows in its domain, so its logit cannot be calibrated"
            )
        return found

    @cached_property
    def _said(self) -> tuple[np.ndarray, np.ndarray]:
        return self._ask_sample(self._teacher)

    @cached_property
    def _align(self) -> np.ndarray | None:
        if self.version.name == FINAL or not self._teacher.dim:
            return None
        return alignment(self._said[1], self._ask_sample(open_teacher(self._folder / FINAL))[1])

    @property
    def dim(self) -> int:
        """Width of what is cached: that of the final version's space, where another version's own may be wider."""
        return self._teacher.dim if self._align is None else self._align.shape[1]

    def calibration(self) -> tuple[float, float]:
        """Slope and intercept. Only the final version scores new days, so the others keep the first ones."""
        if self._shelf and self.version.name != FINAL:
            return self._shelf.calibration(self.fingerprint, self._fit)
        return self._fit()

    def _fit(self) -> tuple[float, float]:
        if self.version.day is not None:
            rows = sample(self._dataset, self.version.day, self._teacher.features, self._view)
            label, weight = _judged(rows)
            if min(label.sum(), (1 - label).sum()) >= ENOUGH:
                return calibrate(np.concatenate([self._ask(self._teacher, batch)[0] for batch in rows]), label, weight)
        return calibrate(self._said[0], *_judged(self._sample))

    def read(self, asked: Dataset, rows: Rows, part: Part) -> Block | None:
        """The rows of a part, if any, as the teacher knows them."""
        blocks = list(read_blocks(asked, rows, features=self._teacher.features, parts=[part], join=self._view))
        return blocks[0] if blocks else None  # a part is no larger than a block

    def score(self, block: Block | None, part: Part, path: Path) -> Write:
        """Scores a part's rows, unless the shelf has them; what is left to do is to write its shard to `path`."""
        if block is None:
            codes = encode(np.zeros((0, self.dim))) if self.dim else None
            return partial(write_shard, path, np.zeros(0, np.int64), np.zeros(0, np.float32), codes)
        example_id, index = block.example_id.numpy(), None
        if self._routed and not (chosen := self._routed.asked(self.name, part, example_id)).all():
            index = np.flatnonzero(chosen)
            example_id = example_id[index]
        shelf, kept = self._shelf, None
        if shelf is not None:
            kept = shelf.kept(self.fingerprint, block, self._routed.keep if self._routed else 1.0)
            if kept.fetch(path):
                return _nothing
        logit, codes = self._answers(block, index)

        eligible = block.rows  # so that the block itself goes before its shard is written

        def write() -> None:
            write_shard(path, example_id, logit, codes, shelf.night if shelf else "", eligible)
            if kept is not None:
                kept.put(path)

        return write

    def _answers(self, block: Block, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits float32 [N] and coded embeddings of a block's rows (int64 [N], or all of them).

        Coded batch by batch: as floats they would take four times the memory, and the processor's cache still has them.
        """
        logits, coded = [np.zeros(0, np.float32)], [encode(np.zeros((0, self.dim)))]
        count = block.rows if rows is None else len(rows)
        for start in range(0, count, SCORING_BATCH):
            stop = min(start + SCORING_BATCH, count)
            batch = block.cut(start, stop) if rows is None else block.take(torch.from_numpy(rows[start:stop]))
            logit, embedding = self._ask(self._teacher, batch)
            if self._align is not None:
                embedding = embedding @ self._align[:-1] + self._align[-1]
            logits.append(logit)
            coded.append(encode(embedding))
        return np.concatenate(logits), np.concatenate(coded) if self.dim else None

    def _ask_sample(self, teacher: Teacher) -> tuple[np.ndarray, np.ndarray]:
        logits, embeddings = zip(*(self._ask(teacher, batch) for batch in self._sample), strict=True)
        return np.concatenate(logits), np.concatenate(embeddings)

    def _ask(self, teacher: Teacher, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Logit float32 [B] and embedding float32 [B, dim]; a `UserError` where one is not finite."""
        logit, embedding = (values.numpy() for values in teacher.score(batch))
        for kind, values in (("logit", logit), ("embedding", embedding)):
            if not np.isfinite(values.sum()):
                raise UserError(f"teacher {self.name!r}: its {kind} is not finite for some rows; it cannot teach")
        return logit, embedding


def _judged(rows: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights of rows, float32 [N] each."""
    columns = ([getattr(batch, name) for batch in rows] for name in ("label", "weight"))
    label, weight = (torch.cat(values or [torch.zeros(0)]).numpy() for values in columns)
    return label, weight


def _nothing() -> None:
    """What is left to write of a shard that is there."""
