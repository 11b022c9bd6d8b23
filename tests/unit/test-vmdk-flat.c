/* SPDX-License-Identifier: BSD-3-Clause
 *
 * FLAT and ZERO extents.
 */

#include <config.h>

#include "extent-image.h"

#include "image.h"
#include "sim.h"

static char warning[1024];

static void
keep_warning (enum vd_log_level level, const char *text)
{
  if (level == VD_LOG_WARNING)
    snprintf (warning, sizeof warning, "%s", text);
}

static void
open_flat (struct sample *s, uint64_t file_size, uint64_t offset,
           uint64_t size, bool write)
{
  struct vd_store *st;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, keep_warning);
  warning[0] = '\0';
  assert_ok (&ctx, vd_memory_open (&ctx, "extent", NULL, file_size, write,
                                   &st));
  sample_init (s, st, size);
  s->x.file_offset = offset;
  s->x.write = write;
  assert_ok (&ctx, vmdk_flat_open (&ctx, &s->x));
  assert_int_equal (s->x.grain, 0);
  assert_false (s->x.has_zero);
}

static void
test_flat (void **state)
{
  struct sample s;

  (void) state;
  open_flat (&s, 1 * MIB, 0, 1 * MIB, true);
  assert_string_equal (warning, "");
  assert_string_equal (s.x.no_write, "");
  check_run (&s, 0, 1 * MIB, VD_RUN_DATA, 1 * MIB, 0);
  check_run (&s, 513, 100, VD_RUN_DATA, 100, 513);
  assert_int_equal (locate (&s, 0, 1).mode, VD_MODE_IN_PLACE);
  sample_free (&s);

  /* In the middle of a file (M23), and up to its last byte. */
  open_flat (&s, 1 * MIB, 16384 * 32, 512 * KIB, true);
  assert_string_equal (s.x.no_write, "");
  check_run (&s, 0, 512 * KIB, VD_RUN_DATA, 512 * KIB, 512 * KIB);
  check_run (&s, 512 * KIB - 1, 1, VD_RUN_DATA, 1, 1 * MIB - 1);
  sample_free (&s);
}

static void
test_read_only (void **state)
{
  struct vd_run run;
  struct sample s;

  (void) state;
  open_flat (&s, 4096, 0, 4096, false);
  assert_string_equal (s.x.no_write, "");
  run = locate (&s, 0, 4096);
  assert_int_equal (run.mode, VD_MODE_DENY);
  assert_int_equal (run.error, EROFS);
  s.x.access = VMDK_RDONLY;
  run = locate (&s, 0, 4096);
  assert_int_equal (run.kind, VD_RUN_DATA);
  assert_int_equal (run.mode, VD_MODE_DENY);
  assert_int_equal (run.error, EPERM);
  assert_non_null (strstr (run.reason, "RDONLY"));
  assert_int_equal (run.value, 7);
  sample_free (&s);
}

/* M07: qemu reads zeroes there. */
static void
test_short (void **state)
{
  struct sample s;

  (void) state;
  open_flat (&s, 700 * KIB, 512 * KIB, 512 * KIB, true);
  assert_non_null (strstr (warning, "extent 7 of disk.vmdk"));
  assert_non_null (strstr (s.x.no_write, "716800 bytes, 1048576 are needed"));
  check_run (&s, 0, 512 * KIB, VD_RUN_DATA, 188 * KIB, 512 * KIB);
  check_bad (&s, 188 * KIB, 324 * KIB, 324 * KIB, "ends before", 700 * KIB);
  check_bad (&s, 512 * KIB - 1, 1, 1, "ends before", 700 * KIB);
  sample_free (&s);

  /* In the middle of a sector. */
  open_flat (&s, 1000, 0, 1024, false);
  check_run (&s, 512, 512, VD_RUN_DATA, 488, 512);
  check_bad (&s, 1000, 24, 24, "ends before", 1000);
  sample_free (&s);

  /* Nothing is there at all, and sums that could overflow. */
  open_flat (&s, 1000, 4096, 512, false);
  check_bad (&s, 0, 512, 512, "ends before", 1000);
  sample_free (&s);
  open_flat (&s, 1000, INT64_MAX / 512 * 512, INT64_MAX / 512 * 512, true);
  check_bad (&s, 0, 512, 512, "ends before", 1000);
  check_bad (&s, INT64_MAX - 1024, 512, 512, "ends before", 1000);
  sample_free (&s);
  open_flat (&s, 0, 0, 512, false);
  check_bad (&s, 0, 512, 512, "ends before", 0);
  sample_free (&s);

  /* An empty extent is legal wherever it is, as long as the file has it. */
  open_flat (&s, 4096, 4096, 0, true);
  assert_string_equal (s.x.no_write, "");
  sample_free (&s);
}

