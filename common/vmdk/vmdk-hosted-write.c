/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writing a hosted sparse extent.  The order in which the engine calls these
 * is in docs/architecture.md, "Writing".
 *
 * Grains are appended, and never freed.  Grain tables that are not there
 * (VirtualBox leaves them out when it resizes, vmdk-format 5.6) are made when
 * they are needed, from the same space.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "cleanup.h"
#include "iszero.h"
#include "rounding.h"
#include "vmdk-hosted.h"
#include "vmdk-places.h"

/* The file grows ahead of need, by a quarter of its size within these limits,
 * so that few allocations make a system call for it.  What is not used is cut
 * off at the end of the session.
 */
#define GROW_MIN (UINT64_C (1) << 20)
#define GROW_MAX (UINT64_C (16) << 20)

/* Entries have 32 bits (vmdk-format 5.5). */
#define SECTOR_LIMIT (UINT64_C (1) << 32)

/* More tables (2 PiB of disk) than anybody has, and than one can look at in
 * reasonable time.
 */
#define TABLES_MAX (UINT64_C (1) << 26)

/* Grain tables are looked at in pieces of so many bytes. */
#define BATCH (UINT64_C (1) << 20)

/* A pair of tables that is named in memory only. */
struct new_table {
  uint64_t piece;
  uint32_t sector, copy;
};

struct hosted_writer {
  /* lock may be taken under either of the others. */
  pthread_mutex_t table_lock;   /* making of grain tables */
  pthread_mutex_t grow_lock;    /* changes of the file's size */
  pthread_mutex_t lock;         /* the rest; no I/O is done under it */

  bool repair;                  /* copies differ, which is to be mended */

  uint64_t end;                 /* sectors; nothing behind it is in use */
  _Atomic uint64_t grown_from;  /* bytes; from here on the file was made by
                                   growing */
  uint32_t *given_back;         /* places in front of end */
  size_t ngiven_back;

  uint64_t tables_next, tables_end;     /* sectors: space for tables */
  struct new_table *new_tables;
  size_t nnew_tables;
};

/* ---- looking at an extent that is to be written ------------------------ */

/* Returned to end the scan: no_write is set. */
#define SCAN_DAMAGE (-ECANCELED)

struct scan {
  struct vmdk_extent *x;
  struct hosted *hs;
  uint64_t end;                 /* as in hosted_writer */
  bool repair;

  struct vmdk_places *places;
  /* Tables that do not stand in order behind their directory, ascending. */
  uint32_t *tables;
  size_t ntables, room;

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

/* A directory entry and that of the copy; without a copy they are equal. */
static int
get_gde (struct vd_ctx *ctx, struct hosted *hs, uint64_t piece,
         uint32_t gde[2])
{
  int r;

  r = vd_table_get (ctx, hs->gd, piece, &gde[0]);
  gde[1] = gde[0];
  if (r == 0 && hs->rgd)
    r = vd_table_get (ctx, hs->rgd, piece, &gde[1]);
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
      s->repair = true;
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

  s->end = max_u64 (s->end, (uint64_t) sector + n);
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
    s->end = max_u64 (s->end, hs->areas[copy].end);
  }

