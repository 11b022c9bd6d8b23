/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reading a hosted sparse extent: its tables, their redundant copies, and
 * where a range is (vmdk-format 5.3).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "rounding.h"
#include "vmdk-hosted.h"

/* A run ends after this many tables, as each may have to be read, or after so
 * many that are not there: 16 pages of the directory.
 */
#define MAX_TABLES 16
#define MAX_ABSENT 16384

#define GTES_MAX 4096

static bool
overlap (const struct hosted_range *range, uint64_t start, uint64_t n)
{
  return start < range->end && start + n > range->start;
}

bool
hosted_table_ok (const struct hosted *hs, uint64_t sector)
{
  uint64_t n = hosted_gt_sectors (&hs->h);

  return sector != 0 &&
    sector * VMDK_SECTOR + hs->gt_bytes <=
    atomic_load_explicit (&hs->file_size, memory_order_relaxed) &&
    !overlap (&hs->descriptor, sector, n) &&
    !overlap (&hs->directories[0], sector, n) &&
    !overlap (&hs->directories[1], sector, n);
}

static bool
is_compressed (const struct hosted *hs)
{
  return hs->h.flags & HOSTED_FLAG_COMPRESSED;
}

bool
hosted_grain_ok (const struct hosted *hs, uint64_t sector)
{
  /* How long a compressed one is we do not know here. */
  uint64_t n = is_compressed (hs) ? 1 : hs->h.grain;

  return sector >= hs->floor &&
    !overlap (&hs->descriptor, sector, n) &&
    !overlap (&hs->areas[0], sector, n) &&
    !overlap (&hs->areas[1], sector, n);
}

uint64_t
hosted_grain_valid (const struct hosted *hs, uint64_t index)
{
  uint64_t start = index << hs->grain_shift;

  return start >= hs->size ? 0 : min_u64 (hs->grain_bytes, hs->size - start);
}

/* The size of the file now.  An image that we read may have been opened for
 * writing since (by vd_image_reopen_write), and have grown.
 */
static uint64_t
file_size_now (struct vd_ctx *ctx, struct hosted *hs)
{
  uint64_t size;

  if (hs->w == NULL) {
    if (vd_store_get_size (ctx, hs->store, &size) == 0)
      atomic_store (&hs->file_size, size);
    else
      ctx->error = 0;
  }
  return atomic_load_explicit (&hs->file_size, memory_order_acquire);
}

/* How many of the n bytes from position on are in the file? */
static uint64_t
bytes_in_file (struct vd_ctx *ctx, struct hosted *hs,
               uint64_t position, uint64_t n)
{
  uint64_t size = atomic_load_explicit (&hs->file_size, memory_order_acquire);

  if (position + n > size)
    size = file_size_now (ctx, hs);
  return position >= size ? 0 : min_u64 (n, size - position);
}

/* ---- tables ------------------------------------------------------------ */

int
hosted_table_state (struct vd_ctx *ctx, struct hosted *hs, uint64_t piece,
                    enum hosted_table_state *ret_state, uint32_t *ret_sector)
{
  uint32_t sector, copy = 0;
  int r;

  r = vd_table_get (ctx, hs->gd, piece, &sector);
  if (r < 0)
    return r;
  if (sector != 0 && !hosted_table_ok (hs, sector))
    file_size_now (ctx, hs);
  if (!hosted_table_ok (hs, sector)) {
    if (hs->rgd) {
      r = vd_table_get (ctx, hs->rgd, piece, &copy);
      if (r < 0)
        return r;
    }
    if (sector == 0 && copy == 0) {
      *ret_state = HOSTED_TABLE_ABSENT;
      return 0;
    }
    if (!hosted_table_ok (hs, copy)) {
      *ret_state = HOSTED_TABLE_BAD;
      *ret_sector = sector ? sector : copy;
      return 0;
    }
    sector = copy;
  }
  *ret_state = HOSTED_TABLE_PRESENT;
  *ret_sector = sector;
  return 0;
}

static int
gt_where (struct vd_ctx *ctx, void *opaque, uint64_t piece, uint64_t *ret)
{
  struct hosted *hs = opaque;
  enum hosted_table_state state;
  uint32_t sector;
  int r;

  r = hosted_table_state (ctx, hs, piece, &state, &sector);
  if (r < 0)
    return r;
  if (state == HOSTED_TABLE_BAD)
    return vd_error (ctx, EIO, "%s: grain directory entry %" PRIu64 " is %"
                     PRIu32 ", where no grain table can be", hs->store->name,
                     piece, sector);
  *ret = state == HOSTED_TABLE_ABSENT ? 0 : (uint64_t) sector * VMDK_SECTOR;
  return 0;
}

