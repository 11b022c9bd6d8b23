/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The core's own part of an image.  Only common/image includes this.
 */

#ifndef VDKIT_ENGINE_H
#define VDKIT_ENGINE_H

#include <pthread.h>
#include <time.h>

#include "blocklock.h"
#include "image.h"

struct vd_packed_cache;
struct vd_sink_state;

/* A change in the queue; seq keeps two changes of one block in order. */
struct vd_queued {
  struct vd_change change;
  uint64_t seq;
};

struct vd_engine {
  /* All that a write to allocated blocks needs, side by side. */
  struct vd_blocklock *locks;           /* NULL: read-only */
  struct vd_sink_state *sink;           /* NULL: not written front to back */
  bool honor_zeroes;
  bool honor_same;
  bool has_parent;
  _Atomic bool in_session;              /* round.c */
  _Atomic bool poisoned;                /* round.c */

  vd_log_fn log;
  struct vd_parent parent;
  struct vd_packed_cache *packed;       /* NULL: nothing is compressed */

  /* round.c */
  pthread_mutex_t session_lock;
  char poison_reason[256];              /* valid once poisoned is set */

  pthread_mutex_t lock;                 /* protects what follows */
  pthread_cond_t round_done;
  pthread_cond_t work;                  /* wakes the thread */
  struct vd_queued *queue;
  size_t queued, slots, allocated;      /* slots: promised, not yet queued */
  uint64_t seq;
  struct timespec oldest;               /* CLOCK_MONOTONIC, if queued > 0 */
  uint64_t started, finished;           /* rounds */
  bool running;
  bool have_thread, stop;
  pthread_t thread;

  /* Changes promised or queued or in a round, and so not yet durable. */
  _Atomic uint64_t unwritten;
};

/* ---- round.c: sessions, the queue of changes, flush rounds ------------ */

extern void vd_round_init (struct vd_image *image);
extern void vd_round_free (struct vd_image *image);

/* For vd_session_begin only, which has looked whether there is one. */
extern int vd_session_do_begin (struct vd_ctx *ctx, struct vd_image *image);

/* Called before the first stored byte, and cheap ever after. */
static inline int
vd_session_begin (struct vd_ctx *ctx, struct vd_image *image)
{
  if (atomic_load_explicit (&image->engine->in_session, memory_order_acquire))
    return 0;
  return vd_session_do_begin (ctx, image);
}

/* Promise room for one change; waits for a round if the queue is full.
 * Then either queue it or give the slot back; neither can fail.
 */
extern int vd_round_slot (struct vd_ctx *ctx, struct vd_image *image);
extern void vd_round_queue (struct vd_image *image,
                            uint64_t block, uint64_t value);
extern void vd_round_give_back (struct vd_image *image);

/* True if every entry that readers see is durable.  Under a block's lock the
 * answer holds for that block until the lock is released.
 */
static inline bool
vd_round_all_written (const struct vd_image *image)
{
  return atomic_load_explicit (&image->engine->unwritten,
                               memory_order_acquire) == 0;
}

/* A sync failed: from now on writes and flushes fail. */
extern void vd_round_poison (struct vd_ctx *ctx, struct vd_image *image);
/* The error of vd_round_check. */
extern int vd_round_poisoned (struct vd_ctx *ctx,
                              const struct vd_image *image);

/* -EIO if that has happened. */
static inline int
vd_round_check (struct vd_ctx *ctx, const struct vd_image *image)
{
  if (!atomic_load_explicit (&image->engine->poisoned, memory_order_acquire))
    return 0;
  return vd_round_poisoned (ctx, image);
}

/* ---- read.c ----------------------------------------------------------- */

/* The parent's bytes, zeroes beyond its end or without a parent. */
extern int vd_parent_pread (struct vd_ctx *ctx, struct vd_image *image,
                            void *buf, size_t len, uint64_t offset);

/* The error of a BAD or DENY run; returns -run->error. */
extern int vd_run_error (struct vd_ctx *ctx, const struct vd_image *image,
                         const struct vd_run *run, uint64_t offset,
                         const char *what);

/* ---- packed.c: decoded blocks, shared by all readers ------------------ */

extern int vd_packed_init (struct vd_ctx *ctx, struct vd_image *image);
extern void vd_packed_free (struct vd_packed_cache *cache);

/* Bytes of the packed block that starts at block; the range lies in it. */
extern int vd_packed_pread (struct vd_ctx *ctx, struct vd_image *image,
                            uint64_t block, void *buf, size_t len,
                            uint64_t offset);

/* ---- sink.c: images that are written once, front to back -------------- */

extern int vd_sink_init (struct vd_ctx *ctx, struct vd_image *image);
extern void vd_sink_free (struct vd_image *image);

/* buf NULL: zeroes */
extern int vd_sink_pwrite (struct vd_ctx *ctx, struct vd_image *image,
                           const void *buf, size_t len, uint64_t offset);
extern int vd_sink_finish (struct vd_ctx *ctx, struct vd_image *image);
/* Finish if all of the disk was written. */
extern int vd_sink_flush (struct vd_ctx *ctx, struct vd_image *image);

/* While the image is being made its tables say nothing: 1 if the range reads
 * as zeroes, -EIO if some of it was written.  0: it is complete, ask the
 * format.
 */
extern int vd_sink_check_read (struct vd_ctx *ctx, struct vd_image *image,
                               uint64_t len, uint64_t offset);
/* The same for those who do not read.  empty: nothing was written yet. */
extern bool vd_sink_unfinished (const struct vd_image *image,
                                bool *ret_empty);

#endif /* VDKIT_ENGINE_H */
