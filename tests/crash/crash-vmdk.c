/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Promise 1 for VMDK: see crash.h.  Planted bugs are
 *
 *   map-first      entries reach the disk before the data
 *   one-table      the redundant tables are never written
 *   no-unclean     uncleanShutdown is not set
 *   late-unclean   it is set, but not durably before the first entry
 *   same-cid       a session changes data under the old CID
 *   early-clean    it is cleared before the last entries are durable
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "byteorder.h"
#include "rounding.h"
#include "vmdk.h"

#include "crash.h"
#include "small-vmdk.h"

#define NAME "disk.vmdk"
#define GRAIN (CRASH_BLOCK / SECTOR)    /* sectors */
#define UNCLEAN 72                      /* vmdk-format 5.1 */

enum { SINGLE = 1, ZEROED = 2, FEW_TABLES = 4, SPLIT = 8 };

/* Split: no grain ends where an extent does. */
static const struct {
  const char *name;
  uint64_t sectors;
} parts[] = {
  { "disk-s001.vmdk", 500 },
  { "disk-s002.vmdk", 300 },
  { "disk-s003.vmdk", CRASH_SECTORS - 800 },
};

#define NPARTS (sizeof parts / sizeof parts[0])

/* ---- the files --------------------------------------------------------- */

static size_t
make_text (const struct crash_case *c, char *text)
{
  char lines[512];
  size_t n = 0, i;

  if (!(c->variant & SPLIT))
    snprintf (lines, sizeof lines, "RW %d SPARSE \"%s\"\n", CRASH_SECTORS,
              NAME);
  else
    for (i = 0; i < NPARTS; ++i)
      n += snprintf (lines + n, sizeof lines - n,
                     "RW %" PRIu64 " SPARSE \"%s\"\n", parts[i].sectors,
                     parts[i].name);
  return small_descriptor (text, c->variant & SPLIT ?
                           "twoGbMaxExtentSparse" : "monolithicSparse",
                           c->differencing, lines);
}

static int
create (struct vd_ctx *ctx, struct vd_sim *sim, const struct crash_case *c)
{
  struct small_vmdk s = {
    .sectors = CRASH_SECTORS, .grain = GRAIN, .gtes = 128,
    .zeroed = c->variant & ZEROED, .single = c->variant & SINGLE,
    .few_tables = c->variant & FEW_TABLES,
  };
  char text[SMALL_DESCRIPTOR_MAX];
  size_t len = make_text (c, text), i;
  struct vd_store *store;
  int r;

  r = vd_sim_open (ctx, sim, NAME, true, &store);
  if (r < 0)
    return r;
  if (c->variant & SPLIT) {
    r = vd_store_truncate (ctx, store, len);
    if (r == 0)
      r = vd_store_pwrite (ctx, store, text, len, 0, 0);
  }
  else
    r = small_write (ctx, store, &s, text);
  vd_store_close (store);
  for (i = 0; r == 0 && (c->variant & SPLIT) && i < NPARTS; ++i) {
    s.sectors = parts[i].sectors;
    r = vd_sim_open (ctx, sim, parts[i].name, true, &store);
    if (r < 0)
      break;
    r = small_write (ctx, store, &s, NULL);
    vd_store_close (store);
  }
  return r;
}

/* ---- planted bugs ----------------------------------------------------- */

/* These know monolithic images only; the first cases are such. */

static int
get32 (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
       uint32_t *ret)
{
  uint8_t bytes[4];
  int r = vd_store_pread (ctx, st, bytes, 4, offset);

  if (r == 0)
    *ret = get_le32 (bytes);
  return r;
}

static int
put32 (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
       uint32_t value)
{
  uint8_t bytes[4];

  put_le32 (bytes, value);
  return vd_store_pwrite (ctx, st, bytes, 4, offset, 0);
}

/* Where the entry of a block is; 0: it has no table. */
static int
entry_at (struct vd_ctx *ctx, struct vd_store *st, bool copy, uint64_t block,
          uint64_t *ret)
{
  uint64_t index = block / CRASH_BLOCK;
  uint32_t gd, gt = 0;
  int r;

  r = get32 (ctx, st, copy ? 48 : 56, &gd);
  if (r == 0)
    r = get32 (ctx, st, (uint64_t) gd * SECTOR + index / 128 * 4, &gt);
  if (r == 0)
    *ret = gt ? (uint64_t) gt * SECTOR + index % 128 * 4 : 0;
  return r;
}