/* 0 < 1 < grain (rules O10), and what cannot be is less than all. */
static int
rank (const struct hosted *hs, uint64_t index, uint32_t e, uint64_t file_size)
{
  uint64_t needed = is_compressed (hs) ? 1 : hosted_grain_valid (hs, index);

  if (e == 0)
    return 0;
  if (e == 1)
    return hs->h.flags & HOSTED_FLAG_ZEROED ? 1 : -1;
  return hosted_grain_ok (hs, e) &&
    (uint64_t) e * VMDK_SECTOR + needed <= file_size ? 2 : -1;
}

void
hosted_resolve (const struct hosted *hs, uint64_t piece,
                uint32_t *table, const uint32_t *copy)
{
  uint64_t file_size = atomic_load (&hs->file_size);
  uint32_t i;

  for (i = 0; i < hs->h.gtes; ++i) {
    uint64_t index = piece * hs->h.gtes + i;

    if (table[i] != copy[i] &&
        rank (hs, index, le32toh (copy[i]), file_size) >
        rank (hs, index, le32toh (table[i]), file_size))
      table[i] = copy[i];
  }
}

/* What differs is damage if a crash (or somebody who writes to the image by
 * now) cannot be why.  We go on with what is sound in either copy; one warning
 * is enough.
 */
static void
copies_differ (struct vd_ctx *ctx, struct hosted *hs, uint64_t piece,
               bool maybe_crash, const char *what)
{
  bool unclean = maybe_crash && hs->h.unclean;

  if (unclean || atomic_load (&hs->warned))
    return;
  if (maybe_crash && hosted_read_unclean (ctx, hs->store, &unclean) < 0)
    ctx->error = 0;
  if (!unclean && !atomic_exchange (&hs->warned, true))
    vd_warning (ctx, "%s: grain table %" PRIu64 " %s: the extent is damaged; "
                "what is sound in either copy is read", hs->store->name,
                piece, what);
}

/* A grain table was read: look at its copy (rules O10). */
static int
gt_loaded (struct vd_ctx *ctx, void *opaque, uint64_t piece,
           uint32_t *entries)
{
  struct hosted *hs = opaque;
  uint32_t copy[GTES_MAX];
  uint32_t sector, copy_sector;
  int r;

  if (hs->rgd == NULL || !atomic_load (&hs->compare))
    return 0;

  r = vd_table_get (ctx, hs->gd, piece, &sector);
  if (r == 0)
    r = vd_table_get (ctx, hs->rgd, piece, &copy_sector);
  if (r < 0)
    return r;
  if (!hosted_table_ok (hs, sector)) {
    copies_differ (ctx, hs, piece, sector == 0,
                   "is not where the grain directory says");
    return 0;
  }
  if (!hosted_table_ok (hs, copy_sector)) {
    copies_differ (ctx, hs, piece, copy_sector == 0, "has no redundant copy");
    return 0;
  }
  if (sector == copy_sector)
    return 0;

  r = vd_store_pread (ctx, hs->store, copy, hs->gt_bytes,
                      (uint64_t) copy_sector * VMDK_SECTOR);
  if (r < 0) {
    ctx->error = 0;
    copies_differ (ctx, hs, piece, false,
                   "has a redundant copy that cannot be read");
    return 0;
  }
  if (memcmp (entries, copy, hs->gt_bytes) == 0)
    return 0;
  file_size_now (ctx, hs);
  hosted_resolve (hs, piece, entries, copy);
  copies_differ (ctx, hs, piece, true, "differs from its redundant copy");
  return 0;
}

/* ---- locate ------------------------------------------------------------ */

static void
bad_run (struct vd_run *run, uint64_t length, const char *reason,
         uint64_t value)
{
  *run = (struct vd_run) {
    .kind = VD_RUN_BAD,
    .mode = VD_MODE_DENY,
    .length = length,
    .error = EIO,
    .reason = reason,
    .value = value,
  };
}

