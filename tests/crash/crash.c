/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The engine of the crash tests: see crash.h.
 */

#include <config.h>

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>

#include "rounding.h"

#include "crash.h"

#define NSECTORS CRASH_SECTORS
#define BLOCK_SECTORS (CRASH_BLOCK / SECTOR)
#define PARENT_SECTORS 900              /* the parent is smaller */
#define NOPS 300

static struct crash_format *format;
static const struct crash_case *now;
static unsigned long failures;

static void
report (const char *what, size_t cut, const char *detail)
{
  if (failures++ < 10)
    printf ("# %s, %s, power lost after record %zu: %s\n", now->name, what,
            cut, detail);
}

static void
log_warning (enum vd_log_level level, const char *text)
{
  if (level == VD_LOG_WARNING && getenv ("VDKIT_TEST_VERBOSE"))
    printf ("# warning: %s\n", text);
}

/* ---- the parent of the differencing runs ------------------------------ */

static int
parent_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
              uint64_t offset)
{
  uint8_t bytes[SECTOR], *p = buf;
  uint64_t sector, skip, n;

  (void) ctx;
  (void) opaque;
  for (; len > 0; len -= n, offset += n, p += n) {
    sector = offset / SECTOR;
    skip = offset % SECTOR;
    n = min_u64 (len, SECTOR - skip);
    model_content (model_in_parent (sector, PARENT_SECTORS) ?
                   CONTENT_PARENT : CONTENT_ZERO, sector, bytes);
    memcpy (p, bytes + skip, n);
  }
  return 0;
}

static int
parent_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
                uint64_t len, bool one,
                int (*fn) (void *, uint64_t, uint64_t, unsigned),
                void *fn_opaque)
{
  (void) ctx;
  (void) opaque;
  (void) one;
  return fn (fn_opaque, offset, len, 0);
}

static const struct vd_parent parent = {
  .size = (uint64_t) PARENT_SECTORS * SECTOR,
  .pread = parent_pread,
  .extents = parent_extents,
};

/* ---- opening ---------------------------------------------------------- */

static struct vd_image *
open_image (struct vd_sim *sim, const char **ret_why)
{
  static char why[1100];
  struct vd_open how = {
    .write = VD_WRITE_REQUIRE,
    .format = &format->format,
    .parent = now->differencing ? &parent : NULL,
    .log = log_warning,
  };
  struct vd_folder *folder;
  struct vd_store *store;
  struct vd_image *image;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, log_warning);
  if (vd_sim_folder (&ctx, sim, &folder) < 0 ||
      vd_sim_open (&ctx, sim, format->file, true, &store) < 0 ||
      vd_image_open_folder (&ctx, store, folder, &how, &image) < 0) {
    snprintf (why, sizeof why, "cannot be opened for writing: %s",
              ctx.message);
    *ret_why = why;
    return NULL;
  }
  return image;
}

static struct vd_sim *
new_disk (void)
{
  struct vd_sim *sim = vd_sim_new (), *clean;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, log_warning);
  if (now->create (&ctx, sim, now) < 0) {
    fprintf (stderr, "create: %s\n", ctx.message);
    exit (2);
  }
  clean = vd_sim_clone (sim);
  vd_sim_free (sim);
  return clean;
}

/* ---- the script ------------------------------------------------------- */

static void
die (const struct vd_ctx *ctx, const char *what)
{
  fprintf (stderr, "%s: %s\n", what, ctx->message);
  exit (2);
}

static void
set_durable (struct model *m, uint64_t first, uint64_t count)
{
  m->durable[m->nops].first = first;
  m->durable[m->nops].count = count;
}

/* What a trim left is up to the image: look, and give the model that. */
static void
look_after_trim (struct vd_ctx *ctx, struct vd_image *image, struct model *m,
                 uint64_t first, uint64_t count)
{
  uint8_t bytes[SECTOR], newest[SECTOR];
  uint64_t i;

  for (i = first; i < first + count; ++i) {
    if (vd_image_pread (ctx, image, bytes, SECTOR, i * SECTOR) < 0)
      die (ctx, "read after trim");
    model_content (model_now (m, i), i, newest);
    if (memcmp (bytes, newest, SECTOR) == 0)
      continue;
    model_content (CONTENT_ZERO, i, newest);
    if (memcmp (bytes, newest, SECTOR) != 0) {
      fprintf (stderr, "sector %" PRIu64 " is neither old nor zero after a "
               "trim\n", i);
      exit (1);
    }
    model_set (m, i, 1, CONTENT_ZERO);
  }
}

