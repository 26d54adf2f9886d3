/* fsync and fdatasync that fail on demand, to be preloaded into a process under test.

   FAILING_FSYNC names a file of orders. While it exists, its one line "ERRNO PATTERN" makes every
   sync of a file or folder whose path matches the pattern (fnmatch) fail with that errno, and do
   nothing; every other sync is the kernel's. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PATH_BYTES_MAX = 4096 };

static int ordered_errno(int descriptor) {
    const char *name = getenv("FAILING_FSYNC");
    int orders = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (orders < 0) {
        return 0;
    }
    char text[PATH_BYTES_MAX + 32] = {0};
    ssize_t length = read(orders, text, sizeof text - 1);
    close(orders);

    int number = 0;
    char pattern[PATH_BYTES_MAX + 1] = {0};
    if (length <= 0 || sscanf(text, "%d %4096[^\n]", &number, pattern) != 2) {
        return 0;
    }
    char link[64];
    char path[PATH_BYTES_MAX + 1] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (readlink(link, path, PATH_BYTES_MAX) < 0) {
        return 0;
    }
    return fnmatch(pattern, path, 0) == 0 ? number : 0;
}

static int sync_or_fail(long call, int descriptor) {
    int error_before = errno;
    int number = ordered_errno(descriptor);
    if (number != 0) {
        errno = number;
        return -1;
    }
    errno = error_before;
    return (int)syscall(call, descriptor);
}

int fsync(int descriptor) { return sync_or_fail(SYS_fsync, descriptor); }

int fdatasync(int descriptor) { return sync_or_fail(SYS_fdatasync, descriptor); }
