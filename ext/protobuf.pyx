"""The cursor over protobuf bytes and the writer of them, for the other extensions.

Everything is read through the cursor, so that no byte sequence can lead a reader out of what it
was given, and written through the writer, which cannot leave the room it was given. What runs per
field is inline in protobuf.pxd; here is what runs when something is wrong. Knows no message.
Specification: tests/twins/protobuf.py.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8

from engine.base.errors import MalformedRecord


cdef int malformed(str what) except -1:
    raise MalformedRecord(f"these bytes are not protobuf: {what}")


cdef int overrun() except -1:
    raise AssertionError("what is written is not as long as was reckoned: it changed meanwhile")


cdef str text_of(Field* field):
    expect(field, WIRE_BYTES)
    try:
        return PyUnicode_DecodeUTF8(<const char*>field.data, field.length, NULL)
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"field {field.number} is not UTF-8: {error.reason}") from error
