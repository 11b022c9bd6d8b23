/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The VDI format as the engine uses it: layouts, locate, places, sessions
 * and rounds.  No engine is involved: blocks are written by hand.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>

#include "vdi-image.h"
#include "sim.h"
#include "vdi-pool.h"

static const struct vd_format *const f = &vd_format_vdi;

static const uint8_t *
file (struct vd_image *image, size_t *size)
{
  return vd_memory_data (image->store, size);
}

/* ---- opening ----------------------------------------------------------- */

static void
test_probe (void **state)
{
  uint8_t head[512] = { 0 };

  (void) state;
  assert_false (f->probe (head, sizeof head));
  memcpy (&head[64], "\x7f\x10\xda\xbe", 4);
  assert_true (f->probe (head, sizeof head));
  assert_true (f->probe (head, 72));
  assert_false (f->probe (head, 71));
  assert_false (f->probe (head, 0));
}

static void
test_fields (void **state)
{
  static const uint32_t map[] = { 1, FREE, ZERO, 0 };
  static const uint8_t disk[16] = {
    0x28, 0x4e, 0xed, 0x71, 0xb0, 0x24, 0x18, 0x48,
    0x9b, 0xcf, 0x26, 0xf0, 0x32, 0x8f, 0xb2, 0x2d
  };
  struct bytes b = build ((struct sample) { .blocks = 4, .map = map });
  struct vd_image image;
  char text[VD_UUID_TEXT];
  uint64_t start, length;

  (void) state;
  memcpy (&b.data[392], disk, 16);
  poke (&b, 456, 4, 7);
  poke (&b, 460, 4, 16);
  poke (&b, 464, 4, 63);
  must_open (b, false, &image);
  assert_int_equal (image.size, 4 * MIB);
  assert_int_equal (image.block_size, MIB);
  assert_true (image.has_zero);
  assert_false (image.differencing);
  assert_string_equal (image.variant, "dynamic");
  assert_string_equal (image.comment, "hello");
  assert_string_equal (image.no_write, "");
  assert_string_equal (vd_uuid_text (&image.link.uuid, text),
                       "71ed4e28-24b0-4818-9bcf-26f0328fb22d");
  assert_true (vd_uuid_is_null (&image.link.parent));
  assert_int_equal (image.lchs.cylinders, 7);
  assert_int_equal (image.lchs.heads, 16);
  assert_int_equal (image.lchs.sectors, 63);
  f->block_at (&image, 3 * MIB + 5, &start, &length);
  assert_int_equal (start, 3 * MIB);
  assert_int_equal (length, MIB);

  expect_run (&image, 0, 4 * MIB, VD_RUN_DATA, MIB, 3 * MIB);
  expect_run (&image, 513, 10, VD_RUN_DATA, 10, 3 * MIB + 513);
  expect_run (&image, MIB, 3 * MIB, VD_RUN_PARENT, MIB, 0);
  expect_run (&image, 2 * MIB + 1, 2 * MIB - 1, VD_RUN_ZERO, MIB - 1, 0);
  expect_run (&image, 3 * MIB, MIB, VD_RUN_DATA, MIB, 2 * MIB);
  close_image (&image);
}

static void
test_differencing (void **state)
{
  static const struct {
    uint32_t type;
    bool parent, differencing;
    const char *variant;
  } cases[] = {
    { 1, false, false, "dynamic" }, { 1, true, true, "dynamic" },
    { 2, false, false, "fixed" }, { 2, true, true, "fixed" },
    { 3, false, false, "undo" }, { 3, true, true, "undo" },
    { 4, false, true, "diff" }, { 4, true, true, "diff" },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct bytes b = build ((struct sample) { .blocks = 1,
                                              .type = cases[i].type });
    struct vd_image image;

    if (cases[i].parent)
      memset (&b.data[424], 0xc3, 16);
    memset (&b.data[440], 0xc4, 16);
    must_open (b, true, &image);
    assert_int_equal (image.differencing, cases[i].differencing);
    assert_int_equal (vd_uuid_is_null (&image.link.parent),
                      !cases[i].parent);
    assert_int_equal (image.link.parent_modification.bytes[0], 0xc4);
    assert_string_equal (image.variant, cases[i].variant);
    close_image (&image);
  }
}

static void
test_version_0 (void **state)
{
  static const uint32_t map[] = { 1, FREE, 0, ZERO };
  struct vd_image image;

  (void) state;
  must_open (build ((struct sample) { .version = 2, .blocks = 4, .type = 4,
                                      .map = map }), true, &image);
  assert_int_equal (image.size, 4 * MIB);
  assert_string_equal (image.comment, "old");
  assert_true (image.differencing);
  assert_int_equal (image.link.uuid.bytes[0], 0xc1);
  assert_int_equal (image.link.modification.bytes[0], 0xc2);
  expect_text (image.no_write, "version is 0.2");
  expect_run (&image, 0, 4 * MIB, VD_RUN_DATA, MIB, 436 + MIB);
  expect_run (&image, MIB, 3 * MIB, VD_RUN_PARENT, MIB, 0);
  expect_run (&image, 2 * MIB, 2 * MIB, VD_RUN_DATA, MIB, 436);
  expect_run (&image, 3 * MIB, MIB, VD_RUN_ZERO, MIB, 0);
  close_image (&image);
}

