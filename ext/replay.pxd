# The fold of a run's records into its summary.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from engine.ext.protobuf cimport Cursor


cdef class RunFold:
    cdef uint64_t _next_offset
    cdef int _status
    cdef int _component_kind
    cdef uint32_t _attempt
    cdef uint64_t _lease_epoch
    cdef int64_t _created_us
    cdef int64_t _started_us
    cdef int64_t _completed_us
    cdef int64_t _updated_us
    cdef uint64_t _steps_completed
    cdef uint64_t _steps_failed
    cdef uint64_t _waits_open
    cdef uint64_t _signals_received
    cdef uint64_t _children_started
    cdef uint64_t _children_finished
    cdef uint64_t _state_changes
    cdef uint64_t _tool_calls
    cdef uint64_t _tokens_in
    cdef uint64_t _tokens_out
    cdef double _cost_usd
    cdef bint _cancel_requested
    cdef str _project_id
    cdef str _deployment_id
    cdef str _component
    cdef str _model
    cdef str _error_code
    cdef str _error_message
    cdef str _prompt_version
    cdef str _trace_id
    cdef str _correlation_id
    cdef bytes _parent_run_id

    cpdef int feed(self, bytes value) except -1
    cdef int _apply(self, int kind, int64_t timestamp_us, Cursor cursor) except -1
    cdef int _accepted(self, Cursor cursor) except -1
    cdef int _started(self, int64_t timestamp_us, Cursor cursor) except -1
    cdef int _wait_created(self, Cursor cursor) except -1
    cdef int _usage(self, Cursor cursor) except -1
    cdef int _tool_flag(self, Cursor cursor) except -1
    cdef int _error(self, uint32_t field_number, Cursor cursor) except -1
    cdef int _walk(self, Cursor cursor) except -1