/* What entry e says of the n bytes from offset on, all in one grain. */
static void
entry_run (struct vd_ctx *ctx, struct hosted *hs, uint32_t e,
           uint64_t offset, uint64_t n, struct vd_run *run)
{
  uint64_t in = offset & (hs->grain_bytes - 1);
  uint64_t position = (uint64_t) e * VMDK_SECTOR + in;

  *run = (struct vd_run) { .mode = VD_MODE_ALLOC, .length = n };

  if (e == 0)
    run->kind = VD_RUN_PARENT;
  else if (e == 1 && (hs->h.flags & HOSTED_FLAG_ZEROED))
    run->kind = VD_RUN_ZERO;
  else if (e == 1)
    bad_run (run, n, "grain table entry is 1, but the image has no zeroed "
             "grains", e);
  else if (!hosted_grain_ok (hs, e))
    bad_run (run, n, "grain table entry points into the metadata", e);
  else if (is_compressed (hs)) {
    if (bytes_in_file (ctx, hs, position - in, 1) == 0) {
      bad_run (run, n, "grain table entry points beyond the end of the file",
               e);
      return;
    }
    run->kind = VD_RUN_PACKED;
    run->block = offset - in;
  }
  else {
    n = bytes_in_file (ctx, hs, position, n);
    if (n == 0) {
      bad_run (run, run->length,
               "grain table entry points beyond the end of the file", e);
      return;
    }
    run->kind = VD_RUN_DATA;
    run->mode = VD_MODE_IN_PLACE;
    run->length = n;
    run->store = hs->store;
    run->position = position;
  }
}

/* Go through the entries of a table for as long as there is more of the same.
 * True if the run goes on behind it, as far as one can see from here.
 */
static bool
add_entries (struct vd_ctx *ctx, struct hosted *hs,
             const struct vd_table_pin *pin, uint64_t offset, uint64_t len,
             struct vd_run *run)
{
  uint32_t i, end;

  for (i = 0; i < pin->count && run->length < len; i = end) {
    uint64_t at = offset + run->length, n;
    struct vd_run one;

    /* Large disks are mostly free. */
    for (end = i; end < pin->count &&
           atomic_load_explicit (&pin->entries[end],
                                 memory_order_relaxed) == 0; ++end)
      ;
    if (end == i)
      end = i + 1;
    n = min_u64 (((uint64_t) (end - i) << hs->grain_shift) -
                 (at & (hs->grain_bytes - 1)), len - run->length);
    entry_run (ctx, hs, vd_table_entry (pin, i), at, n, &one);
    if (run->length == 0)
      *run = one;
    else if (one.kind != run->kind ||
             (one.kind == VD_RUN_DATA &&
              one.position != run->position + run->length))
      return false;
    else
      run->length += one.length;
    if (one.length < n ||
        one.kind == VD_RUN_PACKED || one.kind == VD_RUN_BAD)
      return false;
  }
  return run->length < len;
}

/* Does a table that begins at this sector lie in a hole of the file, and how
 * many could follow it there?
 */
static uint64_t
tables_in_hole (struct vd_ctx *ctx, const struct hosted *hs, uint32_t sector)
{
  uint64_t offset = (uint64_t) sector * VMDK_SECTOR, end;
  bool hole;

  if (vd_store_extent (ctx, hs->store, offset, &hole, &end) < 0) {
    ctx->error = 0;
    return 0;
  }
  return hole ? (end - offset) / hs->gt_bytes : 0;
}

/* The number of tables from this one on, at most max, that stand in a row in a
 * hole, they and their copies.
 */
static uint64_t
tables_in_holes (struct vd_ctx *ctx, struct hosted *hs, uint64_t piece,
                 uint64_t max)
{
  uint32_t n = hosted_gt_sectors (&hs->h), first, copy = 0, e;
  uint64_t i;

  if (vd_table_get (ctx, hs->gd, piece, &first) < 0 ||
      (hs->rgd && vd_table_get (ctx, hs->rgd, piece, &copy) < 0))
    goto fail;
  if (!hosted_table_ok (hs, first) || (hs->rgd && !hosted_table_ok (hs, copy)))
    return 0;
  max = min_u64 (max, min_u64 (hs->ngts - piece, MAX_ABSENT));
  max = min_u64 (max, tables_in_hole (ctx, hs, first));
  if (hs->rgd && max > 0)
    max = min_u64 (max, tables_in_hole (ctx, hs, copy));

  for (i = 1; i < max; ++i) {
    if (vd_table_get (ctx, hs->gd, piece + i, &e) < 0)
      goto fail;
    if (e != first + i * n || !hosted_table_ok (hs, e))
      return i;
    if (hs->rgd && vd_table_get (ctx, hs->rgd, piece + i, &e) < 0)
      goto fail;
    if (hs->rgd && (e != copy + i * n || !hosted_table_ok (hs, e)))
      return i;
  }
  return max;

 fail:
  ctx->error = 0;
  return 0;
}

