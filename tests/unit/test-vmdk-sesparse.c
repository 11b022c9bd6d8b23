/* SPDX-License-Identifier: BSD-3-Clause
 *
 * seSparse extents, made by hand (vmdk-format 8.3 and 17).
 */

#include <config.h>

#include "extent-image.h"

#include <fcntl.h>
#include <time.h>

#include "file.h"

#define GT_BYTES (4096 * 4096)  /* of the disk, that one table covers */
#define GRAIN 4096

#define CAPACITY 16
#define VOLATILE 10             /* all in sectors */
#define GD 20
#define GTS 30
#define GRAINS 200
#define FILE_SECTORS 260        /* 7.5 grains */

#define GDE(index) (UINT64_C (0x1000000000000000) | (index))
/* The index of an allocated grain is turned by 12 bits. */
#define GTE(index)                                              \
  (UINT64_C (3) << 60 | ((uint64_t) (index) & 0xfff) << 48 |    \
   (uint64_t) (index) >> 12)

/* Two directory entries, both with a table: the first has table 1, the second
 * has table 0.
 */
static struct bytes
build (void)
{
  struct bytes b = bytes_new (FILE_SECTORS * SECTOR);

  poke (&b, 0, 8, 0xcafebabe);
  poke (&b, 8, 8, UINT64_C (0x0000000200000001));
  poke (&b, CAPACITY, 8, 2 * GT_BYTES / SECTOR);
  poke (&b, 24, 8, 8);
  poke (&b, 32, 8, 64);
  poke (&b, 80, 8, VOLATILE);
  poke (&b, 88, 8, 1);
  poke (&b, 96, 8, 11);         /* journal header, journal */
  poke (&b, 104, 8, 1);
  poke (&b, 112, 8, 12);
  poke (&b, 120, 8, 1);
  poke (&b, 128, 8, GD);
  poke (&b, 136, 8, 1);
  poke (&b, 144, 8, GTS);
  poke (&b, 152, 8, 128);
  poke (&b, 160, 8, 160);       /* free bitmap, backmap */
  poke (&b, 168, 8, 1);
  poke (&b, 176, 8, 161);
  poke (&b, 184, 8, 1);
  poke (&b, 192, 8, GRAINS);
  poke (&b, 200, 8, FILE_SECTORS - GRAINS);
  poke (&b, VOLATILE * SECTOR, 8, 0xcafecafe);
  poke (&b, GD * SECTOR, 8, GDE (1));
  poke (&b, GD * SECTOR + 8, 8, GDE (0));
  return b;
}

/* Entry i of table t (as the tables lie in the file). */
static void
set_entry (struct bytes *b, unsigned t, unsigned i, uint64_t value)
{
  poke (b, (GTS + t * 64) * SECTOR + i * 8, 8, value);
}

static void
opens (struct sample *s, struct bytes *b, uint64_t size)
{
  UNIT_CTX (ctx);

  sample_bytes (s, b, size);
  assert_ok (ctx, vmdk_sesparse_open (ctx, &s->x));
  assert_non_null (strstr (s->x.no_write, "seSparse"));
  assert_int_equal (s->x.grain, GRAIN);
}

static void
refuses (struct bytes *b, uint64_t size, int err, const char *text)
{
  expect_refused (vmdk_sesparse_open, b, size, err, text);
}

static void
refuses_with (struct bytes *b, uint64_t offset, uint64_t value, int err,
              const char *text)
{
  uint8_t old[8];

  memcpy (old, b->data + offset, 8);
  poke (b, offset, 8, value);
  refuses (b, 2 * GT_BYTES, err, text);
  memcpy (b->data + offset, old, 8);
}