static int
commit_map_first (struct vd_ctx *ctx, struct vd_image *image, uint64_t block,
                  enum vd_state state, const struct vd_place *place,
                  uint64_t *ret_value)
{
  uint64_t at;
  int copy, r;

  r = vd_format_vmdk.commit (ctx, image, block, state, place, ret_value);
  for (copy = 0; r == 0 && image->nstores == 1 && copy < 2; ++copy) {
    r = entry_at (ctx, image->store, copy, block, &at);
    if (r == 0 && at)
      r = put32 (ctx, image->store, at, *ret_value);
  }
  return r;
}

static int
write_one_table (struct vd_ctx *ctx, struct vd_image *image,
                 const struct vd_change *changes, size_t n)
{
  uint64_t at;
  size_t i;
  int r;

  r = vd_format_vmdk.write_map (ctx, image, changes, n);
  for (i = 0; r == 0 && image->nstores == 1 && i < n; ++i) {
    r = entry_at (ctx, image->store, true, changes[i].block, &at);
    if (r == 0 && at)
      r = put32 (ctx, image->store, at, 0);
  }
  return r;
}

static int
set_unclean (struct vd_ctx *ctx, struct vd_image *image, uint8_t value)
{
  return vd_store_pwrite (ctx, image->store, &value, 1, UNCLEAN, 0);
}

static int
begin_clean (struct vd_ctx *ctx, struct vd_image *image)
{
  int r = vd_format_vmdk.begin_session (ctx, image);

  if (r == 0 && image->nstores == 1)
    r = set_unclean (ctx, image, 0);
  return r < 0 ? r : vd_store_sync (ctx, image->store);
}

static int
write_map_unclean (struct vd_ctx *ctx, struct vd_image *image,
                   const struct vd_change *changes, size_t n)
{
  int r = 0;

  if (image->nstores == 1)
    r = set_unclean (ctx, image, 1);
  return r < 0 ? r : vd_format_vmdk.write_map (ctx, image, changes, n);
}

static int
write_map_clean (struct vd_ctx *ctx, struct vd_image *image,
                 const struct vd_change *changes, size_t n)
{
  int r = vd_format_vmdk.write_map (ctx, image, changes, n);

  if (r == 0 && image->nstores == 1)
    r = set_unclean (ctx, image, 0);
  return r;
}

static int
begin_same_cid (struct vd_ctx *ctx, struct vd_image *image)
{
  char text[SECTOR];
  int r = vd_store_pread (ctx, image->store, text, SECTOR, SECTOR);

  if (r == 0)
    r = vd_format_vmdk.begin_session (ctx, image);
  if (r == 0)
    r = vd_store_pwrite (ctx, image->store, text, SECTOR, SECTOR, 0);
  return r < 0 ? r : vd_store_sync (ctx, image->store);
}

static bool
plant (struct crash_format *f, const char *bug)
{
  f->format = vd_format_vmdk;
  if (!bug)
    return true;
  if (strcmp (bug, "map-first") == 0)
    f->format.commit = commit_map_first;
  else if (strcmp (bug, "one-table") == 0)
    f->format.write_map = write_one_table;
  else if (strcmp (bug, "no-unclean") == 0)
    f->format.begin_session = begin_clean;
  else if (strcmp (bug, "late-unclean") == 0) {
    f->format.begin_session = begin_clean;
    f->format.write_map = write_map_unclean;
  }
  else if (strcmp (bug, "early-clean") == 0)
    f->format.write_map = write_map_clean;
  else if (strcmp (bug, "same-cid") == 0)
    f->format.begin_session = begin_same_cid;
  else
    return false;
  return true;
}

/* ---- what a crash left ------------------------------------------------ */

static char why[256];

