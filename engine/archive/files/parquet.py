"""Parquet files: a batch's tables written into one file per data set, and read back.

Pages carry checksums, row groups statistics and a bloom filter on run_id, and the footer what the
batch is, so that a bucket explains itself. What cannot be read is `ArchiveDamaged` and names the
object. Knows no journal and no manifest.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import crc32c
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from engine.archive.rows.schema import DATA_SETS, UPLOAD_ORDER
from engine.archive.store.stores import ObjectStore
from engine.base import limits
from engine.base.errors import ArchiveDamaged, EngineError, StorageFailed
from engine.base.limits import MIB

_FACTS: Final = b"engine.batch"
_LEVEL: Final = 1  # of zstd: much quicker than 3, for a few more bytes
_READ_AHEAD_BYTES: Final = 1 * MIB
_BLOCKS_KEPT: Final = 8
_FALSE_POSITIVES: Final = 0.01


class WrittenFile(msgspec.Struct, frozen=True):
    path: Path
    bytes: int
    rows: int
    checksum: int


class BatchWriter:
    """The files of one batch, in a folder of their own, a row group for each portion."""

    def __init__(self, folder: Path, *, runs: int) -> None:
        self._folder = folder
        self._rows = dict.fromkeys(DATA_SETS, 0)
        distinct = max(1, min(runs, limits.archive_portion_runs_max))
        with _written():
            self._writers = {
                name: pq.ParquetWriter(
                    path_in(self._folder, name),
                    schema,
                    compression="zstd",
                    compression_level=_LEVEL,
                    store_schema=False,
                    write_page_checksum=True,
                    write_page_index=True,
                    bloom_filter_options={"run_id": {"ndv": distinct, "fpp": _FALSE_POSITIVES}},
                    sorting_columns=_sorting(schema),
                )
                for name, schema in DATA_SETS.items()
            }

    def write(self, tables: Mapping[str, pa.Table]) -> None:
        with _written():
            for name, table in tables.items():
                if table.num_rows:
                    plain = table.cast(DATA_SETS[name])
                    self._writers[name].write_table(plain, row_group_size=plain.num_rows)
                    self._rows[name] += table.num_rows

    def finish(self, facts: Mapping[str, Any]) -> dict[str, WrittenFile]:
        """Close the files; `facts` is what the footers say of the batch."""
        said = msgspec.json.encode({**facts, "rows": self._rows})
        written: dict[str, WrittenFile] = {}
        with _written():
            for name in UPLOAD_ORDER:
                self._writers[name].add_key_value_metadata({_FACTS: said})
                self._writers[name].close()
                path = path_in(self._folder, name)
                size = path.stat().st_size
                written[name] = WrittenFile(path, size, self._rows[name], _checksum_of(path))
        return written

    def abandon(self) -> None:
        for writer in self._writers.values():
            with contextlib.suppress(OSError, pa.ArrowException):  # of a disk that is full
                writer.close()


def path_in(folder: Path, name: str) -> Path:
    """Where a batch's file of that data set is."""
    return folder / f"{name}.parquet"


def _checksum_of(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_READ_AHEAD_BYTES):
            checksum = crc32c.crc32c(block, checksum)
    return checksum


def checksum_of_object(store: ObjectStore, key: str, size: int) -> int:
    checksum = 0
    for begin in range(0, size, _READ_AHEAD_BYTES):
        block = store.read(key, begin, min(_READ_AHEAD_BYTES, size - begin))
        checksum = crc32c.crc32c(block, checksum)
    return checksum


def _sorting(schema: pa.Schema) -> list[pq.SortingColumn] | None:
    at = schema.get_field_index("completed_ms")
    return [pq.SortingColumn(at)] if at >= 0 else None


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageFailed(
            f"a batch of the archive could not be written to the data directory: {error}; the runs "
            "stay in the hot tier, and it is tried again"
        ) from error


class _RangeFile(io.RawIOBase):
    """An object as a file that can be sought in: few, large reads."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self._size = size
        self._at = 0
        self._blocks: dict[int, bytes] = {}
        self.failure: EngineError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = begin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def read(self, length: int | None = -1) -> bytes:
        if length is None or length < 0:
            length = self._size - self._at
        end = min(self._at + length, self._size)
        parts: list[bytes] = []
        while self._at < end:
            number, begin = divmod(self._at, _READ_AHEAD_BYTES)
            part = self._block(number)[begin : begin + end - self._at]
            parts.append(part)
            self._at += len(part)
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        block = self._blocks.pop(number, None)
        if block is None:
            begin = number * _READ_AHEAD_BYTES
            try:
                block = self._store.read(
                    self._key, begin, min(_READ_AHEAD_BYTES, self._size - begin)
                )
            except EngineError as error:
                self.failure = error  # pyarrow would make an OSError of it
                raise
        self._blocks[number] = block
        if len(self._blocks) > _BLOCKS_KEPT:
            del self._blocks[next(iter(self._blocks))]
        return block


class ParquetObject:
    """An object of the store, opened for reading. Not for two threads at once."""

    def __init__(
        self, store: ObjectStore, key: str, size: int, footer: pq.FileMetaData | None = None
    ) -> None:
        self.key = key
        self._uri = store.uri(key)
        self._file = _RangeFile(store, key, size)
        with self.reading():
            if size == 0:
                raise OSError("it is empty")
            self._parquet = pq.ParquetFile(
                pa.PythonFile(self._file, mode="r"),
                metadata=footer,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        self.footer: pq.FileMetaData = self._parquet.metadata

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, KeyError) as error:
            if self._file.failure is not None:
                raise self._file.failure from error
            raise ArchiveDamaged(
                f"{self._uri} cannot be read as Parquet: {str(error)[:200]}; restore the object "
                "from a copy, or delete the batch's objects if there is none",
                key=self.key,
            ) from error

    @property
    def rows(self) -> int:
        return int(self.footer.num_rows)

    @property
    def portions(self) -> int:
        return int(self.footer.num_row_groups)

    def facts(self) -> dict[str, Any]:
        """What the footer says of the batch; nothing in a file that is not ours."""
        said = (self.footer.metadata or {}).get(_FACTS)
        found: dict[str, Any] = msgspec.json.decode(said) if said else {}
        return found

    def portion(self, number: int, columns: list[str] | None = None) -> pa.Table:
        with self.reading():
            return self._parquet.read_row_group(number, columns=columns, use_threads=False)

    def may_have(self, number: int, run: str) -> bool:
        """By the statistics of the row group, whether the run can be in it."""
        column = self.footer.row_group(number).column(0)
        assert column.path_in_schema == "run_id"
        known = column.statistics
        return known is None or not known.has_min_max or known.min <= run <= known.max
