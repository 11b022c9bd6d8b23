/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The store: bytes under an image.  A local file, memory, a simulated disk
 * and (in filters) the nbdkit layer below all look like this.
 *
 * Units are bytes.  All calls return 0 or a negative errno after vd_error.
 * All calls but close may be made from several threads at once; the caller
 * orders what overlaps.
 *
 * Implementations fill struct vd_store_ops; everyone else uses the vd_store_*
 * functions, which check ranges, keep the "touched since the last sync" flag
 * and supply what an implementation leaves out.
 */

#ifndef VDKIT_STORE_H
#define VDKIT_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "ctx.h"

struct vd_store;

/* vd_store_pwritev: durable when the call returns. */
#define VD_STORE_FUA 1u

struct vd_store_ops {
  const char *kind;

  /* Size now.  Never cached by callers across a change of size. */
  int (*get_size) (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret);

  /* The whole range or an error; -EIO beyond the end.  iov may be modified. */
  int (*preadv) (struct vd_ctx *ctx, struct vd_store *st,
                 struct iovec *iov, int niov, uint64_t offset);
  int (*pwritev) (struct vd_ctx *ctx, struct vd_store *st,
                  struct iovec *iov, int niov, uint64_t offset,
                  unsigned flags);

  /* Make an existing range read as zeroes without writing data.  punch: give
   * the space back; otherwise keep it allocated.  -EOPNOTSUPP (without
   * vd_error) where that cannot be done.  NULL: never can.
   */
  int (*zero) (struct vd_ctx *ctx, struct vd_store *st,
               uint64_t offset, uint64_t len, bool punch);

  /* Grow (the new part reads as zeroes) or shrink.  -ENOSPC on a store that
   * cannot change its size.
   */
  int (*truncate) (struct vd_ctx *ctx, struct vd_store *st, uint64_t size);

  /* Reserve space for the range, growing the store if needed, content
   * zeroes.  NULL or -EOPNOTSUPP: growing with truncate has to do.
   */
  int (*allocate) (struct vd_ctx *ctx, struct vd_store *st,
                   uint64_t offset, uint64_t len);

  /* Data and what is needed to find it are durable on return (fdatasync). */
  int (*sync) (struct vd_ctx *ctx, struct vd_store *st);

  /* Is offset in a hole (reads as zeroes, takes no space), and up to which
   * offset (> offset, may lie past the end of the store) does that hold?
   * NULL: all data.
   */
  int (*extent) (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
                 bool *ret_hole, uint64_t *ret_end);

  /* Start reading the range into the page cache; a hint.  May be NULL. */
  int (*cache) (struct vd_ctx *ctx, struct vd_store *st,
                uint64_t offset, uint64_t len);

  /* What vd_file_is, vd_file_reopen_write and vd_file_relock (file.h) do for
   * this kind; NULL where there is no inode, or no lock.
   */
  bool (*is) (const struct vd_store *st, const struct stat *sb);
  int (*reopen_write) (struct vd_ctx *ctx, struct vd_store *st, bool locks,
                       bool *ret_writer, struct vd_store **ret);
  int (*relock) (struct vd_ctx *ctx, struct vd_store *st);

  /* Free st and all it owns, but for the name. */
  void (*close) (struct vd_store *st);
};

/* What every read needs is at the end, where it shares a cache line with what
 * the kind of store keeps behind this: an image may have a thousand files, and
 * requests that go to all of them find none of it in the cache.
 */
struct vd_store {
  char *name;                   /* for messages; vd_store_close frees it */
  pthread_mutex_t sync_lock;    /* held by the one who syncs */
  pthread_mutex_t extent_lock;  /* covers the two below */
  uint64_t data_from, data_to;  /* not writable: what ops->extent called data
                                   last; empty: nothing yet */
  pthread_rwlock_t fua_lock;    /* held shared by durable writes */
  bool writable;
  bool fixed_size;              /* block device: nothing grows */
  _Atomic bool touched;         /* written, zeroed or truncated since a sync */
  _Atomic bool no_punch;        /* ops->zero said -EOPNOTSUPP for punch */
  _Atomic bool no_zero;         /* ... and for zeroing in place */
  _Atomic bool sync_failed;     /* once: what is durable is not known */
  const struct vd_store_ops *ops;
};

/* For implementations: the common part.  name is copied.  -ENOMEM. */
extern int vd_store_init (struct vd_store *st, const struct vd_store_ops *ops,
                          const char *name, bool writable);

extern int vd_store_get_size (struct vd_ctx *ctx, struct vd_store *st,
                              uint64_t *ret);

extern int vd_store_pread (struct vd_ctx *ctx, struct vd_store *st,
                           void *buf, size_t len, uint64_t offset);
extern int vd_store_pwrite (struct vd_ctx *ctx, struct vd_store *st,
                            const void *buf, size_t len, uint64_t offset,
                            unsigned flags);

/* As above with vectors; the iovec array may be modified by the call. */
extern int vd_store_preadv (struct vd_ctx *ctx, struct vd_store *st,
                            struct iovec *iov, int niov, uint64_t offset);
extern int vd_store_pwritev (struct vd_ctx *ctx, struct vd_store *st,
                             struct iovec *iov, int niov, uint64_t offset,
                             unsigned flags);

/* Zero an existing range.  punch: give the space back.  Returns -EOPNOTSUPP
 * at once, with nothing done and no message, where that is not possible
 * without writing.
 */
extern int vd_store_zero (struct vd_ctx *ctx, struct vd_store *st,
                          uint64_t offset, uint64_t len, bool punch);

/* As vd_store_zero, but writes zeroes where there is no other way. */
extern int vd_store_zero_or_write (struct vd_ctx *ctx, struct vd_store *st,
                                   uint64_t offset, uint64_t len, bool punch);

extern int vd_store_truncate (struct vd_ctx *ctx, struct vd_store *st,
                              uint64_t size);

/* Where space cannot be reserved this only makes the store big enough.  The
 * caller sees to it that no two calls change the size at once.
 */
extern int vd_store_allocate (struct vd_ctx *ctx, struct vd_store *st,
                              uint64_t offset, uint64_t len);

/* Sync if anything was changed since the last successful vd_store_sync that
 * began after the change; otherwise does nothing.  Fails for ever once a sync
 * or a durable write has failed: the kernel reports such an error once.
 */
extern int vd_store_sync (struct vd_ctx *ctx, struct vd_store *st);

/* Sync whatever the flag says (rules O13: what we read may exist in the page
 * cache only).
 */
extern int vd_store_sync_always (struct vd_ctx *ctx, struct vd_store *st);

extern int vd_store_extent (struct vd_ctx *ctx, struct vd_store *st,
                            uint64_t offset, bool *ret_hole,
                            uint64_t *ret_end);
extern int vd_store_cache (struct vd_ctx *ctx, struct vd_store *st,
                           uint64_t offset, uint64_t len);

/* Close and free.  NULL is fine.  Does not sync. */
extern void vd_store_close (struct vd_store *st);

#endif /* VDKIT_STORE_H */
