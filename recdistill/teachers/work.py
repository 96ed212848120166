"""The units of the stages `tune_teachers`, `teach` and `cache`: a trial, one chain of versions, one teacher's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill import ranks
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import DlrmTeacher, FileTeacher, Member, SklearnTeacher
from recdistill.errors import UserError
from recdistill.files import read_json, write_json
from recdistill.ranks import once
from recdistill.spread import Spread, in_turn
from recdistill.teachers.cache import cache_version
from recdistill.teachers.dlrm import train_dlrm
from recdistill.teachers.protocol import open_teacher
from recdistill.teachers.routes import Routed
from recdistill.teachers.shards import CacheManifest
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL, Version


def try_teacher(folder: Path, mark: str, spec: DlrmTeacher, dataset: Path, version: Version, label: str) -> None:
    """Trains a version to see how good it becomes; only its record remains, `teacher.json` in `folder`."""

    def train(work: Path) -> None:
        train_dlrm(spec, Dataset(dataset), version, None, work, label)
        if ranks.leads():
            for part in work.iterdir():
                if part.is_dir():
                    shutil.rmtree(part)
                elif part.name != "teacher.json":
                    part.unlink()

    once(folder, mark, train)


def teach_chain(
    folder: Path,
    mark: str,
    spec: Member,
    name: str,
    dataset: Path,
    chain: list[Version],
    earlier: tuple[Path, Path] | None = None,
) -> None:
    """Trains a chain of versions, each into a folder beside `folder`, which is the last one's.

    `earlier` is the stage's folder of an earlier night and the dataset whose ids its teachers know. The chain begins
    where `earlier_version` says.

    Checkpoints with optimizer states are as large as the teacher again, so each is removed when the version that
    continues it is there.
    """
    opened = Dataset(dataset)
    before: Path | None = None
    for version in chain:
        out = folder.parent / version.name
        label = f"teach {name}/{version.name}"

        def train(work: Path, version: Version = version, before: Path | None = before, label: str = label) -> None:
            if isinstance(spec, DlrmTeacher):
                start = None
                if before is None and earlier and (begin := earlier_version(earlier[0] / name, version.name)):
                    start = begin, Dataset(earlier[1])
                train_dlrm(spec, opened, version, before, work, label, start)
            elif isinstance(spec, SklearnTeacher) and ranks.leads():
                from recdistill.teachers.trees import train_sklearn

                train_sklearn(spec, opened, version, work, label)

        once(out, mark, train)
        if before is not None:
            shutil.rmtree(before / "training", ignore_errors=True)
        before = out
    shutil.rmtree(folder / "training", ignore_errors=True)


def earlier_version(teacher: Path, name: str) -> Path | None:
    """The version of an earlier night's teacher, in the folder `teacher`, that the version `name` may begin at, if any.

    The one of the same name has not seen what this one scores, whatever the regime. Of a teacher that goes from day to
    day (`prequential`), it is the last one that ends no later than this one.
    """
    names = [path.parent.name for path in teacher.glob("*/teacher.json")]
    fitting = [other for other in names if other == name or (name.startswith("until-") and "until-" <= other <= name)]
    return teacher / max(fitting) if fitting else None


def cache_teacher(
    folder: Path,
    mark: str,
    spec: Member,
    name: str,
    teachers: Path,
    dataset: Path,
    all_versions: list[Version],
    shelf: Shelf | None = None,
    routed: Routed | None = None,
    spread: Spread = in_turn,
) -> None:
    """Fills the cache of one teacher; the manifest is written last."""
    opened = Dataset(dataset)

    def fill(work: Path) -> None:
        if not isinstance(spec, FileTeacher):
            _fill(work, name, teachers, opened, all_versions, None, shelf, routed, spread)
        elif ranks.leads():
            from recdistill.teachers.outside import import_outside

            dim, record, shards = import_outside(name, spec, opened, work)
            records = {shards[0].version: record}
            manifest = CacheManifest(teacher=name, dim=dim, dataset=opened.fingerprint, versions=records, shards=shards)
            write_json(work / "manifest.json", manifest.model_dump())

    once(folder, mark, fill)


def label_rows(
    folder: Path,
    mark: str,
    name: str,
    teachers: Path,
    dataset: Path,
    recombined: Path,
    labelling: Version,
    shelf: Shelf | None = None,
    routed: Routed | None = None,
    spread: Spread = in_turn,
) -> None:
    """Has the `labelling` version of a teacher score recombined rows: a cache like any other, of another dataset."""
    asked = Dataset(recombined)

    def fill(work: Path) -> None:
        _fill(work, name, teachers, Dataset(dataset), [labelling], asked, shelf, routed, spread)

    once(folder, mark, fill)


def _fill(
    work: Path,
    name: str,
    teachers: Path,
    dataset: Dataset,
    asking: list[Version],
    asked: Dataset | None,
    shelf: Shelf | None,
    routed: Routed | None,
    spread: Spread,
) -> None:
    """Writes what versions of a teacher say about rows of `asked`, or of the dataset itself, and then the manifest."""
    records, shards = {}, []
    for version in asking:
        records[version.name], more = cache_version(
            name, teachers / name, version, dataset, work, asked, shelf, routed, spread
        )
        shards += more
    if ranks.leads():
        dim, of = open_teacher(teachers / name / FINAL).dim, asked or dataset
        manifest = CacheManifest(teacher=name, dim=dim, dataset=of.fingerprint, versions=records, shards=shards)
        write_json(work / "manifest.json", manifest.model_dump())


def domain_of(member: Member, dataset: Dataset) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """A domain expert's rows as single features and the ids that they must have.

    Raises `UserError` for a feature that is not single and for a value that training never saw.
    """
    out = []
    for feature, values in ({} if isinstance(member, FileTeacher) else member.rows or {}).items():
        kinds = {sparse.name: sparse.kind for sparse in dataset.schema.sparse}
        if kinds.get(feature) != "single" or dataset.schema.table(feature).encoding != "vocabulary":
            raise UserError(
                f"teachers: rows are selected by {feature!r}, which is no single feature with a vocabulary; "
                f"these are: {', '.join(name for name, kind in kinds.items() if kind == 'single')}"
            )
        vocabulary = pq.read_table(dataset.vocabulary_path(dataset.schema.table(feature).name))["value"]
        ids = []
        for value in values:
            at = pc.index(vocabulary, value).as_py()
            if at < 0:
                raise UserError(f"teachers: rows ask for {feature} = {value!r}, which no training row has")
            ids.append(at + 1)
        out.append((feature, tuple(ids)))
    return tuple(out)


def parameters_of(folder: Path) -> int:
    """Parameters of the version in `folder`."""
    return int(read_json(folder / "teacher.json")["parameters"])