/* Each kind of entry. */
static void
test_entries (void **state)
{
  struct bytes b = build ();
  const uint64_t size = 2 * GT_BYTES;
  struct sample s;
  unsigned i;

  (void) state;
  for (i = 0; i < 7; ++i)
    fill (&b, GRAINS * SECTOR + i * GRAIN, GRAIN, 'A' + i);
  set_entry (&b, 1, 0, 0);
  set_entry (&b, 1, 1, UINT64_C (1) << 60);
  set_entry (&b, 1, 2, UINT64_C (2) << 60);
  set_entry (&b, 1, 3, UINT64_C (2) << 60 | 0x123456789);
  set_entry (&b, 1, 4, GTE (3));
  set_entry (&b, 1, 5, GTE (4));
  set_entry (&b, 1, 6, GTE (0));
  set_entry (&b, 1, 7, UINT64_C (4) << 60);
  set_entry (&b, 1, 8, UINT64_C (15) << 60 | 7);
  set_entry (&b, 1, 9, 1);
  set_entry (&b, 1, 10, GTE (7));               /* half in the file */
  set_entry (&b, 1, 11, GTE (8));
  set_entry (&b, 1, 12, GTE (UINT64_C (0xfffffffffffffff)));
  set_entry (&b, 1, 13, GTE (0x1000));          /* a bit of the low half */
  set_entry (&b, 1, 4095, GTE (5));
  set_entry (&b, 0, 0, GTE (6));
  set_entry (&b, 0, 4095, GTE (1));
  opens (&s, &b, size);
  check_run (&s, 0, size, VD_RUN_PARENT, GRAIN, 0);
  check_run (&s, 1 * GRAIN, size - GRAIN, VD_RUN_ZERO, 3 * GRAIN, 0);
  check_run (&s, 4 * GRAIN, 1 * MIB, VD_RUN_DATA, 2 * GRAIN,
             GRAINS * SECTOR + 3 * GRAIN);
  check_run (&s, 4 * GRAIN + 5, 6000, VD_RUN_DATA, 6000,
             GRAINS * SECTOR + 3 * GRAIN + 5);
  check_run (&s, 6 * GRAIN, 1 * MIB, VD_RUN_DATA, GRAIN, GRAINS * SECTOR);
  check_bad (&s, 7 * GRAIN, 1 * MIB, GRAIN, "unknown type",
             UINT64_C (4) << 60);
  check_bad (&s, 8 * GRAIN + 1, 1 * MIB, GRAIN - 1, "unknown type",
             UINT64_C (15) << 60 | 7);
  check_bad (&s, 9 * GRAIN, 1 * MIB, GRAIN, "type 0", 1);
  check_run (&s, 10 * GRAIN, 1 * MIB, VD_RUN_DATA, GRAIN / 2,
             GRAINS * SECTOR + 7 * GRAIN);
  check_bad (&s, 10 * GRAIN + GRAIN / 2, 1 * MIB, GRAIN / 2, "beyond the end",
             GTE (7));
  check_bad (&s, 11 * GRAIN, 1 * MIB, GRAIN, "beyond the end", GTE (8));
  check_bad (&s, 12 * GRAIN, 1 * MIB, GRAIN, "beyond the end",
             GTE (UINT64_C (0xfffffffffffffff)));
  check_bad (&s, 13 * GRAIN, 1 * MIB, GRAIN, "beyond the end",
             GTE (0x1000));
  check_run (&s, 14 * GRAIN, size - 14 * GRAIN, VD_RUN_PARENT, 4081 * GRAIN,
             0);
  /* From one table into the next. */
  check_run (&s, GT_BYTES - GRAIN, GT_BYTES, VD_RUN_DATA, 2 * GRAIN,
             GRAINS * SECTOR + 5 * GRAIN);
  check_run (&s, GT_BYTES + GRAIN, GT_BYTES - GRAIN, VD_RUN_PARENT,
             4094 * GRAIN, 0);
  check_run (&s, size - GRAIN, GRAIN, VD_RUN_DATA, GRAIN,
             GRAINS * SECTOR + GRAIN);
  assert_int_equal (byte_at (&s, 4 * GRAIN), 'D');
  assert_int_equal (byte_at (&s, 6 * GRAIN - 1), 'E');
  assert_int_equal (byte_at (&s, GT_BYTES), 'G');
  assert_int_equal (byte_at (&s, size - 1), 'B');
  assert_int_equal (locate (&s, 0, 1).error, EPERM);
  sample_free (&s);
  free (b.data);
}

