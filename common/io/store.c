/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "inline.h"
#include "iov.h"
#include "rounding.h"
#include "store.h"

int
vd_store_init (struct vd_store *st, const struct vd_store_ops *ops,
               const char *name, bool writable)
{
  pthread_rwlockattr_t attr;

  st->name = strdup (name);
  if (st->name == NULL)
    return -ENOMEM;
  st->ops = ops;
  st->writable = writable;
  st->fixed_size = false;
  atomic_init (&st->touched, false);
  atomic_init (&st->no_punch, false);
  atomic_init (&st->no_zero, false);
  atomic_init (&st->sync_failed, false);
  pthread_mutex_init (&st->sync_lock, NULL);
  pthread_mutex_init (&st->extent_lock, NULL);
  st->data_from = st->data_to = 0;
  /* Who syncs must not wait for ever while others keep on writing. */
  pthread_rwlockattr_init (&attr);
  pthread_rwlockattr_setkind_np (&attr,
                                 PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init (&st->fua_lock, &attr);
  pthread_rwlockattr_destroy (&attr);
  return 0;
}

/* Offsets are off_t in the end, so nothing may reach beyond INT64_MAX. */
static VD_INLINE int
check_range (struct vd_ctx *ctx, const struct vd_store *st, const char *what,
             uint64_t offset, uint64_t len)
{
  if (offset > INT64_MAX || len > INT64_MAX - offset)
    return vd_error (ctx, EINVAL,
                     "%s: %s of %" PRIu64 " bytes at offset %" PRIu64
                     ": out of range", st->name, what, len, offset);
  return 0;
}

/* May the range be changed? */
static VD_INLINE int
check_change (struct vd_ctx *ctx, const struct vd_store *st, const char *what,
              uint64_t offset, uint64_t len)
{
  if (!st->writable)
    return vd_error (ctx, EROFS, "%s: %s: the file is open read-only",
                     st->name, what);
  return check_range (ctx, st, what, offset, len);
}

/* Called after the change, so that a sync which clears the flag afterwards
 * has the change before it.  The load keeps the cache line shared in the
 * usual case; both accesses are sequentially consistent, so seeing true here
 * means that the sync which clears it has not begun yet.
 */
static void
set_touched (struct vd_store *st)
{
  if (!atomic_load (&st->touched))
    atomic_store (&st->touched, true);
}

int
vd_store_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  return st->ops->get_size (ctx, st, ret);
}

static VD_INLINE int
read_vector (struct vd_ctx *ctx, struct vd_store *st,
             struct iovec *iov, int niov, uint64_t offset)
{
  uint64_t len = iov_total (iov, niov);
  int r;

  r = check_range (ctx, st, "read", offset, len);
  if (r < 0)
    return r;
  if (len == 0)
    return 0;
  return st->ops->preadv (ctx, st, iov, niov, offset);
}

int
vd_store_pread (struct vd_ctx *ctx, struct vd_store *st,
                void *buf, size_t len, uint64_t offset)
{
  struct iovec iov = { .iov_base = buf, .iov_len = len };

  return read_vector (ctx, st, &iov, 1, offset);
}

int
vd_store_preadv (struct vd_ctx *ctx, struct vd_store *st,
                 struct iovec *iov, int niov, uint64_t offset)
{
  return read_vector (ctx, st, iov, niov, offset);
}

static int
write_durably (struct vd_ctx *ctx, struct vd_store *st,
               struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  int r;

  pthread_rwlock_rdlock (&st->fua_lock);
  r = st->ops->pwritev (ctx, st, iov, niov, offset, flags);
  /* The kernel may have told this call of an earlier write's failure. */
  if (r == -EIO)
    atomic_store (&st->sync_failed, true);
  pthread_rwlock_unlock (&st->fua_lock);
  return r;
}

