/* Records what a process writes, syncs and renames below one directory: LD_PRELOAD=recorder.so.

   RECORDER_DIRECTORY is the directory, an absolute path without links; RECORDER_LOG is the file, elsewhere, to which
   a record is added for each operation that has succeeded: a header, then as many bytes as it says.  One lock is held
   from before the operation until its record is written, so that records have the order of the operations.
   RECORDER_SYNC_MICROSECONDS makes each sync take longer, as on a slow disk.

   What is not recorded counts as not done: sync(2), syncfs(2) and sync_file_range(2) make nothing durable.  A file
   that is written by other means, as through memory, has another content than its records tell. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_FILES 65536 /* descriptors */
#define ROOM (2 * PATH_MAX)
#define REAL(name) (__extension__(__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ALSO(name) __asm__(".globl " #name "64\n.set " #name "64, " #name) /* the same function, under its other name */
_Static_assert(sizeof(off_t) == 8, "open and open64 differ here");

enum kind { OPEN = 'O', CLOSE = 'C', WRITE = 'W', RESIZE = 'R', SYNC = 'S', RENAME = 'N', LINK = 'L', UNLINK = 'U' };

struct header {
    int32_t kind, process, file;
    uint32_t length; /* of the data behind: what was written, or two paths with a NUL behind each */
    int64_t offset;  /* where it was written; the new size of a file */
    int64_t stamp;   /* nanoseconds of CLOCK_MONOTONIC, after the operation */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length; /* 0: nothing is recorded */
static unsigned char recorded[MAX_FILES];
static int log_file = -1;
static useconds_t sync_time;

__attribute__((constructor)) static void start(void)
{
    const char *log = getenv("RECORDER_LOG"), *name = getenv("RECORDER_DIRECTORY");
    const char *time = getenv("RECORDER_SYNC_MICROSECONDS");

    if (log == NULL || name == NULL || strlen(name) >= sizeof directory)
        return;
    log_file = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_file < 0)
        abort();
    sync_time = time == NULL ? 0 : (useconds_t)atoi(time);
    directory_length = strlen(strcpy(directory, name));
}

/* Add to the log; one with a hole would be worse than none. */
static void emit(const void *data, size_t size)
{
    while (size > 0) {
        ssize_t done = REAL(write)(log_file, data, size);

        if (done < 0)
            abort();
        data = (const char *)data + done;
        size -= (size_t)done;
    }
}

static void record(enum kind kind, int file, int64_t offset, const struct iovec *parts, size_t length)
{
    struct timespec now;
    struct header header = {kind, getpid(), file, (uint32_t)length, offset, 0};

    clock_gettime(CLOCK_MONOTONIC, &now);
    header.stamp = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
    emit(&header, sizeof header);
    for (; length > 0; parts++) { /* perhaps not all of them was written */
        size_t size = parts->iov_len < length ? parts->iov_len : length;

        emit(parts->iov_base, size);
        length -= size;
    }
}

static void record_paths(enum kind kind, int file, const char *from, const char *to)
{
    struct iovec parts[] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to) + 1}};

    record(kind, file, 0, parts, parts[0].iov_len + parts[1].iov_len);
}

static void record_size(int file)
{
    struct stat status;

    if (fstat(file, &status) == 0)
        record(RESIZE, file, status.st_size, NULL, 0);
}

static void record_sync(int file)
{
    if (sync_time > 0)
        usleep(sync_time);
    record(SYNC, file, 0, NULL, 0);
}

static void record_close(int file)
{
    recorded[file] = 0;
    record(CLOSE, file, 0, NULL, 0);
}

/* Lock if INSIDE, and say so. */
static int begin(int inside) { return inside && pthread_mutex_lock(&lock) == 0; }

static void end(int inside) { if (inside) pthread_mutex_unlock(&lock); }

static int is_recorded(int file) { return file >= 0 && file < MAX_FILES && recorded[file]; }

static int is_inside(const char *path)
{
    return directory_length > 0 && strncmp(path, directory, directory_length) == 0 &&
           (path[directory_length] == '/' || path[directory_length] == 0);
}

/* Return PATH, as seen from the directory that BASE is open on, as an absolute one, in ROOM if need be. */
static const char *absolute(int base, const char *path, char room[ROOM])
{
    char name[32] = "/proc/self/cwd";
    ssize_t length;

    if (path[0] == '/' || strlen(path) >= PATH_MAX)
        return path;
    if (base != AT_FDCWD)
        snprintf(name, sizeof name, "/proc/self/fd/%d", base);
    length = readlink(name, room, PATH_MAX - 1);
    if (length < 0)
        return path;
    room[length] = '/';
    strcpy(room + length + 1, path);
    return room;
}

