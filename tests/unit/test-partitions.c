/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Partitions of a disk, and where their tables are: MBR with logical
 * partitions and GPT, in sectors of 512 and 4096 bytes, made here byte by
 * byte, and then damaged at random.  What sfdisk makes is in
 * raw-create-vmdk.bats.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>

#include "byteorder.h"
#include "chance.h"
#include "file.h"
#include "partitions.h"

#define DISK (4 << 20)

static uint8_t disk[DISK];

static void
mbr_entry (size_t table, unsigned n, uint8_t type, uint32_t start,
           uint32_t sectors)
{
  uint8_t *e = &disk[table + 446 + 16 * n];

  memset (e, 0, 16);
  e[4] = type;
  put_le32 (e + 8, start);
  put_le32 (e + 12, sectors);
  disk[table + 510] = 0x55;
  disk[table + 511] = 0xaa;
}

/* Sectors: 1: 64 to 163, 2 (extended): 200 to 599 with 5: 210 to 259 and 6,
 * whose table is at 300: 310 to 409.
 */
static void
make_mbr (unsigned sector)
{
  memset (disk, 0, sizeof disk);
  mbr_entry (0, 0, 0x83, 64, 100);
  mbr_entry (0, 1, 0x05, 200, 400);
  mbr_entry (200 * sector, 0, 0x83, 10, 50);
  mbr_entry (200 * sector, 1, 0x05, 100, 200);
  mbr_entry (300 * sector, 0, 0x83, 10, 100);
}

static uint32_t
crc32 (const uint8_t *data, size_t len)
{
  uint32_t crc = UINT32_MAX;
  unsigned bit;

  for (; len > 0; --len, ++data)
    for (crc ^= *data, bit = 0; bit < 8; ++bit)
      crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  return ~crc;
}

/* As it is after a change. */
static void
seal_gpt (unsigned sector, uint64_t at)
{
  uint8_t *h = &disk[at * sector];
  uint64_t entries = get_le64 (h + 72) * sector;
  size_t len = (size_t) get_le32 (h + 80) * get_le32 (h + 84);

  if (entries < sizeof disk && len < sizeof disk - entries)
    put_le32 (h + 88, crc32 (&disk[entries], len));
  put_le32 (h + 16, 0);
  put_le32 (h + 16, crc32 (h, 92));
}

static void
gpt_header (unsigned sector, uint64_t at, uint64_t other, uint64_t entries)
{
  uint8_t *h = &disk[at * sector];
  unsigned table = 128 * 128 / sector;

  memcpy (h, "EFI PART", 8);
  put_le32 (h + 8, 0x10000);
  put_le32 (h + 12, 92);
  put_le64 (h + 24, at);
  put_le64 (h + 32, other);
  put_le64 (h + 40, 2 + table);
  put_le64 (h + 48, sizeof disk / sector - 2 - table);
  memset (h + 56, 0x11, 16);
  put_le64 (h + 72, entries);
  put_le32 (h + 80, 128);
  put_le32 (h + 84, 128);
}

/* Sectors: 2: 64 to 163; 4: 200 to 299. */
static void
make_gpt (unsigned sector)
{
  uint64_t last = sizeof disk / sector - 1, table = 128 * 128 / sector;
  unsigned i;

  memset (disk, 0, sizeof disk);
  mbr_entry (0, 0, 0xee, 1, UINT32_MAX);
  for (i = 0; i < 2; ++i) {
    uint8_t *e = &disk[2 * sector + 128 * (2 * i + 1)];

    memset (e, 0x22 + i, 32);
    put_le64 (e + 32, i ? 200 : 64);
    put_le64 (e + 40, i ? 299 : 163);
  }
  memcpy (&disk[(last - table) * sector], &disk[2 * sector], 128 * 128);
  gpt_header (sector, 1, last, 2);
  seal_gpt (sector, 1);
  gpt_header (sector, last, 1, last - table);
  seal_gpt (sector, last);
}

/* What is in disk, as a file. */
static int
read_disk (struct vd_ctx *ctx, size_t size, struct vd_partitions *ret)
{
  const char *path = unit_path ("disk");
  FILE *f = fopen (path, "w");
  struct vd_store *st;
  int r;

  assert_non_null (f);
  assert_int_equal (fwrite (disk, 1, size, f), size);
  assert_int_equal (fclose (f), 0);
  assert_ok (ctx, vd_file_open (ctx, path, false, VD_LOCK_OFF, NULL, &st));
  r = vd_partitions_read (ctx, st, "disk", NULL, ret);
  vd_store_close (st);
  return r;
}

static void
check (const struct vd_partitions *p, unsigned sector, const char *want)
{
  char got[1000];
  size_t i, n = 0;

  for (i = 0; i < p->nparts; ++i)
    n += snprintf (&got[n], sizeof got - n, "%u%s: %u+%u\n",
                   p->parts[i].number, p->parts[i].extended ? " frame" : "",
                   (unsigned) (p->parts[i].start / sector),
                   (unsigned) (p->parts[i].length / sector));
  for (i = 0; i < p->ntables; ++i)
    n += snprintf (&got[n], sizeof got - n, "table: %u+%u\n",
                   (unsigned) (p->tables[i].start / sector),
                   (unsigned) (p->tables[i].length / sector));
  assert_string_equal (got, want);
}

