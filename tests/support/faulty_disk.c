/* Lets system calls on files fail, for LD_PRELOAD.

   The file that the variable FAULTS names has a line for each fault: "<call> <end of the path> <errno>", where the
   call is read, write or sync.  Without that file nothing fails.  */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fault(const char *call, int fd) {
  char text[1024], path[4096], wanted[16], end[256], link[64], *line, *rest;
  const char *faults = getenv("FAULTS");
  int number, error = 0, saved = errno;
  long size, length;
  int file = faults ? (int)syscall(SYS_openat, AT_FDCWD, faults, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) {
    errno = saved;
    return 0;
  }
  size = syscall(SYS_read, file, text, sizeof text - 1);
  syscall(SYS_close, file);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (size > 0 && length > 0) {
    text[size] = path[length] = 0;
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
      if (sscanf(line, "%15s %255s %d", wanted, end, &number) == 3 && !strcmp(wanted, call) &&
          (size_t)length >= strlen(end) && !strcmp(path + length - strlen(end), end))
        error = number;
  }
  errno = saved;
  return error;
}

#define FAIL_IF_WANTED(call, fd) \
  do { \
    int error = fault(call, fd); \
    if (error) { \
      errno = error; \
      return -1; \
    } \
  } while (0)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
  FAIL_IF_WANTED("write", fd);
  return syscall(SYS_pwrite64, fd, data, size, place);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place) { return pwrite64(fd, data, size, place); }

ssize_t pread64(int fd, void *data, size_t size, off64_t place) {
  FAIL_IF_WANTED("read", fd);
  return syscall(SYS_pread64, fd, data, size, place);
}

ssize_t pread(int fd, void *data, size_t size, off_t place) { return pread64(fd, data, size, place); }

int fsync(int fd) {
  FAIL_IF_WANTED("sync", fd);
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  FAIL_IF_WANTED("sync", fd);
  return syscall(SYS_fdatasync, fd);
}
