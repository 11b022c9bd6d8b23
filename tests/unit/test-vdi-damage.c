/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Damaged and unusual VDI headers and maps: what is opened, what is opened
 * read-only, what is refused, and whether the message names field and value.
 * The rows follow vdi-format 8.1 and 21.
 */

#include <config.h>

#include <errno.h>

#include "vdi-image.h"

enum outcome {
  OPEN,                         /* also for writing */
  READONLY,                     /* no_write says why */
  REFUSED,
};

struct row {
  const char *name;
  uint64_t offset;              /* of the patch; width 0: none */
  unsigned width;
  uint64_t value;
  enum outcome outcome;
  int error;                    /* REFUSED */
  const char *field, *text;     /* in the message */
  bool warns;                   /* the message is a warning */
  uint64_t file_size;           /* 0: as it is */
};

#define MAP 0x100000

#define NONE(n) .name = n
#define PATCH(n, o, w, v) .name = n, .offset = o, .width = w, .value = v
#define OPENS .outcome = OPEN
#define READS(f, t) .outcome = READONLY, .field = f, .text = t
#define FAILS(e, f, t) .outcome = REFUSED, .error = e, .field = f, .text = t
#define WARNS(f, t) .warns = true, .field = f, .text = t

/* 8 MiB dynamic image, blocks 0 and 3 allocated, cbHeader 400, the map at
 * 1 MiB, data at 2 MiB, the file is 4 MiB.
 */