static void
test_mbr (void **state)
{
  struct vd_partitions p;
  UNIT_CTX (ctx);

  (void) state;
  make_mbr (512);
  assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
  assert_string_equal (p.type, "MBR");
  check (&p, 512, "1: 64+100\n2 frame: 200+400\n5: 210+50\n6: 310+100\n"
         "table: 0+1\ntable: 200+1\ntable: 300+1\n");
  vd_partitions_free (&p);

  /* An extended table without a partition, as fdisk leaves the first one. */
  memset (&disk[200 * 512 + 446], 0, 16);
  assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
  check (&p, 512, "1: 64+100\n2 frame: 200+400\n5: 310+100\n"
         "table: 0+1\ntable: 200+1\ntable: 300+1\n");
  vd_partitions_free (&p);

  /* Tables that touch each other are one. */
  make_mbr (512);
  mbr_entry (0, 1, 0x05, 1, 400);
  mbr_entry (0, 0, 0x83, 1000, 100);
  mbr_entry (512, 0, 0x83, 10, 50);
  assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
  check (&p, 512, "2 frame: 1+400\n5: 11+50\n1: 1000+100\ntable: 0+2\n");
  vd_partitions_free (&p);
}

static void
test_gpt (void **state)
{
  static const unsigned sectors[] = { 512, 4096 };
  struct vd_partitions p;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < 2; ++i) {
    make_gpt (sectors[i]);
    assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
    assert_string_equal (p.type, "GPT");
    check (&p, sectors[i],
           i == 0 ?
           "2: 64+100\n4: 200+100\ntable: 0+34\ntable: 8159+33\n" :
           "2: 64+100\n4: 200+100\ntable: 0+6\ntable: 1019+5\n");
    vd_partitions_free (&p);
  }

  /* The entries elsewhere. */
  make_gpt (512);
  memcpy (&disk[40 * 512], &disk[2 * 512], 128 * 128 / 4);
  put_le64 (&disk[512 + 72], 40);
  put_le32 (&disk[512 + 80], 32);
  seal_gpt (512, 1);
  assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
  check (&p, 512, "2: 64+100\n4: 200+100\ntable: 0+2\ntable: 40+8\n"
         "table: 8159+33\n");
  vd_partitions_free (&p);

  /* The disk has grown: the backup stays where it was. */
  make_gpt (512);
  put_le64 (&disk[512 + 32], 4000);
  put_le64 (&disk[512 + 48], 3960);
  seal_gpt (512, 1);
  memset (&disk[8191 * 512], 0, 512);
  memcpy (&disk[3968 * 512], &disk[2 * 512], 128 * 128);
  gpt_header (512, 4000, 1, 3968);
  assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
  check (&p, 512, "2: 64+100\n4: 200+100\ntable: 0+34\ntable: 3968+33\n");
  vd_partitions_free (&p);
}

#define REFUSED(err, part)                                              \
  do {                                                                  \
    struct vd_partitions p_;                                            \
    assert_fails (ctx, read_disk (ctx, sizeof disk, &p_), err, part);   \
  } while (0)

/* A backup that is none: a warning, and it is left out. */
static void
test_no_backup (void **state)
{
  struct vd_partitions p;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < 4; ++i) {
    make_gpt (512);
    switch (i) {
    case 0:                     /* no magic */
      disk[8191 * 512] = 0;
      break;
    case 1:                     /* its table is nowhere */
      put_le64 (&disk[8191 * 512 + 72], 9000);
      break;
    case 2:                     /* or much too large */
      put_le32 (&disk[8191 * 512 + 80], UINT32_MAX);
      break;
    case 3:                     /* it is said to be nowhere */
      put_le64 (&disk[512 + 32], 8192);
      seal_gpt (512, 1);
    }
    assert_ok (ctx, read_disk (ctx, sizeof disk, &p));
    check (&p, 512, "2: 64+100\n4: 200+100\ntable: 0+34\n");
    vd_partitions_free (&p);
  }
}

