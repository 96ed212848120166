"""The committee's word about test rows, as a yardstick for the report: what the method `mean` teaches its students."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.batches import Rows, read_blocks
from recdistill.clicklog.schema import Dataset, SplitName
from recdistill.distill.committee import Member
from recdistill.distill.consensus import Mean
from recdistill.files import atomic
from recdistill.teachers.calibration import sample
from recdistill.teachers.shards import TeacherCache, joined


def write_word(caches: Sequence[TeacherCache], dataset: Dataset, told: Sequence[SplitName], path: Path) -> None:
    """Writes `example_id` and `logit` (null where nobody answered) of the test rows, in the dataset's order.

    How answers are put together is learned of rows of the splits `told`, as it is for students.
    """
    mean, join = Mean([Member(cache.name, 0) for cache in caches], 1), joined(list(caches))
    mean.calibrate([batch for split in told for batch in sample(dataset, Rows(split), [], join)])
    schema = pa.schema([("example_id", pa.int64()), ("logit", pa.float32())])
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for block in read_blocks(dataset, Rows("test"), features=[], join=join):
            logit, heard = mean.word(block)
            columns = [pa.array(block.example_id.numpy()), pa.array(logit.numpy(), mask=~heard.numpy())]
            writer.write_table(pa.table(columns, schema=schema))