static void
test_directory (void **state)
{
  static const uint64_t damaged[] = {
    1, UINT64_C (0x1000000100000000), UINT64_C (0x2000000000000000),
    UINT64_C (0x1fffffff00000000), UINT64_MAX,
  };
  const uint64_t size = 2 * GT_BYTES;
  struct bytes b = build ();
  struct sample s;
  size_t i;

  (void) state;
  poke (&b, GD * SECTOR, 8, 0);
  opens (&s, &b, size);
  check_run (&s, 0, size, VD_RUN_PARENT, size, 0);
  sample_free (&s);
  for (i = 0; i < sizeof damaged / sizeof damaged[0]; ++i) {
    poke (&b, GD * SECTOR, 8, damaged[i]);
    opens (&s, &b, size);
    check_bad (&s, 77, size - 77, GT_BYTES - 77, "not of the form",
               damaged[i]);
    check_run (&s, GT_BYTES, GT_BYTES, VD_RUN_PARENT, GT_BYTES, 0);
    sample_free (&s);
  }
  /* Behind what the header calls the tables. */
  poke (&b, GD * SECTOR, 8, GDE (2));
  opens (&s, &b, size);
  check_bad (&s, 0, size, GT_BYTES, "behind the grain tables", GDE (2));
  sample_free (&s);
  poke (&b, GD * SECTOR, 8, GDE (0xffffffff));
  opens (&s, &b, size);
  check_bad (&s, 0, size, GT_BYTES, "behind the grain tables",
             GDE (0xffffffff));
  sample_free (&s);
  /* And if it calls everything tables, behind the end of the file. */
  poke (&b, 152, 8, UINT64_C (1) << 53);
  opens (&s, &b, size);
  check_bad (&s, 0, size, GT_BYTES, "beyond the end", GDE (0xffffffff));
  sample_free (&s);
  poke (&b, 144, 8, UINT64_C (1) << 53);
  opens (&s, &b, size);
  check_bad (&s, 0, size, GT_BYTES, "beyond the end", GDE (0xffffffff));
  sample_free (&s);
  poke (&b, 144, 8, FILE_SECTORS - 64);
  poke (&b, GD * SECTOR, 8, GDE (0));
  opens (&s, &b, size);
  check_run (&s, 0, GT_BYTES, VD_RUN_PARENT, GT_BYTES, 0);
  sample_free (&s);
  poke (&b, 144, 8, FILE_SECTORS - 63);
  opens (&s, &b, size);
  check_bad (&s, 0, GT_BYTES, GT_BYTES, "beyond the end", GDE (0));
  sample_free (&s);
  free (b.data);
}

