/* SPDX-License-Identifier: BSD-3-Clause
 *
 * New VDI images: every byte of the layout, the limits, and the order in
 * which they reach the disk.
 */

#include <config.h>

#include <errno.h>

#include "vdi-image.h"
#include "sim.h"

static const struct vd_format *const f = &vd_format_vdi;

static struct vd_store *
create (const struct vd_create *how)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_store *st;

  assert_int_equal (vd_memory_open (&ctx, "new.vdi", NULL, 0, true, &st), 0);
  if (f->check_create (&ctx, how) < 0)
    fail_msg ("%s", ctx.message);
  if (f->create (&ctx, st, how) < 0)
    fail_msg ("%s", ctx.message);
  return st;
}

/* Refused by check_create, and by create without touching the file. */
static void
refused (const struct vd_create *how, int error, const char *part,
         const char *part2)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_store *st;
  size_t size;

  assert_int_equal (f->check_create (&ctx, how), -error);
  expect_text (ctx.message, part);
  expect_text (ctx.message, part2);
  ctx = new_ctx ();
  assert_int_equal (vd_memory_open (&ctx, "new.vdi", NULL, 0, true, &st), 0);
  assert_int_equal (f->create (&ctx, st, how), -error);
  expect_text (ctx.message, part);
  vd_memory_data (st, &size);
  assert_int_equal (size, 0);
  vd_store_close (st);
}

static void
test_dynamic (void **state)
{
  struct vd_store *st = create (&(struct vd_create) {
      .size = 7 * MIB + 512, .comment = "hello", .lchs = { 1, 2, 3 } });
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  struct vd_uuid uuid, modification;
  const uint8_t *data;
  size_t size, i;

  (void) state;
  data = vd_memory_data (st, &size);
  assert_int_equal (size, 2 * MIB);
  assert_memory_equal (data, "<<< vdkit Virtual Disk Image >>>\n\0", 34);
  assert_int_equal (peek (data, 64, 4), 0xbeda107f);
  assert_int_equal (peek (data, 68, 4), 0x10001);
  assert_int_equal (peek (data, 72, 4), 400);
  assert_int_equal (peek (data, 76, 4), 1);
  assert_int_equal (peek (data, 80, 4), 0);
  assert_memory_equal (&data[84], "hello\0", 6);
  assert_int_equal (peek (data, 340, 4), MIB);
  assert_int_equal (peek (data, 344, 4), 2 * MIB);
  assert_int_equal (peek (data, 348, 8), 0);
  assert_int_equal (peek (data, 356, 4), 0);
  assert_int_equal (peek (data, 360, 4), 512);
  assert_int_equal (peek (data, 364, 4), 0);
  assert_int_equal (peek (data, 368, 8), 7 * MIB + 512);
  assert_int_equal (peek (data, 376, 4), MIB);
  assert_int_equal (peek (data, 380, 4), 0);
  assert_int_equal (peek (data, 384, 4), 8);
  assert_int_equal (peek (data, 388, 4), 0);
  vd_uuid_from_disk (&data[392], &uuid);
  vd_uuid_from_disk (&data[408], &modification);
  assert_int_equal (uuid.bytes[6] >> 4, 4);
  assert_int_equal (modification.bytes[6] >> 4, 4);
  assert_false (vd_uuid_equal (&uuid, &modification));
  for (i = 424; i < 456; ++i)
    assert_int_equal (data[i], 0);
  assert_int_equal (peek (data, 456, 4), 1);
  assert_int_equal (peek (data, 460, 4), 2);
  assert_int_equal (peek (data, 464, 4), 3);
  assert_int_equal (peek (data, 468, 4), 512);
  for (i = 472; i < MIB; ++i)
    assert_int_equal (data[i], 0);
  for (i = 0; i < 8; ++i)
    assert_int_equal (peek (data, MIB + 4 * i, 4), FREE);
  for (i = MIB + 32; i < 2 * MIB; ++i)
    assert_int_equal (data[i], 0);

  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_string_equal (image.no_write, "");
  assert_string_equal (warnings, "");
  assert_int_equal (image.size, 7 * MIB + 512);
  assert_string_equal (image.variant, "dynamic");
  assert_string_equal (image.comment, "hello");
  assert_false (image.differencing);
  expect_run (&image, 0, image.size, VD_RUN_PARENT, image.size, 0);
  close_image (&image);
}

static void
test_fixed (void **state)
{
  struct vd_store *st = create (&(struct vd_create) {
      .size = 3 * MIB + 512, .variant = "fixed" });
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  const uint8_t *data;
  size_t size, i;

  (void) state;
  data = vd_memory_data (st, &size);
  assert_int_equal (size, 6 * MIB);
  assert_int_equal (peek (data, 76, 4), 2);
  assert_int_equal (peek (data, 388, 4), 4);
  for (i = 0; i < 4; ++i)
    assert_int_equal (peek (data, MIB + 4 * i, 4), i);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_string_equal (image.no_write, "");
  assert_string_equal (image.variant, "fixed");
  expect_run (&image, 0, image.size, VD_RUN_DATA, image.size, 2 * MIB);
  close_image (&image);
}