static const struct row rows[] = {
  { NONE ("as it is"), OPENS },
  { PATCH ("text", 0, 8, 0), OPENS },
  { PATCH ("signature", 64, 4, 0xbeda107e),
    FAILS (EMEDIUMTYPE, "signature", "beda107e") },

  { PATCH ("version 1.0", 68, 4, 0x10000), READS ("version", "1.0") },
  { PATCH ("version 1.2", 68, 4, 0x10002), READS ("version", "1.2") },
  { PATCH ("version 1.65535", 68, 4, 0x1ffff), READS ("version", "1.65535") },
  { PATCH ("version 2.0", 68, 4, 0x20000), FAILS (ENOTSUP, "version", "2.0") },
  { PATCH ("version 0.1", 68, 4, 1), FAILS (ENOTSUP, "version", "0.1") },
  { PATCH ("version 0.3", 68, 4, 3), FAILS (ENOTSUP, "version", "0.3") },

  { PATCH ("cbHeader 0", 72, 4, 0), FAILS (EIO, "cbHeader", "0") },
  { PATCH ("cbHeader 383", 72, 4, 383), FAILS (EIO, "cbHeader", "383") },
  { PATCH ("cbHeader 384", 72, 4, 384), OPENS },
  { PATCH ("cbHeader 399", 72, 4, 399), OPENS },
  { PATCH ("cbHeader 512", 72, 4, 512), OPENS },
  { PATCH ("cbHeader up to the map", 72, 4, MAP - 72), OPENS },
  { PATCH ("cbHeader into the map", 72, 4, MAP - 71),
    READS ("cbHeader", "1048505") },
  { PATCH ("cbHeader 2^32 - 1", 72, 4, 0xffffffff),
    READS ("cbHeader", "4294967295") },

  { PATCH ("type 0", 76, 4, 0), FAILS (EIO, "u32Type", "0") },
  { PATCH ("type 5", 76, 4, 5), FAILS (EIO, "u32Type", "5") },
  { PATCH ("type 2, and not fixed", 76, 4, 2), OPENS },
  { PATCH ("type 3", 76, 4, 3), OPENS },
  { PATCH ("type 4", 76, 4, 4), OPENS },

  { PATCH ("flags 1", 80, 4, 1), OPENS },
  { PATCH ("flags 2", 80, 4, 2), FAILS (EIO, "fFlags", "0x2") },
  { PATCH ("flags 0x80", 80, 4, 0x80), FAILS (EIO, "fFlags", "0x80") },
  { PATCH ("flags 0x100", 80, 4, 0x100), FAILS (EIO, "fFlags", "0x100") },
  { PATCH ("flags 0x200", 80, 4, 0x200), FAILS (EIO, "fFlags", "0x200") },
  { PATCH ("flags 0x401", 80, 4, 0x401), READS ("fFlags", "0x401") },
  { PATCH ("flags 0x401", 80, 4, 0x401),
    .outcome = READONLY, WARNS ("fFlags", "0x400") },
  { PATCH ("flags 2^31", 80, 4, 0x80000000), READS ("fFlags", "0x80000000") },

  { PATCH ("offBlocks 455", 340, 4, 455), FAILS (EIO, "offBlocks", "455") },
  { PATCH ("offBlocks 456", 340, 4, 456), READS ("cbHeader", "400") },
  { PATCH ("offBlocks odd", 340, 4, MAP + 1), READS ("offBlocks", "1048577") },
  { PATCH ("offBlocks 2 mod 4", 340, 4, MAP + 2),
    READS ("offBlocks", "1048578") },
  { PATCH ("offBlocks beyond offData", 340, 4, 0x300000),
    FAILS (EIO, "offBlocks", "3145728") },
  { PATCH ("offBlocks 2^32 - 1", 340, 4, 0xffffffff),
    FAILS (EIO, "offBlocks", "4294967295") },
  { PATCH ("offData at the end of the map", 344, 4, MAP + 32),
    READS ("offData", "1048608") },
  { PATCH ("offData in the map", 344, 4, MAP + 31),
    FAILS (EIO, "offData", "1048607") },
  { PATCH ("offData 0", 344, 4, 0), FAILS (EIO, "offData", "0") },
  { PATCH ("offData odd", 344, 4, 0x1fff01), READS ("offData", "2096897") },
  { PATCH ("offData 512-aligned", 344, 4, MAP + 512), OPENS },
  { PATCH ("offData beyond the file", 344, 4, 0xfffffe00),
    READS ("entry 0 is 0", "4296015360") },

  { PATCH ("legacy geometry", 348, 8, UINT64_C (0x1234567812345678)), OPENS },
  { PATCH ("legacy bytes/sector 0", 360, 4, 0), OPENS },
  { PATCH ("legacy bytes/sector 4096", 360, 4, 4096), OPENS },
  { PATCH ("dummy", 364, 4, 1), OPENS },
  { PATCH ("LCHS bytes/sector 0", 468, 4, 0), OPENS },
  { PATCH ("LCHS bytes/sector 4096", 468, 4, 4096), OPENS },

  { PATCH ("cbDisk 0", 368, 8, 0), FAILS (EIO, "cbDisk", "0") },
  { PATCH ("cbDisk 511", 368, 8, 511), FAILS (EIO, "cbDisk", "511") },
  { PATCH ("cbDisk 512", 368, 8, 512), OPENS },
  { PATCH ("cbDisk one sector too large", 368, 8, 8 * MIB + 512),
    FAILS (EIO, "cbDisk", "8389120") },
  { PATCH ("cbDisk one byte too large", 368, 8, 8 * MIB + 1),
    FAILS (EIO, "cbDisk", "8388609") },
  { PATCH ("cbDisk 2^64 - 1", 368, 8, UINT64_MAX),
    FAILS (EIO, "cbDisk", "18446744073709551615") },
  { PATCH ("cbDisk much smaller", 368, 8, MIB), OPENS },
  { PATCH ("cbDisk odd", 368, 8, 7 * MIB + 100),
    OPENS, WARNS ("cbDisk", "7340132") },

  { PATCH ("cbBlock 0", 376, 4, 0), FAILS (EIO, "cbBlock", "0") },
  { PATCH ("cbBlock 1", 376, 4, 1), FAILS (EIO, "cbBlock", "1") },
  { PATCH ("cbBlock 2048", 376, 4, 2048), FAILS (EIO, "cbBlock", "2048") },
  { PATCH ("cbBlock 1 MiB - 1", 376, 4, MIB - 1),
    FAILS (EIO, "cbBlock", "1048575") },
  { PATCH ("cbBlock 3 MiB", 376, 4, 3 * MIB),
    FAILS (EIO, "cbBlock", "3145728") },
  { PATCH ("cbBlock 64 KiB", 376, 4, 64 * KIB),
    FAILS (EIO, "cbBlock", "65536") },
  { PATCH ("cbBlock 256 MiB", 376, 4, 256 * MIB),
    READS ("entry 0 is 0", "10485760") },
  { PATCH ("cbBlock 512 MiB", 376, 4, 512 * MIB),
    FAILS (EIO, "cbBlock", "536870912") },
  { PATCH ("cbBlock 2 GiB", 376, 4, 2048 * MIB),
    FAILS (EIO, "cbBlock", "2147483648") },

  { PATCH ("cbBlockExtra 1", 380, 4, 1), FAILS (EIO, "cbBlockExtra", "1") },
  { PATCH ("cbBlockExtra 3", 380, 4, 3), FAILS (EIO, "cbBlockExtra", "3") },
  { PATCH ("cbBlockExtra 2", 380, 4, 2), READS ("cbBlockExtra", "2") },
  { PATCH ("cbBlockExtra 256", 380, 4, 256), READS ("cbBlockExtra", "256") },
  { PATCH ("cbBlockExtra 512", 380, 4, 512),
    READS ("entry 3 is 1", "4195328") },
  { PATCH ("cbBlockExtra 512, room for it", 380, 4, 512),
    OPENS, .file_size = 4 * MIB + 1024 },
  { PATCH ("cbBlockExtra 2 MiB", 380, 4, 2 * MIB),
    FAILS (EIO, "cbBlockExtra", "2097152") },
  { PATCH ("cbBlockExtra 2^31", 380, 4, 0x80000000),
    FAILS (EIO, "cbBlockExtra", "2147483648") },

  { PATCH ("cBlocks 0", 384, 4, 0), FAILS (EIO, "cBlocks", "0") },
  { PATCH ("cBlocks 7", 384, 4, 7), FAILS (EIO, "cBlocks", "7") },
  /* The ninth entry is a zero of the padding. */
  { PATCH ("cBlocks 9", 384, 4, 9), READS ("entry 8", "0") },
  { PATCH ("cBlocks up to offData", 384, 4, 262144), READS ("entry 8", "0") },
  { PATCH ("cBlocks beyond offData", 384, 4, 262145),
    FAILS (EIO, "cBlocks", "262145") },
  { PATCH ("cBlocks 2^30", 384, 4, 0x40000000),
    FAILS (EIO, "cBlocks", "1073741824") },
  { PATCH ("cBlocks 2^30 + 1", 384, 4, 0x40000001),
    FAILS (EIO, "cBlocks", "1073741825") },
  { PATCH ("cBlocks 2^32 - 1", 384, 4, 0xffffffff),
    FAILS (EIO, "cBlocks", "4294967295") },

  { PATCH ("cBlocksAllocated 9", 388, 4, 9),
    OPENS, WARNS ("cBlocksAllocated", "9") },
  { PATCH ("cBlocksAllocated 2^32 - 1", 388, 4, 0xffffffff),
    OPENS, WARNS ("cBlocksAllocated", "4294967295") },
  { PATCH ("cBlocksAllocated 0", 388, 4, 0),
    OPENS, WARNS ("cBlocksAllocated", "0") },
  { PATCH ("cBlocksAllocated 1", 388, 4, 1),
    OPENS, WARNS ("cBlocksAllocated", "1") },
  { PATCH ("cBlocksAllocated 8", 388, 4, 8), OPENS },

  { PATCH ("half of uuidCreate null", 392, 8, 0), OPENS },
  { PATCH ("uuidLinkage set", 424, 8, 0x77), OPENS },
  { PATCH ("uuidParentModify set", 440, 8, 0x77), OPENS },

  /* Also M08: entry 1000 of few, two entries that share a block. */
  { PATCH ("entry used twice", MAP + 4 * 5, 4, 1), READS ("entry 5", "is 1") },
  { PATCH ("entry 1000", MAP + 4 * 3, 4, 1000), READS ("entry 3", "is 1000") },
  { PATCH ("entry 8 of 8", MAP + 4 * 3, 4, 8), READS ("entry 3", "is 8") },
  { PATCH ("entry 8 of 8 inside the file", MAP + 4 * 3, 4, 8),
    READS ("cBlocks (8)", "entry 3 is 8"), .file_size = 12 * MIB },
  { PATCH ("entry beyond the file", MAP + 4 * 3, 4, 2),
    READS ("entry 3", "is 2") },
  { PATCH ("entry 2^32 - 3", MAP + 4 * 3, 4, 0xfffffffd),
    READS ("entry 3", "is 4294967293") },

  { NONE ("empty file"), FAILS (EIO, "0 bytes", "456"), .file_size = 1 },
  { NONE ("file of 71 bytes"), FAILS (EIO, "header", "71"), .file_size = 71 },
  { NONE ("file of 72 bytes"), FAILS (EIO, "header", "72"), .file_size = 72 },
  { NONE ("file of 455 bytes"),
    FAILS (EIO, "header", "455"), .file_size = 455 },
  { NONE ("file of 512 bytes"),
    FAILS (EIO, "block map", "512"), .file_size = 512 },
  { NONE ("file ends in the map"),
    FAILS (EIO, "block map", "1048607"), .file_size = MAP + 31 },
  { NONE ("file ends at the end of the map"),
    READS ("entry 0 is 0", "1048608"), .file_size = MAP + 32 },
  /* M07 */
  { NONE ("file ends in a block"),
    READS ("entry 3 is 1", "4193792"), .file_size = 4 * MIB - 512 },
  { NONE ("bytes after the last block"), OPENS, .file_size = 5 * MIB + 7 },
};