static void
test_header (void **state)
{
  struct bytes b = build ();
  struct sample s;
  unsigned i;

  (void) state;
  opens (&s, &b, 2 * GT_BYTES);
  sample_free (&s);
  opens (&s, &b, 512);
  sample_free (&s);
  opens (&s, &b, 0);
  sample_free (&s);
  refuses (&b, 2 * GT_BYTES + SECTOR, EIO, "capacity");

  refuses_with (&b, 0, 0x44574f43, EIO, "magic");
  refuses_with (&b, 0, UINT64_C (0x1cafebabe), EIO, "magic");
  refuses_with (&b, 8, UINT64_C (0x200000002), ENOTSUP,
                "version is 0x200000002");
  refuses_with (&b, 8, UINT64_C (0x300000001), ENOTSUP, "version");
  refuses_with (&b, 8, 1, ENOTSUP, "version");
  refuses_with (&b, 24, 0, ENOTSUP, "grain size is 0x0");
  refuses_with (&b, 24, 16, ENOTSUP, "grain size is 0x10");
  refuses_with (&b, 24, UINT64_MAX, ENOTSUP, "grain size");
  refuses_with (&b, 32, 32, ENOTSUP, "grain table size is 0x20");
  refuses_with (&b, 40, 1, ENOTSUP, "flags is 0x1");
  for (i = 48; i < 80; i += 8)
    refuses_with (&b, i, 1, ENOTSUP, "reserved");
  refuses_with (&b, 208, 1, ENOTSUP, "after byte 208");
  refuses_with (&b, 504, UINT64_C (1) << 63, ENOTSUP, "after byte 208");

  refuses_with (&b, CAPACITY, 2 * GT_BYTES / SECTOR - 8, EIO, "capacity");
  refuses_with (&b, CAPACITY, 0, EIO, "capacity is 0");
  refuses_with (&b, CAPACITY, UINT64_MAX, EIO, "capacity");
  refuses_with (&b, 80, 0, EIO, "volatile header is at sector 0");
  refuses_with (&b, 80, FILE_SECTORS, EIO, "volatile header");
  refuses_with (&b, 80, UINT64_MAX, EIO, "volatile header");
  refuses_with (&b, 80, UINT64_MAX / SECTOR, EIO, "volatile header");
  refuses_with (&b, 80, VOLATILE + 1, EIO, "volatile header is 0x0");
  refuses_with (&b, 128, 0, EIO, "directory is at sector 0");
  refuses_with (&b, 128, FILE_SECTORS, EIO, "directory is at sector");
  refuses_with (&b, 128, UINT64_MAX, EIO, "directory is at sector");
  refuses_with (&b, 128, (UINT64_C (1) << 55) + GD, EIO,
                "directory is at sector");
  refuses_with (&b, 136, 0, EIO, "directory has 0 sectors");
  refuses_with (&b, 136, UINT64_MAX, EIO, "directory has");
  refuses_with (&b, 144, 0, EIO, "tables are at sector 0");
  refuses_with (&b, 144, UINT64_MAX, EIO, "tables are at");
  refuses_with (&b, 152, UINT64_MAX, EIO, "tables are at");
  refuses_with (&b, 192, 0, EIO, "grains begin at sector 0");
  refuses_with (&b, 192, UINT64_MAX, EIO, "grains begin");

  /* The journal must be replayed. */
  refuses_with (&b, VOLATILE * SECTOR + 24, 1, ENOTSUP, "dirty seSparse");
  /* These two change whenever it is written. */
  poke (&b, VOLATILE * SECTOR + 8, 8, 77);
  poke (&b, VOLATILE * SECTOR + 16, 8, 78);
  opens (&s, &b, 2 * GT_BYTES);
  sample_free (&s);
  free (b.data);
}

/* Cut off, and with numbers of all kinds everywhere: refused or read. */
static void
test_hostile (void **state)
{
  static const uint64_t values[] = {
    0, 1, 511, UINT64_C (1) << 31, UINT64_C (1) << 32, UINT64_C (1) << 52,
    UINT64_C (1) << 53, UINT64_C (1) << 54, UINT64_C (1) << 55,
    UINT64_C (1) << 63, INT64_MAX, UINT64_MAX, UINT64_MAX - 511,
  };
  struct bytes b = build ();
  size_t i, j;

  (void) state;
  set_entry (&b, 1, 0, GTE (0));
  set_entry (&b, 1, 1, GTE (1));
  for (i = 0; i < b.size; i += i < 530 ? 13 : 500)
    for (j = 0; j < 2; ++j) {
      struct bytes cut = { b.data, i };
      struct sample s;
      struct vd_ctx ctx;
      uint64_t offset;

      vd_ctx_init (&ctx, NULL);
      sample_bytes (&s, &cut, 2 * GT_BYTES);
      s.x.table_memory = j ? 0 : 1 << 20;
      if (vmdk_sesparse_open (&ctx, &s.x) == 0) {
        assert_true (i >= GD * SECTOR + 16);
        for (offset = 0; offset < s.x.size;
             offset += locate (&s, offset, s.x.size - offset).length)
          byte_at (&s, offset);
      }
      sample_free (&s);
    }

  for (i = 0; i < 208; i += 8)
    for (j = 0; j < sizeof values / sizeof values[0]; ++j) {
      uint64_t size = i == CAPACITY ? INT64_MAX / SECTOR * SECTOR
        : 2 * GT_BYTES;
      uint8_t old[8];
      struct sample s;
      struct vd_ctx ctx;

      memcpy (old, b.data + i, 8);
      poke (&b, i, 8, values[j]);
      vd_ctx_init (&ctx, NULL);
      sample_bytes (&s, &b, size);
      if (vmdk_sesparse_open (&ctx, &s.x) == 0) {
        byte_at (&s, 0);
        byte_at (&s, GRAIN);
        byte_at (&s, size - 1);
      }
      sample_free (&s);
      memcpy (b.data + i, old, 8);
    }
  free (b.data);
}