/* Entry index of one of the tables. */
static bool
check_entry (const struct crash_case *c, const char *what, uint64_t index,
             uint32_t e, uint64_t sectors, uint64_t overhead,
             uint64_t file_size, uint8_t *seen)
{
  uint64_t valid = min_u64 (GRAIN, sectors - index * GRAIN);

  if (e == 0 || (e == 1 && c->variant & ZEROED))
    return true;
  if (e < overhead)
    snprintf (why, sizeof why, "%s entry %" PRIu64 " is %" PRIu32
              ", in the metadata", what, index, e);
  else if (e % GRAIN)
    snprintf (why, sizeof why, "%s entry %" PRIu64 " is %" PRIu32
              ", not aligned", what, index, e);
  else if ((e + valid) * SECTOR > file_size)
    snprintf (why, sizeof why, "%s entry %" PRIu64 " is %" PRIu32
              ", beyond the end of the file", what, index, e);
  else if (seen[e / GRAIN]++)
    snprintf (why, sizeof why, "two %s entries are %" PRIu32, what, e);
  else
    return true;
  return false;
}

/* As far as an entry has got (rules O10). */
static unsigned
stage (uint32_t e)
{
  return e > 1 ? 2 : e;
}

static bool
check_extent (const struct crash_case *c, const uint8_t *p, uint64_t size,
              uint64_t sectors)
{
  static uint8_t seen[2][4 * CRASH_SECTORS];
  static uint8_t any[4 * CRASH_SECTORS];
  uint64_t overhead, ngrains = div_round_up (sectors, GRAIN), i;
  unsigned ncopies = c->variant & SINGLE ? 1 : 2, copy;
  bool unclean;

  memset (seen, 0, sizeof seen);
  memset (any, 0, sizeof any);
  if (size < SECTOR || memcmp (p, "KDMV", 4) != 0 ||
      get_le64 (p + 12) != sectors || get_le64 (p + 20) != GRAIN ||
      get_le32 (p + 44) != 128 || p[UNCLEAN] > 1) {
    snprintf (why, sizeof why, "the header has changed");
    return false;
  }
  overhead = get_le64 (p + 64);
  unclean = p[UNCLEAN];
  if (overhead * SECTOR > size || size / SECTOR > sizeof any) {
    snprintf (why, sizeof why, "the file has %" PRIu64 " bytes", size);
    return false;
  }

  for (i = 0; i < ngrains; ++i) {
    uint32_t e[2] = { 0, 0 };

    for (copy = 0; copy < ncopies; ++copy) {
      uint64_t gd = get_le64 (p + (copy ? 48 : 56)) * SECTOR;
      uint32_t gt = get_le32 (p + gd + i / 128 * 4);

      if (gt == 0) {
        if (c->variant & FEW_TABLES && i / 128 % 2)
          continue;
        snprintf (why, sizeof why, "a table is lost");
        return false;
      }
      if (((uint64_t) gt + 1) * SECTOR > size) {
        snprintf (why, sizeof why, "a table lies beyond the end");
        return false;
      }
      e[copy] = get_le32 (p + gt * SECTOR + i % 128 * 4);
      if (!check_entry (c, copy ? "redundant" : "primary", i, e[copy],
                        sectors, overhead, size, seen[copy]))
        return false;
    }
    if (ncopies == 1)
      continue;
    if (e[0] != e[1] && (!unclean || stage (e[0]) == stage (e[1]))) {
      snprintf (why, sizeof why, "entry %" PRIu64 " is %" PRIu32 ", but %"
                PRIu32 " in the copy, and uncleanShutdown is %d", i, e[0],
                e[1], unclean);
      return false;
    }
    if (stage (e[1]) > stage (e[0]))
      e[0] = e[1];
    if (e[0] > 1 && any[e[0] / GRAIN]++) {
      snprintf (why, sizeof why, "two entries would be %" PRIu32
                " after a repair", e[0]);
      return false;
    }
  }
  return true;
}