static struct bytes
sample (void)
{
  static const uint32_t map[] = {
    0, FREE, FREE, 1, FREE, FREE, FREE, FREE
  };

  return build ((struct sample) { .blocks = 8, .map = map });
}

static struct bytes
damaged (const struct row *row)
{
  struct bytes b = sample ();

  if (row->width)
    poke (&b, row->offset, row->width, row->value);
  if (row->file_size) {
    b.data = realloc (b.data, row->file_size);
    assert_non_null (b.data);
    if (row->file_size > b.size)
      memset (&b.data[b.size], 0x99, row->file_size - b.size);
    b.size = row->file_size;
  }
  return b;
}

/* Every byte of the disk has an answer. */
static void
walk (struct vd_image *image)
{
  uint64_t offset = 0;

  while (offset < image->size) {
    struct vd_run run = locate (image, offset, image->size - offset);
    uint64_t size;
    struct vd_ctx ctx = new_ctx ();

    if (run.kind == VD_RUN_DATA) {
      assert_int_equal (vd_store_get_size (&ctx, run.store, &size), 0);
      assert_true (run.position + run.length <= size);
    }
    offset += run.length;
  }
  assert_int_equal (offset, image->size);
}

static void
test_rows (void **state)
{
  size_t i;
  int write;

  (void) state;
  for (i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
    const struct row *row = &rows[i];
    struct bytes b = damaged (row);

    if (strcmp (row->name, "empty file") == 0)
      b.size = 0;
    for (write = 0; write <= 1; ++write) {
      struct vd_ctx ctx = new_ctx ();
      struct vd_image image;
      const char *said;
      int r = open_image (&ctx, b, write, &image);

      if (row->outcome == REFUSED) {
        if (r != -row->error)
          fail_msg ("%s: %d, %s", row->name, r, r ? ctx.message : "opened");
        said = ctx.message;
        expect_text (said, "test.vdi: ");
      }
      else {
        if (r != 0)
          fail_msg ("%s: %s", row->name, ctx.message);
        said = row->warns ? warnings : image.no_write;
        if (write && !!image.no_write[0] != (row->outcome == READONLY))
          fail_msg ("%s: \"%s\"", row->name, image.no_write);
        if (!row->warns && row->outcome == OPEN && warnings[0])
          fail_msg ("%s: %s", row->name, warnings);
      }
      if (row->field && (write || row->outcome == REFUSED)) {
        expect_text (said, row->field);
        expect_text (said, row->text);
      }
      if (r == 0) {
        walk (&image);
        close_image (&image);
      }
    }
    free (b.data);
  }
}

