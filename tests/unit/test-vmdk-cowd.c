/* SPDX-License-Identifier: BSD-3-Clause
 *
 * COWD extents, made by hand (vmdk-format 8.2 and 17).
 */

#include <config.h>

#include "extent-image.h"

#include <fcntl.h>
#include <time.h>

#include "file.h"

#define VERSION_OFF 4
#define FLAGS_OFF 8
#define CAPACITY_OFF 12
#define GRAIN_OFF 16
#define GD_OFF 20
#define NGDES_OFF 24

/* A header of so many sectors and grains of so many, the directory behind
 * it; file_size in sectors.
 */
static struct bytes
build (uint32_t capacity, uint32_t grain, uint32_t file_sectors)
{
  struct bytes b = bytes_new (file_sectors * SECTOR);
  uint32_t n = (capacity + 4096 * grain - 1) / (4096 * grain);

  memcpy (b.data, "COWD", 4);
  poke (&b, VERSION_OFF, 4, 1);
  poke (&b, FLAGS_OFF, 4, 3);
  poke (&b, CAPACITY_OFF, 4, capacity);
  poke (&b, GRAIN_OFF, 4, grain);
  poke (&b, GD_OFF, 4, 4);
  poke (&b, NGDES_OFF, 4, n);
  return b;
}

static void
opens (struct sample *s, struct bytes *b, uint64_t size)
{
  UNIT_CTX (ctx);

  sample_bytes (s, b, size);
  assert_ok (ctx, vmdk_cowd_open (ctx, &s->x));
  assert_non_null (strstr (s->x.no_write, "COWD"));
  assert_false (s->x.has_zero);
}

static void
refuses (struct bytes *b, uint64_t size, int err, const char *text)
{
  expect_refused (vmdk_cowd_open, b, size, err, text);
}

/* Poke, expect a refusal, put it back. */
static void
refuses_with (struct bytes *b, uint64_t size, uint64_t offset, uint32_t value,
              int err, const char *text)
{
  uint8_t old[4];

  memcpy (old, b->data + offset, 4);
  poke (b, offset, 4, value);
  refuses (b, size, err, text);
  memcpy (b->data + offset, old, 4);
}

/* Sectors 0 and 5 are allocated. */
static void
test_grain_1 (void **state)
{
  struct bytes b = build (2048, 1, 40);
  struct sample s;

  (void) state;
  poke (&b, 4 * SECTOR, 4, 5);                  /* table at sector 5 */
  poke (&b, 5 * SECTOR, 4, 38);
  poke (&b, 5 * SECTOR + 5 * 4, 4, 37);
  fill (&b, 38 * SECTOR, SECTOR, 'A');
  fill (&b, 37 * SECTOR, SECTOR, 'B');
  opens (&s, &b, 1 * MIB);
  assert_int_equal (s.x.grain, 512);
  check_run (&s, 0, 1 * MIB, VD_RUN_DATA, SECTOR, 38 * SECTOR);
  check_run (&s, 1, 3, VD_RUN_DATA, 3, 38 * SECTOR + 1);
  check_run (&s, SECTOR, 1 * MIB - SECTOR, VD_RUN_PARENT, 4 * SECTOR, 0);
  check_run (&s, 5 * SECTOR, 1 * MIB - 5 * SECTOR, VD_RUN_DATA, SECTOR,
             37 * SECTOR);
  check_run (&s, 6 * SECTOR, 1 * MIB - 6 * SECTOR, VD_RUN_PARENT,
             1 * MIB - 6 * SECTOR, 0);
  assert_int_equal (byte_at (&s, 511), 'A');
  assert_int_equal (byte_at (&s, 512), 'P');
  assert_int_equal (byte_at (&s, 5 * 512), 'B');
  assert_int_equal (locate (&s, 0, 1).error, EPERM);
  sample_free (&s);
  free (b.data);
}

/* Two tables, grains 0 and 5 are allocated, and the last one of the first
 * table together with the first of the second one.
 */
