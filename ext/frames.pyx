"""The hot frames of the worker stream, scanned and built without a message object in between.

Hot is what is said for every step: Report, Dispatch, Ack, Deliver, Emit and the heartbeat. Every
other frame comes out as ("cold", number, bytes) and is engine.wire.worker's. A message is read as
the protobuf specification reads it or refused: wrong wire types, numbers over their type and
frames that say two things are not guessed at. A field that is not known is skipped. Payloads are
passed through as they came. Knows no stream. Specification: tests/twins/frames.py.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport INT32_MAX, UINT32_MAX, UINT64_MAX, uint32_t, uint64_t

from engine.ext.offsets cimport RUN_BYTES
from engine.ext.protobuf cimport (
    WIRE_BYTES,
    Cursor,
    Field,
    Writer,
    begun,
    data_of,
    data_size,
    expect,
    finished,
    inside,
    malformed,
    next_field,
    number_size,
    over,
    part_size,
    take_number,
    text_of,
    write_bytes,
    write_data,
    write_head,
    write_number,
)

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord

cdef enum:
    FRAMES = 1  # of WorkerFrames and of EngineFrames

cdef enum:  # members of WorkerFrame
    HEARTBEAT = 2
    REPORT = 3
    EMIT = 5
    WORKER_FRAME_MAX = 5

cdef enum:  # members of EngineFrame
    DISPATCH = 2
    ACK = 3
    DELIVER = 4
    ENGINE_FRAME_MAX = 7

# So that few bytes cannot become many objects. What the engine sends is bounded by its pages.
cdef Py_ssize_t frames_max = limits.stream_message_frames_max
cdef Py_ssize_t reported_max = limits.records_per_transition_max


cdef struct Parts:  # of an entry
    uint32_t kind
    uint64_t offset
    uint64_t timestamp_us
    const char* payload
    Py_ssize_t length


cdef bytes begun_frame(Writer* writer, uint32_t number, Py_ssize_t length):
    cdef bytes made = begun(writer, part_size(length))
    write_head(writer, number, length)
    return made


cdef int check_run(bytes run_id) except -1:
    assert PyBytes_GET_SIZE(run_id) == RUN_BYTES
    return 0


cdef bytes utf8(str text):
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedRecord(
            f"{text!r} cannot be sent: {error.reason} at character {error.start}"
        ) from error


cdef int check_reported(Py_ssize_t count) except -1:
    if count > reported_max:
        raise LimitExceeded(
            f"a report is one transition and has at most {reported_max} entries; "
            "report the rest by the next one",
            entries=count,
        )
    return 0


cdef int split(object entry, Py_ssize_t width, Parts* parts) except -1:
    """The parts of (kind, payload) or (kind, payload, offset, timestamp_us). They are valid for as
    long as the caller holds the tuple."""
    cdef tuple values = entry
    if values is None or len(values) != width or type(values[1]) is not bytes:
        raise TypeError(f"an entry is a tuple of {width} that begins with a kind and bytes")
    parts.kind = values[0]
    parts.payload = PyBytes_AS_STRING(values[1])
    parts.length = PyBytes_GET_SIZE(values[1])
    parts.offset = 0
    parts.timestamp_us = 0
    if width == 4:
        parts.offset = values[2]
        parts.timestamp_us = values[3]
    return 0


cdef Py_ssize_t entry_size(Parts* parts) noexcept:
    return (
        number_size(parts.kind)
        + data_size(parts.length)
        + number_size(parts.offset)
        + number_size(parts.timestamp_us)
    )


cdef Py_ssize_t entries_size(list entries, Py_ssize_t width) except -1:
    cdef Parts parts
    cdef Py_ssize_t size = 0
    for entry in entries:
        split(entry, width, &parts)
        size += part_size(entry_size(&parts))
    return size


cdef int write_entries(Writer* writer, uint32_t number, list entries, Py_ssize_t width) except -1:
    cdef Parts parts
    for entry in entries:
        split(entry, width, &parts)
        write_head(writer, number, entry_size(&parts))
        write_number(writer, 1, parts.kind)
        if parts.length:
            write_head(writer, 2, parts.length)
            write_data(writer, parts.payload, parts.length)
        write_number(writer, 3, parts.offset)
        write_number(writer, 4, parts.timestamp_us)
    return 0


def build_report(
    bytes run_id not None, uint64_t lease_epoch, uint64_t sequence, list entries not None
):
    """A WorkerFrame. `entries` holds (kind, payload)."""
    check_run(run_id)
    check_reported(len(entries))
    cdef Writer writer
    cdef Py_ssize_t size = (
        data_size(PyBytes_GET_SIZE(run_id))
        + number_size(lease_epoch)
        + number_size(sequence)
        + entries_size(entries, 2)
    )
    cdef bytes made = begun_frame(&writer, REPORT, size)
    write_bytes(&writer, 1, run_id)
    write_number(&writer, 2, lease_epoch)
    write_number(&writer, 3, sequence)
    write_entries(&writer, 4, entries, 2)
    return finished(&writer, made)


def build_emit(
    bytes run_id not None, uint64_t lease_epoch, str event not None, bytes data not None
):
    """A WorkerFrame."""
    check_run(run_id)
    cdef Writer writer
    cdef bytes name = utf8(event)
    cdef Py_ssize_t size = (
        data_size(PyBytes_GET_SIZE(run_id))
        + number_size(lease_epoch)
        + data_size(PyBytes_GET_SIZE(name))
        + data_size(PyBytes_GET_SIZE(data))
    )
    cdef bytes made = begun_frame(&writer, EMIT, size)
    write_bytes(&writer, 1, run_id)
    write_number(&writer, 2, lease_epoch)
    write_bytes(&writer, 3, name)
    write_bytes(&writer, 4, data)
    return finished(&writer, made)


def build_dispatch(
    bytes run_id not None,
    uint64_t lease_epoch,
    uint32_t attempt,
    str component not None,
    uint32_t kind,
    list entries not None,
    bint more,
):
    """An EngineFrame. `entries` holds (kind, payload, offset, timestamp_us)."""
    check_run(run_id)
    assert kind <= INT32_MAX
    cdef Writer writer
    cdef bytes name = utf8(component)
    cdef Py_ssize_t size = (
        data_size(PyBytes_GET_SIZE(run_id))
        + number_size(lease_epoch)
        + number_size(attempt)
        + data_size(PyBytes_GET_SIZE(name))
        + number_size(kind)
        + entries_size(entries, 4)
        + number_size(more)
    )
    cdef bytes made = begun_frame(&writer, DISPATCH, size)
    write_bytes(&writer, 1, run_id)
    write_number(&writer, 2, lease_epoch)
    write_number(&writer, 3, attempt)
    write_bytes(&writer, 4, name)
    write_number(&writer, 5, kind)
    write_entries(&writer, 6, entries, 4)
    write_number(&writer, 7, more)
    return finished(&writer, made)


def build_ack(bytes run_id not None, uint64_t lease_epoch, uint64_t sequence):
    """An EngineFrame."""
    check_run(run_id)
    cdef Writer writer
    cdef Py_ssize_t size = (
        data_size(PyBytes_GET_SIZE(run_id)) + number_size(lease_epoch) + number_size(sequence)
    )
    cdef bytes made = begun_frame(&writer, ACK, size)
    write_bytes(&writer, 1, run_id)
    write_number(&writer, 2, lease_epoch)
    write_number(&writer, 3, sequence)
    return finished(&writer, made)


def build_deliver(bytes run_id not None, uint64_t lease_epoch, list entries not None):
    """An EngineFrame. `entries` holds (kind, payload, offset, timestamp_us)."""
    check_run(run_id)
    cdef Writer writer
    cdef Py_ssize_t size = (
        data_size(PyBytes_GET_SIZE(run_id)) + number_size(lease_epoch) + entries_size(entries, 4)
    )
    cdef bytes made = begun_frame(&writer, DELIVER, size)
    write_bytes(&writer, 1, run_id)
    write_number(&writer, 2, lease_epoch)
    write_entries(&writer, 3, entries, 4)
    return finished(&writer, made)


def pack_frames(list frames not None):
    """One message of frames: a WorkerFrames or an EngineFrames, which are alike on the wire."""
    if len(frames) > frames_max:
        raise LimitExceeded(
            f"a message of {len(frames)} frames is over the limit of {frames_max}; "
            "send the rest with the next one",
            frames=len(frames),
        )
    cdef Writer writer
    cdef Py_ssize_t size = 0
    for frame in frames:
        if type(frame) is not bytes:
            raise TypeError(f"a frame is bytes, not {type(frame).__name__}")
        size += part_size(PyBytes_GET_SIZE(frame))
    cdef bytes made = begun(&writer, size)
    for frame in frames:
        write_head(&writer, FRAMES, PyBytes_GET_SIZE(frame))
        write_data(&writer, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
    return finished(&writer, made)


cdef bytes run_of(Field* field):
    expect(field, WIRE_BYTES)
    if field.length != RUN_BYTES:
        malformed(f"a run id has {RUN_BYTES} bytes, this one has {field.length}")
    return PyBytes_FromStringAndSize(<const char*>field.data, RUN_BYTES)


cdef int require_run(bytes run_id) except -1:
    if run_id is None:
        return malformed("a frame does not say which run it is about")
    return 0


cdef int add_entry(list entries, Field* part, Py_ssize_t width) except -1:
    cdef Field field
    cdef bytes payload = b""
    cdef uint64_t kind = 0, offset = 0, timestamp_us = 0
    expect(part, WIRE_BYTES)
    cdef Cursor cursor = inside(part)
    while next_field(&cursor, &field):
        if field.number == 1:
            take_number(&field, UINT32_MAX, &kind)
        elif field.number == 2:
            payload = data_of(&field)
        elif field.number == 3:
            take_number(&field, UINT64_MAX, &offset)
        elif field.number == 4:
            take_number(&field, UINT64_MAX, &timestamp_us)
    if width == 2:
        entries.append((kind, payload))
    else:
        entries.append((kind, payload, offset, timestamp_us))
    return 0


cdef tuple report_of(Cursor cursor):
    cdef Field field
    cdef bytes run_id = None
    cdef uint64_t lease_epoch = 0, sequence = 0
    cdef list entries = []
    while next_field(&cursor, &field):
        if field.number == 1:
            run_id = run_of(&field)
        elif field.number == 2:
            take_number(&field, UINT64_MAX, &lease_epoch)
        elif field.number == 3:
            take_number(&field, UINT64_MAX, &sequence)
        elif field.number == 4:
            check_reported(len(entries) + 1)
            add_entry(entries, &field, 2)
    require_run(run_id)
    return ("report", run_id, lease_epoch, sequence, entries)


cdef tuple emit_of(Cursor cursor):
    cdef Field field
    cdef bytes run_id = None, data = b""
    cdef uint64_t lease_epoch = 0
    cdef str event = ""
    while next_field(&cursor, &field):
        if field.number == 1:
            run_id = run_of(&field)
        elif field.number == 2:
            take_number(&field, UINT64_MAX, &lease_epoch)
        elif field.number == 3:
            event = text_of(&field)
        elif field.number == 4:
            data = data_of(&field)
    require_run(run_id)
    return ("emit", run_id, lease_epoch, event, data)


cdef tuple heartbeat_of(Cursor cursor):
    cdef Field field
    cdef uint64_t sent_ms = 0
    while next_field(&cursor, &field):
        if field.number == 1:
            take_number(&field, UINT64_MAX, &sent_ms)
    return ("heartbeat", sent_ms)


cdef tuple dispatch_of(Cursor cursor):
    cdef Field field
    cdef bytes run_id = None
    cdef uint64_t lease_epoch = 0, attempt = 0, kind = 0, more = 0
    cdef str component = ""
    cdef list journal = []
    while next_field(&cursor, &field):
        if field.number == 1:
            run_id = run_of(&field)
        elif field.number == 2:
            take_number(&field, UINT64_MAX, &lease_epoch)
        elif field.number == 3:
            take_number(&field, UINT32_MAX, &attempt)
        elif field.number == 4:
            component = text_of(&field)
        elif field.number == 5:
            take_number(&field, INT32_MAX, &kind)
        elif field.number == 6:
            add_entry(journal, &field, 4)
        elif field.number == 7:
            take_number(&field, UINT64_MAX, &more)
    require_run(run_id)
    return ("dispatch", run_id, lease_epoch, attempt, component, kind, journal, more != 0)


cdef tuple ack_of(Cursor cursor):
    cdef Field field
    cdef bytes run_id = None
    cdef uint64_t lease_epoch = 0, sequence = 0
    while next_field(&cursor, &field):
        if field.number == 1:
            run_id = run_of(&field)
        elif field.number == 2:
            take_number(&field, UINT64_MAX, &lease_epoch)
        elif field.number == 3:
            take_number(&field, UINT64_MAX, &sequence)
    require_run(run_id)
    return ("ack", run_id, lease_epoch, sequence)


cdef tuple deliver_of(Cursor cursor):
    cdef Field field
    cdef bytes run_id = None
    cdef uint64_t lease_epoch = 0
    cdef list entries = []
    while next_field(&cursor, &field):
        if field.number == 1:
            run_id = run_of(&field)
        elif field.number == 2:
            take_number(&field, UINT64_MAX, &lease_epoch)
        elif field.number == 3:
            add_entry(entries, &field, 4)
    require_run(run_id)
    return ("deliver", run_id, lease_epoch, entries)


cdef tuple cold_of(Field* member):
    cdef bytes message = PyBytes_FromStringAndSize(<const char*>member.data, member.length)
    return ("cold", member.number, message)


cdef tuple worker_frame_of(Field* member):
    if member.number == REPORT:
        return report_of(inside(member))
    if member.number == EMIT:
        return emit_of(inside(member))
    if member.number == HEARTBEAT:
        return heartbeat_of(inside(member))
    return cold_of(member)


cdef tuple engine_frame_of(Field* member):
    if member.number == ACK:
        return ack_of(inside(member))
    if member.number == DISPATCH:
        return dispatch_of(inside(member))
    if member.number == DELIVER:
        return deliver_of(inside(member))
    return cold_of(member)


cdef int find_member(Cursor cursor, uint32_t known_max, Field* member) except -1:
    """What the frame says: the member that is known or else the last that is not, which may be a
    newer version's. Number 0 and no bytes if the frame says nothing."""
    cdef Field field
    member.number = 0
    member.data = NULL
    member.length = 0
    while next_field(&cursor, &field):
        if field.number <= known_max:
            expect(&field, WIRE_BYTES)
            if 0 < member.number <= known_max:
                return malformed("a frame says two things")
            member[0] = field
        elif field.wire_type == WIRE_BYTES and (member.number == 0 or member.number > known_max):
            member[0] = field
    return 0