/* The LCHS counts for version 1.1 with a header of 400 bytes only. */
static void
test_lchs_versions (void **state)
{
  static const struct { uint32_t version, header, off_blocks; bool set; }
  cases[] = {
    { 0x10001, 400, 512, true }, { 0x10001, 1000, 2048, true },
    { 0x10001, 384, 512, false }, { 0x10001, 399, 512, false },
    { 0x10000, 400, 512, false }, { 0x10002, 400, 512, false },
    { 0x10001, 400, 456, false },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct bytes b = build ((struct sample) {
      .version = cases[i].version, .header_size = cases[i].header,
      .off_blocks = cases[i].off_blocks, .blocks = 4 });
    struct vd_image image;

    poke (&b, 456, 4, 1);
    poke (&b, 460, 4, 2);
    poke (&b, 464, 4, 3);
    must_open (b, true, &image);
    assert_int_equal (image.lchs.cylinders, cases[i].set ? 1 : 0);
    assert_int_equal (image.lchs.sectors, cases[i].set ? 3 : 0);
    close_image (&image);
  }
}

/* Any alignment is read (vdi-format 6). */
static void
test_odd_offsets (void **state)
{
  static const uint32_t map[] = { 1, 0, FREE };
  static const uint32_t offsets[][2] = {
    { 456, 468 }, { 512, 1024 }, { 0x1000, 0x2000 },
    { 0x100001, 0x200001 }, { 0x200, 0x100400 }, { 513, 525 },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof offsets / sizeof offsets[0]; ++i) {
    struct vd_image image;
    uint64_t data = offsets[i][1];

    must_open (build ((struct sample) {
          .header_size = 384, .off_blocks = offsets[i][0],
          .off_data = offsets[i][1], .blocks = 3, .map = map }),
      false, &image);
    expect_run (&image, 0, 3 * MIB, VD_RUN_DATA, MIB, data + MIB);
    expect_run (&image, MIB, 2 * MIB, VD_RUN_DATA, MIB, data);
    expect_run (&image, 2 * MIB, MIB, VD_RUN_PARENT, MIB, 0);
    close_image (&image);
  }
}

/* Private bytes stand in front of the data (vdi-format 7), so neighbours on
 * disk do not adjoin.
 */
static void
test_extra (void **state)
{
  static const uint32_t map[] = { 0, 1, FREE, FREE };
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place;
  uint8_t byte;

  (void) state;
  must_open (build ((struct sample) { .blocks = 4, .extra = 512,
                                      .map = map }), true, &image);
  assert_string_equal (image.no_write, "");
  expect_run (&image, 0, 4 * MIB, VD_RUN_DATA, MIB, 2 * MIB + 512);
  expect_run (&image, MIB, 3 * MIB, VD_RUN_DATA, MIB, 3 * MIB + 1024);
  assert_int_equal (vd_store_pread (&ctx, image.store, &byte, 1,
                                    3 * MIB + 1024), 0);
  assert_int_equal (byte, pattern (1));
  expect_run (&image, 2 * MIB, 2 * MIB, VD_RUN_PARENT, 2 * MIB, 0);

  assert_int_equal (f->begin_session (&ctx, &image), 0);
  assert_int_equal (f->reserve (&ctx, &image, 3 * MIB, &place), 0);
  assert_int_equal (place.value, 2);
  assert_int_equal (place.position, 4 * MIB + 1536);
  assert_true (place.fresh);
  f->abandon (&image, 3 * MIB, &place);
  close_image (&image);
}

/* ---- locate ------------------------------------------------------------ */

static void
test_runs (void **state)
{
  static const uint32_t map[] = {
    2, 3, 4, 6, 5, FREE, FREE, ZERO, ZERO, FREE, 0, 1
  };
  struct vd_image image;

  (void) state;
  must_open (build ((struct sample) { .blocks = 12, .block_size = 4096,
                                      .map = map }), false, &image);
#define B 4096
#define D (2 * MIB)
  expect_run (&image, 0, 12 * B, VD_RUN_DATA, 3 * B, D + 2 * B);
  expect_run (&image, 0, 2 * B + 1, VD_RUN_DATA, 2 * B + 1, D + 2 * B);
  expect_run (&image, B - 1, 2, VD_RUN_DATA, 2, D + 3 * B - 1);
  expect_run (&image, 3 * B, 9 * B, VD_RUN_DATA, B, D + 6 * B);
  expect_run (&image, 4 * B, 8 * B, VD_RUN_DATA, B, D + 5 * B);
  expect_run (&image, 5 * B + 7, 7 * B - 7, VD_RUN_PARENT, 2 * B - 7, 0);
  expect_run (&image, 7 * B, 5 * B, VD_RUN_ZERO, 2 * B, 0);
  expect_run (&image, 9 * B, 3 * B, VD_RUN_PARENT, B, 0);
  expect_run (&image, 10 * B, 2 * B, VD_RUN_DATA, 2 * B, D);
#undef B
#undef D
  close_image (&image);
}