/* Are the entries from this one on, to the end of its table, all 0? */
static int
rest_is_empty (struct vd_ctx *ctx, struct hosted *hs, uint64_t entry,
               bool *ret)
{
  uint32_t i, n = hs->h.gtes - entry % hs->h.gtes;
  struct vd_table_pin pin;
  int r;

  r = vd_table_pin (ctx, hs->gt, entry, &pin);
  if (r < 0)
    return r;
  for (i = 0; i < n && i < pin.count && vd_table_entry (&pin, i) == 0; ++i)
    ;
  *ret = i == n || i == pin.count;
  vd_table_unpin (hs->gt, &pin);
  return 0;
}

/* The number of tables for these bytes, from the first on, that hold nothing,
 * as they and their copies stand in a row in a hole: those of a big disk,
 * which take long to read.  Not while entries may wait in memory.
 *
 * The first table is read, as asking for the end of data that is no hole may
 * look at all the rest of the file (tmpfs).
 */
static int
skip_tables (struct vd_ctx *ctx, struct hosted *hs, uint64_t offset,
             uint64_t len, uint64_t *ret)
{
  uint64_t piece = offset >> hs->table_shift;
  uint64_t max = ((offset + len - 1) >> hs->table_shift) - piece + 1;
  bool empty;
  int r;

  *ret = 0;
  if (hs->w || is_compressed (hs))
    return 0;
  r = rest_is_empty (ctx, hs, offset >> hs->grain_shift, &empty);
  if (r == 0 && empty)
    *ret = tables_in_holes (ctx, hs, piece, max);
  return r;
}

/* Most requests lie in one grain that is there, and its table is in memory.
 * What hosted_locate says of them comes from here at a fraction of its cost,
 * which a small request to cached data feels.
 */
static bool
locate_grain (const struct hosted *hs, uint64_t offset, uint64_t len,
              struct vd_run *ret)
{
  uint64_t in = offset & (hs->grain_bytes - 1), position;
  uint32_t e;

  if (len > hs->grain_bytes - in ||
      !vd_table_peek (hs->gt, offset >> hs->grain_shift, &e) ||
      e < hs->plain_from)
    return false;
  position = (uint64_t) e * VMDK_SECTOR + in;
  if (position + len >
      atomic_load_explicit (&hs->file_size, memory_order_acquire))
    return false;
  *ret = (struct vd_run) {
    .kind = VD_RUN_DATA,
    .mode = VD_MODE_IN_PLACE,
    .length = len,
    .store = hs->store,
    .position = position,
  };
  return true;
}

static int
hosted_locate (struct vd_ctx *ctx, struct vmdk_extent *x,
               uint64_t offset, uint64_t len, enum vd_locate what,
               struct vd_run *ret)
{
  struct hosted *hs = x->priv;
  struct vd_run run = { 0 };
  uint64_t tables = 0, absent = 0, skip;
  bool more = true;
  int r = 0;

  if (locate_grain (hs, offset, len, ret))
    return 0;

  while (more && tables < MAX_TABLES && absent < MAX_ABSENT) {
    uint64_t at = offset + run.length;
    uint64_t piece = at >> hs->table_shift;
    uint64_t n = min_u64 (len - run.length,
                          ((piece + 1) << hs->table_shift) - at);
    enum hosted_table_state state;
    struct vd_table_pin pin;
    uint32_t sector;

    r = hosted_table_state (ctx, hs, piece, &state, &sector);
    if (r < 0)
      break;
    skip = 1;
    if (state == HOSTED_TABLE_PRESENT && what == VD_LOCATE_MAP &&
        (run.length == 0 || run.kind == VD_RUN_PARENT)) {
      r = skip_tables (ctx, hs, at, len - run.length, &skip);
      if (r < 0)
        break;
      if (skip > 0) {
        state = HOSTED_TABLE_ABSENT;
        n = min_u64 (len - run.length,
                     ((piece + skip) << hs->table_shift) - at);
      }
    }
    switch (state) {
    case HOSTED_TABLE_ABSENT:
      absent += skip;
      if (run.length == 0) {
        run.kind = VD_RUN_PARENT;
        run.mode = VD_MODE_ALLOC;
      }
      if (run.kind == VD_RUN_PARENT)
        run.length += n;
      more = run.kind == VD_RUN_PARENT && run.length < len;
      break;
    case HOSTED_TABLE_BAD:
      if (run.length == 0)
        bad_run (&run, n, "grain directory entry points where no grain table "
                 "can be", sector);
      more = false;
      break;
    case HOSTED_TABLE_PRESENT:
      tables++;
      r = vd_table_pin (ctx, hs->gt, at >> hs->grain_shift, &pin);
      if (r == 0) {
        more = add_entries (ctx, hs, &pin, offset, len, &run);
        vd_table_unpin (hs->gt, &pin);
      }
      break;
    }
    if (r < 0)
      break;
  }

