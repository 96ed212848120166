"""The job file of a draft: YAML with comments, short enough to read, checked before it is written."""

from __future__ import annotations

import glob
import itertools
import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from recdistill.config.dataset import Bag, Bucket, Dense, Single
from recdistill.config.job import Job, Tune
from recdistill.config.models import Train
from recdistill.config.yaml12 import parse
from recdistill.init.draft import Draft
from recdistill.init.features import Choice, Kind
from recdistill.init.sizes import choose_second

LINES = 60
_WIDTH, _WIDEST = 112, 1000
"""Characters of a line; a YAML key may have 1,024."""
_FEATURE_LINES = 16
_COMMENTS = [(10, 8), (3, 3), (2, 1)]
"""How many doubts, and how many reasons for leaving columns out, are written down: fewer where lines are short."""
_NUMBERED = re.compile(r"^(.*?)(0|[1-9]\d*)$")


def render(draft: Draft, paths: list[str], out: Path) -> str:
    """The text of the job file `out`; `recdistill run` takes it as it is.

    It has fewer than `LINES` lines, unless many columns have names that take a line each to spell out.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", out.stem).lstrip("-.0123456789") or "mine"
    for doubts, left_out in _COMMENTS:
        lines = [
            f"# Drafted by `recdistill init` from {draft.sample.table.num_rows:,} rows. Read it, then:",
            "#",
            f"#     recdistill run {out} --out runs/{name}",
            *_doubts(draft.doubts, doubts),
            f"name: {name}",
            "dataset:",
            *_log(draft, paths),
            *_roles(draft),
            "  features:",
            *_features(draft),
            *_left_out(draft.choices)[:left_out],
            *_models(draft),
        ]
        if len(lines) < LINES:
            break
    text = "\n".join(lines) + "\n"
    Job.model_validate(parse(text, str(out)).content)
    return text


def _doubts(doubts: list[str], most: int) -> list[str]:
    if not doubts:
        return []
    shown = doubts[:most]
    if len(doubts) > len(shown):
        shown = [*shown[:-1], f"and {len(doubts) - len(shown) + 1} more, which init printed"]
    return ["#", "# Unsure, so look here first:", *(f"# - {_cut(sentence)}" for sentence in shown)]


def _cut(text: str) -> str:
    return textwrap.shorten(text, 150, placeholder=" ...")


def _log(draft: Draft, paths: list[str]) -> list[str]:
    files = draft.sample.files
    shown = _short(paths)
    lines = ["  log:", f"    paths: {_text(shown[0]) if len(shown) == 1 else json.dumps(shown, ensure_ascii=False)}"]
    if files.format is not None:
        lines.append(f"    format: {files.format}")
    if files.delimiter is not None:
        lines.append(f"    delimiter: {json.dumps(files.delimiter)}")
    if files.columns is not None:
        lines.append(f"    columns: {', '.join(_ranges(files.columns))}   # it has no header")
    if draft.roles.subjects and len(draft.choices) < 4:
        role, column = next(iter(draft.roles.subjects.items()))
        lines.append(
            f"  # joins: [{{paths: {role}s.csv, on: {_text(column)}}}]   # a side table, looked up for each row"
        )
    return lines


def _short(paths: list[str]) -> list[str]:
    """One glob for many files, or files of one name in folders of their own, where it names these and no others."""
    if len(paths) < 3 and len({Path(path).name for path in paths}) == len(paths):
        return paths
    first, last = _common(paths), _common([path[::-1] for path in paths])[::-1]
    pattern = f"{glob.escape(first)}*{glob.escape(last)}"
    return [pattern] if sorted(glob.glob(pattern)) == sorted(paths) else paths


def _common(texts: list[str]) -> str:
    """What all begin with."""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def _roles(draft: Draft) -> list[str]:
    roles, split = draft.roles, draft.split
    rule = [f"column: {_text(roles.label.column)}"]
    if roles.label.at_least is not None:
        rule.append(f"at_least: {roles.label.at_least:g}")
    if roles.label.equals is not None:
        rule.append(f"equals: {json.dumps(roles.label.equals, ensure_ascii=False)}")
    lines = [f"  label: {{{', '.join(rule)}}}   # {roles.positive.mean():.1%} of the rows looked at are positive"]
    for key in ("example_id", "weight", "true_probability"):
        if getattr(roles, key):
            lines.append(f"  {key}: {_text(getattr(roles, key))}")
    if roles.time:
        lines.append(f"  time: {{column: {_text(roles.time.column)}, unit: {roles.time.unit}}}")
    lines.append("  # negative_keep_rate: 0.1   # say so if the log kept only a part of its negatives")
    user = f", user: {_text(split.user)}" if split.user else ""
    lines.append(f"  split: {{by: {split.by}{user}, validation: {split.validation:g}, test: {split.test:g}}}")
    return lines


def _features(draft: Draft) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name, choice in draft.features.items():
        assert choice.kind is not None
        if not isinstance(choice.kind, Bucket):  # the number says so
            groups.setdefault(_spec(name, choice.column, choice.kind), []).append(name)
    for width in (_WIDTH, _WIDEST):
        lines = [line for spec, names in groups.items() for line in _wrapped(_ranges(names), spec, width)]
        if len(lines) <= _FEATURE_LINES:
            break
    for name, outcome in draft.histories.items():
        user, item = draft.roles.subjects["user"], draft.named(draft.roles.subjects["item"])
        of = "" if outcome == "positive" else f", outcome: {outcome}"
        also = f", matches: [{', '.join(_ranges(draft.matched))}]" if draft.matched else ""
        lines += _folded(f"    {name}: {{kind: history, user: {_text(user)}, of: {item}, last: 20{of}{also}}}")
    return lines


def _spec(name: str, column: str, kind: Kind) -> str:
    parts = [f"kind: {kind.kind}"]
    if column != name:
        parts.append(f"column: {_text(column)}")
    if isinstance(kind, Bag) and kind.delimiter is not None:
        parts.append(f"delimiter: {json.dumps(kind.delimiter)}")
    if isinstance(kind, Single | Bag) and kind.min_count > 1:
        parts.append(f"min_count: {kind.min_count}")
    if isinstance(kind, Single | Bag) and kind.share is not None:
        parts.append(f"share: {kind.share}")
    if isinstance(kind, Dense) and kind.transform != "none":
        parts.append(f"transform: {kind.transform}")
    if isinstance(kind, Dense) and kind.bins is not None:
        parts.append(f"bins: {kind.bins}")
    return f"{{{', '.join(parts)}}}"


def _wrapped(names: list[str], spec: str, width: int) -> list[str]:
    lines, held = [], names[0]
    for name in names[1:]:
        if len(held) + len(name) + len(spec) + 8 > width:
            lines.append(held)
            held = name
        else:
            held += f", {name}"
    return [f"    {keys}: {spec}" for keys in [*lines, held]]


def _ranges(names: Iterable[str]) -> list[str]:
    """Three or more names that count upwards, in short form: I1..I13."""
    out: list[str] = []
    run: list[tuple[str, int]] = []

    def close() -> None:
        spelled = [f"{stem}{number}" for stem, number in run]
        out.extend([f"{spelled[0]}..{spelled[-1]}"] if len(spelled) > 2 else spelled)
        run.clear()

    for name in names:
        match = _NUMBERED.match(name)
        key = (match[1], int(match[2])) if match else None
        if run and key != (run[-1][0], run[-1][1] + 1):
            close()
        if key is None:
            out.append(name)
        else:
            run.append(key)
    close()
    return out


def _left_out(choices: list[Choice]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for choice in choices:
        if choice.kind is None:
            reasons.setdefault(choice.reason, []).append(choice.column)
    return [f"    # left out: {_cut(', '.join(columns))} ({reason})" for reason, columns in reasons.items()]


def _models(draft: Draft) -> list[str]:
    student = draft.student
    interaction = "" if student.interaction == "dot" else f", interaction: {student.interaction}"
    lines = [
        *_teachers(draft),
        *_folded(
            f"student: {{compression: {student.compression:g}, top: {student.top}{interaction}{_unknowns(draft)}"
            f"{_without(draft)}}}"
        ),
        "distill:",
        *_recombine(draft),
        *_training(draft.training, draft.tune),
    ]
    slices = [name for name, choice in draft.features.items() if isinstance(choice.kind, Single)]
    small = [name for name in slices if 2 <= draft.distinct(name) <= 20][:2]
    return [*lines, f"evaluate: {{slices: [{', '.join(small)}]}}   # reported apart"] if small else lines


def _teachers(draft: Draft) -> list[str]:
    teacher, train, unknown = draft.teacher, draft.teacher.train, _unknown(draft)
    rates = f", embedding_rates: {teacher.embedding_rates}" if teacher.embedding_rates else ""
    return [
        "teachers:",
        *(
            ["  regime: prequential   # days bring new items: each is scored by teachers of those before"]
            if draft.news
            else ["  regime: out_of_fold   # each fold is scored by a teacher that has not seen it", "  folds: 3"]
        ),
        "  members:",
        "    foundation:",
        f"      {{kind: dlrm, dim: {teacher.dim}, top: {teacher.top}, dropout: {teacher.dropout}{unknown}{rates},",
        f"       train: &teacher {{batch_size: {train.batch_size}, epochs: {train.epochs}, "
        f"checks_per_epoch: {train.checks_per_epoch}, patience: {train.patience}}}}}",
        *_folded(_context(draft, rates) if draft.news else _second(draft, rates)),
        *_folded(f"    trees: {{kind: sklearn{_known_to_trees(draft)}}}"),
    ]


def _second(draft: Draft, rates: str) -> str:
    second = choose_second(draft.teacher, len([*draft.features, *draft.histories]))
    return (
        f"    crosses: {{kind: dlrm, interaction: {second.interaction}, dim: {second.dim}, top: {second.top}, "
        f"dropout: {second.dropout}{rates}, train: *teacher}}"
    )


def _context(draft: Draft, rates: str) -> str:
    """An expert on what is known of items, where these are new every day: that is never new.

    What an expert on ids says of later days' rows is the same for all of them (Globo, in tests/benchmarks/LEDGER.md).
    """
    ids, half = _ids(draft), [width // 2 for width in draft.teacher.top]
    seen = [*(name for name in draft.features if name not in ids), *draft.matches]
    return (
        f"    context: {{kind: dlrm, features: [{', '.join(_ranges(seen))}], dim: {draft.teacher.dim // 2}, "
        f"top: {half}{rates}, train: *teacher}}"
    )


def _ids(draft: Draft) -> list[str]:
    """User and item, where they are known, and earlier items."""
    earlier = [name for name, choice in draft.features.items() if getattr(choice.kind, "share", None)]
    return [
        *(draft.named(column) for column in draft.roles.subjects.values()),
        *earlier,
        *draft.histories,
    ]


def _known_to_trees(draft: Draft) -> str:
    """Of news, click rates of items and of what users read mislead about later days, and trees believe them."""
    if not draft.news:
        return ""
    ids = _ids(draft)[1:]  # but the user
    twins = [name for name, choice in draft.features.items() if isinstance(choice.kind, Bucket)]
    seen = [*(name for name in draft.features if name not in (*ids, *twins)), *draft.matches]
    return f", features: [{', '.join(_ranges(seen))}]"


def _unknown(draft: Draft) -> str:
    return ", unknown: 0.6" if draft.news else ""


def _unknowns(draft: Draft) -> str:
    return ", unknowns: [0.3, 0.6]" if draft.news else ""


def _without(draft: Draft) -> str:
    sets = ", ".join(f"[{', '.join(_ranges(names))}]" for names in draft.student.without)
    return f", without: [{sets}]" if sets else ""


def _training(train: Train, tune: Tune) -> list[str]:
    checks = f", checks_per_epoch: {train.checks_per_epoch}" if train.checks_per_epoch > 1 else ""
    lines = [
        f"  train: {{batch_size: {train.batch_size}, epochs: {train.epochs}{checks}, patience: {train.patience}, "
        f"embedding_rate: {train.embedding_rate}, dense_rate: {train.dense_rate}}}"
    ]
    if tune.trials > 1:
        lines.append(f"  tune: {{trials: {tune.trials}, embedding_rate: {tune.embedding_rate}}}   # by each method")
    return lines


def _recombine(draft: Draft) -> list[str]:
    found = draft.recombine
    if found is None:
        return []
    groups = ", ".join(f"[{', '.join(_ranges(names))}]" for names in found.groups)
    by = [f"groups: [{groups}]"] if groups else []
    by += [f"others: {found.others}"] if found.others != "stay" else []
    first, *more = _folded(f"  recombine: {{rows: {found.rows}, {', '.join(by)}}}")
    what = "other items" if found.others == "stay" else "rows put together anew"
    return [first, *more] if more else [f"{first}   # students also hear what teachers think of {what}"]


def _folded(line: str) -> list[str]:
    """A line with a flow of values, on as many lines as it needs."""
    inside = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, _WIDTH, subsequent_indent=inside, break_long_words=False, break_on_hyphens=False)


def _text(value: str) -> str:
    """A value that YAML reads back as this text, in a flow mapping too."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", value) and parse(value, "").content == value
    return value if plain else json.dumps(value, ensure_ascii=False)
