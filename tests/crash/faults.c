/* Lets the file-system calls of a process fail, or kills it before one of them.

Preloaded into a test's child. Nothing happens before fault_arm; then every call that changes what
is below the root counts as a step, whoever makes it: Python, SQLite, NumPy, USearch. */

#define _GNU_SOURCE
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

enum kind { NONE, KILL, IO_ERROR, NO_SPACE, SHORT, READ_ERROR };
enum call { GROWS, WRITES, CHANGES, READS };
enum verdict { GO_ON, FAIL, HALF };

static volatile int armed;
static long first_step, failing_steps;
static long steps;
static char root[PATH_MAX], only[256];

void fault_arm(const char *below, const char *containing, int kind, long step, long count)
{
    snprintf(root, sizeof root, "%s", below);
    snprintf(only, sizeof only, "%s", containing);
    first_step = step, failing_steps = count, steps = 0;
    armed = kind;
}

void fault_disarm(void) { armed = NONE; }

long fault_steps(void) { return steps; }

/* A process that is started by the one under test arms itself. */
__attribute__((constructor)) static void arm_by_environment(void)
{
    const char *kind = getenv("FAULT_KIND"), *below = getenv("FAULT_ROOT"), *step = getenv("FAULT_STEP");
    if (kind && below && step)
        fault_arm(below, "", atoi(kind), atol(step), 1);
}

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
    return !strncmp(path, root, length) && strstr(path + length, only);
}

static int meant_fd(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = plain_readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_meant(path);
}

static int meant_at(int folder, const char *name)
{
    char link[64], path[2 * PATH_MAX];
    if (name[0] == '/') return is_meant(name);
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t size = plain_readlink(link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    snprintf(path + size, PATH_MAX, "/%s", name);
    return is_meant(path);
}

static int counts(enum call call)
{
    switch (armed) {
    case KILL: case IO_ERROR: return call != READS;
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
    if (armed == KILL) { kill(getpid(), SIGKILL); for (;;) pause(); }
    if (armed == SHORT) return HALF;
    errno = armed == NO_SPACE ? ENOSPC : EIO;
    return FAIL;
}

static int opens_for_change(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
}

#define OPENER(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        REAL(name); \
        if (armed && opens_for_change(flags) && meant_at(AT_FDCWD, path)) \
            if (step(flags & O_CREAT ? GROWS : CHANGES) == FAIL) return -1; \
        return real(path, flags, mode); \
    }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        REAL(name); \
        if (armed && opens_for_change(flags) && meant_at(folder, path)) \
            if (step(flags & O_CREAT ? GROWS : CHANGES) == FAIL) return -1; \
        return real(folder, path, flags, mode); \
    }
OPENER_AT(openat)
OPENER_AT(openat64)

#define FILE_OPENER(name) \
    FILE *name(const char *path, const char *mode) \
    { \
        REAL(name); \
        if (armed && strpbrk(mode, "wa+") && meant_at(AT_FDCWD, path)) \
            if (step(GROWS) == FAIL) return NULL; \
        return real(path, mode); \
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

#define ON_FD(name, call) \
    int name(int fd) \
    { \
        REAL(name); \
        if (armed && meant_fd(fd) && step(call) == FAIL) return -1; \
        return real(fd); \
    }
ON_FD(fsync, CHANGES)
ON_FD(fdatasync, CHANGES)

#define TRUNCATER(name, offset_type) \
    int name(int fd, offset_type size) \
    { \
        REAL(name); \
        if (armed && meant_fd(fd) && step(CHANGES) == FAIL) return -1; \
        return real(fd, size); \
    }
TRUNCATER(ftruncate, off_t)
TRUNCATER(ftruncate64, off64_t)

int rename(const char *from, const char *to)
{
    REAL(rename);
    if (armed && meant_at(AT_FDCWD, to) && step(GROWS) == FAIL) return -1;
    return real(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    REAL(renameat);
    if (armed && meant_at(to_folder, to) && step(GROWS) == FAIL) return -1;
    return real(from_folder, from, to_folder, to);
}

#define ON_PATH(name) \
    int name(const char *path) \
    { \
        REAL(name); \
        if (armed && meant_at(AT_FDCWD, path) && step(CHANGES) == FAIL) return -1; \
        return real(path); \
    }
ON_PATH(unlink)
ON_PATH(rmdir)

int unlinkat(int folder, const char *name, int flags)
{
    REAL(unlinkat);
    if (armed && meant_at(folder, name) && step(CHANGES) == FAIL) return -1;
    return real(folder, name, flags);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    if (armed && meant_at(AT_FDCWD, path) && step(GROWS) == FAIL) return -1;
    return real(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    REAL(mkdirat);
    if (armed && meant_at(folder, path) && step(GROWS) == FAIL) return -1;
    return real(folder, path, mode);
}

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
