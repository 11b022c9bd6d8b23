/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Many threads on one image.  Every sector has one thread that may write it;
 * what it holds names the sector and how often it was written.  Owners check
 * that their sectors hold what they wrote last, readers that a sector holds
 * something that its owner did write, and never an older state than they saw
 * before.  Made to be run with -fsanitize=thread.
 */

#include <config.h>

#include "unit.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "byteorder.h"
#include "image.h"
#include "iszero.h"
#include "memory.h"
#include "rounding.h"
#include "vdi.h"
#include "vmdk.h"

#include "small-vmdk.h"

#define SECTOR 512
#define KIB UINT64_C (1024)
#define MIB (UINT64_C (1024) * 1024)
#define WRITERS 8
#define READERS 2

struct disk {
  struct vd_image *image;
  uint64_t sectors;
  uint32_t block_size;
  bool interleaved;             /* owners change from sector to sector */
  _Atomic uint64_t *floor;      /* versions that readers must see */
  _Atomic bool stop;            /* readers */
  _Atomic bool writing;         /* the others */
  _Atomic unsigned failures;
  _Atomic uint64_t trims;
};

struct worker {
  struct disk *disk;
  unsigned number;
  unsigned operations;
  uint64_t state;
  uint64_t *versions;           /* of all sectors; ours are those we own */
  bool *trimmed;                /* may hold zeroes */
  pthread_t thread;
};

static uint64_t
draw (struct worker *w)
{
  w->state = w->state * UINT64_C (6364136223846793005) + 1442695040888963407;
  return w->state >> 33;
}

static unsigned
owner (const struct disk *d, uint64_t sector)
{
  return d->interleaved ? sector % WRITERS
    : sector * SECTOR / d->block_size % WRITERS;
}

static void
wrong (struct disk *d, const char *what, uint64_t sector, uint64_t is,
       uint64_t want)
{
  if (atomic_fetch_add (&d->failures, 1) < 10)
    print_error ("%s: sector %" PRIu64 " has version %" PRIu64 ", expected %"
                 PRIu64 "\n", what, sector, is, want);
}

static void
failed (struct disk *d, const char *what, const struct vd_ctx *ctx)
{
  if (atomic_fetch_add (&d->failures, 1) < 10)
    print_error ("%s: %s\n", what, ctx->message);
}

/* Version 0 is zeroes. */
static void
stamp (uint8_t *p, uint64_t sector, uint64_t version)
{
  unsigned i;

  for (i = 0; i < SECTOR; i += 16) {
    put_le64 (p + i, version ? sector + 1 : 0);
    put_le64 (p + i + 8, version);
  }
}

/* The version that a sector holds, or UINT64_MAX if it is torn or another's. */
static uint64_t
version_of (const uint8_t *p, uint64_t sector)
{
  uint64_t version = get_le64 (p + 8);
  unsigned i;

  if (version == 0)
    return is_zero (p, SECTOR) ? 0 : UINT64_MAX;
  for (i = 0; i < SECTOR; i += 16)
    if (get_le64 (p + i) != sector + 1 || get_le64 (p + i + 8) != version)
      return UINT64_MAX;
  return version;
}

static uint64_t
own_sector (struct worker *w)
{
  uint64_t s;

  do
    s = draw (w) % w->disk->sectors;
  while (owner (w->disk, s) != w->number);
  return s;
}

static void
check_own (struct worker *w, uint64_t sector)
{
  struct disk *d = w->disk;
  uint8_t buf[SECTOR];
  uint64_t v;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, NULL);
  if (vd_image_pread (&ctx, d->image, buf, SECTOR, sector * SECTOR) < 0)
    failed (d, "read", &ctx);
  else if ((v = version_of (buf, sector)) != w->versions[sector] &&
           !(v == 0 && w->trimmed[sector]))
    wrong (d, "own", sector, v, w->versions[sector]);
}