  for (piece = 0; piece < hs->ngts; ++piece) {
    r = get_gde (ctx, hs, piece, gde);
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
  s->end = max_u64 (s->end, e + hs->h.grain);
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
    s->repair = true;
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
  r = get_gde (ctx, hs, piece, gde);
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
    r = get_gde (ctx, hs, piece, gde);
    if (r < 0)
      return r;
    if (gde[0] == 0 || gde[1] == 0)
      continue;                 /* check_gde has seen to it */
    while (piece + count < hs->ngts && count < BATCH / hs->gt_bytes) {
      r = get_gde (ctx, hs, piece + count, next);
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
  s->batch[0] = malloc (BATCH);
  s->batch[1] = malloc (BATCH);
  if (s->batch[0] == NULL || s->batch[1] == NULL)
    return no_memory (ctx, s->hs);
  return 0;
}

static void
scan_free (struct scan *s)
{
  vmdk_places_free (s->places);
  free (s->tables);
  free (s->batch[0]);
  free (s->batch[1]);
}

/* Bring the copies of the tables together after a crash (rules O10).  While
 * this goes on readers see the same as before, as they compare, too.
 */
static int
repair (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  uint32_t gde[2];
  struct scan s;
  uint64_t piece;
  int r;

  r = scan_new (ctx, &s, x);
  if (r == 0)
    r = for_tables (ctx, &s, repair_table);
  scan_free (&s);

  /* Only an empty table is named by one directory alone. */
  for (piece = 0; r == 0 && hs->rgd && piece < hs->ngts; ++piece) {
    const struct vd_table_change change = { .index = piece, .value = 0 };
    struct vd_table *gd;

    r = get_gde (ctx, hs, piece, gde);
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
  return r;
}

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
writer_new (struct vd_ctx *ctx, struct hosted *hs, const struct scan *s)
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
  struct scan s;
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

  r = scan_new (ctx, &s, x);
  if (r < 0)
    goto out;
  s.end = max_u64 (max_u64 (hs->h.overhead, 1), hs->descriptor.end);
  s.places = vmdk_places_new (hs->h.grain);
  if (s.places == NULL) {
    r = no_memory (ctx, hs);
    goto out;
  }
  r = check_directory (ctx, &s);
  if (r == 0)
    r = for_tables (ctx, &s, check_table);
  if (r == 0)
    r = writer_new (ctx, hs, &s);
  else if (r == SCAN_DAMAGE && x->no_write[0])
    r = 0;                      /* will be opened read-only, or not at all */

 out:
  scan_free (&s);
  return r;
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

/* The file behind what is in use is named by no entry, on disk or in memory:
 * cut it off.  It reads as zeroes when the file grows again.
 */
static int
cut_tail (struct vd_ctx *ctx, struct hosted *hs)
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

int
hosted_begin_session (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  struct hosted_writer *w = hs->w;
  int r;

  if (w->repair) {
    r = repair (ctx, x);
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
  return cut_tail (ctx, hs);
}

int
hosted_end_session (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted *hs = x->priv;
  int r;

  r = cut_tail (ctx, hs);
  if (r < 0)
    return r;
  return hosted_write_unclean (ctx, hs->store, false);
}

/* ---- places ------------------------------------------------------------ */

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

/* n grains in a row behind all that is in use. */
static int
append (struct vd_ctx *ctx, struct hosted *hs, uint64_t n, uint64_t *ret)
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
    r = append (ctx, hs, 1, &sector);
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

/* ---- grain tables that are not there ----------------------------------- */

/* Space for a table and its copy, all zeroes. */
static int
table_space (struct vd_ctx *ctx, struct hosted *hs, uint64_t *ret)
{
  struct hosted_writer *w = hs->w;
  uint64_t need = hosted_gt_sectors (&hs->h) * (hs->rgd ? 2 : 1);
  uint64_t count = div_round_up (need, hs->h.grain), sector;
  int r;

  if (w->tables_end - w->tables_next < need) {
    r = append (ctx, hs, count, &sector);
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

/* An entry of this table is about to be set: see that there is one. */
static int
need_table (struct vd_ctx *ctx, struct hosted *hs, uint64_t piece)
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

  r = need_table (ctx, hs, index / hs->h.gtes);
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
  struct vd_table_change part[512];
  size_t i, count;
  int r;

  /* In pieces, so that no memory needs to be found in a flush. */
  while (n > 0) {
    count = min_u64 (n, sizeof part / sizeof part[0]);
    for (i = 0; i < count; ++i) {
      part[i].index = changes[i].block >> hs->grain_shift;
      part[i].value = (uint32_t) changes[i].value;
    }
    r = vd_table_write (ctx, hs->gt, part, count);
    if (r == 0 && hs->rgt)
      r = vd_table_write_copy (ctx, hs->rgt, part, count);
    if (r < 0)
      return r;
    changes += count;
    n -= count;
  }
  return 0;
}