static void
test_grain_8 (void **state)
{
  const uint32_t capacity = 4096 * 8 + 100;
  const uint64_t size = (uint64_t) capacity * SECTOR, gt = 4096 * 4096;
  struct bytes b = build (capacity, 8, 120);
  struct sample s;

  (void) state;
  poke (&b, 4 * SECTOR, 4, 37);
  poke (&b, 4 * SECTOR + 4, 4, 5);
  poke (&b, 37 * SECTOR, 4, 80);
  poke (&b, 37 * SECTOR + 5 * 4, 4, 112);       /* the last in the file */
  poke (&b, 37 * SECTOR + 4095 * 4, 4, 88);
  poke (&b, 5 * SECTOR, 4, 96);
  poke (&b, 5 * SECTOR + 12 * 4, 4, 104);       /* half of it is disk */
  fill (&b, 80 * SECTOR, 4096, 'A');
  fill (&b, 112 * SECTOR, 4096, 'B');
  opens (&s, &b, size);
  assert_int_equal (s.x.grain, 4096);
  check_run (&s, 0, size, VD_RUN_DATA, 4096, 80 * SECTOR);
  check_run (&s, 4096, size - 4096, VD_RUN_PARENT, 4 * 4096, 0);
  check_run (&s, 5 * 4096 + 7, 1 * MIB, VD_RUN_DATA, 4096 - 7,
             112 * SECTOR + 7);
  check_run (&s, gt - 4096, size - gt + 4096, VD_RUN_DATA, 2 * 4096,
             88 * SECTOR);
  check_run (&s, gt + 12 * 4096, 4 * SECTOR, VD_RUN_DATA, 4 * SECTOR,
             104 * SECTOR);
  check_run (&s, 6 * 4096, size - 6 * 4096, VD_RUN_PARENT, 4089 * 4096, 0);
  check_run (&s, gt + 4096, 11 * 4096, VD_RUN_PARENT, 11 * 4096, 0);
  assert_int_equal (byte_at (&s, 5 * 4096), 'B');
  sample_free (&s);

  /* Without any table it is one run. */
  poke (&b, 4 * SECTOR, 8, 0);
  opens (&s, &b, size);
  check_run (&s, 0, size, VD_RUN_PARENT, size, 0);
  sample_free (&s);

  /* The descriptor may have less, and what rounding adds. */
  poke (&b, CAPACITY_OFF, 4, capacity - 3);
  opens (&s, &b, size);
  sample_free (&s);
  opens (&s, &b, 512);
  sample_free (&s);
  opens (&s, &b, 0);
  sample_free (&s);
  refuses (&b, size + 4096, EIO, "numSectors");
  free (b.data);
}

static void
test_damage (void **state)
{
  const uint32_t capacity = 6 * 4096 * 8;
  const uint64_t size = (uint64_t) capacity * SECTOR, gt = 4096 * 4096;
  struct bytes b = build (capacity, 8, 91);
  struct sample s;
  uint64_t i;

  (void) state;
  /* Directory: good, in the header, itself, in part behind the end, far
   * behind it, none.
   */
  poke (&b, 4 * SECTOR, 4, 40);
  poke (&b, 4 * SECTOR + 4, 4, 3);
  poke (&b, 4 * SECTOR + 8, 4, 4);
  poke (&b, 4 * SECTOR + 12, 4, 60);
  poke (&b, 4 * SECTOR + 16, 4, UINT32_MAX);
  poke (&b, 40 * SECTOR, 4, 1);
  poke (&b, 40 * SECTOR + 4, 4, 1);
  poke (&b, 40 * SECTOR + 8, 4, 4);
  poke (&b, 40 * SECTOR + 12, 4, 84);           /* 7 of 8 sectors */
  poke (&b, 40 * SECTOR + 16, 4, 91);
  poke (&b, 40 * SECTOR + 20, 4, UINT32_MAX);
  poke (&b, 40 * SECTOR + 24, 4, 83);           /* all 8 */
  opens (&s, &b, size);
  check_bad (&s, 0, size, 2 * 4096, "into the header", 1);
  check_bad (&s, 100, 5000, 5000, "into the header", 1);
  check_bad (&s, 2 * 4096, size - 2 * 4096, 4096, "into the header", 4);
  check_run (&s, 3 * 4096, 4096, VD_RUN_DATA, 7 * SECTOR, 84 * SECTOR);
  check_bad (&s, 4 * 4096 - SECTOR, SECTOR, SECTOR, "beyond the end", 84);
  check_bad (&s, 4 * 4096, 1 * MIB, 4096, "beyond the end", 91);
  check_bad (&s, 5 * 4096, 1 * MIB, 4096, "beyond the end", UINT32_MAX);
  check_run (&s, 6 * 4096, 1 * MIB, VD_RUN_DATA, 4096, 83 * SECTOR);
  check_run (&s, 7 * 4096, 1 * MIB, VD_RUN_PARENT, 1 * MIB, 0);
  check_bad (&s, gt, size - gt, gt, "directory entry points into", 3);
  check_bad (&s, 2 * gt + 77, size - 2 * gt - 77, gt - 77,
             "directory entry points into", 4);
  check_bad (&s, 3 * gt, size - 3 * gt, gt, "directory entry points beyond",
             60);
  check_bad (&s, 4 * gt, size - 4 * gt, gt, "directory entry points beyond",
             UINT32_MAX);
  check_run (&s, 5 * gt, size - 5 * gt, VD_RUN_PARENT, gt, 0);
  sample_free (&s);

  /* The last table need not be whole. */
  poke (&b, 4 * SECTOR + 20, 4, 90);
  opens (&s, &b, 5 * gt + 128 * 4096);
  check_run (&s, 5 * gt, 128 * 4096, VD_RUN_PARENT, 128 * 4096, 0);
  sample_free (&s);
  opens (&s, &b, 5 * gt + 129 * 4096);
  check_bad (&s, 5 * gt, 129 * 4096, 129 * 4096, "beyond", 90);
  sample_free (&s);

  /* Cut off anywhere: refused or read, with nothing out of bounds. */
  for (i = 0; i < b.size; i += i < 2100 ? 13 : 512) {
    struct bytes cut = { b.data, i };

    if (i < 2048 + 24)
      refuses (&cut, size, EIO, i < 2048 ? "too short" : "gdOffset");
    else {
      uint64_t offset;

      opens (&s, &cut, size);
      for (offset = 0; offset < size;
           offset += locate (&s, offset, size - offset).length)
        byte_at (&s, offset);
      sample_free (&s);
    }
  }
  free (b.data);
}