static void *
writer (void *opaque)
{
  struct worker *w = opaque;
  struct disk *d = w->disk;
  uint8_t buf[4 * SECTOR];
  unsigned i, n;
  uint64_t s;
  int r;
  struct vd_ctx ctx;

  for (i = 0; i < w->operations; ++i) {
    unsigned kind = draw (w) % 100;

    vd_ctx_init (&ctx, NULL);
    s = own_sector (w);
    if (kind < 60) {
      unsigned flags = draw (w) % 50 == 0 ? VD_FUA : 0;

      n = d->interleaved ? 1
        : min_u64 (1 + draw (w) % 4, d->block_size / SECTOR -
                   s % (d->block_size / SECTOR));
      n = min_u64 (n, d->sectors - s);
      for (r = 0; r < (int) n; ++r) {
        w->versions[s + r]++;
        w->trimmed[s + r] = false;
        stamp (buf + r * SECTOR, s + r, w->versions[s + r]);
      }
      if (vd_image_pwrite (&ctx, d->image, buf, n * SECTOR, s * SECTOR,
                           flags) < 0)
        failed (d, "write", &ctx);
      for (r = 0; r < (int) n; ++r)
        atomic_store (&d->floor[s + r], w->versions[s + r]);
    }
    else if (kind < 70) {
      /* Readers may see zeroes from before this call on. */
      atomic_store (&d->floor[s], 0);
      if (vd_image_trim (&ctx, d->image, SECTOR, s * SECTOR, 0) < 0)
        failed (d, "trim", &ctx);
      w->trimmed[s] = true;
      atomic_fetch_add (&d->trims, 1);
    }
    else if (kind < 80) {
      atomic_store (&d->floor[s], 0);
      if (vd_image_zero (&ctx, d->image, SECTOR, s * SECTOR,
                         draw (w) % 2 ? VD_MAY_TRIM : 0) < 0)
        failed (d, "zero", &ctx);
      w->trimmed[s] = true;     /* and nothing else */
      check_own (w, s);
    }
    else
      check_own (w, s);
  }
  return NULL;
}

static int
count_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  uint64_t *next = opaque;

  (void) type;
  if (offset != *next)
    return -1;
  *next += len;
  return 0;
}

static void *
reader (void *opaque)
{
  struct worker *w = opaque;
  struct disk *d = w->disk;
  uint8_t buf[16 * SECTOR];
  uint64_t floors[16], s, v, next;
  char text[200];
  unsigned i, n;
  struct vd_ctx ctx;

  while (!atomic_load (&d->stop)) {
    vd_ctx_init (&ctx, NULL);
    s = draw (w) % d->sectors;
    n = min_u64 (16, d->sectors - s);
    for (i = 0; i < n; ++i)
      floors[i] = atomic_load (&d->floor[s + i]);
    if (vd_image_pread (&ctx, d->image, buf, n * SECTOR, s * SECTOR) < 0) {
      failed (d, "read", &ctx);
      continue;
    }
    for (i = 0; i < n; ++i) {
      v = version_of (buf + i * SECTOR, s + i);
      /* Zeroed or trimmed meanwhile is all right. */
      if (v == UINT64_MAX ||
          (v < floors[i] && !(v == 0 && atomic_load (&d->floor[s + i]) !=
                              floors[i])))
        wrong (d, "reader", s + i, v, floors[i]);
    }
    if (draw (w) % 16 == 0) {
      next = s * SECTOR;
      if (vd_image_extents (&ctx, d->image, s * SECTOR,
                            (d->sectors - s) * SECTOR, false,
                            count_extent, &next) != 0 ||
          next != d->sectors * SECTOR)
        failed (d, "extents", &ctx);
      vd_image_description (d->image, text, sizeof text);
    }
  }
  return NULL;
}

static void *
flusher (void *opaque)
{
  struct worker *w = opaque;
  struct disk *d = w->disk;
  struct timespec pause = { .tv_nsec = 2000000 };
  struct vd_ctx ctx;

  while (atomic_load (&d->writing)) {
    vd_ctx_init (&ctx, NULL);
    if (vd_image_flush (&ctx, d->image) < 0)
      failed (d, "flush", &ctx);
    nanosleep (&pause, NULL);
  }
  return NULL;
}

static void
start (struct worker *w, void *(*fn) (void *))
{
  assert_int_equal (pthread_create (&w->thread, NULL, fn, w), 0);
}

static void
join (struct worker *w)
{
  assert_int_equal (pthread_join (w->thread, NULL), 0);
}

struct plan {
  uint64_t size;
  uint32_t block_size;
  size_t table_memory;
  bool interleaved;
  bool flush;
  unsigned phases, operations;
  unsigned linger;              /* seconds between the last write and the end */
  bool vmdk;
  bool few_tables;              /* VMDK: half of them must be made */
};