static void
test_null_uuids (void **state)
{
  static const struct { uint64_t offset; const char *field; } uuids[] = {
    { 392, "uuidCreate" }, { 408, "uuidModify" },
  };
  size_t i;

  (void) state;
  for (i = 0; i < 2; ++i) {
    struct bytes b = sample ();
    struct vd_image image;

    memset (&b.data[uuids[i].offset], 0, 16);
    must_open (b, true, &image);
    expect_text (image.no_write, uuids[i].field);
    expect_text (image.no_write, "null");
    walk (&image);
    close_image (&image);
  }
}

static void
test_comment_without_nul (void **state)
{
  struct bytes b = sample ();
  struct vd_image image;

  (void) state;
  memset (&b.data[84], 'x', 256);
  must_open (b, true, &image);
  assert_int_equal (strlen (image.comment), 255);
  assert_string_equal (image.no_write, "");
  close_image (&image);
}

static void
test_lchs (void **state)
{
  static const struct { uint32_t c, h, s; bool set; } lchs[] = {
    { 1, 255, 63, true }, { 99999, 1, 1, true }, { 0, 16, 63, false },
    { 1, 0, 63, false }, { 1, 16, 0, false }, { 1, 256, 63, false },
    { 1, 16, 64, false }, { 32767, 30250084, 22009, false },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof lchs / sizeof lchs[0]; ++i) {
    struct bytes b = sample ();
    struct vd_image image;

    poke (&b, 456, 4, lchs[i].c);
    poke (&b, 460, 4, lchs[i].h);
    poke (&b, 464, 4, lchs[i].s);
    must_open (b, true, &image);
    assert_string_equal (image.no_write, "");
    assert_int_equal (image.lchs.cylinders, lchs[i].set ? lchs[i].c : 0);
    assert_int_equal (image.lchs.heads, lchs[i].set ? lchs[i].h : 0);
    assert_int_equal (image.lchs.sectors, lchs[i].set ? lchs[i].s : 0);
    close_image (&image);
  }
}

