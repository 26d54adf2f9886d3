"""Reads chosen fields of a protobuf message, as a table says: for what looks at very many payloads
and needs little of each.

Lenient for what is already in the journal: a field of another wire type than the table expects is
passed over, the last of several counts, and text that is not UTF-8 is read with replacement
characters. Strict for what comes in: there all three are refused, so that whoever reads it later
reads what was looked at here. What is not protobuf from end to end is refused in any case. Knows no
message.
Specification: tests/twins/fields.py.
"""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from engine.ext.protobuf cimport WIRE_BYTES, WIRE_FIXED64, WIRE_VARINT, Cursor, Field, next_field

from engine.base.errors import MalformedRecord

cdef enum:
    NUMBER = 1
    TEXT = 2
    DATA = 3
    DOUBLE = 4
    FLAG = 5
    LIST = 6
    SORT_MAX = 6

_NOTHING = (None, 0, "", b"", 0.0, False, ())


def read_fields(
    bytes message not None, Py_ssize_t begin, bytes table not None, *, bint is_strict=False
):
    """The values of the fields of `message[begin:]`, by field number. `table[number]` says what
    each is; 0 is left out and gives None."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(table)
    cdef const unsigned char* sorts = <const unsigned char*>PyBytes_AS_STRING(table)
    cdef Cursor cursor
    cdef Field field
    cdef list values = []
    cdef uint64_t seen = 0
    cdef Py_ssize_t number
    assert size <= 64 or not is_strict
    if begin < 0 or begin > PyBytes_GET_SIZE(message):
        raise MalformedRecord(f"a message of {len(message)} bytes does not reach to {begin}")
    for number in range(size):
        assert sorts[number] <= SORT_MAX
        values.append(_NOTHING[sorts[number]])
    cursor.at = <const unsigned char*>PyBytes_AS_STRING(message) + begin
    cursor.end = <const unsigned char*>PyBytes_AS_STRING(message) + PyBytes_GET_SIZE(message)
    while next_field(&cursor, &field):
        if <Py_ssize_t>field.number < size and sorts[field.number]:
            if is_strict and sorts[field.number] != LIST:
                if seen >> field.number & 1:
                    raise MalformedRecord(f"field {field.number} comes twice")
                seen |= <uint64_t>1 << field.number
            _take(values, &field, sorts[field.number], is_strict)
    return values


cdef int _take(list values, Field* field, int sort, bint is_strict) except -1:
    cdef double value
    cdef uint32_t at = field.number
    if is_strict and field.wire_type != _wire_type_of(sort):
        raise MalformedRecord(f"field {at} is of wire type {field.wire_type}")
    if sort == NUMBER:
        if field.wire_type == WIRE_VARINT:
            values[at] = field.varint
    elif sort == FLAG:
        if field.wire_type == WIRE_VARINT:
            values[at] = field.varint != 0
    elif sort == DOUBLE:
        if field.wire_type == WIRE_FIXED64:
            memcpy(&value, &field.varint, 8)
            values[at] = value
    elif field.wire_type != WIRE_BYTES:
        return 0
    elif sort == TEXT:
        try:
            values[at] = PyUnicode_DecodeUTF8(
                <const char*>field.data, field.length, b"strict" if is_strict else b"replace"
            )
        except UnicodeDecodeError as error:
            raise MalformedRecord(f"field {at} is not UTF-8: {error.reason}") from error
    elif sort == DATA:
        values[at] = PyBytes_FromStringAndSize(<const char*>field.data, field.length)
    else:
        values[at] += (PyBytes_FromStringAndSize(<const char*>field.data, field.length),)
    return 0


cdef uint32_t _wire_type_of(int sort) noexcept:
    if sort == NUMBER or sort == FLAG:
        return WIRE_VARINT
    return WIRE_FIXED64 if sort == DOUBLE else WIRE_BYTES