static void
test_zero (void **state)
{
  struct vd_run run;
  struct sample s;
  UNIT_CTX (ctx);

  (void) state;
  sample_init (&s, NULL, 8 * TIB);
  s.x.write = true;
  assert_ok (ctx, vmdk_zero_open (ctx, &s.x));
  assert_string_equal (s.x.no_write, "");
  assert_int_equal (s.x.grain, 0);
  check_run (&s, 0, 8 * TIB, VD_RUN_ZERO, 8 * TIB, 0);
  run = locate (&s, 8 * TIB - 1, 1);
  assert_int_equal (run.kind, VD_RUN_ZERO);
  assert_int_equal (run.mode, VD_MODE_DENY);
  assert_int_equal (run.error, EPERM);
  assert_string_equal (run.reason, "a ZERO extent cannot be written");
  sample_free (&s);
}

/* A server was killed, its data are in the page cache.  Who opens the image to
 * write it makes them durable, in each file (rules O13).
 */
static void
test_sync_at_open (void **state)
{
  static const char text[] =
    "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
    "createType=\"custom\"\nRW 2 FLAT \"a\" 0\nRW 2 FLAT \"b\" 0\n";
  const struct vd_open how = { .write = VD_WRITE_REQUIRE };
  struct vd_sim *sim = vd_sim_new (), *cut;
  struct vd_folder *folder;
  struct vd_image *image;
  struct vd_store *st;
  char data[1024];
  uint64_t seed;
  int i;
  UNIT_CTX (ctx);

  (void) state;
  memset (data, 'x', sizeof data);
  assert_non_null (sim);
  for (i = 0; i < 3; ++i) {
    assert_ok (ctx, vd_sim_open (ctx, sim, i == 0 ? "disk.vmdk" : i == 1 ?
                                 "a" : "b", true, &st));
    assert_ok (ctx, vd_store_truncate (ctx, st, i == 0 ? sizeof text - 1 :
                                       sizeof data));
    if (i == 0)
      assert_ok (ctx, vd_store_pwrite (ctx, st, text, sizeof text - 1, 0, 0));
    assert_ok (ctx, vd_store_sync (ctx, st));
    if (i > 0)
      assert_ok (ctx, vd_store_pwrite (ctx, st, data, sizeof data, 0, 0));
    vd_store_close (st);
  }
  assert_ok (ctx, vd_sim_folder (ctx, sim, &folder));
  assert_ok (ctx, vd_sim_open (ctx, sim, "disk.vmdk", true, &st));
  assert_ok (ctx, vd_image_open_folder (ctx, st, folder, &how, &image));
  for (seed = 1; seed < 20; ++seed) {
    uint64_t draw = seed;

    cut = vd_sim_power_cut (sim, vd_sim_log_length (sim), &draw);
    assert_non_null (cut);
    for (i = 1; i < 3; ++i) {
      char read[1024] = { 0 };

      assert_ok (ctx, vd_sim_open (ctx, cut, i == 1 ? "a" : "b", false, &st));
      assert_ok (ctx, vd_store_pread (ctx, st, read, sizeof read, 0));
      vd_store_close (st);
      assert_memory_equal (read, data, sizeof data);
    }
    vd_sim_free (cut);
  }
  assert_ok (ctx, vd_image_close (ctx, image));
  vd_sim_free (sim);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_flat),
    cmocka_unit_test (test_read_only),
    cmocka_unit_test (test_short),
    cmocka_unit_test (test_zero),
    cmocka_unit_test (test_sync_at_open),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