  if (run.length == 0)
    return r;
  if (r < 0)                    /* what is known is an answer; the next */
    ctx->error = 0;             /* call will fail */
  if (is_compressed (hs) && run.kind != VD_RUN_BAD) {
    run.mode = VD_MODE_DENY;
    run.error = EROFS;
    run.reason = "the extent is compressed, which is written once only";
  }
  *ret = run;
  return 0;
}

/* ---- opening ----------------------------------------------------------- */

/* From where on hosted_grain_ok says yes, and an entry is neither 0 nor 1.
 * Never for compressed grains, which are not read in their place.
 */
static uint64_t
plain_from (const struct hosted *hs)
{
  if (is_compressed (hs))
    return UINT64_MAX;
  return max_u64 (max_u64 (max_u64 (hs->floor, 2), hs->descriptor.end),
                  max_u64 (hs->areas[0].end, hs->areas[1].end));
}

static void
hosted_free (struct hosted *hs)
{
  hosted_writer_close (hs);
  vd_table_free (hs->gd);
  vd_table_free (hs->gt);
  vd_table_free (hs->rgd);
  vd_table_free (hs->rgt);
  free (hs);
}

static void
hosted_close (struct vmdk_extent *x)
{
  if (x->priv)
    hosted_free (x->priv);
  x->priv = NULL;
}

static int
read_header (struct vd_ctx *ctx, const struct vmdk_extent *x,
             uint64_t file_size, struct hosted_header *ret)
{
  const char *name = x->store->name;
  uint64_t nominal = x->size / VMDK_SECTOR;
  uint8_t sector[HOSTED_HEADER] = { 0 };
  int r;

  r = vd_store_pread (ctx, x->store, sector,
                      min_u64 (file_size, sizeof sector), 0);
  if (r == 0)
    r = hosted_header_parse (ctx, name, sector, file_size, nominal, ret);
  if (r < 0 || ret->gd_offset != HOSTED_GD_AT_END)
    return r;

  r = stream_read_footer (ctx, name, x->store, file_size, nominal, ret);
  if (r < 0)
    return r;
  if (!hosted_directory_fits (ret, ret->gd_offset, file_size))
    return vd_error (ctx, EIO, "%s: gdOffset in the footer is %" PRIu64
                     ": the grain directory does not lie in the file", name,
                     ret->gd_offset);
  return 0;
}

/* Where a directory is, and where its tables are if they stand in order
 * behind it.  Whether they do is only looked at if overHead does not keep
 * grains away from there anyway.
 */
static void
find_area (struct vd_ctx *ctx, struct hosted *hs, unsigned copy,
           uint64_t offset, struct vd_table *gd)
{
  uint64_t end = offset + div_round_up (hs->ngts * 4, VMDK_SECTOR);
  uint64_t tables_end = end + hs->ngts * hosted_gt_sectors (&hs->h);
  uint32_t first, last;

  hs->directories[copy] = (struct hosted_range) { offset, end };
  hs->areas[copy] = hs->directories[copy];
  if (hs->ngts == 0 || is_compressed (hs) || tables_end <= hs->floor)
    return;
  if (vd_table_get (ctx, gd, 0, &first) < 0 ||
      vd_table_get (ctx, gd, hs->ngts - 1, &last) < 0) {
    ctx->error = 0;
    return;
  }
  if (first == end && last == tables_end - hosted_gt_sectors (&hs->h))
    hs->areas[copy].end = tables_end;
}

