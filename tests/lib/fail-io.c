/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Preloaded: makes one system call fail, once.  Which one, says the file that
 * the environment variable FAIL_IO names: "KIND" or "KIND N" for the N-th from
 * now, KIND being sync (fsync, fdatasync), dsync (a write with RWF_DSYNC),
 * write or truncate.  The file is removed when the call has failed.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int left;

/* Only calls on regular files count, not those on sockets. */
static int
fails (int fd, const char *kind)
{
  const char *name = getenv ("FAIL_IO");
  char wanted[16];
  int n = 1, r = 0;
  struct stat st;
  FILE *f;

  if (name == NULL || fstat (fd, &st) == -1 || !S_ISREG (st.st_mode))
    return 0;
  pthread_mutex_lock (&lock);
  f = fopen (name, "r");
  if (f != NULL) {
    if (fscanf (f, "%15s %d", wanted, &n) >= 1 && strcmp (wanted, kind) == 0) {
      if (left == 0)
        left = n;
      if (--left == 0) {
        unlink (name);
        r = 1;
      }
    }
    fclose (f);
  }
  pthread_mutex_unlock (&lock);
  if (r)
    errno = EIO;
  return r;
}

#define REAL(name) ((__typeof__ (&name)) dlsym (RTLD_NEXT, #name))

int
fsync (int fd)
{
  return fails (fd, "sync") ? -1 : REAL (fsync) (fd);
}

int
fdatasync (int fd)
{
  return fails (fd, "sync") ? -1 : REAL (fdatasync) (fd);
}

int
ftruncate (int fd, off_t size)
{
  return fails (fd, "truncate") ? -1 : REAL (ftruncate) (fd, size);
}

ssize_t
pwrite (int fd, const void *buf, size_t len, off_t offset)
{
  return fails (fd, "write") ? -1 : REAL (pwrite) (fd, buf, len, offset);
}

ssize_t
pwritev (int fd, const struct iovec *iov, int n, off_t offset)
{
  return fails (fd, "write") ? -1 : REAL (pwritev) (fd, iov, n, offset);
}

ssize_t
pwritev2 (int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
  if ((flags & RWF_DSYNC) && fails (fd, "dsync"))
    return -1;
  return fails (fd, "write") ? -1
    : REAL (pwritev2) (fd, iov, n, offset, flags);
}