/* False if it could not be run to its end, which is reported. */
static bool
run_script (struct vd_sim *sim, struct model *m, uint64_t *seed)
{
  uint8_t *buf = malloc ((uint64_t) NSECTORS * SECTOR);
  struct vd_image *image;
  const char *why;
  struct vd_ctx ctx;
  uint64_t first, count, i, kind;
  unsigned flags;

  image = open_image (sim, &why);
  if (!image) {
    fprintf (stderr, "%s\n", why);
    exit (2);
  }

  while (m->nops < NOPS) {
    vd_ctx_init (&ctx, log_warning);
    m->nops++;
    kind = model_random (seed) % 100;
    flags = model_random (seed) % 10 == 0 ? VD_FUA : 0;
    /* Few blocks, so that they are used again, and now and then many. */
    first = model_random (seed) % 2 ?
      model_random (seed) % NSECTORS : model_random (seed) % 160;
    count = 1 + model_random (seed) % (kind % 4 == 0 ? 60 : 12);
    if (model_random (seed) % 3 == 0) {
      first -= first % BLOCK_SECTORS;
      count = round_up (count, BLOCK_SECTORS);
    }
    count = min_u64 (count, NSECTORS - first);

    if (kind < 50) {                    /* write */
      for (i = 0; i < count; ++i)
        model_content (m->nops, first + i, buf + i * SECTOR);
      model_set (m, first, count, m->nops);
      if (vd_image_pwrite (&ctx, image, buf, count * SECTOR, first * SECTOR,
                           flags) < 0)
        die (&ctx, "write");
    }
    else if (kind < 55) {               /* zeroes as data */
      memset (buf, 0, count * SECTOR);
      model_set (m, first, count, CONTENT_ZERO);
      if (vd_image_pwrite (&ctx, image, buf, count * SECTOR, first * SECTOR,
                           flags) < 0)
        die (&ctx, "write of zeroes");
    }
    else if (kind < 70) {
      if (model_random (seed) % 2)
        flags |= VD_MAY_TRIM;
      model_set (m, first, count, CONTENT_ZERO);
      if (vd_image_zero (&ctx, image, count * SECTOR, first * SECTOR,
                         flags) < 0)
        die (&ctx, "zero");
    }
    else if (kind < 80) {
      if (vd_image_trim (&ctx, image, count * SECTOR, first * SECTOR,
                         flags) < 0)
        die (&ctx, "trim");
      look_after_trim (&ctx, image, m, first, count);
    }
    else if (kind < 94) {
      if (vd_image_flush (&ctx, image) < 0)
        die (&ctx, "flush");
      set_durable (m, 0, NSECTORS);
      flags = 0;
    }
    else if (kind < 97) {               /* the last client leaves */
      if (vd_image_end_session (&ctx, image) < 0)
        die (&ctx, "end of session");
      set_durable (m, 0, NSECTORS);
      flags = 0;
    }
    else {                              /* a server restarts */
      if (vd_image_close (&ctx, image) < 0)
        die (&ctx, "close");
      set_durable (m, 0, NSECTORS);
      flags = 0;
      image = open_image (sim, &why);
      if (!image) {
        report ("in the script", vd_sim_log_length (sim), why);
        free (buf);
        return false;
      }
    }
    if (flags & VD_FUA)
      set_durable (m, first, count);
    vd_sim_mark (sim, m->nops);
  }

  vd_ctx_init (&ctx, log_warning);
  if (vd_image_close (&ctx, image) < 0)
    die (&ctx, "last close");
  free (buf);
  return true;
}

/* ---- what a crash left ------------------------------------------------ */

/* The image goes on working: new blocks do not land on old ones. */
static const char *
use_it (struct vd_image *image, uint8_t *before, uint64_t *seed)
{
  static char why[256];
  uint8_t *after, sector[SECTOR];
  struct vd_ctx ctx;
  uint64_t n, i;

  vd_ctx_init (&ctx, log_warning);
  for (n = 0; n < 6; ++n) {
    i = model_random (seed) % NSECTORS;
    model_content (NOPS + 1 + n, i, sector);
    memcpy (before + i * SECTOR, sector, SECTOR);
    if (vd_image_pwrite (&ctx, image, sector, SECTOR, i * SECTOR, 0) < 0) {
      snprintf (why, sizeof why, "write afterwards: %.200s", ctx.message);
      return why;
    }
  }
  if (vd_image_end_session (&ctx, image) < 0) {
    snprintf (why, sizeof why, "end of session: %.200s", ctx.message);
    return why;
  }
  after = malloc ((uint64_t) NSECTORS * SECTOR);
  why[0] = '\0';
  if (vd_image_pread (&ctx, image, after, (uint64_t) NSECTORS * SECTOR,
                      0) < 0)
    snprintf (why, sizeof why, "read afterwards: %.200s", ctx.message);
  for (i = 0; i < NSECTORS && !why[0]; ++i)
    if (memcmp (after + i * SECTOR, before + i * SECTOR, SECTOR) != 0)
      snprintf (why, sizeof why, "a later write changed sector %" PRIu64, i);
  free (after);
  return why[0] ? why : NULL;
}

