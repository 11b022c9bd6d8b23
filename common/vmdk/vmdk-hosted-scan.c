/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Looking at a hosted sparse extent that is to be written: what would make
 * that dangerous, and what a crash has left to repair.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "iszero.h"
#include "rounding.h"
#include "vmdk-hosted-writer.h"
#include "vmdk-places.h"

/* Grain tables are looked at in pieces of so many bytes. */
#define BATCH (UINT64_C (1) << 20)

/* Returned to end the scan: no_write is set. */
#define SCAN_DAMAGE (-ECANCELED)

/* A directory, read from front to back: the entries from first on. */
struct directory {
  struct vd_table *table;
  struct vd_table_pin pin;      /* none if pin.count is 0 */
  uint64_t first;
};

struct scan {
  struct vmdk_extent *x;
  struct hosted *hs;
  struct hosted_scanned found;

  struct vmdk_places *places;
  /* Tables that do not stand in order behind their directory, ascending. */
  uint32_t *tables;
  size_t ntables, room;

  struct directory gds[2];

  /* Of check_tables and repair: batches of tables and of their copies. */
  uint8_t *batch[2];
};

static int
no_memory (struct vd_ctx *ctx, const struct hosted *hs)
{
  return vd_error (ctx, ENOMEM, "%s: not enough memory to look at its grain "
                   "tables", hs->store->name);
}

static int damage (struct scan *s, const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 2, 3)));

static int
damage (struct scan *s, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  vsnprintf (s->x->no_write, sizeof s->x->no_write, fmt, ap);
  va_end (ap);
  return SCAN_DAMAGE;
}

static void
leave_page (struct directory *d)
{
  if (d->pin.count > 0)
    vd_table_unpin (d->table, &d->pin);
  d->pin.count = 0;
}

/* To find and pin a page costs much more than to look at one that is. */
static int
get_from (struct vd_ctx *ctx, struct directory *d, uint64_t piece,
          uint32_t *ret)
{
  int r;

  if (piece < d->first || piece - d->first >= d->pin.count) {
    leave_page (d);
    r = vd_table_pin (ctx, d->table, piece, &d->pin);
    if (r < 0) {
      d->pin.count = 0;
      return r;
    }
    d->first = piece;
  }
  *ret = vd_table_entry (&d->pin, piece - d->first);
  return 0;
}

/* A directory entry and that of the copy; without a copy they are equal. */
static int
get_gde (struct vd_ctx *ctx, struct scan *s, uint64_t piece, uint32_t gde[2])
{
  int r;

  r = get_from (ctx, &s->gds[0], piece, &gde[0]);
  gde[1] = gde[0];
  if (r == 0 && s->gds[1].table)
    r = get_from (ctx, &s->gds[1], piece, &gde[1]);
  return r;
}

static int
check_gde (struct vd_ctx *ctx, struct scan *s, uint64_t piece,
           const uint32_t gde[2])
{
  struct hosted *hs = s->hs;
  unsigned copy;
  int r;

  for (copy = 0; copy < 2; ++copy)
    if (gde[copy] != 0 && !hosted_table_ok (hs, gde[copy]))
      return damage (s, "grain directory entry %" PRIu64 " is %" PRIu32
                     "%s, where no grain table can be", piece, gde[copy],
                     copy ? " in the redundant copy" : "");
  if (!hs->rgd)
    return 0;
  if (gde[0] != 0 && gde[0] == gde[1])
    return damage (s, "grain directory entry %" PRIu64 " is %" PRIu32
                   ", as it is in the redundant copy", piece, gde[0]);
  if ((gde[0] == 0) == (gde[1] == 0))
    return 0;

  /* In a crash we leave one of two, but before anything is in the tables
   * (hosted_write_tables).
   */
  if (hs->h.unclean) {
    r = vd_store_pread (ctx, hs->store, s->batch[0], hs->gt_bytes,
                        (uint64_t) (gde[0] + gde[1]) * VMDK_SECTOR);
    if (r < 0)
      return r;
    if (is_zero (s->batch[0], hs->gt_bytes)) {
      s->found.repair = true;
      return 0;
    }
  }
  return damage (s, "grain directory entry %" PRIu64 " is %" PRIu32
                 ", but %" PRIu32 " in the redundant copy", piece,
                 gde[0], gde[1]);
}