/* Runs go on in the next page of the map, but do not read all of it. */
static void
test_runs_over_pages (void **state)
{
  const uint32_t blocks = 40000;
  const uint64_t bs = 4096;
  struct bytes b;
  struct vd_image image;
  struct vd_run run;
  uint32_t *map = calloc (blocks, sizeof *map);
  uint32_t i;

  (void) state;
  assert_non_null (map);
  for (i = 0; i < blocks; ++i)
    map[i] = i < 3000 ? i : FREE;
  b = build ((struct sample) { .blocks = blocks, .block_size = bs,
                               .map = map });
  free (map);
  must_open (b, false, &image);
  expect_run (&image, 0, image.size, VD_RUN_DATA, 3000 * bs, 2 * MIB);
  expect_run (&image, 1000 * bs + 5, 1000 * bs, VD_RUN_DATA, 1000 * bs,
              2 * MIB + 1000 * bs + 5);
  run = locate (&image, 3000 * bs, image.size - 3000 * bs);
  assert_int_equal (run.kind, VD_RUN_PARENT);
  assert_in_range (run.length, 10000 * bs, 20000 * bs);
  close_image (&image);
}

/* A page that cannot be read ends a run that has begun, and fails one that
 * begins in it.
 */
static void
test_page_error (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) { .blocks = 4096,
                                            .block_size = 4096 });
  struct vd_image image;
  struct vd_store *st;
  struct vd_run run;
  int first;

  (void) state;
  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (vd_store_pwrite (&ctx, st, b.data, b.size, 0, 0), 0);
  free (b.data);
  assert_int_equal (open_store (&ctx, st, false, &image), 0);
  /* The first page is in memory now. */
  assert_int_equal (f->locate (&ctx, &image, 0, 1, VD_LOCATE_READ, &run), 0);
  for (first = 0; first <= 1; ++first) {
    ctx = new_ctx ();
    vd_sim_fail_at (sim, 1, EIO, true);
    assert_int_equal (f->locate (&ctx, &image, first ? 4096 * 1024 : 0,
                                 2048 * 4096, VD_LOCATE_READ, &run),
                      first ? -EIO : 0);
    assert_int_equal (ctx.error, first ? EIO : 0);
    if (!first)
      assert_int_equal (run.length, 1024 * 4096);
    vd_sim_fail_at (sim, 0, 0, false);
  }
  close_image (&image);
  vd_sim_free (sim);
}

/* An image opened for reading sees what a writer adds to the file. */
static void
test_file_grows_under_a_reader (void **state)
{
  static const uint32_t map[] = { 0, 1 };
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) { .blocks = 2, .map = map,
                                            .file_size = 3 * MIB });
  struct vd_store *st;

  (void) state;
  assert_int_equal (vd_memory_open (&ctx, "a", b.data, b.size, true, &st), 0);
  free (b.data);
  assert_int_equal (open_store (&ctx, st, false, &image), 0);
  expect_run (&image, 0, 2 * MIB, VD_RUN_DATA, MIB, 2 * MIB);
  expect_run (&image, MIB, MIB, VD_RUN_BAD, MIB, 1);
  assert_int_equal (vd_store_truncate (&ctx, st, 4 * MIB), 0);
  expect_run (&image, 0, 2 * MIB, VD_RUN_DATA, 2 * MIB, 2 * MIB);
  close_image (&image);
}

/* ---- places ------------------------------------------------------------ */

static void
test_pool (void **state)
{
  const uint32_t n = 3 * 32768 + 5;
  struct vdi_pool *pool = vdi_pool_new (n);
  uint32_t i, place;

  (void) state;
  assert_non_null (pool);
  assert_int_equal (vdi_pool_end (pool), 0);
  assert_int_equal (vdi_pool_take (pool, n - 1), 1);
  assert_int_equal (vdi_pool_take (pool, n - 1), 0);
  assert_int_equal (vdi_pool_end (pool), n);
  assert_int_equal (vdi_pool_take (pool, 40000), 1);
  for (i = 0; i < n - 1; ++i) {
    if (i == 40000)
      continue;
    assert_int_equal (vdi_pool_take_lowest (pool, &place), 1);
    assert_int_equal (place, i);
  }
  assert_int_equal (vdi_pool_take_lowest (pool, &place), 0);
  vdi_pool_give (pool, 70000);
  vdi_pool_give (pool, 63);
  vdi_pool_give (pool, 64);
  assert_int_equal (vdi_pool_take_lowest (pool, &place), 1);
  assert_int_equal (place, 63);
  assert_int_equal (vdi_pool_take_lowest (pool, &place), 1);
  assert_int_equal (place, 64);
  assert_int_equal (vdi_pool_take_lowest (pool, &place), 1);
  assert_int_equal (place, 70000);
  assert_int_equal (vdi_pool_take_lowest (pool, &place), 0);
  for (i = n; i-- > 32768;)
    vdi_pool_give (pool, i);
  assert_int_equal (vdi_pool_end (pool), 32768);
  vdi_pool_free (pool);
}

static struct vd_place
reserve (struct vd_image *image, uint64_t block)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place;
  uint64_t size;

  if (f->reserve (&ctx, image, block, &place) < 0)
    fail_msg ("%s", ctx.message);
  assert_ptr_equal (place.store, image->store);
  assert_int_equal (vd_store_get_size (&ctx, image->store, &size), 0);
  assert_true (place.position + image->block_size <= size);
  return place;
}