static void
test_differencing (void **state)
{
  struct vd_create how = { .size = 4 * MIB, .variant = "dynamic" };
  struct vd_store *st;
  struct vd_image image;
  struct vd_ctx ctx = new_ctx ();
  const uint8_t *data;
  size_t size;

  (void) state;
  vd_uuid_random (&how.link.uuid);
  vd_uuid_random (&how.link.modification);
  vd_uuid_random (&how.link.parent);
  vd_uuid_random (&how.link.parent_modification);
  st = create (&how);
  data = vd_memory_data (st, &size);
  assert_int_equal (size, 2 * MIB);
  assert_int_equal (peek (data, 76, 4), 4);
  assert_int_equal (open_store (&ctx, st, true, &image), 0);
  assert_true (image.differencing);
  assert_memory_equal (&image.link, &how.link, sizeof how.link);
  close_image (&image);

  how.variant = "fixed";
  refused (&how, EINVAL, "variant is \"fixed\"", "parent");
  how.variant = NULL;
  memset (&how.link.parent, 0, sizeof how.link.parent);
  refused (&how, EINVAL, "uuidParentModify", "parent");
}

static void
test_alignment (void **state)
{
  static const struct { uint64_t alignment, blocks, off_blocks, off_data; }
  cases[] = {
    { 512, 1, 512, 1024 }, { 512, 128, 512, 1024 }, { 512, 129, 512, 1536 },
    { 4096, 8, 4096, 8192 }, { 65536, 8, 65536, 131072 },
    { MIB, 262144, MIB, 2 * MIB }, { MIB, 262145, MIB, 3 * MIB },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct vd_store *st = create (&(struct vd_create) {
        .size = cases[i].blocks * MIB, .alignment = cases[i].alignment });
    struct vd_image image;
    struct vd_ctx ctx = new_ctx ();
    const uint8_t *data;
    size_t size;

    data = vd_memory_data (st, &size);
    assert_int_equal (peek (data, 340, 4), cases[i].off_blocks);
    assert_int_equal (peek (data, 344, 4), cases[i].off_data);
    assert_int_equal (size, cases[i].off_data);
    assert_int_equal (open_store (&ctx, st, true, &image), 0);
    assert_string_equal (image.no_write, "");
    close_image (&image);
  }
  refused (&(struct vd_create) { .size = MIB, .alignment = 256 }, EINVAL,
           "alignment is 256", "512");
  refused (&(struct vd_create) { .size = MIB, .alignment = 3 * 512 }, EINVAL,
           "alignment is 1536", "power of two");
  refused (&(struct vd_create) { .size = MIB, .alignment = 2 * MIB }, EINVAL,
           "alignment is 2097152", "1048576");
}

static void
test_block_sizes (void **state)
{
  uint64_t bs;
  uint8_t force;

  (void) state;
  for (bs = 2048; bs <= 512 * MIB; bs *= 2)
    for (force = 0; force <= 1; ++force) {
      const struct vd_create how = { .size = MIB, .block_size = bs,
                                     .force = force };
      struct vd_ctx ctx = new_ctx ();
      int r = f->check_create (&ctx, &how);

      if (bs >= 512 * KIB && bs <= 8 * MIB)
        assert_int_equal (r, 0);
      else {
        char text[64];

        snprintf (text, sizeof text, "block-size is %llu",
                  (unsigned long long) bs);
        if (force && bs >= 4096 && bs <= 256 * MIB)
          assert_int_equal (r, 0);
        else
          refused (&how, EINVAL, text, "524288 to 8388608");
      }
    }
  refused (&(struct vd_create) { .size = MIB, .block_size = 3 * MIB,
                                 .force = true },
           EINVAL, "block-size is 3145728", "power of two");
  refused (&(struct vd_create) { .size = MIB,
                                 .block_size = (UINT64_C (1) << 32) + MIB },
           EINVAL, "block-size", "4296015872");
}