static void
test_header (void **state)
{
  struct bytes b = build (4096 * 8 * 2, 8, 60);
  const uint64_t size = 4096 * 4096 * 2;
  struct sample s;

  (void) state;
  opens (&s, &b, size);
  sample_free (&s);
  poke (&b, VERSION_OFF, 4, 3);
  opens (&s, &b, size);
  sample_free (&s);
  poke (&b, FLAGS_OFF, 4, 0);
  opens (&s, &b, size);
  sample_free (&s);

  refuses_with (&b, size, 0, 0x564d444b, EIO, "magic 0x564d444b");
  refuses_with (&b, size, VERSION_OFF, 0, ENOTSUP, "version is 0");
  refuses_with (&b, size, VERSION_OFF, 2, ENOTSUP, "version is 2");
  refuses_with (&b, size, FLAGS_OFF, 0x10003, ENOTSUP, "0x10000");
  refuses_with (&b, size, CAPACITY_OFF, 65535 - 8, EIO, "numSectors");
  refuses_with (&b, size, CAPACITY_OFF, 0, EIO, "numSectors");
  refuses_with (&b, size, GRAIN_OFF, 0, EIO, "grainSize is 0");
  refuses_with (&b, size, GRAIN_OFF, 3, EIO, "grainSize is 3");
  refuses_with (&b, size, GRAIN_OFF, 4096, EIO, "grainSize is 4096");
  refuses_with (&b, size, GRAIN_OFF, UINT32_MAX, EIO, "grainSize");
  refuses_with (&b, size, NGDES_OFF, 1, EIO, "numGDEntries is 1");
  refuses_with (&b, size, NGDES_OFF, 0, EIO, "numGDEntries is 0");
  refuses_with (&b, size, GD_OFF, 0, EIO, "gdOffset is 0");
  refuses_with (&b, size, GD_OFF, 3, EIO, "gdOffset is 3");
  refuses_with (&b, size, GD_OFF, 60, EIO, "gdOffset is 60");
  refuses_with (&b, size, GD_OFF, UINT32_MAX, EIO, "gdOffset");

  /* Grains may be as large as this. */
  poke (&b, GRAIN_OFF, 4, 2048);
  opens (&s, &b, size);
  assert_int_equal (s.x.grain, 1 * MIB);
  sample_free (&s);

  /* The directory elsewhere, more entries than needed. */
  poke (&b, GRAIN_OFF, 4, 8);
  poke (&b, GD_OFF, 4, 59);
  poke (&b, NGDES_OFF, 4, UINT32_MAX);
  opens (&s, &b, size);
  check_run (&s, 0, size, VD_RUN_PARENT, size, 0);
  sample_free (&s);
  free (b.data);
}

static void
test_parent_name (void **state)
{
  struct bytes b = build (2048, 1, 10);
  struct sample s;

  (void) state;
  opens (&s, &b, 1 * MIB);
  assert_false (s.x.differing);
  sample_free (&s);

  /* A root's geometry, where the first number looks like text. */
  poke (&b, 32, 4, 0x2822);
  poke (&b, 36, 4, 16);
  poke (&b, 40, 4, 63);
  opens (&s, &b, 1 * MIB);
  assert_false (s.x.differing);
  sample_free (&s);

  fill (&b, 32, 1024, 0);
  memcpy (b.data + 32, "disk-000001-delta.vmdk", 22);
  opens (&s, &b, 1 * MIB);
  assert_true (s.x.differing);
  sample_free (&s);
  fill (&b, 32, 1024, 'x');
  opens (&s, &b, 1 * MIB);
  assert_true (s.x.differing);
  sample_free (&s);
  b.data[40] = '\n';
  opens (&s, &b, 1 * MIB);
  assert_false (s.x.differing);
  sample_free (&s);
  free (b.data);
}