/* Holes first, from the lowest; a place of the old file is not fresh. */
static void
test_holes (void **state)
{
  static const uint32_t map[] = {
    7, FREE, 2, FREE, FREE, 4, FREE, FREE, FREE, FREE
  };
  static const struct { uint32_t value; bool fresh; } expected[] = {
    { 0, false }, { 1, false }, { 3, false }, { 5, false }, { 6, false },
    { 8, true }, { 9, true },
  };
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place[7];
  size_t i;

  (void) state;
  must_open (build ((struct sample) { .blocks = 10, .map = map }),
             true, &image);
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  for (i = 0; i < 7; ++i) {
    place[i] = reserve (&image, MIB);
    assert_int_equal (place[i].value, expected[i].value);
    assert_int_equal (place[i].fresh, expected[i].fresh);
    assert_int_equal (place[i].position,
                      2 * MIB + expected[i].value * MIB);
  }
  /* All taken: more than the disk can need. */
  assert_int_equal (f->reserve (&ctx, &image, MIB, &place[0]), -ENOSPC);
  expect_text (ctx.message, "cBlocks is 10");

  /* What was given back comes first, and is not fresh any more. */
  f->abandon (&image, MIB, &place[6]);
  f->abandon (&image, MIB, &place[2]);
  place[2] = reserve (&image, MIB);
  assert_int_equal (place[2].value, 3);
  place[6] = reserve (&image, MIB);
  assert_int_equal (place[6].value, 9);
  assert_false (place[6].fresh);
  close_image (&image);
}

/* The file grows in steps, and not for each block. */
static void
test_growth (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) { .blocks = 2000,
                                            .block_size = 64 * KIB });
  struct vd_image image;
  struct vd_store *st;
  struct vd_place place;
  uint64_t size;
  size_t before;
  int i;

  (void) state;
  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (vd_store_pwrite (&ctx, st, b.data, b.size, 0, 0), 0);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  before = vd_sim_log_length (sim);
  for (i = 0; i < 2000; ++i) {
    place = reserve (&image, 0);
    assert_int_equal (place.value, i);
    assert_true (place.fresh);
    assert_true (vd_store_get_size (&ctx, st, &size) == 0 &&
                 size <= 2 * MIB + 2000 * 64 * KIB);
  }
  assert_in_range (vd_sim_log_length (sim) - before, 1, 3);
  close_image (&image);
  vd_sim_free (sim);
  free (b.data);
}

/* Where 64 MiB more are too much, one block is tried. */
static void
test_growth_without_space (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) { .blocks = 50 });
  struct vd_image image;
  struct vd_store *st;
  struct vd_place place;
  uint64_t size;

  (void) state;
  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (vd_store_pwrite (&ctx, st, b.data, b.size, 0, 0), 0);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_int_equal (f->begin_session (&ctx, &image), 0);

  vd_sim_fail_at (sim, 1, ENOSPC, false);
  assert_int_equal (f->reserve (&ctx, &image, 0, &place), 0);
  assert_int_equal (ctx.error, 0);
  assert_int_equal (place.value, 0);
  assert_int_equal (vd_store_get_size (&ctx, st, &size), 0);
  assert_int_equal (size, 3 * MIB);

  vd_sim_fail_at (sim, 1, ENOSPC, true);
  assert_int_equal (f->reserve (&ctx, &image, 0, &place), -ENOSPC);
  assert_int_equal (ctx.error, ENOSPC);
  vd_sim_fail_at (sim, 1, EIO, false);
  assert_int_equal (f->reserve (&ctx, &image, 0, &place), -EIO);
  vd_sim_fail_at (sim, 0, 0, false);
  /* The failed ones took nothing. */
  place = reserve (&image, 0);
  assert_int_equal (place.value, 1);
  close_image (&image);
  vd_sim_free (sim);
  free (b.data);
}

/* A block device does not grow. */
static void
test_fixed_size (void **state)
{
  static const uint32_t map[] = { 0, FREE, FREE, FREE };
  struct bytes b = build ((struct sample) { .blocks = 4, .map = map,
                                            .file_size = 4 * MIB + 5 });
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place;
  uint64_t value;
  size_t size;

  (void) state;
  must_open (b, true, &image);
  image.store->fixed_size = true;
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  place = reserve (&image, MIB);
  assert_int_equal (place.value, 1);
  assert_false (place.fresh);
  assert_int_equal (f->commit (&ctx, &image, MIB, VD_STATE_DATA, &place,
                               &value), 0);
  assert_int_equal (f->reserve (&ctx, &image, 2 * MIB, &place), -ENOSPC);
  expect_text (ctx.message, "4194309");
  assert_int_equal (f->end_session (&ctx, &image), 0);
  file (&image, &size);
  assert_int_equal (size, 4 * MIB + 5);
  close_image (&image);
}

/* ---- commit, rounds, sessions ------------------------------------------ */

static void
round_of (struct vd_image *image, const struct vd_change *changes, size_t n)
{
  struct vd_ctx ctx = new_ctx ();

  assert_int_equal (f->write_tables (&ctx, image), 0);
  assert_int_equal (vd_store_sync (&ctx, image->store), 0);
  assert_int_equal (f->write_map (&ctx, image, changes, n), 0);
  assert_int_equal (vd_store_sync (&ctx, image->store), 0);
}

