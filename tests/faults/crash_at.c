/* Kills the process at a chosen change to the file system, to be preloaded into it.

   Once armed with n, the n-th call that changes a file or folder does not happen: the process is
   killed instead. With `torn` only writes are counted, and half of the bytes of the n-th go down
   before the process is killed. Pipes and sockets do not count. What goes past the C library's symbols (stdio inside it) is
   not seen, which concerns RocksDB's own log file only. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long changes;
static long deadly_change;
static bool is_torn;

void crash_arm(long change, int torn) {
    deadly_change = change;
    is_torn = torn;
    atomic_store(&changes, 0);
}

static bool is_time(void) { return atomic_fetch_add(&changes, 1) + 1 == deadly_change; }

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) {
        pause();
    }
}

static void change(void) {
    if (!is_torn && is_time()) {
        die();
    }
}

static bool is_file(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
}

static int open_counted(int folder, const char *path, int flags, va_list more) {
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    if (flags & (O_CREAT | O_TRUNC)) {
        change();
    }
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(name)                                            \
    int name(const char *path, int flags, ...) {              \
        va_list more;                                         \
        va_start(more, flags);                                \
        int opened = open_counted(AT_FDCWD, path, flags, more); \
        va_end(more);                                         \
        return opened;                                        \
    }

#define OPENAT(name)                                          \
    int name(int folder, const char *path, int flags, ...) {  \
        va_list more;                                         \
        va_start(more, flags);                                \
        int opened = open_counted(folder, path, flags, more); \
        va_end(more);                                         \
        return opened;                                        \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int descriptor, const void *data, size_t length) {
    if (is_file(descriptor) && is_time()) {
        if (is_torn) {
            syscall(SYS_write, descriptor, data, length / 2);
        }
        die();
    }
    return syscall(SYS_write, descriptor, data, length);
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t at) {
    if (is_file(descriptor) && is_time()) {
        if (is_torn) {
            syscall(SYS_pwrite64, descriptor, data, length / 2, at);
        }
        die();
    }
    return syscall(SYS_pwrite64, descriptor, data, length, at);
}

ssize_t pwrite64(int descriptor, const void *data, size_t length, off_t at) {
    return pwrite(descriptor, data, length, at);
}

int mkdir(const char *path, mode_t mode) {
    change();
    return (int)syscall(SYS_mkdir, path, mode);
}

int rename(const char *from, const char *to) {
    change();
    return (int)syscall(SYS_rename, from, to);
}

int unlink(const char *path) {
    change();
    return (int)syscall(SYS_unlink, path);
}

int unlinkat(int folder, const char *path, int flags) {
    change();
    return (int)syscall(SYS_unlinkat, folder, path, flags);
}

int rmdir(const char *path) {
    change();
    return (int)syscall(SYS_rmdir, path);
}

int link(const char *from, const char *to) {
    change();
    return (int)syscall(SYS_link, from, to);
}

int ftruncate(int descriptor, off_t length) {
    change();
    return (int)syscall(SYS_ftruncate, descriptor, length);
}

int ftruncate64(int descriptor, off_t length) { return ftruncate(descriptor, length); }

int fsync(int descriptor) {
    change();
    return (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
    change();
    return (int)syscall(SYS_fdatasync, descriptor);
}
