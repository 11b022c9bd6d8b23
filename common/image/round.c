/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sessions, the queue of map changes, and the flush rounds that bring them to
 * the disk in the right order (rules 2, O3 to O7, O11, O14).
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "engine.h"

/* Writers wait for a round when so many changes are not yet written.  At
 * 4 KiB of table for each in the worst case this is 256 MiB.
 */
#define QUEUE_MAX 65536

/* The thread starts a round when so many changes wait, or the oldest is so
 * old: a client that never flushes loses little in a crash.
 */
#define QUEUE_KICK 16384
#define QUEUE_SECONDS 2

void
vd_round_init (struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  pthread_condattr_t attr;

  pthread_mutex_init (&e->session_lock, NULL);
  pthread_mutex_init (&e->lock, NULL);
  pthread_cond_init (&e->round_done, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&e->work, &attr);
  pthread_condattr_destroy (&attr);
}

void
vd_round_free (struct vd_image *image)
{
  struct vd_engine *e = image->engine;

  pthread_mutex_lock (&e->lock);
  e->stop = true;
  pthread_cond_signal (&e->work);
  pthread_mutex_unlock (&e->lock);
  if (e->have_thread)
    pthread_join (e->thread, NULL);

  free (e->queue);
  pthread_cond_destroy (&e->work);
  pthread_cond_destroy (&e->round_done);
  pthread_mutex_destroy (&e->lock);
  pthread_mutex_destroy (&e->session_lock);
}

/* The first reason is the one to tell. */
static void
poison_locked (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;

  if (atomic_load (&e->poisoned))
    return;
  snprintf (e->poison_reason, sizeof e->poison_reason, "%.255s",
            ctx->error ? ctx->message : "unknown error");
  atomic_store (&e->poisoned, true);
}

void
vd_round_poison (struct vd_ctx *ctx, struct vd_image *image)
{
  LOCK_SCOPE (&image->engine->lock);
  poison_locked (ctx, image);
}

int
vd_round_poisoned (struct vd_ctx *ctx, const struct vd_image *image)
{
  return vd_error (ctx, EIO,
                   "%s: no more is written because an earlier flush failed; "
                   "what was written since the last good flush may be lost; "
                   "close the image and check it (%s)",
                   image->name, image->engine->poison_reason);
}

/* Has a sync of any file of the image ever failed?  The kernel reports that
 * once only; a later success would mean nothing.
 */
static bool
sync_has_failed (const struct vd_image *image)
{
  size_t i;

  for (i = 0; i < image->nstores; ++i)
    if (atomic_load (&image->stores[i]->sync_failed))
      return true;
  return false;
}

static int
sync_all (struct vd_ctx *ctx, struct vd_image *image)
{
  size_t i;
  int r;

  for (i = 0; i < image->nstores; ++i) {
    r = vd_store_sync (ctx, image->stores[i]);
    if (r < 0)
      return r;
  }
  return 0;
}

int
vd_session_do_begin (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  int r = 0;

  LOCK_SCOPE (&e->session_lock);
  if (atomic_load (&e->in_session))
    return 0;
  r = vd_round_check (ctx, image);
  if (r < 0)
    return r;
  if (image->format->begin_session)
    r = image->format->begin_session (ctx, image);
  if (r < 0) {
    if (sync_has_failed (image))
      vd_round_poison (ctx, image);
    return r;
  }
  atomic_store_explicit (&e->in_session, true, memory_order_release);
  return 0;
}

/* ---- rounds ----------------------------------------------------------- */

