# The byte order and layout of keys and headers, for the other extensions.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    RUN_BYTES = 16
    KEY_BYTES = 24
    HEADER_BYTES = 16
    VERSION = 1
    KIND_MAX = 19

cdef void store_u32(unsigned char* target, uint32_t value) noexcept nogil
cdef void store_u64(unsigned char* target, uint64_t value) noexcept nogil
cdef uint32_t load_u32(const unsigned char* source) noexcept nogil
cdef uint64_t load_u64(const unsigned char* source) noexcept nogil

cpdef bytes record_key(bytes run, uint64_t offset)
cdef bytes build_record(
    int kind, int flags, uint64_t offset, int64_t timestamp_us, bytes payload
)