static struct vd_change
put_block (struct vd_image *image, uint64_t block)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place = reserve (image, block);
  struct vd_change change = { .block = block };

  if (f->commit (&ctx, image, block, VD_STATE_DATA, &place,
                 &change.value) < 0)
    fail_msg ("%s", ctx.message);
  assert_int_equal (change.value, place.value);
  return change;
}

static void
test_commit (void **state)
{
  static const uint32_t map[] = { 0, FREE, FREE, ZERO };
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct vd_change changes[3];
  struct vd_place place;
  const uint8_t *data;
  uint64_t value;
  size_t size;

  (void) state;
  must_open (build ((struct sample) { .blocks = 4, .map = map }),
             true, &image);
  assert_int_equal (f->begin_session (&ctx, &image), 0);

  /* FREE -> ZERO, once. */
  assert_int_equal (f->commit (&ctx, &image, MIB, VD_STATE_ZERO, NULL,
                               &value), 0);
  assert_int_equal (value, ZERO);
  expect_run (&image, MIB, MIB, VD_RUN_ZERO, MIB, 0);
  assert_int_equal (f->commit (&ctx, &image, MIB, VD_STATE_ZERO, NULL,
                               &value), -EINVAL);
  changes[0] = (struct vd_change) { MIB, value };
  /* ZERO -> DATA, FREE -> DATA. */
  changes[1] = put_block (&image, MIB);
  assert_int_equal (changes[1].value, 1);
  expect_run (&image, 0, 2 * MIB, VD_RUN_DATA, 2 * MIB, 2 * MIB);
  changes[2] = put_block (&image, 3 * MIB);
  expect_run (&image, 2 * MIB, 2 * MIB, VD_RUN_PARENT, MIB, 0);
  expect_run (&image, 3 * MIB, MIB, VD_RUN_DATA, MIB, 4 * MIB);

  /* DATA stays, and keeps its place. */
  assert_int_equal (f->commit (&ctx, &image, 0, VD_STATE_ZERO, NULL,
                               &value), -EINVAL);
  place = reserve (&image, 0);
  assert_int_equal (f->commit (&ctx, &image, 0, VD_STATE_DATA, &place,
                               &value), -EINVAL);
  expect_text (ctx.message, "entry 0 is 0");
  f->abandon (&image, 0, &place);
  expect_run (&image, 0, MIB, VD_RUN_DATA, MIB, 2 * MIB);

  /* Nothing of that is on disk before the round. */
  data = file (&image, &size);
  assert_int_equal (peek (data, MIB + 4, 4), FREE);
  round_of (&image, changes, 3);
  data = file (&image, &size);
  assert_int_equal (peek (data, MIB, 4), 0);
  assert_int_equal (peek (data, MIB + 4, 4), 1);
  assert_int_equal (peek (data, MIB + 8, 4), FREE);
  assert_int_equal (peek (data, MIB + 12, 4), 2);
  assert_int_equal (peek (data, 388, 4), 3);
  assert_int_equal (f->end_session (&ctx, &image), 0);
  close_image (&image);
}

/* More changes than fit one piece of write_map. */
static void
test_many_changes (void **state)
{
  const uint32_t blocks = 3000;
  struct vd_change *changes = calloc (blocks, sizeof *changes);
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  const uint8_t *data;
  size_t size;
  uint32_t i;

  (void) state;
  assert_non_null (changes);
  must_open (build ((struct sample) { .blocks = blocks,
                                      .block_size = 4096 }), true, &image);
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  for (i = 0; i < blocks; ++i)
    changes[blocks - 1 - i] = put_block (&image,
                                         (blocks - 1 - i) * UINT64_C (4096));
  round_of (&image, changes, blocks);
  data = file (&image, &size);
  for (i = 0; i < blocks; ++i)
    assert_int_equal (peek (data, MIB + 4 * i, 4), blocks - 1 - i);
  assert_int_equal (peek (data, 388, 4), blocks);
  free (changes);
  close_image (&image);
}

/* The count on disk is corrected by the next round, and never too low. */
static void
test_count_lies (void **state)
{
  static const uint32_t map[] = { 3, FREE, 1, FREE, FREE, FREE, FREE, FREE };
  static const uint32_t lies[] = { 1, 2, 8, 9, 0xffffffff };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof lies / sizeof lies[0]; ++i) {
    struct vd_image image;
    struct vd_ctx ctx = new_ctx ();
    struct vd_change change;
    const uint8_t *data;
    size_t size;

    must_open (build ((struct sample) { .blocks = 8, .map = map,
                                        .allocated = lies[i] }),
               true, &image);
    assert_string_equal (image.no_write, "");
    assert_int_equal (f->begin_session (&ctx, &image), 0);
    change = put_block (&image, MIB);
    assert_int_equal (change.value, 0);
    round_of (&image, &change, 1);
    data = file (&image, &size);
    assert_int_equal (peek (data, 388, 4), 4);

    /* Reserved is enough to count. */
    reserve (&image, 3 * MIB);
    reserve (&image, 4 * MIB);
    round_of (&image, NULL, 0);
    data = file (&image, &size);
    assert_int_equal (peek (data, 388, 4), 5);
    close_image (&image);
  }
}