/* M07: what is there is read, what is missing fails. */
static void
test_cut_in_a_block (void **state)
{
  const struct row cut = { .file_size = 4 * MIB - 1000 };
  struct vd_image image;

  (void) state;
  must_open (damaged (&cut), false, &image);
  expect_run (&image, 0, 8 * MIB, VD_RUN_DATA, MIB, 2 * MIB);
  expect_run (&image, 3 * MIB, 5 * MIB, VD_RUN_DATA, MIB - 1000, 3 * MIB);
  expect_run (&image, 4 * MIB - 1000, 4 * MIB + 1000, VD_RUN_BAD, 1000, 1);
  expect_run (&image, 4 * MIB - 1, 1, VD_RUN_BAD, 1, 1);
  expect_run (&image, 4 * MIB - 1001, 5, VD_RUN_DATA, 1, 4 * MIB - 1001);
  expect_run (&image, 4 * MIB, 4 * MIB, VD_RUN_PARENT, 4 * MIB, 0);
  close_image (&image);
}

/* M08 */
static void
test_entry_beyond_the_file (void **state)
{
  const struct row beyond = { .offset = MAP + 4, .width = 4, .value = 1000 };
  struct vd_image image;

  (void) state;
  must_open (damaged (&beyond), true, &image);
  expect_text (image.no_write, "1000");
  expect_run (&image, 0, 8 * MIB, VD_RUN_DATA, MIB, 2 * MIB);
  expect_run (&image, MIB, 7 * MIB, VD_RUN_BAD, MIB, 1000);
  expect_run (&image, MIB + 10, 100, VD_RUN_BAD, 100, 1000);
  expect_run (&image, 2 * MIB, 6 * MIB, VD_RUN_PARENT, MIB, 0);
  close_image (&image);
}

