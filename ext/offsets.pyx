"""The key and header codec: where a record lies, and the sixteen bytes in front of its payload.

A key is the run id and the offset, both big-endian, so that RocksDB's byte order is the order of
the records. Owns no memory and knows no store. Specification: tests/twins/offsets.py.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from engine.base.errors import MalformedRecord


cdef void store_u32(unsigned char* target, uint32_t value) noexcept nogil:
    target[0] = <unsigned char>((value >> 24) & 0xFF)
    target[1] = <unsigned char>((value >> 16) & 0xFF)
    target[2] = <unsigned char>((value >> 8) & 0xFF)
    target[3] = <unsigned char>(value & 0xFF)


cdef void store_u64(unsigned char* target, uint64_t value) noexcept nogil:
    store_u32(target, <uint32_t>(value >> 32))
    store_u32(target + 4, <uint32_t>value)


cdef uint32_t load_u32(const unsigned char* source) noexcept nogil:
    return (
        (<uint32_t>source[0] << 24)
        | (<uint32_t>source[1] << 16)
        | (<uint32_t>source[2] << 8)
        | <uint32_t>source[3]
    )


cdef uint64_t load_u64(const unsigned char* source) noexcept nogil:
    return (<uint64_t>load_u32(source) << 32) | load_u32(source + 4)


cpdef bytes record_key(bytes run, uint64_t offset):
    """The key of a run's record. Programmer error if the run id is not 16 bytes."""
    assert run is not None and PyBytes_GET_SIZE(run) == RUN_BYTES
    cdef bytes key = PyBytes_FromStringAndSize(NULL, KEY_BYTES)
    cdef unsigned char* target = <unsigned char*>PyBytes_AS_STRING(key)
    memcpy(target, PyBytes_AS_STRING(run), RUN_BYTES)
    store_u64(target + RUN_BYTES, offset)
    return key


def split_key(bytes key not None):
    """The run id and the offset of a record's key."""
    if PyBytes_GET_SIZE(key) != KEY_BYTES:
        raise MalformedRecord(
            f"a record key has {KEY_BYTES} bytes, this one has {len(key)}", length=len(key)
        )
    cdef const unsigned char* source = <const unsigned char*>PyBytes_AS_STRING(key)
    return key[:RUN_BYTES], load_u64(source + RUN_BYTES)


cdef bytes build_record(
    int kind, int flags, uint64_t offset, int64_t timestamp_us, bytes payload
):
    cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
    cdef bytes record = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + length)
    cdef unsigned char* target = <unsigned char*>PyBytes_AS_STRING(record)
    target[0] = VERSION
    target[1] = <unsigned char>kind
    target[2] = <unsigned char>flags
    target[3] = 0
    store_u32(target + 4, <uint32_t>offset)
    store_u64(target + 8, <uint64_t>timestamp_us)
    memcpy(target + HEADER_BYTES, PyBytes_AS_STRING(payload), length)
    return record


def encode_record(
    int kind, int flags, uint64_t offset, int64_t timestamp_us, bytes payload not None
):
    """The bytes of a record: header, then payload."""
    assert 1 <= kind <= KIND_MAX and 0 <= flags <= 255 and timestamp_us >= 0
    return build_record(kind, flags, offset, timestamp_us, payload)


def decode_record(bytes value not None):
    """(kind, flags, the offset's low 32 bits, timestamp_us, payload) of a record's bytes."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(value)
    cdef const unsigned char* source = <const unsigned char*>PyBytes_AS_STRING(value)
    if length < HEADER_BYTES:
        raise MalformedRecord(
            f"a record has at least {HEADER_BYTES} bytes, this one has {length}", length=length
        )
    if source[0] != VERSION:
        raise MalformedRecord(
            f"record version {source[0]} is not known to this engine, which writes {VERSION}; "
            "it was written by a newer one",
            version=source[0],
        )
    if not 1 <= source[1] <= KIND_MAX or source[3] != 0 or source[8] > 127:
        raise MalformedRecord(
            f"a record's header is not one this engine writes: {value[:HEADER_BYTES].hex()}",
            kind=source[1],
        )
    return (
        source[1],
        source[2],
        load_u32(source + 4),
        <int64_t>load_u64(source + 8),
        value[HEADER_BYTES:],
    )