static int open_file(int base, const char *path, int flags, mode_t mode)
{
    char room[ROOM];
    const char *name = absolute(base, path, room);
    int inside = begin(is_inside(name)), file = REAL(openat)(base, path, flags, mode);

    if (inside && file >= 0 && file < MAX_FILES) {
        recorded[file] = 1;
        record_paths(OPEN, file, name, "");
        if (flags & O_TRUNC)
            record_size(file);
    }
    end(inside);
    return file;
}

#define OPEN_BY(name, parameter, base)                   \
    int name(parameter const char *path, int flags, ...) \
    {                                                    \
        mode_t mode = 0;                                 \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        if (flags & (O_CREAT | O_TMPFILE))               \
            mode = va_arg(rest, mode_t);                 \
        va_end(rest);                                    \
        return open_file(base, path, flags, mode);       \
    }                                                    \
    ALSO(name)
#define BASE int base,
OPEN_BY(open, , AT_FDCWD);
OPEN_BY(openat, BASE, base);

/* OFFSET is negative for the position of the file. */
static ssize_t write_parts(int file, const struct iovec *parts, int count, off_t offset)
{
    int inside = begin(is_recorded(file));
    ssize_t size = offset < 0 ? REAL(writev)(file, parts, count) : REAL(pwritev)(file, parts, count, offset);

    if (inside && size > 0)
        record(WRITE, file, offset < 0 ? lseek(file, 0, SEEK_CUR) - size : offset, parts, (size_t)size);
    end(inside);
    return size;
}

#define PART &(struct iovec){(void *)data, size}, 1
ssize_t write(int file, const void *data, size_t size) { return write_parts(file, PART, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return write_parts(file, PART, at); }
ssize_t writev(int file, const struct iovec *parts, int count) { return write_parts(file, parts, count, -1); }
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at)
{
    return write_parts(file, parts, count, at);
}
ALSO(pwrite);
ALSO(pwritev);

#define RECORD_BY(record_it, name, parameters, arguments)                     \
    int name parameters                                                       \
    {                                                                         \
        int inside = begin(is_recorded(file)), result = REAL(name) arguments; \
        if (inside && result == 0)                                            \
            record_it(file);                                                  \
        end(inside);                                                          \
        return result;                                                        \
    }
RECORD_BY(record_close, close, (int file), (file))
RECORD_BY(record_sync, fsync, (int file), (file))
RECORD_BY(record_sync, fdatasync, (int file), (file))
RECORD_BY(record_size, ftruncate, (int file, off_t size), (file, size))
RECORD_BY(record_size, fallocate, (int file, int mode, off_t offset, off_t size), (file, mode, offset, size))
RECORD_BY(record_size, posix_fallocate, (int file, off_t offset, off_t size), (file, offset, size))
ALSO(ftruncate);
ALSO(fallocate);
ALSO(posix_fallocate);

#define NAME_BY(kind, name, parameters, arguments, base, from, other, to)      \
    int name parameters                                                        \
    {                                                                          \
        char room[ROOM], other_room[ROOM];                                     \
        const char *old = absolute(base, from, room);                          \
        const char *new = absolute(other, to, other_room);                     \
        int inside = begin(is_inside(old) || is_inside(new));                  \
        int result = REAL(name) arguments;                                     \
        if (inside && result == 0)                                             \
            record_paths(kind, -1, old, new);                                  \
        end(inside);                                                           \
        return result;                                                         \
    }
#define HERE AT_FDCWD
#define AT int base, const char *from
#define TO int other, const char *to
NAME_BY(RENAME, rename, (const char *from, const char *to), (from, to), HERE, from, HERE, to)
NAME_BY(RENAME, renameat, (AT, TO), (base, from, other, to), base, from, other, to)
NAME_BY(LINK, link, (const char *from, const char *to), (from, to), HERE, from, HERE, to)
NAME_BY(LINK, linkat, (AT, TO, int flags), (base, from, other, to, flags), base, from, other, to)
NAME_BY(UNLINK, unlink, (const char *from), (from), HERE, from, HERE, "/")
NAME_BY(UNLINK, unlinkat, (AT, int flags), (base, from, flags), base, from, HERE, "/")
