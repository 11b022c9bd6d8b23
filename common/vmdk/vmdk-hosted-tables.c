/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Grain tables that are not there (VirtualBox leaves them out when it resizes,
 * vmdk-format 5.6): they are made when they are needed, from the same space as
 * grains.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "cleanup.h"
#include "rounding.h"
#include "vmdk-hosted-writer.h"

/* Space for a table and its copy, all zeroes. */
static int
table_space (struct vd_ctx *ctx, struct hosted *hs, uint64_t *ret)
{
  struct hosted_writer *w = hs->w;
  uint64_t need = hosted_gt_sectors (&hs->h) * (hs->rgd ? 2 : 1);
  uint64_t count = div_round_up (need, hs->h.grain), sector;
  int r;

  if (w->tables_end - w->tables_next < need) {
    r = hosted_append (ctx, hs, count, &sector);
    if (r < 0)
      return r;
    if (sector * VMDK_SECTOR < atomic_load (&w->grown_from)) {
      r = vd_store_zero_or_write (ctx, hs->store, sector * VMDK_SECTOR,
                                  count * hs->grain_bytes, true);
      if (r < 0)
        return r;
    }
    w->tables_next = sector;
    w->tables_end = sector + count * hs->h.grain;
  }
  *ret = w->tables_next;
  w->tables_next += need;
  return 0;
}

int
hosted_need_table (struct vd_ctx *ctx, struct hosted *hs, uint64_t piece)
{
  struct hosted_writer *w = hs->w;
  enum hosted_table_state state;
  struct vd_table_pin pin, rpin;
  struct new_table *new_tables;
  uint64_t sector;
  uint32_t bad, copy = 0;
  int r;

  r = hosted_table_state (ctx, hs, piece, &state, &bad);
  if (r < 0 || state == HOSTED_TABLE_PRESENT)
    return r;

  LOCK_SCOPE (&w->table_lock);
  r = hosted_table_state (ctx, hs, piece, &state, &bad);
  if (r < 0 || state == HOSTED_TABLE_PRESENT)
    return r;
  if (state == HOSTED_TABLE_BAD)
    return vd_error (ctx, EIO, "%s: grain directory entry %" PRIu64 " is %"
                     PRIu32 ", where no grain table can be", hs->store->name,
                     piece, bad);

  new_tables = realloc (w->new_tables,
                        (w->nnew_tables + 1) * sizeof new_tables[0]);
  if (new_tables == NULL)
    return vd_error (ctx, ENOMEM, "%s: no memory for a grain table",
                     hs->store->name);
  w->new_tables = new_tables;

  /* While the pages are pinned, setting entries cannot fail.  The copy goes
   * first: readers look at it when the primary is 0, and find the same.
   */
  r = vd_table_pin (ctx, hs->gd, piece, &pin);
  if (r < 0)
    return r;
  if (hs->rgd) {
    r = vd_table_pin (ctx, hs->rgd, piece, &rpin);
    if (r < 0)
      goto unpin;
  }
  r = table_space (ctx, hs, &sector);
  if (r == 0 && hs->rgd) {
    copy = sector + hosted_gt_sectors (&hs->h);
    r = vd_table_set (ctx, hs->rgd, piece, copy);
  }
  if (r == 0)
    r = vd_table_set (ctx, hs->gd, piece, sector);
  if (r == 0)
    w->new_tables[w->nnew_tables++] =
      (struct new_table) { .piece = piece, .sector = sector, .copy = copy };
  if (hs->rgd)
    vd_table_unpin (hs->rgd, &rpin);
 unpin:
  vd_table_unpin (hs->gd, &pin);
  return r;
}

static int
compare_new_tables (const void *a, const void *b)
{
  const struct new_table *x = a, *y = b;

  return x->piece < y->piece ? -1 : x->piece > y->piece;
}

/* New tables are durable as zeroes before anything names them, and named
 * before they hold anything (rules O9): the engine syncs next.
 */
int
hosted_write_tables (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  struct hosted_writer *w = hs->w;
  LOCK_SCOPE (&w->table_lock);
  struct vd_table_change part[512], copies[512];
  size_t i, j, count;
  int r;

  if (w->nnew_tables == 0)
    return 0;
  r = vd_store_sync (ctx, hs->store);
  if (r < 0)
    return r;
  qsort (w->new_tables, w->nnew_tables, sizeof w->new_tables[0],
         compare_new_tables);
  for (i = 0; i < w->nnew_tables; i += count) {
    count = min_u64 (w->nnew_tables - i, sizeof part / sizeof part[0]);
    for (j = 0; j < count; ++j) {
      part[j].index = copies[j].index = w->new_tables[i + j].piece;
      part[j].value = w->new_tables[i + j].sector;
      copies[j].value = w->new_tables[i + j].copy;
    }
    r = vd_table_write (ctx, hs->gd, part, count);
    if (r == 0 && hs->rgd)
      r = vd_table_write (ctx, hs->rgd, copies, count);
    if (r < 0)
      return r;
  }
  w->nnew_tables = 0;
  return 0;
}