static VD_INLINE int
write_vector (struct vd_ctx *ctx, struct vd_store *st,
              struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  uint64_t len = iov_total (iov, niov);
  int r;

  r = check_change (ctx, st, "write", offset, len);
  if (r < 0)
    return r;
  if (len == 0)
    return 0;
  if (flags & VD_STORE_FUA)
    r = write_durably (ctx, st, iov, niov, offset, flags);
  else
    r = st->ops->pwritev (ctx, st, iov, niov, offset, flags);
  /* Part of a failed write may have been done. */
  if (r < 0 || !(flags & VD_STORE_FUA))
    set_touched (st);
  return r;
}

int
vd_store_pwrite (struct vd_ctx *ctx, struct vd_store *st,
                 const void *buf, size_t len, uint64_t offset, unsigned flags)
{
  struct iovec iov = { .iov_base = (void *) buf, .iov_len = len };

  return write_vector (ctx, st, &iov, 1, offset, flags);
}

int
vd_store_pwritev (struct vd_ctx *ctx, struct vd_store *st,
                  struct iovec *iov, int niov, uint64_t offset,
                  unsigned flags)
{
  return write_vector (ctx, st, iov, niov, offset, flags);
}

int
vd_store_zero (struct vd_ctx *ctx, struct vd_store *st,
               uint64_t offset, uint64_t len, bool punch)
{
  _Atomic bool *never = punch ? &st->no_punch : &st->no_zero;
  int r;

  r = check_change (ctx, st, "zero", offset, len);
  if (r < 0)
    return r;
  if (st->ops->zero == NULL ||
      atomic_load_explicit (never, memory_order_relaxed))
    return -EOPNOTSUPP;
  if (len == 0)
    return 0;
  r = st->ops->zero (ctx, st, offset, len, punch);
  if (r == -EOPNOTSUPP)
    atomic_store_explicit (never, true, memory_order_relaxed);
  else
    set_touched (st);
  return r;
}

/* One writes zeroes 1 MiB at a time, from the same 64 KiB.  The buffer is
 * never written to; it is not const so that it takes no room in the binary.
 */
#define ZEROES_SIZE 65536
#define ZEROES_MAX 16
static uint8_t zeroes[ZEROES_SIZE];

static int
write_zeroes (struct vd_ctx *ctx, struct vd_store *st,
              uint64_t offset, uint64_t len)
{
  while (len > 0) {
    struct iovec iov[ZEROES_MAX];
    uint64_t done = 0;
    int niov, r;

    for (niov = 0; niov < ZEROES_MAX && done < len; ++niov) {
      iov[niov].iov_base = zeroes;
      iov[niov].iov_len = min_u64 (len - done, ZEROES_SIZE);
      done += iov[niov].iov_len;
    }
    r = vd_store_pwritev (ctx, st, iov, niov, offset, 0);
    if (r < 0)
      return r;
    offset += done;
    len -= done;
  }
  return 0;
}

int
vd_store_zero_or_write (struct vd_ctx *ctx, struct vd_store *st,
                        uint64_t offset, uint64_t len, bool punch)
{
  int r = -EOPNOTSUPP;

  if (punch)
    r = vd_store_zero (ctx, st, offset, len, true);
  if (r == -EOPNOTSUPP)
    r = vd_store_zero (ctx, st, offset, len, false);
  if (r == -EOPNOTSUPP)
    r = write_zeroes (ctx, st, offset, len);
  return r;
}

int
vd_store_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  int r;

  r = check_change (ctx, st, "change of size", size, 0);
  if (r < 0)
    return r;
  r = st->ops->truncate (ctx, st, size);
  set_touched (st);
  return r;
}