/* A table takes its sectors. */
static int
add_table (struct vd_ctx *ctx, struct scan *s, unsigned copy,
           uint64_t piece, uint32_t sector)
{
  struct hosted *hs = s->hs;
  uint32_t n = hosted_gt_sectors (&hs->h);
  struct hosted_range *area = &hs->areas[copy];

  s->found.end = max_u64 (s->found.end, (uint64_t) sector + n);
  if (sector == area->end &&
      sector == hs->directories[copy].end + piece * n) {
    area->end += n;
    return 0;
  }
  if (s->ntables == s->room) {
    size_t room = s->room ? s->room * 2 : 64;
    uint32_t *tables = realloc (s->tables, room * sizeof tables[0]);

    if (tables == NULL)
      return no_memory (ctx, hs);
    s->tables = tables;
    s->room = room;
  }
  s->tables[s->ntables++] = sector;
  return 0;
}

static bool
overlap (const struct hosted_range *a, uint64_t start, uint64_t end)
{
  return start < a->end && end > a->start;
}

static int
compare_sectors (const void *a, const void *b)
{
  uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;

  return x < y ? -1 : x > y;
}

/* No two tables share a sector. */
static int
check_overlap (struct scan *s)
{
  const struct hosted *hs = s->hs;
  uint32_t n = hosted_gt_sectors (&hs->h);
  const struct hosted_range *a = &hs->areas[0], *b = &hs->areas[1];
  size_t i;

  if (overlap (a, b->start, b->end))
    return damage (s, "the grain tables from sector %" PRIu64
                   " on overlap their redundant copies from sector %" PRIu64
                   " on", a->start, b->start);
  if (s->ntables > 0)
    qsort (s->tables, s->ntables, sizeof s->tables[0], compare_sectors);
  for (i = 0; i < s->ntables; ++i) {
    uint64_t start = s->tables[i], end = start + n;

    if (overlap (a, start, end) || overlap (b, start, end) ||
        (i > 0 && s->tables[i - 1] + (uint64_t) n > start))
      return damage (s, "the grain table at sector %" PRIu64
                     " overlaps another one", start);
  }
  return 0;
}

static int
check_directory (struct vd_ctx *ctx, struct scan *s)
{
  struct hosted *hs = s->hs;
  uint32_t gde[2];
  uint64_t piece;
  unsigned copy;
  int r;

  /* From what open has guessed to what is there. */
  for (copy = 0; copy < 2; ++copy) {
    hs->areas[copy] = hs->directories[copy];
    s->found.end = max_u64 (s->found.end, hs->areas[copy].end);
  }

  for (piece = 0; piece < hs->ngts; ++piece) {
    r = get_gde (ctx, s, piece, gde);
    if (r == 0)
      r = check_gde (ctx, s, piece, gde);
    for (copy = 0; r == 0 && copy < (hs->rgd ? 2u : 1u); ++copy)
      if (gde[copy] != 0)
        r = add_table (ctx, s, copy, piece, gde[copy]);
    if (r < 0)
      return r;
  }
  return check_overlap (s);
}

/* Does the grain overlap a table that stands somewhere? */
static bool
hits_table (const struct scan *s, uint64_t sector)
{
  size_t low = 0, high = s->ntables;
  uint32_t n = hosted_gt_sectors (&s->hs->h);

  /* The first that ends behind the start of the grain. */
  while (low < high) {
    size_t middle = low + (high - low) / 2;

    if (s->tables[middle] + (uint64_t) n > sector)
      high = middle;
    else
      low = middle + 1;
  }
  return low < s->ntables && s->tables[low] < sector + s->hs->h.grain;
}

/* What makes writing dangerous.  Entries behind the end of the extent count
 * too: their places are taken.
 */