/* A round that changes no count writes no header. */
static void
test_header_is_written_if_needed (void **state)
{
  static const uint32_t map[] = { 1, FREE, FREE };
  struct vd_sim *sim = vd_sim_new ();
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) { .blocks = 3, .map = map });
  struct vd_image image;
  struct vd_store *st;
  struct vd_change change;
  size_t before;

  (void) state;
  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (vd_store_pwrite (&ctx, st, b.data, b.size, 0, 0), 0);
  free (b.data);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  change = put_block (&image, MIB);
  assert_int_equal (change.value, 0);
  before = vd_sim_log_length (sim);
  assert_int_equal (f->write_tables (&ctx, &image), 0);
  assert_int_equal (vd_sim_log_length (sim), before);
  close_image (&image);
  vd_sim_free (sim);
}

/* The session: a new uuidModify, durable, and not another byte changed; at
 * its end an exact count and size.
 */
static void
test_session (void **state)
{
  static const uint32_t map[] = { FREE, 0, FREE, FREE };
  struct vd_sim *sim = vd_sim_new ();
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) {
    .blocks = 4, .map = map, .allocated = 4, .file_size = 5 * MIB + 77 });
  struct vd_uuid old;
  struct vd_image image;
  struct vd_store *st;
  struct vd_change change;
  struct vd_sim *cut;
  uint8_t now[1024];
  uint64_t size, seed = 1;
  int i;

  (void) state;
  /* Bytes that nobody knows stay. */
  memset (&b.data[472], 0x5a, 40);
  memset (&b.data[0], 0x5b, 64);
  poke (&b, 348, 4, 0x5c5c5c5c);
  poke (&b, 364, 4, 0x5d5d5d5d);
  poke (&b, 372, 4, 0);
  memset (&b.data[4 * MIB], 0x99, MIB + 77);
  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (vd_store_pwrite (&ctx, st, b.data, b.size, 0, 0), 0);
  assert_int_equal (vd_store_sync (&ctx, st), 0);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  old = image.link.modification;

  assert_int_equal (f->begin_session (&ctx, &image), 0);
  assert_false (vd_uuid_equal (&old, &image.link.modification));
  assert_int_equal (image.link.modification.bytes[6] >> 4, 4);
  assert_int_equal (vd_store_pread (&ctx, st, now, sizeof now, 0), 0);
  assert_memory_not_equal (&now[408], &b.data[408], 16);
  memcpy (&b.data[408], &now[408], 16);
  assert_memory_equal (now, b.data, sizeof now);
  for (i = 0; i < 8; ++i) {
    struct vd_store *after;

    cut = vd_sim_power_cut (sim, vd_sim_log_length (sim), &seed);
    assert_int_equal (vd_sim_open (&ctx, cut, "a", false, &after), 0);
    assert_int_equal (vd_store_pread (&ctx, after, now, 512, 0), 0);
    assert_memory_equal (now, b.data, 512);
    vd_store_close (after);
    vd_sim_free (cut);
  }

  /* Garbage behind the last block is gone, so places there are fresh. */
  change = put_block (&image, 0);
  assert_int_equal (change.value, 1);
  assert_int_equal (vd_store_pread (&ctx, st, now, 512, 4 * MIB), 0);
  for (i = 0; i < 512; ++i)
    assert_int_equal (now[i], 0);
  round_of (&image, &change, 1);
  assert_int_equal (f->end_session (&ctx, &image), 0);
  assert_int_equal (vd_store_get_size (&ctx, st, &size), 0);
  assert_int_equal (size, 5 * MIB - MIB);
  assert_int_equal (vd_store_pread (&ctx, st, now, 512, 0), 0);
  assert_int_equal (peek (now, 388, 4), 2);
  expect_run (&image, 0, 4 * MIB, VD_RUN_DATA, MIB, 3 * MIB);

  /* Idempotent, and another session can follow. */
  assert_int_equal (f->end_session (&ctx, &image), 0);
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  change = put_block (&image, 2 * MIB);
  assert_int_equal (change.value, 2);
  round_of (&image, &change, 1);
  assert_int_equal (f->end_session (&ctx, &image), 0);
  assert_int_equal (vd_store_get_size (&ctx, st, &size), 0);
  assert_int_equal (size, 5 * MIB);
  close_image (&image);

  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_string_equal (image.no_write, "");
  assert_string_equal (warnings, "");
  expect_run (&image, 0, 4 * MIB, VD_RUN_DATA, MIB, 3 * MIB);
  expect_run (&image, 2 * MIB, 2 * MIB, VD_RUN_DATA, MIB, 4 * MIB);
  close_image (&image);
  vd_sim_free (sim);
  free (b.data);
}

/* A place that was used, given up and cut off reads as zeroes again; one
 * that could not be cut off is not called fresh.
 */
