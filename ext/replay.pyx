"""The loop that folds a run's records into its summary, without decoding what it does not need.

Reads the record header and the few protobuf fields that the summary keeps; everything is read
through a checked cursor, so that no byte sequence can lead it out of the record. Knows no store:
it is fed the values. Specification: tests/twins/replay.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from engine.ext.offsets cimport HEADER_BYTES, KIND_MAX, VERSION, load_u32, load_u64
from engine.ext.protobuf cimport (
    WIRE_BYTES,
    WIRE_FIXED64,
    WIRE_VARINT,
    Cursor,
    Field,
    inside,
    next_field,
    text_of,
)

from engine.base.errors import MalformedRecord
from engine.model.records import STATUS_AFTER, RecordKind
from engine.model.runs import TERMINAL_STATUSES, RunStatus, RunSummary

cdef enum:
    RUN_ACCEPTED = 1
    RUN_STARTED = 2
    STEP_COMPLETED = 3
    STEP_FAILED = 4
    WAIT_CREATED = 5
    WAIT_RESOLVED = 6
    SIGNAL_RECEIVED = 7
    CHILD_STARTED = 8
    CHILD_FINISHED = 9
    STATE_CHANGED = 10
    USAGE_REPORTED = 11
    RUN_RETRYING = 12
    CANCEL_REQUESTED = 14
    RUN_COMPLETED = 15
    RUN_FAILED = 16

# The model's tables, as C arrays: the compiled fold has no table of its own to fall out of step.
cdef int status_after[KIND_MAX + 1]
cdef bint status_is_terminal[16]
cdef int STATUS_WAITING = RunStatus.WAITING
cdef int STATUS_QUEUED = RunStatus.QUEUED


def _load_tables():
    assert max(RecordKind) == KIND_MAX and max(RunStatus) < 16
    cdef int kind, status
    for kind in range(KIND_MAX + 1):
        status_after[kind] = STATUS_AFTER.get(kind, 0)
    for status in range(16):
        status_is_terminal[status] = status in TERMINAL_STATUSES


_load_tables()


cdef uint64_t _sum(uint64_t left, uint64_t right) noexcept:
    """A counter stays at its greatest value rather than beginning anew."""
    return left + right if right <= UINT64_MAX - left else UINT64_MAX


cdef class RunFold:
    """Folds records, in their order, into a `RunSummary`; may go on from an earlier summary."""

    def __cinit__(self, summary=None):
        if summary is None:
            summary = RunSummary()
        self._next_offset = summary.next_offset
        self._status = summary.status
        self._component_kind = summary.component_kind
        self._attempt = summary.attempt
        self._lease_epoch = summary.lease_epoch
        self._created_us = summary.created_us
        self._started_us = summary.started_us
        self._completed_us = summary.completed_us
        self._updated_us = summary.updated_us
        self._steps_completed = summary.steps_completed
        self._steps_failed = summary.steps_failed
        self._waits_open = summary.waits_open
        self._signals_received = summary.signals_received
        self._children_started = summary.children_started
        self._children_finished = summary.children_finished
        self._state_changes = summary.state_changes
        self._tool_calls = summary.tool_calls
        self._tokens_in = summary.tokens_in
        self._tokens_out = summary.tokens_out
        self._cost_usd = summary.cost_usd
        self._cancel_requested = summary.cancel_requested
        self._project_id = summary.project_id
        self._deployment_id = summary.deployment_id
        self._component = summary.component
        self._model = summary.model
        self._error_code = summary.error_code
        self._error_message = summary.error_message
        self._prompt_version = summary.prompt_version
        self._trace_id = summary.trace_id
        self._correlation_id = summary.correlation_id
        self._parent_run_id = summary.parent_run_id

    @property
    def next_offset(self):
        return self._next_offset

    def summary(self):
        return RunSummary(
            next_offset=self._next_offset,
            status=self._status,
            component_kind=self._component_kind,
            attempt=self._attempt,
            lease_epoch=self._lease_epoch,
            created_us=self._created_us,
            started_us=self._started_us,
            completed_us=self._completed_us,
            updated_us=self._updated_us,
            steps_completed=self._steps_completed,
            steps_failed=self._steps_failed,
            waits_open=self._waits_open,
            signals_received=self._signals_received,
            children_started=self._children_started,
            children_finished=self._children_finished,
            state_changes=self._state_changes,
            tool_calls=self._tool_calls,
            tokens_in=self._tokens_in,
            tokens_out=self._tokens_out,
            cost_usd=self._cost_usd,
            cancel_requested=self._cancel_requested,
            project_id=self._project_id,
            deployment_id=self._deployment_id,
            component=self._component,
            model=self._model,
            error_code=self._error_code,
            error_message=self._error_message,
            prompt_version=self._prompt_version,
            trace_id=self._trace_id,
            correlation_id=self._correlation_id,
            parent_run_id=self._parent_run_id,
        )

    def feed_all(self, values):
        """Fold every value of an iterable; how many there were."""
        cdef Py_ssize_t count = 0
        for value in values:
            self.feed(value)
            count += 1
        return count

    cpdef int feed(self, bytes value) except -1:
        """Fold one record's bytes; typed error and unchanged state if they are not the next."""
        if value is None or PyBytes_GET_SIZE(value) < HEADER_BYTES:
            raise MalformedRecord(f"a record has at least {HEADER_BYTES} bytes")
        cdef const unsigned char* source = <const unsigned char*>PyBytes_AS_STRING(value)
        cdef int kind = source[1]
        cdef uint32_t offset_low = load_u32(source + 4)
        cdef int64_t timestamp_us = <int64_t>load_u64(source + 8)
        cdef Cursor cursor
        if source[0] != VERSION:
            raise MalformedRecord(f"record version {source[0]} is not {VERSION}")
        if kind < 1 or kind > KIND_MAX or source[3] != 0 or timestamp_us < 0:
            raise MalformedRecord("a record's header is not one this engine writes", kind=kind)
        if offset_low != <uint32_t>self._next_offset:
            raise MalformedRecord(
                f"the record at offset {self._next_offset} says it is at {offset_low}: the "
                "segment has a gap",
                next_offset=self._next_offset,
                found=offset_low,
            )
        if status_is_terminal[self._status & 0xF]:
            raise MalformedRecord(
                f"offset {self._next_offset} follows the run's terminal record",
                next_offset=self._next_offset,
            )
        cursor.at = source + HEADER_BYTES
        cursor.end = source + PyBytes_GET_SIZE(value)
        self._walk(cursor)
        self._apply(kind, timestamp_us, cursor)
        self._next_offset += 1
        self._updated_us = timestamp_us
        return 0

    cdef int _walk(self, Cursor cursor) except -1:
        """The payload is protobuf to its end. Checked before anything is changed, so that a
        malformed record leaves the fold as it was."""
        cdef Field field
        while next_field(&cursor, &field):
            pass
        return 0

    cdef int _apply(self, int kind, int64_t timestamp_us, Cursor cursor) except -1:
        if kind == STEP_COMPLETED:
            self._tool_calls = _sum(self._tool_calls, self._tool_flag(cursor))
            self._steps_completed += 1
        elif kind == RUN_STARTED:
            self._started(timestamp_us, cursor)
        elif kind == RUN_ACCEPTED:
            self._accepted(cursor)
            self._created_us = timestamp_us
        elif kind == STEP_FAILED:
            self._tool_calls = _sum(self._tool_calls, self._tool_flag(cursor))
            self._steps_failed += 1
        elif kind == WAIT_CREATED:
            self._wait_created(cursor)
        elif kind == WAIT_RESOLVED:
            self._waits_open -= self._waits_open > 0
            if self._status == STATUS_WAITING:
                self._status = STATUS_QUEUED
        elif kind == SIGNAL_RECEIVED:
            self._signals_received += 1
        elif kind == CHILD_STARTED:
            self._children_started += 1
        elif kind == CHILD_FINISHED:
            self._children_finished += 1
        elif kind == STATE_CHANGED:
            self._state_changes += 1
        elif kind == USAGE_REPORTED:
            self._usage(cursor)
        elif kind == RUN_RETRYING:
            self._error(2, cursor)
        elif kind == CANCEL_REQUESTED:
            self._cancel_requested = True
        elif kind == RUN_COMPLETED:
            self._error_code = self._error_message = ""
        elif kind == RUN_FAILED:
            self._error(1, cursor)
        if status_after[kind]:
            self._status = status_after[kind]
            if status_is_terminal[self._status]:
                self._completed_us = timestamp_us
        return 0

    cdef int _accepted(self, Cursor cursor) except -1:
        cdef Field field
        cdef str project = "", deployment = "", component = "", trace = "", correlation = ""
        cdef str prompt_version = ""
        cdef bytes parent = b""
        cdef int component_kind = 0
        while next_field(&cursor, &field):
            if field.number == 4 and field.wire_type == WIRE_VARINT:
                component_kind = <int>(field.varint & 0x7FFFFFFF)
            elif field.wire_type != WIRE_BYTES:
                continue
            elif field.number == 1:
                project = text_of(&field)
            elif field.number == 2:
                deployment = text_of(&field)
            elif field.number == 3:
                component = text_of(&field)
            elif field.number == 10:
                trace = text_of(&field)
            elif field.number == 11:
                correlation = text_of(&field)
            elif field.number == 12:
                parent = (<const char*>field.data)[:field.length]
            elif field.number == 15:
                prompt_version = text_of(&field)
        self._project_id = project
        self._deployment_id = deployment
        self._component = component
        self._component_kind = component_kind
        self._trace_id = trace
        self._correlation_id = correlation
        self._parent_run_id = parent
        self._prompt_version = prompt_version
        return 0

    cdef int _started(self, int64_t timestamp_us, Cursor cursor) except -1:
        cdef Field field
        cdef uint32_t attempt = 0
        cdef uint64_t lease_epoch = 0
        while next_field(&cursor, &field):
            if field.wire_type != WIRE_VARINT:
                continue
            if field.number == 1:
                attempt = <uint32_t>field.varint
            elif field.number == 2:
                lease_epoch = field.varint
        self._attempt = attempt
        self._lease_epoch = lease_epoch
        if self._started_us == 0:
            self._started_us = timestamp_us
        return 0

    cdef int _wait_created(self, Cursor cursor) except -1:
        cdef Field field
        cdef bint parks = False
        while next_field(&cursor, &field):
            if field.number == 12 and field.wire_type == WIRE_VARINT:
                parks = field.varint != 0
        self._waits_open += 1
        if parks:
            self._status = STATUS_WAITING
        return 0

    cdef int _usage(self, Cursor cursor) except -1:
        cdef Field field
        cdef str model = self._model
        cdef uint64_t tokens_in = 0, tokens_out = 0, tool_calls = 0
        cdef double cost_usd = 0.0
        while next_field(&cursor, &field):
            if field.number == 2 and field.wire_type == WIRE_BYTES:
                model = text_of(&field)
            elif field.number == 5 and field.wire_type == WIRE_FIXED64:
                memcpy(&cost_usd, &field.varint, 8)
            elif field.wire_type != WIRE_VARINT:
                continue
            elif field.number == 3:
                tokens_in = field.varint
            elif field.number == 4:
                tokens_out = field.varint
            elif field.number == 6:
                tool_calls = <uint32_t>field.varint
        self._model = model
        self._tokens_in = _sum(self._tokens_in, tokens_in)
        self._tokens_out = _sum(self._tokens_out, tokens_out)
        self._tool_calls = _sum(self._tool_calls, tool_calls)
        self._cost_usd += cost_usd
        return 0

    cdef int _tool_flag(self, Cursor cursor) except -1:
        cdef Field field
        cdef int tool = 0
        while next_field(&cursor, &field):
            if field.number == 10 and field.wire_type == WIRE_VARINT:
                tool = field.varint != 0
        return tool

    cdef int _error(self, uint32_t field_number, Cursor cursor) except -1:
        """Code and message of the nested Error. Later occurrences merge, as protobuf has it."""
        cdef Field field, inner_field
        cdef Cursor inner
        cdef str code = "", message = ""
        while next_field(&cursor, &field):
            if field.number != field_number or field.wire_type != WIRE_BYTES:
                continue
            inner = inside(&field)
            while next_field(&inner, &inner_field):
                if inner_field.wire_type != WIRE_BYTES:
                    continue
                if inner_field.number == 1:
                    code = text_of(&inner_field)
                elif inner_field.number == 2:
                    message = text_of(&inner_field)
        self._error_code = code
        self._error_message = message
        return 0