static int
check_entry (struct vd_ctx *ctx, struct scan *s, uint64_t index, uint32_t e)
{
  const struct hosted *hs = s->hs;
  uint64_t needed, file_size = atomic_load (&hs->file_size);
  int r;

  if (e == 0 || (e == 1 && (hs->h.flags & HOSTED_FLAG_ZEROED)))
    return 0;
  if (!hosted_grain_ok (hs, e) || hits_table (s, e))
    return damage (s, "grain table entry %" PRIu64 " is %" PRIu32
                   ", inside of the metadata", index, e);
  needed = max_u64 (hosted_grain_valid (hs, index), 1);
  if ((uint64_t) e * VMDK_SECTOR + needed > file_size)
    return damage (s, "grain table entry %" PRIu64 " is %" PRIu32
                   ", its data would end at %" PRIu64
                   ", beyond the end of the file (%" PRIu64 ")", index, e,
                   (uint64_t) e * VMDK_SECTOR + needed, file_size);
  r = vmdk_places_take (s->places, e);
  if (r < 0)
    return no_memory (ctx, hs);
  if (r == 0)
    return damage (s, "grain table entry %" PRIu64 " is %" PRIu32
                   ", which overlaps the grain of an entry before it",
                   index, e);
  s->found.end = max_u64 (s->found.end, e + hs->h.grain);
  return 0;
}

static int
check_table (struct vd_ctx *ctx, struct scan *s, uint64_t piece,
             uint32_t *table, const uint32_t *copy)
{
  struct hosted *hs = s->hs;
  uint32_t i;
  int r;

  if (copy && memcmp (table, copy, hs->gt_bytes) != 0) {
    for (i = 0; table[i] == copy[i]; ++i)
      ;
    if (!hs->h.unclean)
      return damage (s, "grain table entry %" PRIu64 " is %" PRIu32
                     ", but %" PRIu32 " in the redundant copy",
                     piece * hs->h.gtes + i, le32toh (table[i]),
                     le32toh (copy[i]));
    s->found.repair = true;
    hosted_resolve (hs, piece, table, copy);
  }
  if (is_zero (table, hs->gt_bytes))
    return 0;
  for (i = 0; i < hs->h.gtes; ++i) {
    r = check_entry (ctx, s, piece * hs->h.gtes + i, le32toh (table[i]));
    if (r < 0)
      return r;
  }
  return 0;
}

/* Both copies of each are there and differ (or not). */
static int
repair_table (struct vd_ctx *ctx, struct scan *s, uint64_t piece,
              uint32_t *table, const uint32_t *copy)
{
  struct hosted *hs = s->hs;
  uint32_t gde[2];
  int r;

  if (copy == NULL || memcmp (table, copy, hs->gt_bytes) == 0)
    return 0;
  r = get_gde (ctx, s, piece, gde);
  if (r < 0)
    return r;
  hosted_resolve (hs, piece, table, copy);
  r = vd_store_pwrite (ctx, hs->store, table, hs->gt_bytes,
                       (uint64_t) gde[0] * VMDK_SECTOR, 0);
  if (r == 0)
    r = vd_store_pwrite (ctx, hs->store, table, hs->gt_bytes,
                         (uint64_t) gde[1] * VMDK_SECTOR, 0);
  return r;
}

/* Read n tables that stand in a row.  Those of a big new image are a hole,
 * and not worth reading.
 */
static int
read_batch (struct vd_ctx *ctx, const struct hosted *hs, uint32_t sector,
            size_t n, uint8_t *buf, bool *ret_hole)
{
  uint64_t offset = (uint64_t) sector * VMDK_SECTOR, len = n * hs->gt_bytes;
  uint64_t end;
  bool hole;

  if (vd_store_extent (ctx, hs->store, offset, &hole, &end) < 0) {
    ctx->error = 0;
    hole = false;
  }
  *ret_hole = hole && end >= offset + len;
  if (*ret_hole)
    return 0;
  return vd_store_pread (ctx, hs->store, buf, len, offset);
}

/* Call fn for each pair of tables that are not both zeroes.  The tables are
 * read past the struct vd_table, in big pieces where they stand in a row.
 */
