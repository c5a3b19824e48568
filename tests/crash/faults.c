/* Lets the file-system calls of a process fail, or kills it before one of them.

Preloaded into a test's child. Nothing happens before fault_arm; then every call that changes what
is below the root counts as a step, whoever makes it: Python, SQLite, NumPy, USearch. */

#define _GNU_SOURCE
#include "power_cut.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, KILL, IO_ERROR, NO_SPACE, SHORT, READ_ERROR, POWER_CUT };
enum call { GROWS, WRITES, CHANGES, READS };
enum verdict { GO_ON, FAIL, HALF };

static volatile int armed;
static long first_step, failing_steps;
static long steps;
static char root[PATH_MAX];
static __thread int cutting;

void fault_arm(const char *below, int kind, long step, long count)
{
    snprintf(root, sizeof root, "%s", below);
    first_step = step, failing_steps = count, steps = 0;
    if (kind == POWER_CUT) {
        char kept[PATH_MAX + 8];
        snprintf(kept, sizeof kept, "%s.kept", root);
        power_arm(kept);
    }
    armed = kind;
}

void fault_disarm(void) { armed = NONE; }

long fault_steps(void) { return steps; }

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static ssize_t plain_readlink(const char *path, char *into, size_t size)
{
    REAL(readlink);
    return real(path, into, size);
}

static int is_meant(const char *path)
{
    size_t length = strlen(root);
    if (cutting || strncmp(path, root, length)) return 0;
    return path[length] == '/' || !path[length];
}

static int meant_fd(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = plain_readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    if (!is_meant(path)) return 0;
    /* SQLite's shared memory is mapped, and worth nothing after a restart. */
    int is_shared = size > 4 && !strcmp(path + size - 4, "-shm");
    if (armed == POWER_CUT && !is_shared) power_before_write(fd);
    return 1;
}

/* Tell whether a name concerns us, and all of it. */
static int meant_at(int folder, const char *name, char path[2 * PATH_MAX])
{
    char link[64];
    ssize_t size = 0;
    if (name[0] != '/') {
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        size = plain_readlink(link, path, PATH_MAX - 1);
        if (size < 0) return 0;
        path[size++] = '/';
    }
    snprintf(path + size, PATH_MAX, "%s", name);
    return is_meant(path);
}

static int counts(enum call call)
{
    switch (armed) {
    case KILL: case IO_ERROR: case POWER_CUT: return call != READS;
    case NO_SPACE: return call == GROWS || call == WRITES;
    case SHORT: return call == WRITES;
    case READ_ERROR: return call == READS;
    default: return 0;
    }
}

static enum verdict step(enum call call)
{
    if (!counts(call)) return GO_ON;
    long now = __atomic_fetch_add(&steps, 1, __ATOMIC_SEQ_CST);
    if (now < first_step || now - first_step >= failing_steps) return GO_ON;
    if (armed == POWER_CUT) cutting = 1, power_cut();
    if (armed == KILL || armed == POWER_CUT) { kill(getpid(), SIGKILL); for (;;) pause(); }
    if (armed == SHORT) return HALF;
    errno = armed == NO_SPACE ? ENOSPC : EIO;
    return FAIL;
}

static int opens_for_change(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
}

static int changes_if_opened(int folder, const char *name, int flags, char path[2 * PATH_MAX])
{
    return armed && opens_for_change(flags) && meant_at(folder, name, path);
}

static int created(int fd, const char *path, int was_there)
{
    if (armed == POWER_CUT && fd >= 0 && !was_there) power_after_create(path, 0);
    return fd;
}

#define MODE_OF(flags) \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more)

#define OPENER(name) \
    int name(const char *path, int flags, ...) \
    { \
        MODE_OF(flags); REAL(name); \
        char all[2 * PATH_MAX]; \
        if (!changes_if_opened(AT_FDCWD, path, flags, all)) return real(path, flags, mode); \
        if (step(flags & O_CREAT ? GROWS : CHANGES) == FAIL) return -1; \
        int was_there = !access(all, F_OK); \
        return created(real(path, flags, mode), all, was_there); \
    }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        MODE_OF(flags); REAL(name); \
        char all[2 * PATH_MAX]; \
        if (!changes_if_opened(folder, path, flags, all)) return real(folder, path, flags, mode); \
        if (step(flags & O_CREAT ? GROWS : CHANGES) == FAIL) return -1; \
        int was_there = !access(all, F_OK); \
        return created(real(folder, path, flags, mode), all, was_there); \
    }
OPENER_AT(openat)
OPENER_AT(openat64)

#define FILE_OPENER(name) \
    FILE *name(const char *path, const char *mode) \
    { \
        REAL(name); \
        char all[2 * PATH_MAX]; \
        if (!armed || !strpbrk(mode, "wa+") || !meant_at(AT_FDCWD, path, all)) \
            return real(path, mode); \
        if (step(GROWS) == FAIL) return NULL; \
        int was_there = !access(all, F_OK); \
        FILE *file = real(path, mode); \
        created(file ? fileno(file) : -1, all, was_there); \
        return file; \
    }
FILE_OPENER(fopen)
FILE_OPENER(fopen64)

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    if (armed && meant_fd(fd)) switch (step(WRITES)) {
    case FAIL: return -1;
    case HALF: size = size > 1 ? size / 2 : size; break;
    case GO_ON: break;
    }
    return real(fd, data, size);
}

