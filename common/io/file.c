/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "file.h"
#include "iov.h"
#include "rounding.h"

enum role { NOBODY, READER, WRITER };

struct file {
  struct vd_store st;
  int fd;
  struct stat inode;            /* which it is; its size may be another now */
  enum role locked;             /* whose lock bytes fd holds */
  _Atomic bool no_dsync;        /* RWF_DSYNC does not work here */
};

static const struct vd_store_ops file_ops;

static struct file *
file_of (struct vd_store *st)
{
  assert (st->ops == &file_ops);
  return (struct file *) st;
}

/* ---- locks ------------------------------------------------------------ */

/* qemu's convention: a read lock on byte 100 + p says "I use permission p",
 * one on 200 + p "I do not share permission p" (p: 0 consistent read, 1
 * write, 3 resize).  Whether somebody holds the opposite is asked with
 * F_OFD_GETLK, as if for a write lock; one's own description does not count.
 * Nobody ever takes a write lock.  So the order matters: own bytes first,
 * then the question.  The other way round two can slip in at once.
 */
static const short reader_bytes[] = { 100, 201, 203, 0 };
static const short writer_bytes[] = { 100, 101, 103, 201, 203, 0 };
static const short reader_asks[] = { 101, 103, 0 };
static const short writer_asks[] = { 101, 103, 200, 201, 203, 0 };

/* A byte that only who writes holds. */
static bool
is_write_byte (short byte)
{
  return byte == 101 || byte == 103;
}

static int
lock_call (int fd, int cmd, short type, short byte, struct flock *fl)
{
  int r;

  do {
    memset (fl, 0, sizeof *fl);         /* OFD locks want l_pid = 0 */
    fl->l_type = type;
    fl->l_whence = SEEK_SET;
    fl->l_start = byte;
    fl->l_len = 1;
    r = fcntl (fd, cmd, fl);
  } while (r == -1 && errno == EINTR);
  return r;
}

static void
release_bytes (int fd, enum role role)
{
  const short *b = role == WRITER ? writer_bytes : reader_bytes;
  struct flock fl;

  if (role != NOBODY)
    for (; *b; ++b)
      lock_call (fd, F_OFD_SETLK, F_UNLCK, *b, &fl);
}

static int
conflict (struct vd_ctx *ctx, const char *name, bool writer,
          bool *ret_writer)
{
  if (ret_writer)
    *ret_writer = writer;
  return vd_error (ctx, EBUSY,
                   writer ?
                   "%s: is open for writing in another process (qemu, "
                   "another vdkit?); close it there or use lock=off (in the "
                   "diff filter: diff-lock=off)" :
                   "%s: is open for reading in another process (qemu, "
                   "another vdkit?), which does not allow writing; close it "
                   "there or use lock=off (in the diff filter: "
                   "diff-lock=off)", name);
}

/* Take the bytes of role.  *held is role then, or NOBODY where the file
 * system has no such locks.
 */
static int
take_bytes (struct vd_ctx *ctx, const char *name, int fd, enum role role,
            enum role *held, bool *ret_writer)
{
  const short *b = role == WRITER ? writer_bytes : reader_bytes;
  struct flock fl;

  *held = NOBODY;
  for (; *b; ++b) {
    if (lock_call (fd, F_OFD_SETLK, F_RDLCK, *b, &fl) == -1) {
      int err = errno;

      release_bytes (fd, role);
      switch (err) {
      case EAGAIN:
      case EACCES:
        /* Somebody who does not know the convention has a write lock. */
        return conflict (ctx, name, true, ret_writer);
      case EINVAL:
      case ENOLCK:
      case ENOSYS:
      case EOPNOTSUPP:
        errno = err;
        vd_debug (ctx, "%s: no locks on this file system: %m", name);
        return 0;
      default:
        errno = err;
        return vd_error (ctx, err, "%s: lock: %m", name);
      }
    }
  }
  *held = role;
  return 0;
}

/* Does anybody else hold a byte that role cannot live with? */
static int
ask_bytes (struct vd_ctx *ctx, const char *name, int fd, enum role role,
           bool *ret_writer)
{
  const short *b = role == WRITER ? writer_asks : reader_asks;
  bool found = false, writer = false;
  struct flock fl;

  for (; *b; ++b) {
    if (lock_call (fd, F_OFD_GETLK, F_WRLCK, *b, &fl) == -1)
      return vd_error (ctx, errno, "%s: lock: %m", name);
    if (fl.l_type != F_UNLCK) {
      found = true;
      writer |= is_write_byte (*b);
    }
  }
  if (found)
    return conflict (ctx, name, writer, ret_writer);
  return 0;
}