/* Why the image must not be written; a warning if that is not told anyway. */
static void
bad_directory (struct vd_ctx *ctx, struct vmdk_extent *x,
               const struct hosted *hs, const char *field, uint64_t value,
               const char *where, const char *then)
{
  snprintf (x->no_write, sizeof x->no_write, "%s is %" PRIu64 ", %s",
            field, value, where);
  if (!x->write)
    vd_warning (ctx, "%s: %s is %" PRIu64 ", %s: %s", hs->store->name, field,
                value, where, then);
}

/* Is a directory at other inside of this one, or of one of the tables that
 * stand in order behind it?
 */
static bool
is_inside (struct vd_ctx *ctx, const struct hosted *hs, uint64_t offset,
           struct vd_table *gd, uint64_t other)
{
  uint64_t length = div_round_up (hs->ngts * 4, VMDK_SECTOR);
  uint32_t n = hosted_gt_sectors (&hs->h), sector;
  uint64_t first = offset + length, i;

  if (other + length <= offset)
    return false;
  if (other < first)
    return true;
  i = (other - first) / n;
  if (i >= hs->ngts)
    return false;
  if (vd_table_get (ctx, gd, i, &sector) < 0) {
    ctx->error = 0;
    return false;
  }
  return sector == first + i * n;
}

/* A redundant directory where grains should be: is it one?  Only looked at
 * are its ends.  One entry that is 0 may be what a crash has left.
 */
static bool
is_no_directory (struct vd_ctx *ctx, const struct hosted *hs)
{
  const uint64_t ends[] = { 0, hs->ngts - 1 };
  unsigned i, missing = 0;
  uint32_t sector, copy;

  for (i = 0; i < 2; ++i) {
    if (vd_table_get (ctx, hs->gd, ends[i], &sector) < 0 ||
        vd_table_get (ctx, hs->rgd, ends[i], &copy) < 0) {
      ctx->error = 0;
      return false;
    }
    if (copy != 0 && !hosted_table_ok (hs, copy))
      return true;
    missing += copy == 0 && sector != 0;
  }
  return missing == 2;
}

/* A directory that lies in the file may still be in the wrong place: then it
 * must not keep the tables and grains that are really there from being read.
 * *gd and *rgd (0: none) are the sectors of hs->gd and hs->rgd.
 */
static void
check_places (struct vd_ctx *ctx, struct vmdk_extent *x, struct hosted *hs,
              uint64_t *gd, uint64_t *rgd)
{
  bool inside;

  if (*rgd == 0 || hs->ngts == 0)
    return;
  inside = is_inside (ctx, hs, *gd, hs->gd, *rgd);
  if (!inside && is_inside (ctx, hs, *rgd, hs->rgd, *gd)) {
    bad_directory (ctx, x, hs, "gdOffset", *gd,
                   "inside of the redundant grain tables",
                   "the extent is damaged, the redundant ones are read");
    vd_table_free (hs->gd);
    hs->gd = hs->rgd;
    *gd = *rgd;
    hs->use_redundant = true;
  }
  else if (inside)
    bad_directory (ctx, x, hs, "rgdOffset", *rgd,
                   "inside of the grain directory or its tables",
                   "the redundant ones are not used");
  else if (*rgd >= hs->floor && hs->h.overhead > 0 &&
           is_no_directory (ctx, hs))
    bad_directory (ctx, x, hs, "rgdOffset", *rgd,
                   "where there is no grain directory",
                   "the redundant one is not used");
  else
    return;
  if (hs->rgd != hs->gd)
    vd_table_free (hs->rgd);
  hs->rgd = NULL;
  *rgd = 0;
}