static void
test_fresh_after_a_cut (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_ctx ctx = new_ctx ();
  struct bytes b = build ((struct sample) { .blocks = 4 });
  struct vd_image image;
  struct vd_store *st;
  struct vd_place place;
  uint8_t byte = 0xee;

  (void) state;
  assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
  assert_int_equal (vd_store_pwrite (&ctx, st, b.data, b.size, 0, 0), 0);
  free (b.data);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_int_equal (f->begin_session (&ctx, &image), 0);
  place = reserve (&image, 0);
  assert_true (place.fresh);
  assert_int_equal (vd_store_pwrite (&ctx, st, &byte, 1, place.position, 0),
                    0);
  f->abandon (&image, 0, &place);
  assert_int_equal (f->end_session (&ctx, &image), 0);

  assert_int_equal (f->begin_session (&ctx, &image), 0);
  place = reserve (&image, 0);
  assert_true (place.fresh);
  assert_int_equal (vd_store_pread (&ctx, st, &byte, 1, place.position), 0);
  assert_int_equal (byte, 0);
  byte = 0xee;
  assert_int_equal (vd_store_pwrite (&ctx, st, &byte, 1, place.position, 0),
                    0);
  f->abandon (&image, 0, &place);
  vd_sim_fail_at (sim, 1, EIO, false);
  assert_int_equal (f->end_session (&ctx, &image), -EIO);
  place = reserve (&image, 0);
  assert_false (place.fresh);
  close_image (&image);
  vd_sim_free (sim);
}

/* Headers of other sizes: what is not header is not written. */
static void
test_header_sizes (void **state)
{
  static const uint32_t sizes[][2] = {
    { 384, 456 }, { 384, 512 }, { 399, 472 }, { 400, 472 }, { 512, 1024 },
  };
  static const uint32_t map[] = { FREE, FREE, FREE, ZERO };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof sizes / sizeof sizes[0]; ++i) {
    struct bytes b = build ((struct sample) {
      .header_size = sizes[i][0], .off_blocks = sizes[i][1],
      .off_data = 4096, .blocks = 4, .map = map });
    struct bytes old = { calloc (1, b.size), b.size };
    struct vd_image image;
    struct vd_ctx ctx = new_ctx ();
    struct vd_change change;
    const uint8_t *data;
    size_t size;

    memcpy (old.data, b.data, b.size);
    must_open (b, true, &image);
    assert_string_equal (image.no_write, "");
    assert_int_equal (f->begin_session (&ctx, &image), 0);
    change = put_block (&image, MIB);
    round_of (&image, &change, 1);
    assert_int_equal (f->end_session (&ctx, &image), 0);
    data = file (&image, &size);
    assert_int_equal (size, 4096 + MIB);
    memcpy (&old.data[408], &data[408], 16);
    poke (&old, 388, 4, 1);
    poke (&old, sizes[i][1] + 4, 4, 0);
    assert_memory_equal (data, old.data, 4096);
    free (old.data);
    close_image (&image);
  }
}

/* ---- metadata ---------------------------------------------------------- */

static void
test_set_meta (void **state)
{
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct vd_uuid a, b, c, d, null = { { 0 } };
  struct vd_geometry lchs = { 1000, 255, 63 };
  struct vd_meta_change change = {
    .uuid = &a, .modification = &b, .parent = &c, .parent_modification = &d,
    .comment = "new", .lchs = &lchs,
  };
  struct vd_meta_change none = { 0 };
  const uint8_t *data;
  char text[258];
  uint8_t disk[16];
  size_t size;

  (void) state;
  vd_uuid_random (&a);
  vd_uuid_random (&b);
  vd_uuid_random (&c);
  vd_uuid_random (&d);
  must_open (build ((struct sample) { .blocks = 1 }), true, &image);
  assert_int_equal (f->set_meta (&ctx, &image, &change), 0);
  assert_true (vd_uuid_equal (&image.link.uuid, &a));
  assert_true (vd_uuid_equal (&image.link.modification, &b));
  assert_true (vd_uuid_equal (&image.link.parent, &c));
  assert_true (vd_uuid_equal (&image.link.parent_modification, &d));
  assert_string_equal (image.comment, "new");
  assert_int_equal (image.lchs.cylinders, 1000);
  data = file (&image, &size);
  vd_uuid_to_disk (&a, disk);
  assert_memory_equal (&data[392], disk, 16);
  vd_uuid_to_disk (&b, disk);
  assert_memory_equal (&data[408], disk, 16);
  vd_uuid_to_disk (&c, disk);
  assert_memory_equal (&data[424], disk, 16);
  vd_uuid_to_disk (&d, disk);
  assert_memory_equal (&data[440], disk, 16);
  assert_memory_equal (&data[84], "new\0\0\0\0", 8);
  assert_int_equal (peek (data, 456, 4), 1000);
  assert_int_equal (peek (data, 460, 4), 255);
  assert_int_equal (peek (data, 464, 4), 63);
  assert_int_equal (peek (data, 468, 4), 512);

  /* Nothing changes nothing; a parent can be removed. */
  assert_int_equal (f->set_meta (&ctx, &image, &none), 0);
  assert_string_equal (image.comment, "new");
  none.parent = none.parent_modification = &null;
  assert_int_equal (f->set_meta (&ctx, &image, &none), 0);
  assert_true (vd_uuid_is_null (&image.link.parent));
  assert_true (vd_uuid_equal (&image.link.uuid, &a));

  memset (text, 'x', 257);
  text[255] = '\0';
  none.comment = text;
  assert_int_equal (f->set_meta (&ctx, &image, &none), 0);
  assert_string_equal (image.comment, text);
  data = file (&image, &size);
  assert_int_equal (data[84 + 254], 'x');
  assert_int_equal (data[84 + 255], 0);
  text[255] = 'x';
  text[256] = '\0';
  assert_int_equal (f->set_meta (&ctx, &image, &none), -EINVAL);
  expect_text (ctx.message, "comment is 256 bytes");
  none.comment = NULL;

  none.uuid = &null;
  assert_int_equal (f->set_meta (&ctx, &image, &none), -EINVAL);
  expect_text (ctx.message, "uuidCreate");
  none.uuid = NULL;
  none.modification = &null;
  assert_int_equal (f->set_meta (&ctx, &image, &none), -EINVAL);
  none.modification = NULL;
  lchs.heads = 256;
  none.lchs = &lchs;
  assert_int_equal (f->set_meta (&ctx, &image, &none), -EINVAL);
  expect_text (ctx.message, "heads is 256");
  lchs = (struct vd_geometry) { 1, 1, 64 };
  assert_int_equal (f->set_meta (&ctx, &image, &none), -EINVAL);
  expect_text (ctx.message, "sectors is 64");
  assert_int_equal (image.lchs.cylinders, 1000);
  lchs = (struct vd_geometry) { 0, 0, 0 };
  assert_int_equal (f->set_meta (&ctx, &image, &none), 0);
  assert_int_equal (image.lchs.cylinders, 0);
  close_image (&image);

  /* A header without room. */
  lchs = (struct vd_geometry) { 1, 1, 1 };
  must_open (build ((struct sample) { .blocks = 1, .header_size = 384 }),
             true, &image);
  assert_int_equal (f->set_meta (&ctx, &image, &none), -ENOTSUP);
  expect_text (ctx.message, "cbHeader is 384");
  close_image (&image);
}