static int
for_tables (struct vd_ctx *ctx, struct scan *s,
            int (*fn) (struct vd_ctx *ctx, struct scan *s, uint64_t piece,
                       uint32_t *table, const uint32_t *copy))
{
  struct hosted *hs = s->hs;
  unsigned ncopies = hs->rgd ? 2 : 1, copy;
  uint32_t n = hosted_gt_sectors (&hs->h);
  uint64_t piece, i;
  size_t count;
  int r;

  for (piece = 0; piece < hs->ngts; piece += count) {
    uint32_t gde[2], next[2];
    bool hole[2] = { false, false };

    count = 1;
    r = get_gde (ctx, s, piece, gde);
    if (r < 0)
      return r;
    if (gde[0] == 0 || gde[1] == 0)
      continue;                 /* check_gde has seen to it */
    while (piece + count < hs->ngts && count < BATCH / hs->gt_bytes) {
      r = get_gde (ctx, s, piece + count, next);
      if (r < 0)
        return r;
      if (next[0] != gde[0] + count * n || next[1] != gde[1] + count * n)
        break;
      count++;
    }
    for (copy = 0; copy < ncopies; ++copy) {
      r = read_batch (ctx, hs, gde[copy], count, s->batch[copy], &hole[copy]);
      if (r < 0)
        return r;
    }
    if (hole[0] && (ncopies == 1 || hole[1]))
      continue;
    for (copy = 0; copy < ncopies; ++copy)
      if (hole[copy])
        memset (s->batch[copy], 0, count * hs->gt_bytes);
    for (i = 0; i < count; ++i) {
      r = fn (ctx, s, piece + i,
              (uint32_t *) &s->batch[0][i * hs->gt_bytes],
              ncopies == 1 ? NULL
              : (const uint32_t *) &s->batch[1][i * hs->gt_bytes]);
      if (r < 0)
        return r;
    }
  }
  return 0;
}

static int
scan_new (struct vd_ctx *ctx, struct scan *s, struct vmdk_extent *x)
{
  *s = (struct scan) { .x = x, .hs = x->priv };
  s->gds[0].table = s->hs->gd;
  s->gds[1].table = s->hs->rgd;
  s->batch[0] = malloc (BATCH);
  s->batch[1] = malloc (BATCH);
  if (s->batch[0] == NULL || s->batch[1] == NULL)
    return no_memory (ctx, s->hs);
  return 0;
}

static void
scan_free (struct scan *s)
{
  leave_page (&s->gds[0]);
  leave_page (&s->gds[1]);
  vmdk_places_free (s->places);
  free (s->tables);
  free (s->batch[0]);
  free (s->batch[1]);
}

int
hosted_scan (struct vd_ctx *ctx, struct vmdk_extent *x,
             struct hosted_scanned *ret)
{
  struct hosted *hs = x->priv;
  struct scan s;
  int r;

  r = scan_new (ctx, &s, x);
  if (r < 0)
    goto out;
  s.found.end = max_u64 (max_u64 (hs->h.overhead, 1), hs->descriptor.end);
  s.places = vmdk_places_new (hs->h.grain);
  if (s.places == NULL) {
    r = no_memory (ctx, hs);
    goto out;
  }
  r = check_directory (ctx, &s);
  if (r == 0)
    r = for_tables (ctx, &s, check_table);
  if (r == SCAN_DAMAGE && x->no_write[0])
    r = 0;                      /* will be opened read-only, or not at all */
  *ret = s.found;

 out:
  scan_free (&s);
  return r;
}

int
hosted_repair (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  uint32_t gde[2];
  struct scan s;
  uint64_t piece;
  int r;

  r = scan_new (ctx, &s, x);
  if (r == 0)
    r = for_tables (ctx, &s, repair_table);

  /* Only an empty table is named by one directory alone. */
  for (piece = 0; r == 0 && hs->rgd && piece < hs->ngts; ++piece) {
    const struct vd_table_change change = { .index = piece, .value = 0 };
    struct vd_table *gd;

    r = get_gde (ctx, &s, piece, gde);
    if (r < 0 || (gde[0] == 0) == (gde[1] == 0))
      continue;
    gd = gde[0] ? hs->gd : hs->rgd;
    /* On disk first: what memory says is what is left to do if this fails. */
    r = vd_table_write_copy (ctx, gd, &change, 1);
    if (r == 0)
      r = vd_table_set (ctx, gd, piece, 0);
    if (r == 0)
      r = vd_table_write (ctx, gd, &change, 1);
  }
  scan_free (&s);
  return r;
}