/* The values of a session, with the same length. */
static bool
check_text (const struct crash_case *c, const char *text, size_t room,
            bool changed)
{
  static const char cid[] = "\nCID=", uuid[] = "modification=\"";
  char want[SMALL_DESCRIPTOR_MAX] = "";
  size_t len = make_text (c, want), i;
  char *p;

  if (room < len) {
    snprintf (why, sizeof why, "the descriptor is cut off");
    return false;
  }
  p = strstr (want, cid) + sizeof cid - 1;
  for (i = 0; i < 8; ++i)
    if (!isxdigit ((unsigned char) text[p - want + i])) {
      snprintf (why, sizeof why, "the CID is damaged");
      return false;
    }
  if (changed && memcmp (text + (p - want), p, 8) == 0) {
    snprintf (why, sizeof why, "data has changed, the CID has not");
    return false;
  }
  if (memcmp (text + (p - want), "ffffffff", 8) == 0) {
    snprintf (why, sizeof why, "the CID is that of no parent");
    return false;
  }
  memcpy (p, text + (p - want), 8);
  p = strstr (want, uuid) + sizeof uuid - 1;
  for (i = 0; i < 36; ++i)
    if (p[i] != '-' && isxdigit ((unsigned char) text[p - want + i]))
      p[i] = text[p - want + i];
  if (memcmp (text, want, len) != 0 ||
      (room > len && text[len] != '\0')) {
    snprintf (why, sizeof why, "the descriptor is damaged");
    return false;
  }
  return true;
}

static uint8_t *
read_file (struct vd_sim *sim, const char *name, uint64_t *ret_size)
{
  struct vd_store *store;
  struct vd_ctx ctx;
  uint8_t *p = NULL;

  vd_ctx_init (&ctx, NULL);
  if (vd_sim_open (&ctx, sim, name, false, &store) < 0)
    return NULL;
  if (vd_store_get_size (&ctx, store, ret_size) == 0) {
    p = malloc (*ret_size + 1);
    if (vd_store_pread (&ctx, store, p, *ret_size, 0) < 0) {
      free (p);
      p = NULL;
    }
  }
  vd_store_close (store);
  return p;
}

static const char *
check (struct vd_sim *sim, const struct crash_case *c, bool changed)
{
  uint64_t size;
  uint8_t *p = read_file (sim, NAME, &size);
  bool good;
  size_t i;

  if (c->variant & SPLIT)
    good = check_text (c, (const char *) p, size, changed);
  else
    good = check_extent (c, p, size, CRASH_SECTORS) &&
      check_text (c, (const char *) p + SECTOR, 20 * SECTOR, changed);
  free (p);
  for (i = 0; good && (c->variant & SPLIT) && i < NPARTS; ++i) {
    p = read_file (sim, parts[i].name, &size);
    good = check_extent (c, p, size, parts[i].sectors);
    free (p);
  }
  return good ? NULL : why;
}

/* ---- streams ----------------------------------------------------------- */

#define STREAM_GRAIN 65536
#define STREAM_SIZE (24 * STREAM_GRAIN - 5 * SECTOR)

enum { NOTHING, CREATED, WRITING, DONE };       /* marks */

static const uint8_t *
stream_content (void)
{
  static uint8_t data[STREAM_SIZE];
  uint64_t i;

  /* Grains 3, 7, ... are zeroes; the noise is hard to compress. */
  if (data[0] == 0)
    for (i = 0; i < STREAM_SIZE / SECTOR; ++i)
      if (i * SECTOR / STREAM_GRAIN % 4 != 3)
        model_content (1, i, data + i * SECTOR);
  return data;
}

static int
open_stream (struct vd_ctx *ctx, struct vd_sim *sim, enum vd_write write,
             struct vd_image **ret)
{
  const struct vd_open how = { .write = write };
  struct vd_store *store;
  int r;

  r = vd_sim_open (ctx, sim, NAME, write != VD_WRITE_NO, &store);
  return r < 0 ? r : vd_image_open_store (ctx, store, &how, ret);
}

/* Neighbours change places, as with a client that has two requests under way;
 * flush: complete before it is closed.
 */