static int
compare_queued (const void *a, const void *b)
{
  const struct vd_queued *x = a, *y = b;

  if (x->change.block != y->change.block)
    return x->change.block < y->change.block ? -1 : 1;
  return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* One round over a sealed queue, without the lock. */
static int
run_round (struct vd_ctx *ctx, struct vd_image *image,
           struct vd_queued *sealed, size_t n)
{
  struct vd_change *changes = (struct vd_change *) sealed;
  size_t i;
  int r;

  if (n > 0 && image->format->write_tables) {
    r = image->format->write_tables (ctx, image);
    if (r < 0)
      return r;
  }
  r = sync_all (ctx, image);
  if (r < 0 || n == 0)
    return r;

  qsort (sealed, n, sizeof sealed[0], compare_queued);
  /* Packed to the front of the same memory, which is never too small. */
  for (i = 0; i < n; ++i) {
    struct vd_change c = sealed[i].change;

    memcpy (&changes[i], &c, sizeof c);
  }
  r = image->format->write_map (ctx, image, changes, n);
  if (r < 0)
    return r;
  return sync_all (ctx, image);
}

/* Run the next round; the lock is held on entry and return. */
static int
next_round (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  struct vd_queued *sealed = e->queue, *fresh = NULL;
  size_t n = e->queued;
  uint64_t number;
  int r;

  /* Slots are promised room in the queue, so the new one must have it.  Not
   * having it fails this call, not a round: nothing was sealed.
   */
  if (e->slots > 0) {
    fresh = malloc (e->slots * sizeof fresh[0]);
    if (!fresh)
      return vd_error (ctx, ENOMEM, "%s: no memory for a flush", image->name);
  }
  e->queue = fresh;
  e->allocated = e->slots;
  e->queued = 0;
  e->running = true;
  number = ++e->started;
  pthread_mutex_unlock (&e->lock);

  r = run_round (ctx, image, sealed, n);
  free (sealed);

  pthread_mutex_lock (&e->lock);
  if (r < 0)
    poison_locked (ctx, image);
  else
    atomic_fetch_sub_explicit (&e->unwritten, n, memory_order_release);
  e->running = false;
  e->finished = number;
  pthread_cond_broadcast (&e->round_done);
  return r;
}

/* Everything that was queued or written before the call becomes durable: by
 * the next round to start, whoever runs it.  The lock is held on entry and
 * return.
 */
static int
wait_round (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  uint64_t target = e->started + 1;
  int r;

  while (e->finished < target) {
    r = vd_round_check (ctx, image);
    if (r < 0)
      return r;
    if (e->running)
      pthread_cond_wait (&e->round_done, &e->lock);
    else {
      r = next_round (ctx, image);
      if (r < 0)
        return r;
    }
  }
  return vd_round_check (ctx, image);
}

int
vd_image_flush (struct vd_ctx *ctx, struct vd_image *image)
{
  if (!image->write)
    return 0;
  if (image->engine->sink)
    return vd_sink_flush (ctx, image);
  LOCK_SCOPE (&image->engine->lock);
  return wait_round (ctx, image);
}

/* ---- the queue -------------------------------------------------------- */

static bool
is_due (const struct vd_engine *e, struct timespec *ret_when)
{
  struct timespec now;

  *ret_when = e->oldest;
  ret_when->tv_sec += QUEUE_SECONDS;
  if (e->queued >= QUEUE_KICK)
    return true;
  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec > ret_when->tv_sec ||
    (now.tv_sec == ret_when->tv_sec && now.tv_nsec >= ret_when->tv_nsec);
}

static void *
round_thread (void *opaque)
{
  struct vd_image *image = opaque;
  struct vd_engine *e = image->engine;
  struct timespec when;
  struct vd_ctx ctx;

  pthread_mutex_lock (&e->lock);
  while (!e->stop) {
    if (e->queued == 0 || atomic_load (&e->poisoned))
      pthread_cond_wait (&e->work, &e->lock);
    else if (!is_due (e, &when))
      pthread_cond_timedwait (&e->work, &e->lock, &when);
    else {
      vd_ctx_init (&ctx, e->log);
      if (wait_round (&ctx, image) < 0) {
        vd_warning (&ctx, "%s", ctx.message);
        /* Without memory, say: not again at once. */
        clock_gettime (CLOCK_MONOTONIC, &when);
        when.tv_sec += QUEUE_SECONDS;
        pthread_cond_timedwait (&e->work, &e->lock, &when);
      }
    }
  }
  pthread_mutex_unlock (&e->lock);
  return NULL;
}

int
vd_round_slot (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  int r;

  LOCK_SCOPE (&e->lock);
  for (;;) {
    r = vd_round_check (ctx, image);
    if (r < 0)
      return r;
    if (e->queued + e->slots < QUEUE_MAX || e->queued == 0)
      break;
    r = wait_round (ctx, image);
    if (r < 0)
      return r;
  }

  if (e->queued + e->slots >= e->allocated) {
    size_t n = e->allocated < 64 ? 64 : e->allocated * 2;
    struct vd_queued *q = realloc (e->queue, n * sizeof q[0]);

    if (!q)
      return vd_error (ctx, ENOMEM, "%s: no memory for the queue of changes",
                       image->name);
    e->queue = q;
    e->allocated = n;
  }
  e->slots++;
  atomic_fetch_add_explicit (&e->unwritten, 1, memory_order_relaxed);

  /* Not before the first write: nbdkit forks after the image was opened. */
  if (!e->have_thread && !e->stop) {
    r = pthread_create (&e->thread, NULL, round_thread, image);
    if (r == 0)
      e->have_thread = true;
    else
      vd_debug (ctx, "%s: no thread for deferred map updates: %s",
                image->name, strerror (r));
  }
  return 0;
}

void
vd_round_queue (struct vd_image *image, uint64_t block, uint64_t value)
{
  struct vd_engine *e = image->engine;
  struct vd_queued *q;

  LOCK_SCOPE (&e->lock);
  q = &e->queue[e->queued++];
  e->slots--;
  q->change.block = block;
  q->change.value = value;
  q->seq = e->seq++;
  if (e->queued == 1) {
    clock_gettime (CLOCK_MONOTONIC, &e->oldest);
    pthread_cond_signal (&e->work);
  }
  else if (e->queued == QUEUE_KICK)
    pthread_cond_signal (&e->work);
}

void
vd_round_give_back (struct vd_image *image)
{
  struct vd_engine *e = image->engine;

  LOCK_SCOPE (&e->lock);
  e->slots--;
  atomic_fetch_sub_explicit (&e->unwritten, 1, memory_order_release);
}

/* ---- session end ------------------------------------------------------ */

int
vd_image_end_session (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  int r;

  if (!image->write)
    return 0;
  if (e->sink)
    return vd_sink_finish (ctx, image);

  LOCK_SCOPE (&e->session_lock);
  if (!atomic_load (&e->in_session))
    return 0;

  pthread_mutex_lock (&e->lock);
  r = wait_round (ctx, image);
  pthread_mutex_unlock (&e->lock);
  if (r == 0 && image->format->end_session) {
    r = image->format->end_session (ctx, image);
    if (r == 0)
      r = sync_all (ctx, image);
    if (r < 0)
      vd_round_poison (ctx, image);
  }
  if (r == 0)
    atomic_store (&e->in_session, false);
  return r;
}