/* Take and ask.  On failure the caller closes fd, which gives all back. */
static int
lock_fd (struct vd_ctx *ctx, const char *name, int fd, enum role role,
         enum role *held, bool *ret_writer)
{
  int r;

  r = take_bytes (ctx, name, fd, role, held, ret_writer);
  if (r == 0 && *held != NOBODY)
    r = ask_bytes (ctx, name, fd, role, ret_writer);
  return r;
}

/* ---- the store -------------------------------------------------------- */

static int
file_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  struct file *f = file_of (st);

  if (st->fixed_size) {
    uint64_t size;

    if (ioctl (f->fd, BLKGETSIZE64, &size) == -1)
      return vd_error (ctx, errno, "%s: size of the device: %m", st->name);
    *ret = size;
  }
  else {
    struct stat sb;

    if (fstat (f->fd, &sb) == -1)
      return vd_error (ctx, errno, "%s: fstat: %m", st->name);
    *ret = sb.st_size;
  }
  return 0;
}

/* What a user can do about it, for the end of a message. */
static const char *
advice (const struct vd_store *st, int err)
{
  switch (err) {
  case ENOSPC:
    return st->fixed_size ? "" : "; make room on that file system";
  case EDQUOT: return "; make room or raise the quota";
  case EFBIG:
    return "; too big for that file system or the limit on file size "
      "(ulimit -f)";
  default: return "";
  }
}

/* Drop n bytes from the front. */
static void
advance (struct iovec **iov, int *niov, size_t n)
{
  while (*niov > 0 && n >= (*iov)->iov_len) {
    n -= (*iov)->iov_len;
    ++*iov;
    --*niov;
  }
  if (n > 0) {
    (*iov)->iov_base = (uint8_t *) (*iov)->iov_base + n;
    (*iov)->iov_len -= n;
  }
}

static int
file_preadv (struct vd_ctx *ctx, struct vd_store *st,
             struct iovec *iov, int niov, uint64_t offset)
{
  struct file *f = file_of (st);
  uint64_t len = iov_total (iov, niov), done = 0;

  while (done < len) {
    ssize_t r = niov == 1       /* measurably cheaper */
      ? pread (f->fd, iov->iov_base, iov->iov_len, offset + done)
      : preadv (f->fd, iov, niov < IOV_MAX ? niov : IOV_MAX, offset + done);

    if (r == -1) {
      if (errno == EINTR)
        continue;
      return vd_error (ctx, errno, "%s: read of %" PRIu64 " bytes at offset %"
                       PRIu64 ": %m", st->name, len, offset);
    }
    if (r == 0) {
      uint64_t size;
      int e = file_size (ctx, st, &size);

      if (e < 0)
        return e;
      return vd_error (ctx, EIO, "%s: read of %" PRIu64 " bytes at offset %"
                       PRIu64 ": the file ends at %" PRIu64,
                       st->name, len, offset, size);
    }
    done += r;
    if (done < len)
      advance (&iov, &niov, r);
  }
  return 0;
}

static int
do_fdatasync (int fd)
{
  int r;

  do
    r = fdatasync (fd);
  while (r == -1 && errno == EINTR);
  return r;
}