static void
test_sizes (void **state)
{
  /* The map of that many blocks still leaves offData in 32 bits
   * (vdi-format 11).
   */
  const uint64_t max = 1073217536;
  struct vd_ctx ctx = new_ctx ();
  struct vd_create how = { 0 };

  (void) state;
  refused (&how, EINVAL, "size is 0", "512");
  how.size = 513;
  refused (&how, EINVAL, "size is 513", "512");
  how.size = 512;
  assert_int_equal (f->check_create (&ctx, &how), 0);
  how.size = max * MIB;
  assert_int_equal (f->check_create (&ctx, &how), 0);
  how.size += 512;
  refused (&how, EFBIG, "use a larger block-size", "2097152");
  how.variant = "fixed";
  refused (&how, EFBIG, "use a larger block-size", "2097152");
  how.block_size = 2 * MIB;
  assert_int_equal (f->check_create (&ctx, &how), 0);
  how.size = max * 8 * MIB + 512;
  refused (&how, EFBIG, "use a larger block-size", "16777216 and \"force\"");
  how.block_size = 256 * MIB;
  how.force = true;
  how.size = max * 256 * MIB;
  assert_int_equal (f->check_create (&ctx, &how), 0);
  how.size += 512;
  refused (&how, EFBIG, "more than a VDI can hold", "288089638663356416");
  how.size = UINT64_MAX - 511;
  refused (&how, EFBIG, "more than a VDI can hold", "18446744073709551104");
  how.block_size = 4096;
  refused (&how, EFBIG, "more than a VDI can hold", "18446744073709551104");
  how.alignment = 512;
  refused (&how, EFBIG, "more than a VDI can hold", "18446744073709551104");
}

static void
test_other_refusals (void **state)
{
  char comment[257];

  (void) state;
  memset (comment, 'x', sizeof comment);
  comment[256] = '\0';
  refused (&(struct vd_create) { .size = MIB, .comment = comment }, EINVAL,
           "comment is 256", "255");
  refused (&(struct vd_create) { .size = MIB, .variant = "split" }, EINVAL,
           "variant is \"split\"", "dynamic");
  refused (&(struct vd_create) { .size = MIB, .lchs = { 1, 256, 1 } }, EINVAL,
           "heads is 256", "255");
  refused (&(struct vd_create) { .size = MIB, .lchs = { 1, 1, 64 } }, EINVAL,
           "sectors is 64", "63");
  comment[255] = '\0';
  vd_store_close (create (&(struct vd_create) { .size = MIB,
                                                .comment = comment }));
}

/* After a power cut at any moment the file is no VDI, or a whole one
 * (rules O16).
 */
static void
test_order (void **state)
{
  static const char *const variants[] = { "dynamic", "fixed" };
  size_t v, n;
  int i;

  (void) state;
  for (v = 0; v < 2; ++v) {
    struct vd_sim *sim = vd_sim_new ();
    struct vd_ctx ctx = new_ctx ();
    struct vd_store *st;
    uint64_t seed = 42;
    int whole = 0, none = 0;

    assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
    assert_int_equal (f->create (&ctx, st, &(struct vd_create) {
          .size = 2 * MIB, .alignment = 512, .block_size = 64 * KIB,
          .force = true, .variant = variants[v] }), 0);
    vd_store_close (st);
    for (n = 0; n <= vd_sim_log_length (sim); ++n)
      for (i = 0; i < 20; ++i) {
        struct vd_sim *cut = vd_sim_power_cut (sim, n, &seed);
        struct vd_image image;
        uint8_t head[512];
        uint64_t size;

        assert_int_equal (vd_sim_open (&ctx, cut, "a", true, &st), 0);
        assert_int_equal (vd_store_get_size (&ctx, st, &size), 0);
        if (size < 512 || vd_store_pread (&ctx, st, head, 512, 0) < 0 ||
            !f->probe (head, 512)) {
          vd_store_close (st);
          none++;
        }
        else {
          whole++;
          assert_int_equal (open_store (&ctx, st, true, &image), 0);
          assert_string_equal (image.no_write, "");
          assert_string_equal (warnings, "");
          expect_run (&image, 0, 2 * MIB,
                      v ? VD_RUN_DATA : VD_RUN_PARENT, 2 * MIB, 1024);
          close_image (&image);
        }
        vd_sim_free (cut);
      }
    assert_true (whole >= 20 && none >= 20);
    vd_sim_free (sim);
  }
}

/* Whatever call fails, create says so. */
static void
test_errors (void **state)
{
  uint64_t n;
  bool hit = true;

  (void) state;
  for (n = 1; hit; ++n) {
    struct vd_sim *sim = vd_sim_new ();
    struct vd_ctx ctx = new_ctx ();
    struct vd_store *st;
    int r;

    assert_int_equal (vd_sim_open (&ctx, sim, "a", true, &st), 0);
    vd_sim_fail_at (sim, n, EIO, false);
    r = f->create (&ctx, st, &(struct vd_create) {
        .size = 2 * MIB, .variant = "fixed" });
    hit = vd_sim_fault_hit (sim);
    assert_int_equal (r, hit ? -EIO : 0);
    assert_int_equal (ctx.error, hit ? EIO : 0);
    vd_store_close (st);
    vd_sim_free (sim);
  }
  assert_in_range (n, 5, 8);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_dynamic),
    cmocka_unit_test (test_fixed),
    cmocka_unit_test (test_differencing),
    cmocka_unit_test (test_alignment),
    cmocka_unit_test (test_block_sizes),
    cmocka_unit_test (test_sizes),
    cmocka_unit_test (test_other_refusals),
    cmocka_unit_test (test_order),
    cmocka_unit_test (test_errors),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