int
vd_store_allocate (struct vd_ctx *ctx, struct vd_store *st,
                   uint64_t offset, uint64_t len)
{
  uint64_t size;
  int r;

  r = check_change (ctx, st, "allocation", offset, len);
  if (r < 0)
    return r;
  if (len == 0)
    return 0;

  if (st->ops->allocate) {
    r = st->ops->allocate (ctx, st, offset, len);
    if (r != -EOPNOTSUPP) {
      set_touched (st);
      return r;
    }
  }

  r = vd_store_get_size (ctx, st, &size);
  if (r < 0)
    return r;
  if (offset + len <= size)
    return 0;
  return vd_store_truncate (ctx, st, offset + len);
}

static int
check_synced (struct vd_ctx *ctx, struct vd_store *st)
{
  if (atomic_load (&st->sync_failed))
    return vd_error (ctx, EIO, "%s: an earlier sync failed; what of the data "
                     "is on the disk is not known", st->name);
  return 0;
}

/* The lock is held. */
static int
sync_locked (struct vd_ctx *ctx, struct vd_store *st)
{
  int r;

  /* Cleared first: what is written from now on may miss this sync. */
  atomic_exchange (&st->touched, false);
  r = st->ops->sync (ctx, st);
  if (r < 0) {
    atomic_store (&st->touched, true);
    atomic_store (&st->sync_failed, true);
    return r;
  }
  /* A durable write that is about to return may have been told in our place
   * that data were lost: let it say so.
   */
  pthread_rwlock_wrlock (&st->fua_lock);
  pthread_rwlock_unlock (&st->fua_lock);
  return check_synced (ctx, st);
}

int
vd_store_sync_always (struct vd_ctx *ctx, struct vd_store *st)
{
  LOCK_SCOPE (&st->sync_lock);
  return sync_locked (ctx, st);
}

int
vd_store_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  int r;

  /* Not touched may mean that a sync is under way: wait for its end. */
  LOCK_SCOPE (&st->sync_lock);
  r = check_synced (ctx, st);
  if (r < 0 || !atomic_load (&st->touched))
    return r;
  return sync_locked (ctx, st);
}

/* A parent in a chain is asked for one piece after another, from many
 * requests, and to look for the next hole can mean to look through the whole
 * file.  What was data once may go on being called data.  A store that we
 * write is always asked: trimmed data are expected to become a hole.
 */
static bool
known_data (struct vd_store *st, uint64_t offset, uint64_t *ret_end)
{
  LOCK_SCOPE (&st->extent_lock);
  *ret_end = st->data_to;
  return offset >= st->data_from && offset < st->data_to;
}

static void
note_data (struct vd_store *st, uint64_t offset, uint64_t end)
{
  LOCK_SCOPE (&st->extent_lock);
  st->data_from = offset;
  st->data_to = end;
}

int
vd_store_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
                 bool *ret_hole, uint64_t *ret_end)
{
  int r;

  r = check_range (ctx, st, "block status", offset, 1);
  if (r < 0)
    return r;
  if (st->ops->extent == NULL) {
    *ret_hole = false;
    *ret_end = INT64_MAX;
    return 0;
  }
  if (!st->writable && known_data (st, offset, ret_end)) {
    *ret_hole = false;
    return 0;
  }
  r = st->ops->extent (ctx, st, offset, ret_hole, ret_end);
  if (r == 0 && !*ret_hole && !st->writable)
    note_data (st, offset, *ret_end);
  return r;
}

int
vd_store_cache (struct vd_ctx *ctx, struct vd_store *st,
                uint64_t offset, uint64_t len)
{
  int r;

  r = check_range (ctx, st, "cache", offset, len);
  if (r < 0)
    return r;
  if (st->ops->cache == NULL || len == 0)
    return 0;
  return st->ops->cache (ctx, st, offset, len);
}

void
vd_store_close (struct vd_store *st)
{
  char *name;

  if (st == NULL)
    return;
  name = st->name;
  pthread_rwlock_destroy (&st->fua_lock);
  pthread_mutex_destroy (&st->extent_lock);
  pthread_mutex_destroy (&st->sync_lock);
  st->ops->close (st);
  free (name);
}