#define POSITIONED_WRITER(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) \
    { \
        REAL(name); \
        if (armed && meant_fd(fd)) switch (step(WRITES)) { \
        case FAIL: return -1; \
        case HALF: size = size > 1 ? size / 2 : size; break; \
        case GO_ON: break; \
        } \
        return real(fd, data, size, offset); \
    }
POSITIONED_WRITER(pwrite, off_t)
POSITIONED_WRITER(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    if (armed && meant_fd(fd) && step(WRITES) == FAIL) return -1;
    return real(fd, parts, count);
}

#define SENDER(name, offset_type) \
    ssize_t name(int out, int in, offset_type *offset, size_t size) \
    { \
        REAL(name); \
        if (armed && meant_fd(out)) switch (step(WRITES)) { \
        case FAIL: return -1; \
        case HALF: size = size > 1 ? size / 2 : size; break; \
        case GO_ON: break; \
        } \
        return real(out, in, offset, size); \
    }
SENDER(sendfile, off_t)
SENDER(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags)
{
    REAL(copy_file_range);
    if (armed && meant_fd(out) && step(WRITES) == FAIL) return -1;
    return real(in, in_at, out, out_at, size, flags);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file)
{
    REAL(fwrite);
    if (armed && meant_fd(fileno(file))) switch (step(WRITES)) {
    case FAIL: return 0;
    case HALF: return real(data, size, count / 2, file);
    case GO_ON: break;
    }
    return real(data, size, count, file);
}

/* What was still in the buffer is lost when the last write fails. */
int fclose(FILE *file)
{
    REAL(fclose);
    if (armed && meant_fd(fileno(file)) && fcntl(fileno(file), F_GETFL) & (O_WRONLY | O_RDWR)) {
        enum verdict verdict = step(WRITES);
        if (verdict != GO_ON) {
            int error = errno;
            fflush(file);
            off_t size = lseek(fileno(file), 0, SEEK_END);
            if (size > 0 && ftruncate(fileno(file), size / 2)) size = 0;
            real(file);
            errno = error;
            return EOF;
        }
    }
    return real(file);
}

#define SYNCER(name) \
    int name(int fd) \
    { \
        REAL(name); \
        if (!armed || !meant_fd(fd)) return real(fd); \
        if (step(CHANGES) == FAIL) return -1; \
        struct stat status; \
        int failed = fstat(fd, &status) || real(fd); \
        if (armed == POWER_CUT && !failed) power_after_sync(fd, status.st_size); \
        return failed ? -1 : 0; \
    }
SYNCER(fsync)
SYNCER(fdatasync)

#define TRUNCATER(name, offset_type) \
    int name(int fd, offset_type size) \
    { \
        REAL(name); \
        if (armed && meant_fd(fd) && step(CHANGES) == FAIL) return -1; \
        return real(fd, size); \
    }
TRUNCATER(ftruncate, off_t)
TRUNCATER(ftruncate64, off64_t)

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    REAL(renameat);
    char before[2 * PATH_MAX], after[2 * PATH_MAX];
    if (!armed || !meant_at(to_folder, to, after)) return real(from_folder, from, to_folder, to);
    if (step(GROWS) == FAIL) return -1;
    if (armed != POWER_CUT || !meant_at(from_folder, from, before))
        return real(from_folder, from, to_folder, to);
    char *kept = power_keep(after);
    int failed = real(from_folder, from, to_folder, to);
    if (!failed) power_after_rename(before, after, kept);
    return failed;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int folder, const char *name, int flags)
{
    REAL(unlinkat);
    char path[2 * PATH_MAX];
    if (!armed || !meant_at(folder, name, path)) return real(folder, name, flags);
    if (step(CHANGES) == FAIL) return -1;
    if (armed != POWER_CUT) return real(folder, name, flags);
    char *kept = power_keep(path);
    int failed = real(folder, name, flags);
    if (!failed) power_after_remove(path, kept, flags & AT_REMOVEDIR);
    return failed;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode)
{
    REAL(mkdirat);
    char path[2 * PATH_MAX];
    if (!armed || !meant_at(folder, name, path)) return real(folder, name, mode);
    if (step(GROWS) == FAIL) return -1;
    int failed = real(folder, name, mode);
    if (armed == POWER_CUT && !failed) power_after_create(path, 1);
    return failed;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

ssize_t read(int fd, void *into, size_t size)
{
    REAL(read);
    if (armed == READ_ERROR && meant_fd(fd) && step(READS) == FAIL) return -1;
    return real(fd, into, size);
}

#define POSITIONED_READER(name, offset_type) \
    ssize_t name(int fd, void *into, size_t size, offset_type offset) \
    { \
        REAL(name); \
        if (armed == READ_ERROR && meant_fd(fd) && step(READS) == FAIL) return -1; \
        return real(fd, into, size, offset); \
    }
POSITIONED_READER(pread, off_t)
POSITIONED_READER(pread64, off64_t)

#define VECTOR_READER(name, offset_type) \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_type offset) \
    { \
        REAL(name); \
        if (armed == READ_ERROR && meant_fd(fd) && step(READS) == FAIL) return -1; \
        return real(fd, parts, count, offset); \
    }
VECTOR_READER(preadv, off_t)
VECTOR_READER(preadv64, off64_t)

#define FLAGGED_VECTOR_READER(name, offset_type) \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_type offset, int flags) \
    { \
        REAL(name); \
        if (armed == READ_ERROR && meant_fd(fd) && step(READS) == FAIL) return -1; \
        return real(fd, parts, count, offset, flags); \
    }
FLAGGED_VECTOR_READER(preadv2, off_t)
FLAGGED_VECTOR_READER(preadv64v2, off64_t)