static void
check_crash (const char *what, size_t cut, struct vd_sim *sim,
             const struct model *m, const uint32_t *floors, uint32_t done,
             uint64_t *seed)
{
  uint8_t *bytes = malloc ((uint64_t) NSECTORS * SECTOR), old[SECTOR];
  struct vd_image *image;
  bool changed = false;
  const char *why;
  struct vd_ctx ctx;
  char text[128];
  uint64_t i;

  vd_ctx_init (&ctx, log_warning);
  why = format->check (sim, now, false);
  if (why) {
    report (what, cut, why);
    goto out;
  }
  image = open_image (sim, &why);
  if (!image) {
    report (what, cut, why);
    goto out;
  }
  if (vd_image_pread (&ctx, image, bytes, (uint64_t) NSECTORS * SECTOR,
                      0) < 0)
    report (what, cut, ctx.message);
  else {
    for (i = 0; i < NSECTORS; ++i) {
      if (!model_allows (m, i, bytes + i * SECTOR, floors, done)) {
        snprintf (text, sizeof text, "sector %" PRIu64 " holds what it must "
                  "not (%" PRIu32 " operations had returned)", i, done);
        report (what, cut, text);
        break;
      }
      if (!changed) {
        model_content (m->sectors[i].versions[0].content, i, old);
        changed = memcmp (bytes + i * SECTOR, old, SECTOR) != 0;
      }
    }
    why = format->check (sim, now, changed);
    if (why)
      report (what, cut, why);
    why = use_it (image, bytes, seed);
    if (why)
      report (what, cut, why);
  }
  if (vd_image_close (&ctx, image) < 0)
    report (what, cut, ctx.message);
  if (format->check (sim, now, false))
    report (what, cut, "tables are bad after the image was used again");
 out:
  free (bytes);
}

static void
run (unsigned long cuts, size_t step, uint64_t seed)
{
  struct vd_sim *sim = new_disk (), *crashed;
  struct model *m = model_new (NSECTORS,
                               now->differencing ? PARENT_SECTORS : 0, NOPS);
  uint32_t *floors = calloc (NSECTORS, sizeof floors[0]), upto = 0, done;
  size_t length, n, *order;
  unsigned long i;

  if (!run_script (sim, m, &seed))
    goto out;
  length = vd_sim_log_length (sim);
  printf ("# %s: %d operations, %zu records\n", now->name, NOPS, length);

  for (n = 0; n <= length; n += step) {
    done = vd_sim_last_mark (sim, n);
    model_floors (m, done, floors, &upto);
    crashed = vd_sim_prefix (sim, n);
    check_crash ("prefix", n, crashed, m, floors, done, &seed);
    vd_sim_free (crashed);
  }

  /* Reorderings: spread over all cuts, walked in order for the floors. */
  memset (floors, 0, NSECTORS * sizeof floors[0]);
  upto = 0;
  order = calloc (length + 1, sizeof order[0]);
  for (i = 0; i < cuts; ++i)
    order[model_random (&seed) % (length + 1)]++;
  for (n = 0; n <= length; ++n) {
    done = vd_sim_last_mark (sim, n);
    model_floors (m, done, floors, &upto);
    for (; order[n] > 0; order[n]--) {
      crashed = vd_sim_power_cut (sim, n, &seed);
      check_crash ("reordering", n, crashed, m, floors, done, &seed);
      vd_sim_free (crashed);
    }
  }
  free (order);
 out:
  free (floors);
  model_free (m);
  vd_sim_free (sim);
}

int
crash_main (int argc, char *argv[], struct crash_format *f)
{
  static const struct option options[] = {
    { "cuts", required_argument, NULL, 'c' },
    { "seed", required_argument, NULL, 's' },
    { "step", required_argument, NULL, 't' },
    { "plant", required_argument, NULL, 'p' },
    { NULL, 0, NULL, 0 },
  };
  unsigned long cuts = 10000, step = 1;
  uint64_t seed = 1;
  const char *bug = NULL;
  size_t i;
  int c;

  while ((c = getopt_long (argc, argv, "", options, NULL)) != -1) {
    switch (c) {
    case 'c': cuts = strtoul (optarg, NULL, 0); break;
    case 's': seed = strtoull (optarg, NULL, 0); break;
    case 't': step = strtoul (optarg, NULL, 0); break;
    case 'p': bug = optarg; break;
    default: return 2;
    }
  }
  /* Megabytes come and go all the time: keep them. */
  mallopt (M_MMAP_THRESHOLD, 256 << 20);
  mallopt (M_TRIM_THRESHOLD, 256 << 20);

  format = f;
  if (!f->plant (f, bug)) {
    fprintf (stderr, "unknown bug %s\n", bug);
    return 2;
  }

  /* A planted bug is found in one of the cases. */
  for (i = 0; i < f->ncases && !(bug && failures); ++i) {
    now = &f->cases[i];
    run (cuts * (i + 1) / f->ncases - cuts * i / f->ncases,
         step ? step : 1, seed + i);
  }

  if (f->more && !bug)
    failures += f->more (cuts / 10, seed);

  printf ("# seed %" PRIu64 ", %lu reorderings, %lu violations\n",
          seed, cuts, failures);
  if (bug) {
    printf ("%s - planted bug %s is found\n", failures ? "ok" : "not ok",
            bug);
    return failures == 0;
  }
  printf ("%s - every crash state keeps promise 1\n",
          failures ? "not ok" : "ok");
  return failures != 0;
}