static int
file_pwritev (struct vd_ctx *ctx, struct vd_store *st,
              struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct file *f = file_of (st);
  uint64_t len = iov_total (iov, niov), done = 0;
  bool fua = flags & VD_STORE_FUA, sync_after = false;

  while (done < len) {
    int n = niov < IOV_MAX ? niov : IOV_MAX;
    ssize_t r;

    if (fua && !atomic_load_explicit (&f->no_dsync, memory_order_relaxed)) {
      r = pwritev2 (f->fd, iov, n, offset + done, RWF_DSYNC);
      if (r == -1 && (errno == EOPNOTSUPP || errno == ENOSYS ||
                      errno == EINVAL)) {
        atomic_store_explicit (&f->no_dsync, true, memory_order_relaxed);
        continue;
      }
      if (r == -1 && errno != EINTR && errno != EIO) {
        /* Was it the write that failed, or its sync?  That could be the only
         * report that data of an earlier write were lost.
         */
        int err = errno;

        r = pwritev (f->fd, iov, n, offset + done);
        if (r >= 0) {
          errno = err;
          return vd_error (ctx, EIO, "%s: durable write of %" PRIu64
                           " bytes at offset %" PRIu64 ": %m%s",
                           st->name, len, offset, advice (st, err));
        }
      }
    }
    else {
      r = n == 1 ? pwrite (f->fd, iov->iov_base, iov->iov_len, offset + done)
        : pwritev (f->fd, iov, n, offset + done);
      sync_after = fua;
    }
    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0) {
      int err = r == 0 ? EIO : errno;

      errno = err;
      return vd_error (ctx, err, "%s: write of %" PRIu64 " bytes at offset %"
                       PRIu64 ": %m%s",
                       st->name, len, offset, advice (st, err));
    }
    done += r;
    if (done < len)
      advance (&iov, &niov, r);
  }
  /* EIO whatever the reason: it need not be about this write. */
  if (sync_after && do_fdatasync (f->fd) == -1)
    return vd_error (ctx, EIO, "%s: fdatasync: %m%s",
                     st->name, advice (st, errno));
  return 0;
}

static int
do_fallocate (int fd, int mode, uint64_t offset, uint64_t len)
{
  int r;

  do
    r = fallocate (fd, mode, offset, len);
  while (r == -1 && errno == EINTR);
  return r;
}

static bool
is_unsupported (int err)
{
  return err == EOPNOTSUPP || err == ENOSYS || err == ENODEV;
}

static int
zero_failed (struct vd_ctx *ctx, struct vd_store *st, int err,
             uint64_t offset, uint64_t len)
{
  if (is_unsupported (err))
    return -EOPNOTSUPP;
  errno = err;
  return vd_error (ctx, err, "%s: zero of %" PRIu64 " bytes at offset %"
                   PRIu64 ": %m%s", st->name, len, offset, advice (st, err));
}

/* A block device zeroes whole sectors only: the middle is zeroed, the edges
 * (less than two sectors of 4 KiB) are written.
 */
static int
zero_unaligned (struct vd_ctx *ctx, struct vd_store *st, int mode,
                uint64_t offset, uint64_t len)
{
  enum { ALIGN = 4096 };
  struct file *f = file_of (st);
  uint8_t zeroes[2 * ALIGN];
  uint64_t end = offset + len;
  uint64_t from = round_up (offset, ALIGN), to = round_down (end, ALIGN);
  struct iovec iov;
  int r = 0;

  if (from >= to)
    from = to = end;
  else if (do_fallocate (f->fd, mode, from, to - from) == -1)
    return zero_failed (ctx, st, errno, offset, len);

  memset (zeroes, 0, sizeof zeroes);
  if (from > offset) {
    iov = (struct iovec) { zeroes, from - offset };
    r = file_pwritev (ctx, st, &iov, 1, offset, 0);
  }
  if (r == 0 && end > to) {
    iov = (struct iovec) { zeroes, end - to };
    r = file_pwritev (ctx, st, &iov, 1, to, 0);
  }
  return r;
}

static int
file_zero (struct vd_ctx *ctx, struct vd_store *st,
           uint64_t offset, uint64_t len, bool punch)
{
  struct file *f = file_of (st);
  int mode = FALLOC_FL_KEEP_SIZE |
    (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

  if (do_fallocate (f->fd, mode, offset, len) == 0)
    return 0;
  if (errno == EINVAL && st->fixed_size)
    return zero_unaligned (ctx, st, mode, offset, len);
  return zero_failed (ctx, st, errno, offset, len);
}

/* A block device is big enough or it is not. */
static int
check_fixed_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t want)
{
  uint64_t size;
  int r;

  r = file_size (ctx, st, &size);
  if (r < 0)
    return r;
  if (want > size)
    return vd_error (ctx, ENOSPC, "%s: the block device has %" PRIu64
                     " bytes, %" PRIu64 " are needed", st->name, size, want);
  return 0;
}

static int
file_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct file *f = file_of (st);
  int r;

  if (st->fixed_size)
    return check_fixed_size (ctx, st, size);
  do
    r = ftruncate (f->fd, size);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return vd_error (ctx, errno, "%s: change of size to %" PRIu64 ": %m%s",
                     st->name, size, advice (st, errno));
  return 0;
}

