/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writing a hosted sparse extent: opening, sessions, entries.  The order in
 * which the engine calls these is in docs/architecture.md, "Writing".
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmdk-hosted-writer.h"

/* More tables (2 PiB of disk) than anybody has, and than one can look at in
 * reasonable time.
 */
#define TABLES_MAX (UINT64_C (1) << 26)

/* ---- opening ----------------------------------------------------------- */

static int
rgt_where (struct vd_ctx *ctx, void *opaque, uint64_t piece, uint64_t *ret)
{
  struct hosted *hs = opaque;
  uint32_t sector;
  int r;

  r = vd_table_get (ctx, hs->rgd, piece, &sector);
  if (r < 0)
    return r;
  *ret = (uint64_t) sector * VMDK_SECTOR;
  return 0;
}

static int
writer_new (struct vd_ctx *ctx, struct hosted *hs,
            const struct hosted_scanned *s)
{
  const struct vd_table_pieces pieces = {
    .entries = hs->h.gtes,
    .where = rgt_where,
    .opaque = hs,
  };
  struct hosted_writer *w;
  int r;

  if (hs->rgd) {
    /* Nothing is ever read through it. */
    r = vd_table_new_pieces (ctx, hs->store, hs->ngts * hs->h.gtes, &pieces,
                             0, &hs->rgt);
    if (r < 0)
      return r;
  }
  w = calloc (1, sizeof *w);
  if (w == NULL)
    return vd_error (ctx, ENOMEM, "%s: %s", hs->store->name,
                     strerror (ENOMEM));
  pthread_mutex_init (&w->table_lock, NULL);
  pthread_mutex_init (&w->grow_lock, NULL);
  pthread_mutex_init (&w->lock, NULL);
  w->repair = s->repair;
  w->end = s->end;
  atomic_init (&w->grown_from, atomic_load (&hs->file_size));
  /* From now on the copies differ while they are being written. */
  atomic_store (&hs->compare, w->repair);
  hs->w = w;
  return 0;
}

int
hosted_writer_open (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  struct hosted_scanned found;
  int r;

  if (hs->ngts > TABLES_MAX) {
    snprintf (x->no_write, sizeof x->no_write, "capacity is %" PRIu64
              " sectors: too many grain tables to check", hs->h.capacity);
    return 0;
  }

  /* What we read may exist in the page cache only (rules O13); the core has
   * seen to the image's own file.
   */
  if (x->image == NULL || x->image->store != x->store) {
    r = vd_store_sync_always (ctx, x->store);
    if (r < 0)
      return r;
  }

  r = hosted_scan (ctx, x, &found);
  if (r < 0 || x->no_write[0])
    return r;
  return writer_new (ctx, hs, &found);
}

void
hosted_writer_close (struct hosted *hs)
{
  struct hosted_writer *w = hs->w;

  if (w == NULL)
    return;
  pthread_mutex_destroy (&w->table_lock);
  pthread_mutex_destroy (&w->grow_lock);
  pthread_mutex_destroy (&w->lock);
  free (w->given_back);
  free (w->new_tables);
  free (w);
  hs->w = NULL;
}

/* ---- sessions ---------------------------------------------------------- */

int
hosted_begin_session (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  struct hosted_writer *w = hs->w;
  int r;

  if (w->repair) {
    r = hosted_repair (ctx, x);
    if (r < 0)
      return r;
    w->repair = false;
    atomic_store (&hs->compare, false);
  }
  r = hosted_write_unclean (ctx, hs->store, true);
  if (r < 0)
    return r;
  /* A tail is left by a crash.  Places there would have to be zeroed one by
   * one.
   */
  return hosted_cut_tail (ctx, hs);
}

int
hosted_end_session (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  int r;

  r = hosted_cut_tail (ctx, hs);
  if (r < 0)
    return r;
  return hosted_write_unclean (ctx, hs->store, false);
}

/* ---- entries ----------------------------------------------------------- */

int
hosted_commit (struct vd_ctx *ctx, struct vmdk_extent *x,
               uint64_t block, enum vd_state state,
               const struct vd_place *place, uint64_t *ret_value)
{
  struct hosted *hs = x->priv;
  uint64_t index = block >> hs->grain_shift;
  bool zeroed = hs->h.flags & HOSTED_FLAG_ZEROED;
  uint32_t old, new;
  int r;

  r = hosted_need_table (ctx, hs, index / hs->h.gtes);
  if (r == 0)
    r = vd_table_get (ctx, hs->gt, index, &old);
  if (r < 0)
    return r;
  new = state == VD_STATE_DATA ? (uint32_t) place->value : 1;
  /* 0 -> 1 -> grain, nothing else (architecture.md, "Writing"). */
  if (!(old == 0 && (state == VD_STATE_DATA || x->has_zero)) &&
      !(old == 1 && zeroed && state == VD_STATE_DATA))
    return vd_error (ctx, EINVAL, "%s: grain table entry %" PRIu64 " is %"
                     PRIu32 ", it must not become %" PRIu32, hs->store->name,
                     index, old, new);
  r = vd_table_set (ctx, hs->gt, index, new);
  if (r < 0)
    return r;
  *ret_value = new;
  return 0;
}

int
hosted_write_map (struct vd_ctx *ctx, struct vmdk_extent *x,
                  const struct vd_change *changes, size_t n)
{
  struct hosted *hs = x->priv;

  return vd_table_write_changes (ctx, hs->gt, hs->rgt, hs->grain_shift,
                                 changes, n);
}
