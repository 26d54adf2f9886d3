from engine.model.rows import RowValue

class SegmentHead:
    run: bytes
    first_offset: int
    next_offset: int
    durable_offset: int
    sealed: bool
    tail_lot: object | None
    def __init__(
        self, run: bytes, first_offset: int = 0, next_offset: int = 0, sealed: bool = False
    ) -> None: ...

class PendingBatch:
    keys: list[bytes]
    values: list[bytes]
    rows: list[tuple[bytes, RowValue]]
    ranges: list[tuple[bytes, bytes]]
    effects: list[object]
    waiters: list[object]
    byte_count: int
    def __len__(self) -> int: ...
    @property
    def is_empty(self) -> bool: ...
    def mark_durable(self) -> list[SegmentHead]: ...

class PendingQueue:
    filling: PendingBatch
    record_count: int
    byte_count: int
    def __init__(
        self,
        *,
        batch_records_max: int = ...,
        batch_bytes_max: int = ...,
        batch_waiters_max: int = ...,
        pending_records_max: int = ...,
        pending_bytes_max: int = ...,
        payload_bytes_max: int = ...,
        records_per_run_max: int = ...,
    ) -> None: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def has_full(self) -> bool: ...
    @property
    def has_room(self) -> bool: ...
    def has_room_for(self, records: int) -> bool: ...
    def append(
        self,
        head: SegmentHead,
        expected: int | None,
        kind: int,
        payload: bytes,
        timestamp_us: int,
        effect: object | None = None,
        waiter: object | None = None,
        flags: int = 0,
    ) -> int: ...
    def append_transition(
        self,
        head: SegmentHead,
        expected: int | None,
        records: list[tuple[int, int, int, bytes]],
        rows: list[tuple[bytes, RowValue]],
        effects: list[object],
        waiter: object | None = None,
    ) -> int: ...
    def batch_for(self, records: int) -> PendingBatch: ...
    def change_rows(
        self,
        rows: list[tuple[bytes, bytes | None]],
        ranges: list[tuple[bytes, bytes]],
        waiter: object | None = None,
    ) -> None: ...
    def take(self) -> PendingBatch | None: ...
