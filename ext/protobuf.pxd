# A checked cursor over protobuf bytes and a checked writer of them. The bodies stand here because
# they run for every field of every record and frame: whoever cimports them has them inlined.
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_FIXED32 = 5
    TAG_BYTES_MAX = 5  # a field number has 29 bits, a wire type 3


cdef struct Field:
    uint32_t number
    uint32_t wire_type
    uint64_t varint               # wire types 0, 1 and 5
    const unsigned char* data     # wire type 2
    Py_ssize_t length


cdef struct Cursor:
    const unsigned char* at
    const unsigned char* end


cdef struct Writer:
    unsigned char* at
    unsigned char* end


cdef int malformed(str what) except -1
cdef int overrun() except -1
cdef str text_of(Field* field)


cdef inline Cursor over(bytes data) noexcept:
    cdef Cursor cursor
    cursor.at = <const unsigned char*>PyBytes_AS_STRING(data)
    cursor.end = cursor.at + PyBytes_GET_SIZE(data)
    return cursor


cdef inline Cursor inside(Field* field) noexcept:
    """Over the bytes of a length-delimited field."""
    cdef Cursor cursor
    cursor.at = field.data
    cursor.end = field.data + field.length
    return cursor


cdef inline int read_varint(Cursor* cursor, uint64_t* value) except -1:
    cdef uint64_t result = 0
    cdef int shift = 0
    cdef unsigned char byte
    while cursor.at < cursor.end:
        byte = cursor.at[0]
        cursor.at += 1
        if shift == 63 and byte > 1:
            return malformed("a varint is over 64 bits")
        result |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return 0
        shift += 7
        if shift > 63:
            return malformed("a varint is longer than ten bytes")
    return malformed("it ends within a varint")


cdef inline int next_field(Cursor* cursor, Field* field) except -1:
    """Read one field and step over it: 1, or 0 at the end."""
    cdef uint64_t tag = 0
    cdef Py_ssize_t left
    if cursor.at >= cursor.end:
        return 0
    cdef const unsigned char* began = cursor.at
    read_varint(cursor, &tag)
    if cursor.at - began > TAG_BYTES_MAX or tag >> 32 or tag >> 3 == 0:
        return malformed(f"{tag >> 3} is not a field number")
    field.number = <uint32_t>(tag >> 3)
    field.wire_type = <uint32_t>(tag & 7)
    field.varint = 0
    field.data = NULL
    field.length = 0
    if field.wire_type == WIRE_VARINT:
        read_varint(cursor, &field.varint)
        return 1
    left = cursor.end - cursor.at
    if field.wire_type == WIRE_BYTES:
        read_varint(cursor, &field.varint)
        left = cursor.end - cursor.at
        if field.varint > <uint64_t>left:
            return malformed(f"field {field.number} is longer than what is left")
        field.data = cursor.at
        field.length = <Py_ssize_t>field.varint
        cursor.at += field.length
    elif field.wire_type == WIRE_FIXED64:
        if left < 8:
            return malformed("it ends within a fixed64")
        memcpy(&field.varint, cursor.at, 8)  # little-endian on the wire and on our machines
        cursor.at += 8
    elif field.wire_type == WIRE_FIXED32:
        if left < 4:
            return malformed("it ends within a fixed32")
        memcpy(&field.varint, cursor.at, 4)
        cursor.at += 4
    else:
        return malformed(f"wire type {field.wire_type} is not in use")
    return 1


cdef inline int expect(Field* field, uint32_t wire_type) except -1:
    if field.wire_type != wire_type:
        return malformed(f"field {field.number} has wire type {field.wire_type}, not {wire_type}")
    return 0


cdef inline int take_number(Field* field, uint64_t number_max, uint64_t* value) except -1:
    expect(field, WIRE_VARINT)
    if field.varint > number_max:
        return malformed(f"field {field.number} is {field.varint}, over {number_max}")
    value[0] = field.varint
    return 0


cdef inline bytes data_of(Field* field):
    expect(field, WIRE_BYTES)
    return PyBytes_FromStringAndSize(<const char*>field.data, field.length)


# Writing takes two passes over the same values: how much it will be, then the bytes. A number or a
# string that is 0 or empty is left out, as proto3 has it. Field numbers are below 16, so that a tag
# is one byte.


cdef inline Py_ssize_t varint_size(uint64_t value) noexcept:
    cdef Py_ssize_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline int write_varint(Writer* writer, uint64_t value) except -1:
    if writer.end - writer.at < varint_size(value):
        return overrun()
    while value >= 0x80:
        writer.at[0] = <unsigned char>((value & 0x7F) | 0x80)
        writer.at += 1
        value >>= 7
    writer.at[0] = <unsigned char>value
    writer.at += 1
    return 0


cdef inline int write_data(Writer* writer, const char* data, Py_ssize_t length) except -1:
    if writer.end - writer.at < length:
        return overrun()
    memcpy(writer.at, data, length)
    writer.at += length
    return 0


cdef inline Py_ssize_t number_size(uint64_t value) noexcept:
    return 1 + varint_size(value) if value else 0


cdef inline Py_ssize_t part_size(Py_ssize_t length) noexcept:
    """Of a message in a message, which is written even when it is empty."""
    return 1 + varint_size(<uint64_t>length) + length


cdef inline Py_ssize_t data_size(Py_ssize_t length) noexcept:
    return part_size(length) if length else 0


cdef inline int write_number(Writer* writer, uint32_t number, uint64_t value) except -1:
    if value:
        write_varint(writer, number << 3 | WIRE_VARINT)
        write_varint(writer, value)
    return 0


cdef inline int write_head(Writer* writer, uint32_t number, Py_ssize_t length) except -1:
    write_varint(writer, number << 3 | WIRE_BYTES)
    return write_varint(writer, <uint64_t>length)


cdef inline int write_bytes(Writer* writer, uint32_t number, bytes data) except -1:
    cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
    if length:
        write_head(writer, number, length)
        write_data(writer, PyBytes_AS_STRING(data), length)
    return 0


cdef inline bytes begun(Writer* writer, Py_ssize_t size):
    """Bytes for the writer to fill. They are nobody else's until they are `finished`."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size)
    writer.at = <unsigned char*>PyBytes_AS_STRING(made)
    writer.end = writer.at + size
    return made


cdef inline bytes finished(Writer* writer, bytes made):
    if writer.at != writer.end:
        overrun()
    return made