static int
file_allocate (struct vd_ctx *ctx, struct vd_store *st,
               uint64_t offset, uint64_t len)
{
  struct file *f = file_of (st);

  if (st->fixed_size)
    return check_fixed_size (ctx, st, offset + len);
  if (do_fallocate (f->fd, 0, offset, len) == -1) {
    if (is_unsupported (errno))
      return -EOPNOTSUPP;
    return vd_error (ctx, errno, "%s: allocation of %" PRIu64
                     " bytes at offset %" PRIu64 ": %m%s",
                     st->name, len, offset, advice (st, errno));
  }
  return 0;
}

static int
file_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  struct file *f = file_of (st);

  if (do_fdatasync (f->fd) == -1)
    return vd_error (ctx, errno, "%s: fdatasync: %m%s",
                     st->name, advice (st, errno));
  return 0;
}

static int
file_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
             bool *ret_hole, uint64_t *ret_end)
{
  struct file *f = file_of (st);
  off_t pos;

  /* Data is what there is most of: one call is enough for it. */
  pos = lseek (f->fd, offset, SEEK_HOLE);
  if (pos != -1 && (uint64_t) pos > offset) {
    *ret_hole = false;
    *ret_end = pos;
    return 0;
  }
  if (pos == -1 && errno != ENXIO) {
    *ret_hole = false;          /* a file system that cannot tell */
    *ret_end = INT64_MAX;
    return 0;
  }

  pos = lseek (f->fd, offset, SEEK_DATA);
  if (pos == -1) {
    /* No data from here on.  Beyond the end of a file that has become shorter
     * there are no zeroes: the client must read, and get the error.
     */
    uint64_t size;
    int r = file_size (ctx, st, &size);

    if (r < 0)
      return r;
    *ret_hole = offset < size;
    *ret_end = *ret_hole ? size : INT64_MAX;
    return 0;
  }
  /* Equal if somebody has written here between the two calls: a piece is then
   * called data.
   */
  *ret_hole = (uint64_t) pos > offset;
  *ret_end = *ret_hole ? (uint64_t) pos : (offset | 4095) + 1;
  return 0;
}

static int
file_cache (struct vd_ctx *ctx, struct vd_store *st,
            uint64_t offset, uint64_t len)
{
  struct file *f = file_of (st);

  (void) ctx;
  posix_fadvise (f->fd, offset, len, POSIX_FADV_WILLNEED);
  return 0;
}

static void
file_close (struct vd_store *st)
{
  struct file *f = file_of (st);

  close (f->fd);
  free (f);
}

static bool file_is (const struct vd_store *st, const struct stat *sb);
static int file_reopen_write (struct vd_ctx *ctx, struct vd_store *st,
                              bool locks, bool *ret_writer,
                              struct vd_store **ret);
static int file_relock (struct vd_ctx *ctx, struct vd_store *st);

static const struct vd_store_ops file_ops = {
  .kind = "file",
  .get_size = file_size,
  .preadv = file_preadv,
  .pwritev = file_pwritev,
  .zero = file_zero,
  .truncate = file_truncate,
  .allocate = file_allocate,
  .sync = file_sync,
  .extent = file_extent,
  .cache = file_cache,
  .is = file_is,
  .reopen_write = file_reopen_write,
  .relock = file_relock,
  .close = file_close,
};

/* ---- opening ---------------------------------------------------------- */

static int
check_type (struct vd_ctx *ctx, const char *name, const struct stat *sb)
{
  if (S_ISREG (sb->st_mode) || S_ISBLK (sb->st_mode))
    return 0;
  if (S_ISDIR (sb->st_mode))
    return vd_error (ctx, EISDIR, "%s: is a directory", name);
  return vd_error (ctx, EINVAL,
                   "%s: is neither a regular file nor a block device", name);
}

static int
fstat_checked (struct vd_ctx *ctx, const char *name, int fd, struct stat *sb)
{
  if (fstat (fd, sb) == -1)
    return vd_error (ctx, errno, "%s: fstat: %m", name);
  return check_type (ctx, name, sb);
}

/* Open the inode behind old (any descriptor, O_PATH too; *sb its status, the
 * type checked) once more.  Name is what it was found as.
 */