static void
write_stream (struct vd_sim *sim, bool flush)
{
  const struct vd_create how = { .size = STREAM_SIZE, .variant = "stream" };
  const uint8_t *data = stream_content ();
  struct vd_image *image;
  struct vd_store *store;
  uint64_t at, i;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, NULL);
  r = vd_sim_open (&ctx, sim, NAME, true, &store);
  if (r == 0) {
    r = vd_format_vmdk.create (&ctx, store, NULL, NULL, &how);
    vd_store_close (store);
  }
  vd_sim_mark (sim, CREATED);
  if (r == 0)
    r = open_stream (&ctx, sim, VD_WRITE_REQUIRE, &image);
  vd_sim_mark (sim, WRITING);
  for (i = 0; r == 0 && i < 24; ++i) {
    at = (i ^ 1) * STREAM_GRAIN;
    r = vd_image_pwrite (&ctx, image, data + at,
                         min_u64 (STREAM_GRAIN, STREAM_SIZE - at), at, 0);
  }
  if (r == 0 && flush) {
    r = vd_image_flush (&ctx, image);
    vd_sim_mark (sim, DONE);
  }
  if (r == 0)
    r = vd_image_close (&ctx, image);
  vd_sim_mark (sim, DONE);
  if (r < 0) {
    fprintf (stderr, "stream: %s\n", ctx.message);
    exit (2);
  }
}

/* Refused, or complete; empty until it is written. */
static const char *
check_stream (struct vd_sim *sim, uint64_t mark, unsigned seen[3])
{
  static const uint8_t nothing[STREAM_SIZE];
  static uint8_t got[STREAM_SIZE];
  struct vd_image *image;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, NULL);
  if (open_stream (&ctx, sim, VD_WRITE_NO, &image) < 0) {
    seen[0]++;
    if (mark == NOTHING || mark == WRITING)
      return NULL;
    snprintf (why, sizeof why, "%.250s", ctx.message);
    return why;
  }
  why[0] = '\0';
  if (vd_image_pread (&ctx, image, got, STREAM_SIZE, 0) < 0)
    snprintf (why, sizeof why, "%.250s", ctx.message);
  else if (memcmp (got, stream_content (), STREAM_SIZE) == 0)
    seen[2]++;
  else if (memcmp (got, nothing, STREAM_SIZE) == 0 && mark != DONE)
    seen[1]++;
  else
    snprintf (why, sizeof why, "opens, but the content is wrong");
  if (vd_image_close (&ctx, image) < 0 && !why[0])
    snprintf (why, sizeof why, "%.250s", ctx.message);
  return why[0] ? why : NULL;
}

static unsigned long
streams (unsigned long cuts, uint64_t seed)
{
  unsigned long violations = 0;
  int flush;

  for (flush = 0; flush < 2; ++flush) {
    struct vd_sim *sim = vd_sim_new (), *crashed;
    unsigned seen[3] = { 0 };
    size_t length, n;
    unsigned long i;

    write_stream (sim, flush);
    length = vd_sim_log_length (sim);
    for (n = 0; n <= length; ++n) {
      for (i = 0; i <= cuts / 2 / (length + 1) + 1; ++i) {
        const char *bad;

        crashed = i == 0 ? vd_sim_prefix (sim, n) :
          vd_sim_power_cut (sim, n, &seed);
        bad = check_stream (crashed, vd_sim_last_mark (sim, n), seen);
        if (bad && violations++ < 10)
          printf ("# stream, power lost after record %zu: %s\n", n, bad);
        vd_sim_free (crashed);
      }
    }
    printf ("# stream: %zu records; %u times refused, %u empty, %u "
            "complete\n", length, seen[0], seen[1], seen[2]);
    if (!seen[0] || !seen[1] || !seen[2])
      violations++;
    vd_sim_free (sim);
  }
  return violations;
}

/* ---- the format -------------------------------------------------------- */

static const struct crash_case cases[] = {
  { .name = "sparse", .create = create },
  { .name = "sparse, with a parent", .create = create, .differencing = true },
  { .name = "sparse, zeroed grains, with a parent", .create = create,
    .variant = ZEROED, .differencing = true },
  { .name = "sparse, one table", .create = create, .variant = SINGLE },
  { .name = "sparse, tables missing, with a parent", .create = create,
    .variant = FEW_TABLES | ZEROED, .differencing = true },
  { .name = "split sparse", .create = create, .variant = SPLIT },
  { .name = "split sparse, zeroed grains, with a parent", .create = create,
    .variant = SPLIT | ZEROED, .differencing = true },
};

static struct crash_format vmdk = {
  .name = "vmdk", .file = NAME,
  .cases = cases, .ncases = sizeof cases / sizeof cases[0],
  .plant = plant, .check = check, .more = streams,
};

int
main (int argc, char *argv[])
{
  return crash_main (argc, argv, &vmdk);
}
