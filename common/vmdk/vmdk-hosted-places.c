/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where the grains of a hosted sparse extent go that is being written: they
 * are appended, and never freed.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "cleanup.h"
#include "rounding.h"
#include "vmdk-hosted-writer.h"

/* The file grows ahead of need, by a quarter of its size within these limits,
 * so that few allocations make a system call for it.  What is not used is cut
 * off at the end of the session.
 */
#define GROW_MIN (UINT64_C (1) << 20)
#define GROW_MAX (UINT64_C (16) << 20)

/* Entries have 32 bits (vmdk-format 5.5). */
#define SECTOR_LIMIT (UINT64_C (1) << 32)

/* Make the file reach up to this sector. */
static int
grow (struct vd_ctx *ctx, struct hosted *hs, uint64_t end)
{
  struct hosted_writer *w = hs->w;
  uint64_t need = end * VMDK_SECTOR;
  uint64_t ahead = min_u64 (max_u64 (need / 4 / GROW_MIN, 1) * GROW_MIN,
                            GROW_MAX);
  uint64_t more = min_u64 (need + ahead, SECTOR_LIMIT * VMDK_SECTOR);
  LOCK_SCOPE (&w->grow_lock);
  uint64_t size = atomic_load (&hs->file_size);
  int r;

  if (need <= size)
    return 0;
  if (hs->store->fixed_size)
    return vd_error (ctx, ENOSPC, "%s: a grain would end at %" PRIu64
                     ", but there is room for %" PRIu64
                     " bytes only, and it cannot grow", hs->store->name,
                     need, size);

  r = vd_store_truncate (ctx, hs->store, more);
  if ((r == -ENOSPC || r == -EFBIG) && more > need) {
    more = need;
    r = vd_store_truncate (ctx, hs->store, more);
    if (r == 0)
      ctx->error = 0;
  }
  if (r < 0)
    return r;
  atomic_store (&hs->file_size, more);
  return 0;
}

int
hosted_append (struct vd_ctx *ctx, struct hosted *hs, uint64_t n,
               uint64_t *ret)
{
  struct hosted_writer *w = hs->w;
  uint64_t sector, end, old;
  int r = 0;

  {
    LOCK_SCOPE (&w->lock);

    old = w->end;
    sector = round_up (old, hs->h.grain);
    end = sector + n * hs->h.grain;
    if (end <= SECTOR_LIMIT)
      w->end = end;
  }
  if (end > SECTOR_LIMIT)
    return vd_error (ctx, ENOSPC, "%s: the next grain would begin at sector %"
                     PRIu64 ", but entries have 32 bits: a sparse extent "
                     "cannot hold more than 2 TiB", hs->store->name, sector);

  if (end * VMDK_SECTOR > atomic_load (&hs->file_size))
    r = grow (ctx, hs, end);
  if (r < 0) {
    LOCK_SCOPE (&w->lock);

    /* Else it is lost: others have gone on behind it. */
    if (w->end == end)
      w->end = old;
    return r;
  }
  *ret = sector;
  return 0;
}

int
hosted_reserve (struct vd_ctx *ctx, struct vmdk_extent *x,
                uint64_t block, struct vd_place *ret)
{
  struct hosted *hs = x->priv;
  struct hosted_writer *w = hs->w;
  uint64_t sector = 0;
  int r;

  (void) block;

  {
    LOCK_SCOPE (&w->lock);

    if (w->ngiven_back > 0)
      sector = w->given_back[--w->ngiven_back];
  }
  ret->fresh = sector == 0;
  if (sector == 0) {
    r = hosted_append (ctx, hs, 1, &sector);
    if (r < 0)
      return r;
  }

  ret->store = hs->store;
  ret->position = sector * VMDK_SECTOR;
  ret->value = sector;
  /* A place that was handed out before may hold what a failed write left. */
  if (ret->position < atomic_load (&w->grown_from))
    ret->fresh = false;
  return 0;
}

void
hosted_abandon (struct vmdk_extent *x, uint64_t block,
                const struct vd_place *place)
{
  struct hosted *hs = x->priv;
  struct hosted_writer *w = hs->w;
  LOCK_SCOPE (&w->lock);
  uint32_t *given_back;

  (void) block;
  given_back = realloc (w->given_back,
                        (w->ngiven_back + 1) * sizeof given_back[0]);
  if (given_back == NULL)
    return;                     /* lost: nothing names it */
  w->given_back = given_back;
  given_back[w->ngiven_back++] = (uint32_t) place->value;
}

int
hosted_cut_tail (struct vd_ctx *ctx, struct hosted *hs)
{
  struct hosted_writer *w = hs->w;
  LOCK_SCOPE (&w->grow_lock);
  uint64_t old, size;
  size_t i;
  int r;

  if (hs->store->fixed_size)
    return 0;

  {
    LOCK_SCOPE (&w->lock);

    /* Places that were given back, from the last one on. */
    for (i = 0; i < w->ngiven_back;) {
      if (w->given_back[i] + hs->h.grain != w->end)
        ++i;
      else {
        w->end = w->given_back[i];
        w->given_back[i] = w->given_back[--w->ngiven_back];
        i = 0;
      }
    }
    old = atomic_load (&hs->file_size);
    size = w->end * VMDK_SECTOR;
    if (old <= size)
      return 0;
    /* A place that is reserved from now on finds the file too short, and
     * waits for grow_lock.
     */
    atomic_store (&hs->file_size, size);
  }

  r = vd_store_truncate (ctx, hs->store, size);
  if (r < 0) {
    /* Whatever lies there, it is not known to be zeroes. */
    atomic_store (&w->grown_from, old);
    atomic_store (&hs->file_size, old);
    return r;
  }
  atomic_store (&w->grown_from, size);
  return 0;
}