/* ---- threads ----------------------------------------------------------- */

static struct vd_image shared;

static void *
reserve_and_commit (void *arg)
{
  uint64_t block = (uintptr_t) arg;
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place;
  struct vd_run run;
  uint64_t value;
  int i;

  for (i = 0; i < 500; ++i, block += 4) {
    if (f->reserve (&ctx, &shared, block * 4096, &place) < 0)
      return "reserve";
    if (i % 7 == 0) {
      f->abandon (&shared, block * 4096, &place);
      if (f->reserve (&ctx, &shared, block * 4096, &place) < 0)
        return "reserve again";
    }
    if (vd_store_pwrite (&ctx, place.store, &block, sizeof block,
                         place.position, 0) < 0)
      return "write";
    if (f->commit (&ctx, &shared, block * 4096, VD_STATE_DATA, &place,
                   &value) < 0)
      return "commit";
    if (f->locate (&ctx, &shared, block * 4096, 4096, VD_LOCATE_READ,
                   &run) < 0 || run.kind != VD_RUN_DATA ||
        run.position != place.position)
      return "locate";
    if (i % 50 == 0 && f->write_tables (&ctx, &shared) < 0)
      return "write_tables";
  }
  return NULL;
}

static void
test_threads (void **state)
{
  pthread_t threads[4];
  struct vd_ctx ctx = new_ctx ();
  const uint8_t *data;
  size_t size;
  uintptr_t t;
  uint64_t i;

  (void) state;
  must_open (build ((struct sample) { .blocks = 2000, .block_size = 4096 }),
             true, &shared);
  assert_int_equal (f->begin_session (&ctx, &shared), 0);
  for (t = 0; t < 4; ++t)
    assert_int_equal (pthread_create (&threads[t], NULL, reserve_and_commit,
                                      (void *) t), 0);
  for (t = 0; t < 4; ++t) {
    void *error;

    assert_int_equal (pthread_join (threads[t], &error), 0);
    if (error)
      fail_msg ("%s", (char *) error);
  }
  assert_int_equal (f->end_session (&ctx, &shared), 0);
  data = file (&shared, &size);
  assert_int_equal (peek (data, 388, 4), 2000);
  assert_int_equal (size, 2 * MIB + 2000 * 4096);
  for (i = 0; i < 2000; ++i) {
    struct vd_run run = locate (&shared, i * 4096, 4096);

    assert_int_equal (run.kind, VD_RUN_DATA);
    assert_int_equal (peek (data, run.position, 8), i);
  }
  close_image (&shared);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_probe),
    cmocka_unit_test (test_fields),
    cmocka_unit_test (test_differencing),
    cmocka_unit_test (test_version_0),
    cmocka_unit_test (test_lchs_versions),
    cmocka_unit_test (test_odd_offsets),
    cmocka_unit_test (test_extra),
    cmocka_unit_test (test_runs),
    cmocka_unit_test (test_runs_over_pages),
    cmocka_unit_test (test_page_error),
    cmocka_unit_test (test_file_grows_under_a_reader),
    cmocka_unit_test (test_pool),
    cmocka_unit_test (test_holes),
    cmocka_unit_test (test_growth),
    cmocka_unit_test (test_growth_without_space),
    cmocka_unit_test (test_fixed_size),
    cmocka_unit_test (test_commit),
    cmocka_unit_test (test_many_changes),
    cmocka_unit_test (test_count_lies),
    cmocka_unit_test (test_header_is_written_if_needed),
    cmocka_unit_test (test_session),
    cmocka_unit_test (test_fresh_after_a_cut),
    cmocka_unit_test (test_header_sizes),
    cmocka_unit_test (test_set_meta),
    cmocka_unit_test (test_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