/* A walk over all of it takes this many calls. */
static uint64_t
walk (struct sample *s, uint64_t *ret_data)
{
  uint64_t offset, n = 0;

  *ret_data = 0;
  for (offset = 0; offset < s->x.size; ++n) {
    struct vd_run run = locate (s, offset, s->x.size - offset);

    if (run.kind == VD_RUN_DATA)
      *ret_data += run.length;
    offset += run.length;
  }
  return n;
}

/* 2 TiB claimed by a small file is refused; proved by a sparse one, it takes
 * little memory (the table pages that are allowed) and few calls.
 */
static void
test_huge (void **state)
{
  const uint64_t size = UINT64_C (0xffffffff) * SECTOR;
  struct bytes b = build (UINT32_MAX, 2048, 10);
  struct timespec start, end;
  struct vd_store *st;
  struct sample s;
  uint64_t data;
  uint8_t e[4];
  int fd;
  UNIT_CTX (ctx);

  (void) state;
  /* The directory of large grains is small. */
  poke (&b, NGDES_OFF, 4, 512);
  opens (&s, &b, size);
  assert_true (walk (&s, &data) <= 4);
  assert_int_equal (data, 0);
  sample_free (&s);
  poke (&b, GRAIN_OFF, 4, 1);
  poke (&b, NGDES_OFF, 4, UINT32_MAX);
  refuses (&b, size, EIO, "gdOffset");

  /* 2^20 directory entries, and tables for three of them. */
  fd = open (unit_path ("huge"), O_RDWR | O_CREAT | O_EXCL, 0600);
  assert_true (fd >= 0);
  assert_int_equal (pwrite (fd, b.data, b.size, 0), b.size);
  if (ftruncate (fd, 3 * TIB) == -1) {
    close (fd);
    free (b.data);
    skip ();
  }
  memcpy (e, "\x00\x00\x10\x00", 4);            /* sector 0x100000 */
  assert_int_equal (pwrite (fd, e, 4, 4 * SECTOR), 4);
  assert_int_equal (pwrite (fd, e, 4, 4 * SECTOR + 0x80000 * 4), 4);
  assert_int_equal (pwrite (fd, e, 4, 4 * SECTOR + 0xfffff * 4), 4);
  assert_int_equal (pwrite (fd, e, 4, 512 * MIB + 100 * 4), 4);
  close (fd);

  assert_ok (ctx, vd_file_open (ctx, unit_path ("huge"), false, VD_LOCK_OFF,
                                NULL, &st));
  sample_init (&s, st, size);
  s.x.table_memory = 256 * KIB;
  clock_gettime (CLOCK_MONOTONIC, &start);
  assert_ok (ctx, vmdk_cowd_open (ctx, &s.x));
  assert_true (walk (&s, &data) < 1000);
  clock_gettime (CLOCK_MONOTONIC, &end);
  assert_int_equal (data, 3 * SECTOR);
  assert_true (end.tv_sec - start.tv_sec < 20);
  sample_free (&s);
  assert_int_equal (unlink (unit_path ("huge")), 0);
  free (b.data);
}

/* A table that cannot be read is an error, unless something is known. */
static void
test_short_reads (void **state)
{
  struct bytes b = build (4096 * 8 * 2, 8, 100);
  const uint64_t gt = 4096 * 4096;
  struct vd_store *st;
  struct sample s;
  struct vd_run run;
  UNIT_CTX (ctx);

  (void) state;
  poke (&b, 4 * SECTOR, 4, 5);
  poke (&b, 4 * SECTOR + 4, 4, 64);
  assert_ok (ctx, vd_memory_open (ctx, "extent", b.data, b.size, true, &st));
  sample_init (&s, st, 2 * gt);
  assert_ok (ctx, vmdk_cowd_open (ctx, &s.x));
  assert_int_equal (locate (&s, 0, 1).kind, VD_RUN_PARENT);
  /* Somebody cuts the file now. */
  assert_ok (ctx, vd_store_truncate (ctx, st, 64 * SECTOR));
  check_run (&s, 0, 2 * gt, VD_RUN_PARENT, gt, 0);
  assert_fails (ctx, s.x.ops->locate (ctx, &s.x, gt, 1, VD_LOCATE_READ,
                                      &run), EIO, "extent");
  sample_free (&s);
  free (b.data);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_grain_1),
    cmocka_unit_test (test_grain_8),
    cmocka_unit_test (test_damage),
    cmocka_unit_test (test_header),
    cmocka_unit_test (test_parent_name),
    cmocka_unit_test (test_huge),
    cmocka_unit_test (test_short_reads),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
