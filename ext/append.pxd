# What waits for one commit. The committer takes batches; segments put records in.
from libc.stdint cimport int64_t, uint64_t


cdef class SegmentHead:
    cdef readonly bytes run
    cdef public uint64_t first_offset
    cdef public uint64_t next_offset
    cdef public uint64_t durable_offset
    cdef public bint sealed
    cdef public object tail_lot
    cdef object __weakref__


cdef class PendingBatch:
    cdef readonly list keys
    cdef readonly list values
    cdef readonly list rows
    cdef readonly list ranges
    cdef readonly list effects
    cdef readonly list waiters
    cdef list heads
    cdef readonly Py_ssize_t byte_count

    cdef void put(self, SegmentHead head, bytes key, bytes value)


cdef class PendingQueue:
    cdef readonly PendingBatch filling
    cdef readonly Py_ssize_t record_count
    cdef readonly Py_ssize_t byte_count
    cdef object _full
    cdef Py_ssize_t _batch_records_max
    cdef Py_ssize_t _batch_bytes_max
    cdef Py_ssize_t _batch_waiters_max
    cdef Py_ssize_t _pending_records_max
    cdef Py_ssize_t _pending_bytes_max
    cdef Py_ssize_t _payload_bytes_max
    cdef uint64_t _records_per_run_max

    cdef int _admit(self, SegmentHead head, object expected, Py_ssize_t records) except -1
    cdef int _make_room(self, Py_ssize_t records) except -1
    cdef bint _is_full(self, Py_ssize_t records)
    cdef bytes _record(
        self, SegmentHead head, int kind, int flags, int64_t timestamp_us, bytes payload
    )
    cdef int _put(self, SegmentHead head, bytes value) except -1