/* A new image. */
static int
create (struct vd_ctx *ctx, const struct plan *plan, struct vd_store *st)
{
  const struct vd_create how = {
    .size = plan->size, .block_size = plan->block_size, .alignment = 4096,
    .force = true,
  };
  const struct small_vmdk small = {
    .sectors = plan->size / SECTOR, .grain = plan->block_size / SECTOR,
    .gtes = 128, .zeroed = plan->interleaved, .few_tables = plan->few_tables,
  };
  char text[SMALL_DESCRIPTOR_MAX], line[100];

  if (!plan->vmdk)
    return vd_format_vdi.create (ctx, st, NULL, NULL, &how);
  snprintf (line, sizeof line, "RW %" PRIu64 " SPARSE \"t.vmdk\"\n",
            small.sectors);
  small_descriptor (text, "monolithicSparse", false, line);
  return small_write (ctx, st, &small, text);
}

/* Open this content, or a new image if it is NULL. */
static struct vd_image *
open_it (const struct plan *plan, const uint8_t *data, size_t size)
{
  const struct vd_open open = {
    .write = VD_WRITE_REQUIRE, .table_memory = plan->table_memory,
    .log = unit_log,
  };
  struct vd_image *image;
  struct vd_store *st;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_memory_open (ctx, "t", data, size, true, &st));
  if (!data)
    assert_ok (ctx, create (ctx, plan, st));
  assert_ok (ctx, vd_image_open_store (ctx, st, &open, &image));
  return image;
}

static void
run (struct plan plan)
{
  struct disk d = {
    .sectors = plan.size / SECTOR, .block_size = plan.block_size,
    .interleaved = plan.interleaved,
  };
  struct worker writers[WRITERS] = { 0 }, readers[READERS] = { 0 };
  struct worker flush = { .disk = &d };
  unsigned i, phase;
  const uint8_t *data;
  uint8_t *copy;
  size_t size;
  uint64_t s;
  UNIT_CTX (ctx);

  d.image = open_it (&plan, NULL, 0);
  d.floor = calloc (d.sectors, sizeof d.floor[0]);
  assert_non_null (d.floor);
  for (i = 0; i < WRITERS; ++i) {
    writers[i] = (struct worker) {
      .disk = &d, .number = i, .operations = plan.operations,
      .state = i * 1000 + 1,
      .versions = calloc (d.sectors, sizeof (uint64_t)),
      .trimmed = calloc (d.sectors, sizeof (bool)),
    };
    assert_non_null (writers[i].versions);
    assert_non_null (writers[i].trimmed);
  }
  for (i = 0; i < READERS; ++i) {
    readers[i] = (struct worker) { .disk = &d, .state = 77 + i };
    start (&readers[i], reader);
  }

  for (phase = 0; phase < plan.phases; ++phase) {
    atomic_store (&d.writing, true);
    for (i = 0; i < WRITERS; ++i)
      start (&writers[i], writer);
    if (plan.flush)
      start (&flush, flusher);
    for (i = 0; i < WRITERS; ++i)
      join (&writers[i]);
    atomic_store (&d.writing, false);
    if (plan.flush)
      join (&flush);
    if (plan.linger)
      sleep (plan.linger);      /* the image's own thread flushes */
    assert_ok (ctx, vd_image_end_session (ctx, d.image));
  }
  atomic_store (&d.stop, true);
  for (i = 0; i < READERS; ++i)
    join (&readers[i]);

  /* What is in the file now is all of it. */
  data = vd_memory_data (d.image->store, &size);
  copy = malloc (size);
  assert_non_null (copy);
  memcpy (copy, data, size);
  assert_ok (ctx, vd_image_close (ctx, d.image));
  d.image = open_it (&plan, copy, size);
  free (copy);
  for (s = 0; s < d.sectors; ++s)
    if (d.sectors < 100000 || s % 7 == 0)
      check_own (&writers[owner (&d, s)], s);
  assert_ok (ctx, vd_image_close (ctx, d.image));

  for (i = 0; i < WRITERS; ++i) {
    free (writers[i].versions);
    free (writers[i].trimmed);
  }
  free (d.floor);
  assert_int_equal (atomic_load (&d.failures), 0);
}

/* Blocks of their own, but neighbours. */
static void
test_own_blocks (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 8 * MIB, .block_size = 16 * KIB, .flush = true,
      .phases = 4, .operations = 1500,
  });
}

/* All in every block. */
static void
test_same_blocks (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 4 * MIB, .block_size = 64 * KIB, .flush = true,
      .interleaved = true, .phases = 4, .operations = 1500,
  });
}

/* One block, one lock. */
static void
test_one_block (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = MIB, .block_size = MIB, .interleaved = true,
      .phases = 2, .operations = 1500,
  });
}

/* 50 pages of table, of which 32 are kept. */
static void
test_windowed (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 200 * MIB, .block_size = 4 * KIB, .table_memory = 1,
      .flush = true, .interleaved = true, .phases = 2, .operations = 2000,
  });
}