/* The memory for tables: half for grain tables, the rest for directories. */
static int
open_tables (struct vd_ctx *ctx, struct vmdk_extent *x, struct hosted *hs)
{
  const struct hosted_header *h = &hs->h;
  uint64_t file_size = atomic_load (&hs->file_size);
  uint64_t gd = h->gd_offset, rgd = 0;
  struct vd_table_pieces pieces = {
    .entries = h->gtes,
    .where = gt_where,
    .loaded = gt_loaded,
    .opaque = hs,
  };
  int r;

  /* Directories without entries, of a disk without a byte, stand where they
   * like: qemu puts both in one place.
   */
  if ((h->flags & HOSTED_FLAG_REDUNDANT) && hs->ngts > 0) {
    rgd = h->rgd_offset;
    if (!hosted_directory_fits (h, rgd, file_size) || rgd == gd) {
      bad_directory (ctx, x, hs, "rgdOffset", rgd,
                     "where no redundant grain directory can be",
                     "it is not used");
      rgd = 0;
    }
  }
  if (!hosted_directory_fits (h, gd, file_size)) {
    /* hosted_header_parse has found one of the two. */
    bad_directory (ctx, x, hs, "gdOffset", gd,
                   "where no grain directory can be",
                   "the extent is damaged, the redundant one is read");
    gd = rgd;
    rgd = 0;
    hs->use_redundant = true;
  }

  r = vd_table_new (ctx, hs->store, gd * VMDK_SECTOR, hs->ngts,
                    x->table_memory / 4, &hs->gd);
  if (r == 0 && rgd)
    r = vd_table_new (ctx, hs->store, rgd * VMDK_SECTOR, hs->ngts,
                      x->table_memory / 4, &hs->rgd);
  if (r == 0)
    r = vd_table_new_pieces (ctx, hs->store, hs->ngts * h->gtes, &pieces,
                             x->table_memory / 2, &hs->gt);
  if (r < 0)
    return r;

  check_places (ctx, x, hs, &gd, &rgd);
  find_area (ctx, hs, 0, gd, hs->gd);
  if (rgd)
    find_area (ctx, hs, 1, rgd, hs->rgd);
  return 0;
}

static const struct vmdk_extent_ops hosted_ops = {
  .kind = "hosted sparse",
  .locate = hosted_locate,
  .unpack = stream_unpack,
  .begin_session = hosted_begin_session,
  .reserve = hosted_reserve,
  .abandon = hosted_abandon,
  .commit = hosted_commit,
  .write_tables = hosted_write_tables,
  .write_map = hosted_write_map,
  .end_session = hosted_end_session,
  .close = hosted_close,
};

int
vmdk_hosted_open (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  struct hosted_header h;
  uint64_t file_size;
  struct hosted *hs;
  int r;

  r = vd_store_get_size (ctx, x->store, &file_size);
  if (r == 0)
    r = read_header (ctx, x, file_size, &h);
  if (r < 0)
    return r;

  hs = calloc (1, sizeof *hs);
  if (hs == NULL)
    return vd_error (ctx, ENOMEM, "%s: %s", x->store->name,
                     strerror (ENOMEM));
  hs->store = x->store;
  hs->size = x->size;
  hs->h = h;
  hs->grain_bytes = h.grain * VMDK_SECTOR;
  hs->grain_shift = log_2 (hs->grain_bytes);
  hs->table_shift = hs->grain_shift + log_2 (h.gtes);
  hs->gt_bytes = UINT64_C (4) * h.gtes;
  hs->ngrains = div_round_up (h.capacity, h.grain);
  hs->ngts = hosted_ngts (&h);
  atomic_init (&hs->file_size, file_size);
  atomic_init (&hs->compare, true);

  /* Grains of a stream have markers that tell whether they are what they
   * should be, and stand in front of the tables as well as behind them.
   */
  hs->floor = is_compressed (hs) ? 1 : max_u64 (h.overhead, 1);
  hs->plain_from = UINT64_MAX;          /* not known yet */
  if (x->embedded && h.descriptor_offset)
    hs->descriptor = (struct hosted_range) {
      h.descriptor_offset, h.descriptor_offset + h.descriptor_size
    };

  r = open_tables (ctx, x, hs);
  if (r < 0)
    goto fail;
  if (is_compressed (hs))
    snprintf (x->no_write, sizeof x->no_write,
              "a stream (streamOptimized) is written once, when it is made; "
              "to change the disk copy it into a new image (create=sparse), "
              "or put a differencing image on it (--filter=diff)");

  x->priv = hs;
  x->ops = &hosted_ops;
  x->grain = hs->grain_bytes;
  /* In images of version 1 nobody would expect them (vmdk-format 5.3). */
  x->has_zero = (h.flags & HOSTED_FLAG_ZEROED) && h.version > 1 &&
    !is_compressed (hs);
  x->differing = false;
  if (x->write && x->no_write[0] == '\0') {
    r = hosted_writer_open (ctx, x);
    if (r < 0)
      goto fail;
  }
  /* The writer's scan may have changed the areas. */
  hs->plain_from = plain_from (hs);
  return 0;

 fail:
  x->priv = NULL;
  hosted_free (hs);
  return r;
}