cdef list frames_of(bytes message, bint from_worker):
    cdef Field field, member
    cdef Cursor cursor = over(message)
    cdef list frames = []
    while next_field(&cursor, &field):
        if field.number != FRAMES:
            continue
        expect(&field, WIRE_BYTES)
        if len(frames) >= frames_max:
            raise LimitExceeded(
                f"a message has at most {frames_max} frames; send the rest with the next one"
            )
        if from_worker:
            find_member(inside(&field), WORKER_FRAME_MAX, &member)
            frames.append(worker_frame_of(&member))
        else:
            find_member(inside(&field), ENGINE_FRAME_MAX, &member)
            frames.append(engine_frame_of(&member))
    return frames


cdef list scanned(bytes message, bint from_worker):
    try:
        return frames_of(message, from_worker)
    except MalformedRecord as error:
        raise MalformedRecord(
            f"a message of the worker stream cannot be read: {error.message}; use an SDK of the "
            "engine's version",
        ) from error


def scan_worker_frames(bytes message not None):
    """Every frame of a WorkerFrames, in order; all of them or, if one is malformed, none."""
    return scanned(message, True)


def scan_engine_frames(bytes message not None):
    """Every frame of an EngineFrames, in order; all of them or, if one is malformed, none."""
    return scanned(message, False)