/* Nobody flushes, so the image's thread does: when there are many changes,
 * and when they are old.
 */
static void
test_round_thread (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 160 * MIB, .block_size = 4 * KIB, .table_memory = 1,
      .interleaved = true, .phases = 1, .operations = 4500, .linger = 3,
  });
}

/* ---- VMDK --------------------------------------------------------------- */

static void
test_vmdk_own_grains (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 8 * MIB, .block_size = 16 * KIB, .flush = true,
      .phases = 4, .operations = 1500, .vmdk = true,
  });
}

static void
test_vmdk_same_grains (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 4 * MIB, .block_size = 64 * KIB, .flush = true,
      .interleaved = true, .phases = 4, .operations = 1500, .vmdk = true,
  });
}

/* 400 tables of which few are kept, and half are made while others look. */
static void
test_vmdk_tables (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 200 * MIB, .block_size = 4 * KIB, .table_memory = 1,
      .flush = true, .interleaved = true, .phases = 2, .operations = 2000,
      .vmdk = true, .few_tables = true,
  });
}

static void
test_vmdk_round_thread (void **state)
{
  (void) state;
  run ((struct plan) {
      .size = 160 * MIB, .block_size = 4 * KIB, .table_memory = 1,
      .phases = 1, .operations = 4500, .linger = 3,
      .vmdk = true, .few_tables = true,
  });
}

/* ---- a busy block ------------------------------------------------------- */

static void *
busy_writer (void *opaque)
{
  static const uint8_t buf[64 * 1024] = { 1 };
  struct worker *w = opaque;
  struct disk *d = w->disk;
  struct vd_ctx ctx;

  while (!atomic_load (&d->stop)) {
    vd_ctx_init (&ctx, NULL);
    if (vd_image_pwrite (&ctx, d->image, buf, sizeof buf,
                         w->number * sizeof buf, 0) < 0)
      failed (d, "write", &ctx);
  }
  return NULL;
}

static void *
busy_trimmer (void *opaque)
{
  struct worker *w = opaque;
  struct disk *d = w->disk;
  struct vd_ctx ctx;

  while (!atomic_load (&d->stop)) {
    vd_ctx_init (&ctx, NULL);
    if (vd_image_trim (&ctx, d->image, 4096, 900 * KIB, 0) < 0)
      failed (d, "trim", &ctx);
    atomic_fetch_add (&d->trims, 1);
  }
  return NULL;
}

/* Writes in place share a lock; a trim has its turn all the same. */
static void
test_busy_block (void **state)
{
  const struct vd_create how = { .size = MIB };
  const struct vd_open open = { .write = VD_WRITE_REQUIRE, .log = unit_log };
  const char *path = unit_path ("busy.vdi");
  struct disk d = { 0 };
  struct worker writers[WRITERS], trimmer = { .disk = &d };
  struct timespec pause = { .tv_nsec = 10000000 };
  uint64_t trims;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  /* A file: the lock of a store in memory would be the one they wait for. */
  assert_ok (ctx, vd_image_create (ctx, path, &vd_format_vdi, VD_LOCK_OFF,
                                   &how));
  assert_ok (ctx, vd_image_open (ctx, path, &open, &d.image));
  assert_ok (ctx, vd_image_pwrite (ctx, d.image, "x", 1, 0, 0));
  for (i = 0; i < WRITERS; ++i) {
    writers[i] = (struct worker) { .disk = &d, .number = i };
    start (&writers[i], busy_writer);
  }
  nanosleep (&pause, NULL);
  start (&trimmer, busy_trimmer);
  for (i = 0; i < 1000 && atomic_load (&d.trims) < 5; ++i)
    nanosleep (&pause, NULL);
  trims = atomic_load (&d.trims);
  atomic_store (&d.stop, true);
  join (&trimmer);
  for (i = 0; i < WRITERS; ++i)
    join (&writers[i]);
  assert_true (trims >= 5);
  assert_int_equal (atomic_load (&d.failures), 0);
  assert_ok (ctx, vd_image_close (ctx, d.image));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_own_blocks),
    cmocka_unit_test (test_same_blocks),
    cmocka_unit_test (test_one_block),
    cmocka_unit_test (test_windowed),
    cmocka_unit_test (test_round_thread),
    cmocka_unit_test (test_vmdk_own_grains),
    cmocka_unit_test (test_vmdk_same_grains),
    cmocka_unit_test (test_vmdk_tables),
    cmocka_unit_test (test_vmdk_round_thread),
    cmocka_unit_test (test_busy_block),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