/* 64 TiB, with a sparse file as the proof. */
static void
test_huge (void **state)
{
  const uint64_t size = 64 * TIB;
  struct bytes b = build ();
  struct timespec start, end;
  struct vd_store *st;
  struct sample s;
  uint64_t offset, n = 0, data = 0;
  int fd;
  UNIT_CTX (ctx);

  (void) state;
  poke (&b, CAPACITY, 8, size / SECTOR);
  refuses (&b, size, EIO, "directory has 1 sectors");
  poke (&b, 136, 8, 0x10000);
  refuses (&b, size, EIO, "directory is at sector 20");

  /* The directory at 1 MiB has 32 MiB; tables from 64 MiB, grains from 1 GiB
   * on.
   */
  poke (&b, 128, 8, 1 * MIB / SECTOR);
  poke (&b, 144, 8, 64 * MIB / SECTOR);
  poke (&b, 192, 8, 1024 * MIB / SECTOR);
  fd = open (unit_path ("huge"), O_RDWR | O_CREAT | O_EXCL, 0600);
  assert_true (fd >= 0);
  assert_int_equal (pwrite (fd, b.data, b.size, 0), b.size);
  if (ftruncate (fd, 2048 * MIB) == -1) {
    close (fd);
    free (b.data);
    skip ();
  }
  poke (&b, 0, 8, GDE (1));
  assert_int_equal (pwrite (fd, b.data, 8, 1 * MIB), 8);
  assert_int_equal (pwrite (fd, b.data, 8, 1 * MIB + 0x200000 * 8), 8);
  assert_int_equal (pwrite (fd, b.data, 8, 33 * MIB - 8), 8);
  poke (&b, 0, 8, GTE (10));
  assert_int_equal (pwrite (fd, b.data, 8, 64 * MIB + 32768 + 80), 8);
  close (fd);

  assert_ok (ctx, vd_file_open (ctx, unit_path ("huge"), false, VD_LOCK_OFF,
                                NULL, &st));
  sample_init (&s, st, size);
  s.x.table_memory = 256 * KIB;
  clock_gettime (CLOCK_MONOTONIC, &start);
  assert_ok (ctx, vmdk_sesparse_open (ctx, &s.x));
  for (offset = 0; offset < size; ++n) {
    struct vd_run run = locate (&s, offset, size - offset);

    if (run.kind == VD_RUN_DATA) {
      data += run.length;
      assert_int_equal (run.position, 1024 * MIB + 10 * GRAIN);
    }
    offset += run.length;
  }
  clock_gettime (CLOCK_MONOTONIC, &end);
  assert_int_equal (data, 3 * GRAIN);
  assert_true (n < 2000);
  assert_true (end.tv_sec - start.tv_sec < 60);
  sample_free (&s);
  assert_int_equal (unlink (unit_path ("huge")), 0);
  free (b.data);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_entries),
    cmocka_unit_test (test_directory),
    cmocka_unit_test (test_header),
    cmocka_unit_test (test_hostile),
    cmocka_unit_test (test_huge),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