static int
open_again (struct vd_ctx *ctx, const char *name, int old,
            const struct stat *sb, bool write, bool *ret_writer, int *ret)
{
  int flags = (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
  char proc[32];
  int fd;

  /* The kernel refuses a second exclusive opener of a device, and one that
   * is mounted.
   */
  if (write && S_ISBLK (sb->st_mode))
    flags |= O_EXCL;

  snprintf (proc, sizeof proc, "/proc/self/fd/%d", old);
  fd = open (proc, flags);
  if (fd == -1 && errno == ENOENT) {
    /* No /proc.  The name may mean something else by now. */
    struct stat now;

    fd = open (name, flags | O_NONBLOCK);
    if (fd != -1 &&
        (fstat (fd, &now) == -1 ||
         now.st_dev != sb->st_dev || now.st_ino != sb->st_ino)) {
      close (fd);
      return vd_error (ctx, ESTALE, "%s: was replaced while it was opened",
                       name);
    }
    /* Left on it would mean nothing for a file; off for clarity. */
    if (fd != -1)
      fcntl (fd, F_SETFL, 0);
  }
  if (fd == -1) {
    if (errno == EBUSY && (flags & O_EXCL)) {
      if (ret_writer)
        *ret_writer = true;
      return vd_error (ctx, EBUSY, "%s: the block device is in use (mounted, "
                       "or open in another process?)", name);
    }
    return vd_error (ctx, errno, "%s: open%s: %m", name,
                     write ? " for writing" : "");
  }
  *ret = fd;
  return 0;
}

/* Makes the store; takes over fd on success. */
static int
make_store (struct vd_ctx *ctx, const char *name, int fd, bool write,
            enum role locked, struct vd_store **ret)
{
  struct file *f;
  struct stat sb;

  if (fstat (fd, &sb) == -1)
    return vd_error (ctx, errno, "%s: fstat: %m", name);
  f = calloc (1, sizeof *f);
  if (f == NULL || vd_store_init (&f->st, &file_ops, name, write) < 0) {
    free (f);
    return vd_error (ctx, ENOMEM, "%s: out of memory", name);
  }
  f->st.fixed_size = S_ISBLK (sb.st_mode);
  f->fd = fd;
  f->inode = sb;
  f->locked = locked;
  *ret = &f->st;
  return 0;
}

int
vd_file_open_fd (struct vd_ctx *ctx, const char *name, int probe, bool write,
                 enum vd_lock lock, bool *ret_writer, struct vd_store **ret)
{
  enum role held = NOBODY;
  struct stat sb;
  int fd, r;

  r = fstat_checked (ctx, name, probe, &sb);
  if (r == 0)
    r = open_again (ctx, name, probe, &sb, write, ret_writer, &fd);
  if (r < 0)
    return r;

  if (lock != VD_LOCK_OFF)
    r = lock_fd (ctx, name, fd, write ? WRITER : READER, &held, ret_writer);
  if (r == 0)
    r = make_store (ctx, name, fd, write, held, ret);
  if (r < 0)
    close (fd);
  return r;
}

int
vd_file_open (struct vd_ctx *ctx, const char *path, bool write,
              enum vd_lock lock, bool *ret_writer, struct vd_store **ret)
{
  int probe, r;

  /* A look before the real open: opening a FIFO, a terminal or a tape can
   * block or do things.
   */
  probe = open (path, O_PATH | O_CLOEXEC);
  if (probe == -1)
    return vd_error (ctx, errno, "%s: open: %m", path);
  r = vd_file_open_fd (ctx, path, probe, write, lock, ret_writer, ret);
  close (probe);
  return r;
}

bool
vd_same_inode (const struct stat *a, const struct stat *b)
{
  if (S_ISBLK (a->st_mode) && S_ISBLK (b->st_mode))
    return a->st_rdev == b->st_rdev;
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool
file_is (const struct vd_store *st, const struct stat *sb)
{
  return vd_same_inode (&((const struct file *) st)->inode, sb);
}

bool
vd_file_same (const struct vd_store *a, const struct vd_store *b)
{
  return a->ops == &file_ops &&
    vd_file_is (b, &((const struct file *) a)->inode);
}

int
vd_file_fd (const struct vd_store *st)
{
  return st->ops == &file_ops ? ((const struct file *) st)->fd : -1;
}

static int
file_reopen_write (struct vd_ctx *ctx, struct vd_store *st, bool locks,
                   bool *ret_writer, struct vd_store **ret)
{
  struct file *old = file_of (st);
  enum role held = NOBODY, ignored;
  struct stat sb;
  int fd, r;

  r = fstat_checked (ctx, st->name, old->fd, &sb);
  if (r < 0)
    return r;
  r = open_again (ctx, st->name, old->fd, &sb, true, ret_writer, &fd);
  if (r < 0)
    return r;

  if (locks)
    r = take_bytes (ctx, st->name, fd, WRITER, &held, ret_writer);
  if (r == 0) {
    release_bytes (old->fd, old->locked);
    if (held != NOBODY)
      r = ask_bytes (ctx, st->name, fd, WRITER, ret_writer);
    if (r == 0)
      r = make_store (ctx, st->name, fd, true, held, ret);
    if (r == 0) {
      old->locked = NOBODY;
      return 0;
    }
    /* Back as it was, before the new bytes go: nobody got in between, so this
     * can fail only where somebody breaks the convention.
     */
    if (old->locked != NOBODY) {
      struct vd_ctx quiet;

      vd_ctx_init (&quiet, ctx->log);
      if (take_bytes (&quiet, st->name, old->fd, old->locked,
                      &ignored, NULL) < 0) {
        vd_warning (ctx, "%s: could not get the lock back", st->name);
        old->locked = NOBODY;
      }
    }
  }
  close (fd);
  return r;
}

static int
file_relock (struct vd_ctx *ctx, struct vd_store *st)
{
  struct file *old = file_of (st);

  if (old->locked != NOBODY)
    return 0;
  /* Not asked for others' bytes: ours for writing may still be held. */
  return take_bytes (ctx, st->name, old->fd, READER, &old->locked, NULL);
}

bool
vd_file_is (const struct vd_store *st, const struct stat *sb)
{
  return st->ops->is && st->ops->is (st, sb);
}

int
vd_file_reopen_write (struct vd_ctx *ctx, struct vd_store *st,
                      enum vd_lock lock, bool *ret_writer,
                      struct vd_store **ret)
{
  if (!st->ops->reopen_write)
    return vd_error (ctx, ENOTSUP, "%s: is no local file, and cannot be "
                     "opened once more for writing", st->name);
  return st->ops->reopen_write (ctx, st, lock != VD_LOCK_OFF, ret_writer,
                                ret);
}

int
vd_file_relock (struct vd_ctx *ctx, struct vd_store *st, enum vd_lock lock)
{
  if (!st->ops->relock || lock == VD_LOCK_OFF)
    return 0;
  return st->ops->relock (ctx, st);
}

int
vd_file_create_at (struct vd_ctx *ctx, int folder, const char *path,
                   const char *name, enum vd_lock lock, struct vd_store **ret)
{
  enum role held = NOBODY;
  int fd, r = 0;

  fd = openat (folder, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY,
               0600);
  if (fd == -1)
    return vd_error (ctx, errno, "%s: create: %m", name);
  if (lock != VD_LOCK_OFF)
    r = lock_fd (ctx, name, fd, WRITER, &held, NULL);
  if (r == 0)
    r = make_store (ctx, name, fd, true, held, ret);
  if (r < 0) {
    unlinkat (folder, path, 0);
    close (fd);
  }
  return r;
}

int
vd_file_create (struct vd_ctx *ctx, const char *path, enum vd_lock lock,
                struct vd_store **ret)
{
  return vd_file_create_at (ctx, AT_FDCWD, path, path, lock, ret);
}

int
vd_file_sync_folder (struct vd_ctx *ctx, const char *path)
{
  const char *slash = strrchr (path, '/');
  CLEANUP_FREE char *folder = NULL;
  int fd, err, r;

  if (slash == NULL)
    folder = strdup (".");
  else
    folder = strndup (path, slash == path ? 1 : slash - path);
  if (folder == NULL)
    return vd_error (ctx, ENOMEM, "%s: out of memory", path);

  fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd == -1)
    return vd_error (ctx, errno, "%s: open: %m", folder);
  do
    r = fsync (fd);
  while (r == -1 && errno == EINTR);
  err = errno;
  close (fd);
  /* EINVAL: a file system whose folders cannot be synced. */
  if (r == -1 && err != EINVAL) {
    errno = err;
    return vd_error (ctx, err, "%s: fsync: %m", folder);
  }
  return 0;
}