static void
test_refused (void **state)
{
  struct vd_partitions p;
  UNIT_CTX (ctx);

  (void) state;
  memset (disk, 0, sizeof disk);
  REFUSED (ENODATA, "disk: no partition table was found on it");
  assert_fails (ctx, read_disk (ctx, 0, &p), ENODATA, "no partition table was found");
  assert_fails (ctx, read_disk (ctx, 100, &p), ENODATA,
                "no partition table was found");
  make_mbr (512);
  mbr_entry (0, 2, 0x83, 8000, 193);
  REFUSED (EIO, "partition 3 begins at sector 8000 and has 193");
  mbr_entry (0, 2, 0x83, UINT32_MAX, UINT32_MAX);
  REFUSED (EIO, "partition 3 begins at sector 4294967295");
  mbr_entry (0, 2, 0x83, 160, 10);
  REFUSED (EIO, "partitions 1 and 3 overlap");
  mbr_entry (0, 2, 0x83, 170, 31);
  REFUSED (EIO, "partition 3 overlaps the partition table at byte 102400");
  make_mbr (512);
  mbr_entry (300 * 512, 1, 0x05, 100, 200);
  REFUSED (EIO, "the tables in the extended partition 2 do not end");
  mbr_entry (300 * 512, 1, 0x05, 0, 200);
  REFUSED (EIO, "the tables in the extended partition 2 do not end");
  mbr_entry (300 * 512, 1, 0x05, 400, 200);
  REFUSED (EIO, "a table of the extended partition 2 is at byte 307200");
  mbr_entry (300 * 512, 1, 0x05, UINT32_MAX, 200);
  REFUSED (EIO, "a table of the extended partition 2 is at byte");
  /* In 32 bits it is at sector 170. */
  make_mbr (512);
  mbr_entry (300 * 512, 0, 0x83, UINT32_MAX - 299 + 170, 20);
  REFUSED (ENOTSUP, "begins at byte 2199023342592 and has 10240: what is beyond "
           "2 TiB");

  make_gpt (512);
  disk[512] = 'X';
  REFUSED (EIO, "the first GPT is damaged");
  /* Only its sum tells. */
  make_gpt (512);
  disk[512 + 32] ^= 1;
  REFUSED (EIO, "the first GPT is damaged");
  make_gpt (512);
  put_le64 (&disk[512 + 72], 150);      /* in partition 2 */
  memcpy (&disk[150 * 512], &disk[2 * 512], 128 * 128);
  seal_gpt (512, 1);
  REFUSED (EIO, "partition 2 overlaps the partition table");
  make_gpt (512);
  put_le64 (&disk[2 * 512 + 128 + 40], 50);
  seal_gpt (512, 1);
  REFUSED (EIO, "partition 2 ends before it begins, at sector 64");
}

/* Whatever the tables hold: an error with a message, or partitions and tables
 * that do not overlap and lie on the disk.
 */
static void
test_damaged (void **state)
{
  static const unsigned tables[][3] = {
    { 0, 200 * 512, 300 * 512 },
    { 512, 1024, 8191 * 512 },
  };
  struct { uint64_t state; } m = { 42 };
  unsigned i, j, fine = 0, wrong = 0;
  FILE *f = fopen (unit_path ("damaged"), "w+");
  struct vd_store *st;
  struct vd_ctx ctx;

  (void) state;
  vd_ctx_init (&ctx, NULL);
  assert_non_null (f);
  assert_int_equal (ftruncate (fileno (f), sizeof disk), 0);
  assert_ok (&ctx, vd_file_open (&ctx, unit_path ("damaged"), false,
                                 VD_LOCK_OFF, NULL, &st));
  for (i = 0; i < 2000; ++i) {
    bool gpt = i % 2;
    struct vd_partitions p;
    size_t n, t = 0;
    uint64_t end = 0;
    int r;

    if (gpt)
      make_gpt (512);
    else
      make_mbr (512);
    for (j = 0; j < 1 + i % 3; ++j) {
      unsigned table = tables[gpt][below (&m, 3)];
      unsigned at = gpt ? below (&m, 256) : 446 + below (&m, 64);

      disk[table + at] = chance (&m, 50) ? 0 : below (&m, 256);
    }
    if (gpt && i % 4 == 1) {
      seal_gpt (512, 1);
      seal_gpt (512, 8191);
    }
    /* All that is not zeroes. */
    assert_int_equal (pwrite (fileno (f), disk, 160 << 10, 0), 160 << 10);
    assert_int_equal (pwrite (fileno (f), &disk[sizeof disk - (20 << 10)],
                              20 << 10, sizeof disk - (20 << 10)), 20 << 10);
    vd_ctx_init (&ctx, NULL);
    r = vd_partitions_read (&ctx, st, "disk", NULL, &p);
    if (r < 0) {
      assert_int_equal (ctx.error, -r);
      assert_true (strncmp (ctx.message, "disk: ", 6) == 0);
      ++wrong;
      continue;
    }
    ++fine;
    assert_true (p.ntables > 0 && p.tables[0].start == 0);
    for (n = 0; n < p.nparts; ++n) {
      const struct vd_partition *part = &p.parts[n];

      assert_true (part->length > 0);
      assert_true (part->start <= sizeof disk &&
                   part->length <= sizeof disk - part->start);
      assert_true (n == 0 || p.parts[n - 1].start <= part->start);
      if (part->extended)
        continue;
      for (; t < p.ntables && p.tables[t].start < part->start; ++t) {
        assert_true (p.tables[t].start >= end);
        end = p.tables[t].start + p.tables[t].length;
      }
      assert_true (part->start >= end);
      end = part->start + part->length;
    }
    for (; t < p.ntables; ++t) {
      assert_true (p.tables[t].start >= end);
      end = p.tables[t].start + p.tables[t].length;
    }
    assert_true (end <= sizeof disk);
    vd_partitions_free (&p);
  }
  assert_true (fine > 100 && wrong > 100);
  vd_store_close (st);
  fclose (f);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_mbr),
    cmocka_unit_test (test_gpt),
    cmocka_unit_test (test_no_backup),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_damaged),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