static void
test_entry_used_twice (void **state)
{
  const struct row twice = { .offset = MAP + 4, .width = 4, .value = 0 };
  struct vd_image image;

  (void) state;
  must_open (damaged (&twice), true, &image);
  expect_run (&image, 0, 8 * MIB, VD_RUN_DATA, MIB, 2 * MIB);
  expect_run (&image, MIB, 7 * MIB, VD_RUN_DATA, MIB, 2 * MIB);
  close_image (&image);
}

/* Part of the last block is enough if the disk ends there. */
static void
test_short_last_block (void **state)
{
  static const uint32_t map[] = { 0, 1 };
  struct vd_image image;

  (void) state;
  must_open (build ((struct sample) { .blocks = 2, .map = map,
                                      .disk_size = MIB + 512,
                                      .file_size = 3 * MIB + 512 }),
             true, &image);
  assert_string_equal (image.no_write, "");
  expect_run (&image, 0, MIB + 512, VD_RUN_DATA, MIB + 512, 2 * MIB);
  close_image (&image);

  must_open (build ((struct sample) { .blocks = 2, .map = map,
                                      .disk_size = MIB + 512,
                                      .file_size = 3 * MIB + 511 }),
             true, &image);
  expect_text (image.no_write, "entry 1 is 1");
  close_image (&image);
}

/* Version 0: the same checks where its header has the fields. */
static void
test_version_0 (void **state)
{
  static const uint32_t map[] = { 1, 0 };
  static const struct row v0[] = {
    { NONE ("as it is"), READS ("version", "0.2") },
    { PATCH ("type 5", 72, 4, 5), FAILS (EIO, "u32Type", "5") },
    { PATCH ("flags 2", 76, 4, 2), FAILS (EIO, "fFlags", "0x2") },
    { PATCH ("cbDisk 0", 352, 8, 0), FAILS (EIO, "cbDisk", "0") },
    { PATCH ("cbBlock 3", 360, 4, 3), FAILS (EIO, "cbBlock", "3") },
    { PATCH ("cBlocks 0", 364, 4, 0), FAILS (EIO, "cBlocks", "0") },
    { PATCH ("cBlocks 1", 364, 4, 1), FAILS (EIO, "cBlocks", "1") },
    { PATCH ("cBlocks 2^30", 364, 4, 0x40000000),
      FAILS (EIO, "cBlocks", "1073741824") },
    { NONE ("cut in the header"),
      FAILS (EIO, "header", "419"), .file_size = 419 },
    { NONE ("cut in the map"),
      FAILS (EIO, "block map", "427"), .file_size = 427 },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof v0 / sizeof v0[0]; ++i) {
    struct bytes b = build ((struct sample) { .version = 2, .blocks = 2,
                                              .map = map });
    struct vd_ctx ctx = new_ctx ();
    struct vd_image image;
    int r;

    if (v0[i].width)
      poke (&b, v0[i].offset, v0[i].width, v0[i].value);
    if (v0[i].file_size)
      b.size = v0[i].file_size;
    r = open_image (&ctx, b, true, &image);
    if (r != -v0[i].error)
      fail_msg ("%s: %d, %s", v0[i].name, r, ctx.message);
    expect_text (r ? ctx.message : image.no_write, v0[i].field);
    expect_text (r ? ctx.message : image.no_write, v0[i].text);
    if (r == 0) {
      walk (&image);
      close_image (&image);
    }
    free (b.data);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_rows),
    cmocka_unit_test (test_null_uuids),
    cmocka_unit_test (test_comment_without_nul),
    cmocka_unit_test (test_lchs),
    cmocka_unit_test (test_cut_in_a_block),
    cmocka_unit_test (test_entry_beyond_the_file),
    cmocka_unit_test (test_entry_used_twice),
    cmocka_unit_test (test_short_last_block),
    cmocka_unit_test (test_version_0),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
