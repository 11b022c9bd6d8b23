/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Hosted sparse extents as the engine uses them: headers, locate, redundant
 * copies, places, sessions and rounds.  No engine is involved: grains are
 * written by hand.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>

#include "unit.h"
#include "vmdk-image.h"
#include "file.h"
#include "sim.h"
#include "vmdk-hosted.h"
#include "vmdk-places.h"

/* ---- the engine's part ------------------------------------------------- */

static struct vd_change queue[4096];
static size_t queued;

static int
sync_store (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  return vd_store_sync (ctx, x->store);
}

static int
begin (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  int r = x->ops->begin_session (ctx, x);

  queued = 0;
  return r < 0 ? r : sync_store (ctx, x);
}

static int
put (struct vd_ctx *ctx, struct vmdk_extent *x, uint64_t n, int value)
{
  struct vd_place place;
  uint64_t entry;
  uint8_t *buf;
  int r;

  r = x->ops->reserve (ctx, x, n * x->grain, &place);
  if (r < 0)
    return r;
  assert_int_equal (place.position, place.value * 512);
  assert_int_equal (place.position % x->grain, 0);
  buf = malloc (x->grain);
  assert_non_null (buf);
  if (place.fresh) {
    r = vd_store_pread (ctx, place.store, buf, x->grain, place.position);
    if (r == 0)
      assert_true (buf[0] == 0 && memcmp (buf, buf + 1, x->grain - 1) == 0);
  }
  memset (buf, value, x->grain);
  if (r == 0)
    r = vd_store_pwrite (ctx, place.store, buf, x->grain, place.position, 0);
  free (buf);
  if (r == 0)
    r = x->ops->commit (ctx, x, n * x->grain, VD_STATE_DATA, &place, &entry);
  if (r < 0) {
    x->ops->abandon (x, n * x->grain, &place);
    return r;
  }
  queue[queued++] = (struct vd_change) { n * x->grain, entry };
  return 0;
}

static int
put_zero (struct vd_ctx *ctx, struct vmdk_extent *x, uint64_t n)
{
  uint64_t entry;
  int r = x->ops->commit (ctx, x, n * x->grain, VD_STATE_ZERO, NULL, &entry);

  if (r == 0)
    queue[queued++] = (struct vd_change) { n * x->grain, entry };
  return r;
}

static int
compare_changes (const void *a, const void *b)
{
  const struct vd_change *x = a, *y = b;

  if (x->block != y->block)
    return x->block < y->block ? -1 : 1;
  return x < y ? -1 : x > y;
}

static int
flush (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  size_t n = queued;
  int r = 0;

  queued = 0;
  if (n > 0)
    r = x->ops->write_tables (ctx, x);
  if (r == 0)
    r = sync_store (ctx, x);
  if (r < 0 || n == 0)
    return r;
  qsort (queue, n, sizeof queue[0], compare_changes);
  r = x->ops->write_map (ctx, x, queue, n);
  return r < 0 ? r : sync_store (ctx, x);
}

static int
end (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  int r = flush (ctx, x);

  if (r == 0)
    r = x->ops->end_session (ctx, x);
  return r < 0 ? r : sync_store (ctx, x);
}

static const uint8_t *
content (struct vmdk_extent *x, size_t *size)
{
  return vd_memory_data (x->store, size);
}

/* ---- the header (vmdk-format 5.7) -------------------------------------- */

struct row {
  const char *what;
  uint64_t offset;
  unsigned width;
  uint64_t value;
  int err;                      /* 0: opens */
  const char *text;
};

#define EOF_SECTOR 100000

static const struct row rows[] = {
  { "version 0", 4, 4, 0, ENOTSUP, "version of the sparse extent is 0" },
  { "version 2", 4, 4, 2, 0, NULL },
  { "version 3", 4, 4, 3, 0, NULL },
  { "version 4", 4, 4, 4, ENOTSUP, "is 4" },
  { "newlines", 73, 4, 0x0a0a0a0a, EIO, "text mode" },
  { "unclean", 72, 1, 1, 0, NULL },
  { "grain 0", 20, 8, 0, EIO, "grainSize is 0" },
  { "grain 1", 20, 8, 1, EIO, "grainSize is 1" },
  { "grain 2", 20, 8, 2, EIO, "grainSize is 2" },
  { "grain 4", 20, 8, 4, EIO, "grainSize is 4" },
  { "grain 3", 20, 8, 3, EIO, "grainSize is 3" },
  { "grain 12", 20, 8, 12, EIO, "grainSize is 12" },
  { "grain 256", 20, 8, 256, 0, NULL },
  { "grain 1024", 20, 8, 1024, 0, NULL },
  { "grain 2048", 20, 8, 2048, 0, NULL },
  { "grain 4096", 20, 8, 4096, EIO, "grainSize is 4096" },
  { "grain 2^40", 20, 8, UINT64_C (1) << 40, EIO, "grainSize" },
  { "grain 2^63", 20, 8, UINT64_C (1) << 63, EIO, "grainSize" },
  { "gtes 0", 44, 4, 0, EIO, "numGTEsPerGT is 0" },
  { "gtes -1", 44, 4, 0xffffffff, EIO, "numGTEsPerGT is 4294967295" },
  { "gtes 1", 44, 4, 1, EIO, "numGTEsPerGT is 1" },
  { "gtes 32", 44, 4, 32, EIO, "numGTEsPerGT is 32" },
  { "gtes 64", 44, 4, 64, EIO, "numGTEsPerGT is 64" },
  { "gtes 100", 44, 4, 100, EIO, "numGTEsPerGT is 100" },
  { "gtes 128", 44, 4, 128, 0, NULL },
  { "gtes 200", 44, 4, 200, EIO, "numGTEsPerGT is 200" },
  { "gtes 1024", 44, 4, 1024, 0, NULL },
  { "gtes 2048", 44, 4, 2048, 0, NULL },
  { "gtes 4096", 44, 4, 4096, 0, NULL },
  { "gtes 8192", 44, 4, 8192, EIO, "numGTEsPerGT is 8192" },
  { "capacity 0", 12, 8, 0, EIO, "capacity is 0" },
  { "capacity too small", 12, 8, 131072 - 128, EIO, "131072 sectors" },
  { "capacity odd", 12, 8, 131072 - 127, 0, NULL },
  { "capacity larger", 12, 8, 131073, 0, NULL },
  { "capacity 2^40", 12, 8, UINT64_C (1) << 40, EIO, "grain directory" },
  { "capacity 2^53", 12, 8, UINT64_C (1) << 53, EIO, "grain directory" },
  { "capacity 2^64-1", 12, 8, UINT64_MAX, EIO, "capacity is 1844" },
  { "descriptorSize 0", 36, 8, 0, EIO, "descriptorSize is 0" },
  { "descriptorSize big", 36, 8, 20481, EIO, "descriptorSize is 20481" },
  { "descriptorOffset far", 28, 8, 20481, EIO, "descriptorOffset is 20481" },
  { "descriptorOffset huge", 28, 8, UINT64_MAX, EIO, "descriptorOffset" },
  { "no descriptor", 28, 8, 0, 0, NULL },
  { "overHead 0", 64, 8, 0, 0, NULL },
  { "overHead beyond EOF", 64, 8, EOF_SECTOR, EIO, "overHead is 100000" },
  { "algorithm without flag", 77, 2, 1, ENOTSUP, "compressAlgorithm is 1" },
  { "algorithm 2", 77, 2, 2, ENOTSUP, "compressAlgorithm is 2" },
  { "flag 17 alone", 8, 4, 0x20003, ENOTSUP, "markers but not compressed" },
  { "flag 16 alone", 8, 4, 0x10003, ENOTSUP, "without markers" },
  { "flag 18", 8, 4, 0x40003, ENOTSUP, "0x40000" },
  { "flag 31", 8, 4, 0x80000003, ENOTSUP, "0x80000000" },
  { "flag 15", 8, 4, 0x8003, 0, NULL },
  { "flags 16+17, algorithm 0", 8, 4, 0x30003, ENOTSUP, "Algorithm is 0" },
  { "magic", 0, 4, 0, EIO, "signature is 0x00000000" },
  { "kdmv", 0, 4, 0x766d646b, EIO, "incomplete stream image" },
};

static void
test_header_rows (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
    const struct row *row = &rows[i];
    struct bytes b = build ((struct sample) { .capacity = 131072,
                                              .grains = 1 });
    struct vd_ctx ctx = new_ctx ();
    struct hosted_header h;
    uint64_t nominal = row->offset == 36 || row->offset == 28 ? 0 : 131072;
    int r;

    poke (&b, row->offset, row->width, row->value);
    r = hosted_header_parse (&ctx, "t.vmdk", b.data, b.size, nominal, &h);
    if (r != -row->err)
      fail_msg ("%s: %d, %s", row->what, r, ctx.message);
    if (row->err) {
      assert_int_equal (ctx.error, row->err);
      expect_text (ctx.message, "t.vmdk: ");
      expect_text (ctx.message, row->text);
    }
    free (b.data);
  }
}

static void
test_header_more (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 131072, .grains = 1 });
  struct vd_ctx ctx = new_ctx ();
  uint8_t sector[512];
  struct hosted_header h;

  (void) state;
  /* Wrong newlines do not matter without the flag. */
  poke (&b, 8, 4, 2);
  poke (&b, 73, 4, 0);
  assert_ok (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h));

  /* Every field goes round. */
  poke (&b, 8, 4, 3);
  memcpy (&b.data[73], "\n \r\n", 4);
  b.data[72] = 1;
  assert_ok (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h));
  memset (sector, 0xee, sizeof sector);
  hosted_header_encode (&h, sector);
  assert_memory_equal (sector, b.data, 512);
  b.data[72] = 0;

  /* Fields of a descriptor that is not in this file are nobody's business. */
  poke (&b, 36, 8, 0);
  assert_ok (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 131072,
                                        &h));
  poke (&b, 36, 8, 20);

  assert_fails (&ctx, hosted_header_parse (&ctx, "t", b.data, 511, 0, &h),
                EIO, "has 511 bytes");
  /* A directory that is lost: fails without a copy of it. */
  poke (&b, 56, 8, EOF_SECTOR);
  assert_ok (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h));
  poke (&b, 8, 4, 1);
  assert_fails (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h),
                EIO, "gdOffset is 100000");
  poke (&b, 56, 8, 0);
  assert_fails (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h),
                EIO, "gdOffset is 0");
  poke (&b, 56, 8, UINT64_MAX);
  assert_fails (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h),
                EIO, "in the footer");
  poke (&b, 56, 8, UINT64_MAX - 1);
  assert_fails (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h),
                EIO, "gdOffset is 18446744073709551614");
  poke (&b, 8, 4, 3);
  poke (&b, 48, 8, EOF_SECTOR);
  assert_fails (&ctx, hosted_header_parse (&ctx, "t", b.data, b.size, 0, &h),
                EIO, "gdOffset is");
  free (b.data);
}

/* The numbers of vmdk-format 5.2. */
static void
test_layout (void **state)
{
  static const struct {
    uint64_t capacity, descriptor, rgd, gd, overhead;
  } cases[] = {
    { 204800, 20, 21, 38, 128 },
    { 4194304, 20, 21, 278, 640 },
    { 4192256, 0, 1, 258, 640 },
    { 1954, 20, 21, 26, 128 },
    { 204800, 200, 201, 218, 256 },
  };
  UNIT_CTX (ctx);
  struct hosted_header h;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    assert_ok (ctx, hosted_layout (ctx, "t", cases[i].capacity,
                                   cases[i].descriptor, &h));
    assert_int_equal (h.capacity, cases[i].capacity);
    assert_int_equal (h.rgd_offset, cases[i].rgd);
    assert_int_equal (h.gd_offset, cases[i].gd);
    assert_int_equal (h.overhead, cases[i].overhead);
    assert_int_equal (h.descriptor_offset, cases[i].descriptor ? 1 : 0);
    assert_int_equal (h.version, 1);
    assert_int_equal (h.flags, 3);
  }
  assert_fails (ctx, hosted_layout (ctx, "t", 0, 20, &h), EINVAL, "empty");
  assert_ok (ctx, hosted_layout (ctx, "t", 256 * TIB / 512, 20, &h));
  assert_fails (ctx, hosted_layout (ctx, "t", UINT64_C (1) << 46, 20, &h),
                EFBIG, "2 TiB");
  assert_fails (ctx, hosted_layout (ctx, "t", UINT64_MAX, 20, &h),
                EFBIG, "2 TiB");
  assert_fails (ctx, hosted_layout (ctx, "t", 1, UINT64_MAX, &h),
                EFBIG, "descriptor");
}

static void
test_create (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800 });
  UNIT_CTX (ctx);
  struct hosted_header h;
  struct vd_store *st;
  struct vd_sim *sim;
  const uint8_t *data;
  size_t size, i, n;
  char text[10241];

  (void) state;
  memcpy (&b.data[512], "hello", 5);
  assert_ok (ctx, hosted_layout (ctx, "t", 204800, 20, &h));
  assert_ok (ctx, vd_memory_open (ctx, "t", NULL, 0, true, &st));
  assert_ok (ctx, hosted_create (ctx, st, &h, "hello", 5));
  data = vd_memory_data (st, &size);
  assert_int_equal (size, b.size);
  assert_memory_equal (data, b.data, size);
  vd_store_close (st);

  memset (text, 'x', sizeof text);
  assert_ok (ctx, vd_memory_open (ctx, "t", NULL, 0, true, &st));
  assert_fails (ctx, hosted_create (ctx, st, &h, text, sizeof text),
                EFBIG, "10241");
  vd_store_close (st);

  /* No signature before the rest is durable. */
  sim = vd_sim_new ();
  assert_ok (ctx, vd_sim_open (ctx, sim, "t", true, &st));
  assert_ok (ctx, hosted_create (ctx, st, &h, "hello", 5));
  vd_store_close (st);
  n = vd_sim_log_length (sim);
  for (i = 0; i <= n * 8; ++i) {
    uint64_t seed = i, got;
    struct vd_sim *cut = vd_sim_power_cut (sim, i % (n + 1), &seed);
    uint8_t all[65536];

    assert_ok (ctx, vd_sim_open (ctx, cut, "t", false, &st));
    assert_ok (ctx, vd_store_get_size (ctx, st, &got));
    assert_in_range (got, 0, sizeof all);
    assert_ok (ctx, vd_store_pread (ctx, st, all, got, 0));
    if (got >= 4 && memcmp (all, "KDMV", 4) == 0) {
      assert_int_equal (got, b.size);
      assert_memory_equal (all, b.data, got);
    }
    vd_store_close (st);
    vd_sim_free (cut);
  }
  vd_sim_free (sim);
  free (b.data);
}

/* ---- locate ------------------------------------------------------------ */

static void
test_lookup (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 8 });
  struct vmdk_extent x;

  (void) state;
  set_both (&b, 1, sector_of (&b, 0));
  set_both (&b, 2, sector_of (&b, 1));
  set_both (&b, 3, sector_of (&b, 3));
  set_both (&b, 511, sector_of (&b, 4));
  set_both (&b, 512, sector_of (&b, 5));
  set_both (&b, 513, sector_of (&b, 6));
  set_both (&b, 1599, sector_of (&b, 7));
  must_open (&b, false, &x);
  assert_string_equal (x.no_write, "");
  assert_int_equal (x.grain, GRAIN);
  assert_false (x.has_zero);
  assert_string_equal (warnings, "");

  expect_run (&x, 0, 100 * MIB, VD_RUN_PARENT, GRAIN, 0);
  expect_run (&x, 1, 5, VD_RUN_PARENT, 5, 0);
  expect_run (&x, GRAIN, 100 * MIB - GRAIN, VD_RUN_DATA, 2 * GRAIN, GRAIN);
  expect_run (&x, GRAIN + 513, GRAIN, VD_RUN_DATA, GRAIN, GRAIN + 513);
  expect_run (&x, 3 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 4 * GRAIN);
  expect_run (&x, 4 * GRAIN, 96 * MIB, VD_RUN_PARENT, 507 * GRAIN, 0);
  /* Over the border of two tables. */
  expect_run (&x, 511 * GRAIN + 7, 60 * MIB, VD_RUN_DATA, 3 * GRAIN - 7,
              5 * GRAIN + 7);
  expect_run (&x, 514 * GRAIN, 1086 * GRAIN, VD_RUN_PARENT, 1085 * GRAIN, 0);
  expect_run (&x, 1599 * GRAIN, GRAIN, VD_RUN_DATA, GRAIN, 8 * GRAIN);
  close_extent (&x);
}

/* Grain sizes, table sizes, no copies, odd sizes, a smaller nominal size. */
static void
test_shapes (void **state)
{
  static const struct sample samples[] = {
    { .grain = 8 }, { .grain = 2048 }, { .gtes = 128 }, { .gtes = 4096 },
    { .grain = 8, .gtes = 4096 }, { .no_rgd = true }, { .version = 3 },
    { .version = 2 },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof samples / sizeof samples[0]; ++i) {
    struct sample s = samples[i];
    struct vd_ctx ctx = new_ctx ();
    struct vmdk_extent x;
    struct bytes b;
    uint64_t n, size;

    s.capacity = 200001;
    s.grains = 3;
    b = build (s);
    n = (s.capacity * 512 + b.grain - 1) / b.grain;
    set_one (&b, 0, n - 1, sector_of (&b, 0));
    set_one (&b, 0, 0, sector_of (&b, 2));
    if (!s.no_rgd) {
      set_one (&b, 1, n - 1, sector_of (&b, 0));
      set_one (&b, 1, 0, sector_of (&b, 2));
    }
    assert_ok (&ctx, open_bytes (&ctx, &b, i & 1, 0, &x));
    assert_int_equal (x.grain, b.grain);
    size = s.capacity * 512;
    expect_run (&x, 0, size, VD_RUN_DATA, b.grain, sector_of (&b, 2) * 512);
    expect_run (&x, (n - 1) * b.grain, size - (n - 1) * b.grain,
                VD_RUN_DATA, size - (n - 1) * b.grain,
                sector_of (&b, 0) * 512);
    assert_string_equal (x.no_write, "");
    close_extent (&x);
    assert_ok (&ctx, open_bytes (&ctx, &b, true, size - 512 * 3, &x));
    assert_string_equal (x.no_write, "");
    close_extent (&x);
    size = (size + b.grain - 1) / b.grain * b.grain;
    assert_ok (&ctx, open_bytes (&ctx, &b, true, size, &x));
    close_extent (&x);
    assert_fails (&ctx, open_bytes (&ctx, &b, true, size + 512, &x), EIO,
                  "capacity is 200001");
    free (b.data);
  }
}

static void
test_zeroed (void **state)
{
  static const struct { uint32_t version, flags; bool zero, has_zero; }
  cases[] = {
    { 2, 7, true, true }, { 3, 7, true, true }, { 1, 7, true, false },
    { 1, 3, false, false }, { 2, 3, false, false }, { 3, 3, false, false },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct bytes b = build ((struct sample) {
      .version = cases[i].version, .flags = cases[i].flags,
      .capacity = 204800 });
    struct vmdk_extent x;

    set_both (&b, 3, 1);
    set_both (&b, 4, 1);
    must_open (&b, true, &x);
    assert_int_equal (x.has_zero, cases[i].has_zero);
    if (cases[i].zero) {
      assert_string_equal (x.no_write, "");
      expect_run (&x, 3 * GRAIN + 5, MIB, VD_RUN_ZERO, 2 * GRAIN - 5, 0);
    }
    else {
      expect_text (x.no_write, "grain table entry 3 is 1");
      expect_run (&x, 3 * GRAIN + 5, MIB, VD_RUN_BAD, GRAIN - 5, 1);
    }
    expect_run (&x, 0, MIB, VD_RUN_PARENT, 3 * GRAIN, 0);
    close_extent (&x);
  }
}

/* A stream whose tables stand in front, as qemu writes them. */
static void
test_compressed (void **state)
{
  struct bytes b = build ((struct sample) {
    .version = 3, .flags = 0x30003, .capacity = 204801, .grains = 2 });
  struct vmdk_extent x;

  (void) state;
  set_both (&b, 0, sector_of (&b, 0));
  set_both (&b, 1, sector_of (&b, 0) + 3);
  set_both (&b, 2, b.size / 512 - 1);
  set_both (&b, 3, b.size / 512);
  set_both (&b, 4, 5);
  set_both (&b, 1600, sector_of (&b, 1));
  must_open (&b, true, &x);
  expect_text (x.no_write, "written once");
  expect_run (&x, 0, MIB, VD_RUN_PACKED, GRAIN, 0);
  expect_run (&x, 5, MIB, VD_RUN_PACKED, GRAIN - 5, 0);
  expect_run (&x, GRAIN + 512, 512, VD_RUN_PACKED, 512, GRAIN);
  expect_run (&x, 2 * GRAIN, MIB, VD_RUN_PACKED, GRAIN, 2 * GRAIN);
  expect_run (&x, 3 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 384);
  expect_run (&x, 4 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 5);
  expect_run (&x, 1600 * GRAIN, 512, VD_RUN_PACKED, 512, 1600 * GRAIN);
  assert_int_equal (locate (&x, 5 * GRAIN, 100 * MIB - 5 * GRAIN).length,
                    1595 * GRAIN);
  assert_int_equal (locate (&x, 5 * GRAIN, MIB).mode, VD_MODE_DENY);
  assert_int_equal (locate (&x, 5 * GRAIN, MIB).error, EROFS);
  close_extent (&x);
}

/* Entries that point where no grain can be. */
static void
test_bad_entries (void **state)
{
  static const uint64_t overheads[] = { 128, 0, 1 };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof overheads / sizeof overheads[0]; ++i) {
    struct bytes b = build ((struct sample) { .capacity = 204800,
                                              .grains = 3 });
    struct vmdk_extent x;

    poke (&b, 64, 8, overheads[i]);
    set_both (&b, 0, 2);                /* the descriptor */
    set_both (&b, 1, b.gt[1] / 512);    /* tables */
    set_both (&b, 2, b.gt[0] / 512 + 15);
    set_both (&b, 3, b.gd[0] / 512);
    set_both (&b, 4, b.size / 512);     /* beyond the end */
    set_both (&b, 5, 0xffffffff);
    set_both (&b, 6, 0x7fffffff);
    set_both (&b, 7, b.size / 512 - 1); /* partly */
    set_both (&b, 8, sector_of (&b, 1) + 1);        /* any sector will do */
    must_open (&b, false, &x);
    expect_run (&x, 0, MIB, VD_RUN_BAD, GRAIN, 2);
    expect_run (&x, GRAIN + 1, 5, VD_RUN_BAD, 5, 22);
    expect_run (&x, 2 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 54);
    expect_run (&x, 3 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 38);
    expect_run (&x, 4 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 512);
    expect_run (&x, 5 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 0xffffffff);
    expect_run (&x, 6 * GRAIN, MIB, VD_RUN_BAD, GRAIN, 0x7fffffff);
    expect_run (&x, 7 * GRAIN, MIB, VD_RUN_DATA, 512, 511 * 512);
    expect_run (&x, 7 * GRAIN + 1, 512, VD_RUN_DATA, 511, 511 * 512 + 1);
    expect_run (&x, 7 * GRAIN + 1, 511, VD_RUN_DATA, 511, 511 * 512 + 1);
    expect_run (&x, 7 * GRAIN + 512, MIB, VD_RUN_BAD, GRAIN - 512, 511);
    expect_run (&x, 8 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 2 * GRAIN + 512);
    expect_run (&x, 9 * GRAIN, 9 * GRAIN, VD_RUN_PARENT, 9 * GRAIN, 0);
    assert_string_equal (warnings, "");
    close_extent (&x);
  }
}

/* Each of them forbids writing. */
static void
test_no_write (void **state)
{
  static const struct { uint32_t a, b; const char *text; } cases[] = {
    { 2, 0, "entry 0 is 2, inside of the metadata" },
    { 127, 0, "entry 0 is 127, inside of the metadata" },
    { 512, 0, "entry 0 is 512, its data would end at 327680" },
    { 385, 0, "entry 0 is 385, its data would end at 262656" },
    { 128, 128, "entry 1 is 128, which overlaps" },
    { 128, 129, "entry 1 is 129, which overlaps" },
    { 200, 128, "entry 1 is 128, which overlaps" },
    { 129, 255, "entry 1 is 255, which overlaps" },
    { 128, 256, "" }, { 129, 257, "" }, { 129, 260, "" }, { 260, 130, "" },
    { 384, 255, "" },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct bytes b = build ((struct sample) { .capacity = 204800,
                                              .grains = 3 });
    struct vmdk_extent x;

    set_both (&b, 0, cases[i].a);
    set_both (&b, 1, cases[i].b);
    must_open (&b, true, &x);
    if (cases[i].text[0])
      expect_text (x.no_write, cases[i].text);
    else
      assert_string_equal (x.no_write, "");
    close_extent (&x);
  }
}

static void
test_places (void **state)
{
  struct vmdk_places *p = vmdk_places_new (8);
  uint32_t i;

  (void) state;
  assert_non_null (p);
  for (i = 0; i < 100000; ++i)
    assert_int_equal (vmdk_places_take (p, i * 16 + 3), 1);
  for (i = 0; i < 99999; ++i) {
    assert_int_equal (vmdk_places_take (p, i * 16 + 10), 0);
    assert_int_equal (vmdk_places_take (p, i * 16 + 12), 0);
    assert_int_equal (vmdk_places_take (p, i * 16 + 11), 1);
  }
  assert_int_equal (vmdk_places_take (p, UINT32_MAX), 1);
  assert_int_equal (vmdk_places_take (p, UINT32_MAX - 7), 0);
  assert_int_equal (vmdk_places_take (p, UINT32_MAX - 8), 1);
  assert_int_equal (vmdk_places_take (p, 0), 0);
  vmdk_places_free (p);

  p = vmdk_places_new (2048);
  assert_int_equal (vmdk_places_take (p, UINT32_MAX - 2047), 1);
  assert_int_equal (vmdk_places_take (p, UINT32_MAX), 0);
  assert_int_equal (vmdk_places_take (p, 2048 * 4096), 1);
  assert_int_equal (vmdk_places_take (p, 2048 * 4096 - 1), 0);
  assert_int_equal (vmdk_places_take (p, 2048 * 4095), 1);
  vmdk_places_free (p);
}

/* ---- grain directories ------------------------------------------------- */

static void
test_directory (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 2 });
  struct vmdk_extent x;
  unsigned copy;

  (void) state;
  set_both (&b, 0, sector_of (&b, 0));
  for (copy = 0; copy < 2; ++copy) {
    poke (&b, b.gd[copy] + 4, 4, 0);
    poke (&b, b.gd[copy] + 8, 4, copy ? 1 : b.gd[0] / 512);
  }
  must_open (&b, false, &x);
  expect_run (&x, 0, MIB, VD_RUN_DATA, GRAIN, GRAIN);
  expect_run (&x, GRAIN, 99 * MIB, VD_RUN_PARENT, 1023 * GRAIN, 0);
  expect_run (&x, 512 * GRAIN, GRAIN, VD_RUN_PARENT, GRAIN, 0);
  expect_run (&x, 64 * MIB + 1, 36 * MIB - 1, VD_RUN_BAD, 32 * MIB - 1, 38);
  expect_run (&x, 96 * MIB, 4 * MIB, VD_RUN_PARENT, 4 * MIB, 0);
  close_extent (&x);
}

static void
test_directory_no_write (void **state)
{
  static const struct {
    bool unclean;
    unsigned piece;
    uint32_t gde, copy;         /* 9999: stays */
    const char *text;
  } cases[] = {
    { false, 1, 0, 9999, "entry 1 is 0, but 26 in" },
    { false, 1, 9999, 0, "entry 1 is 43, but 0 in" },
    { true, 1, 0, 9999, "" }, { true, 1, 9999, 0, "" },
    { true, 0, 0, 9999, "entry 0 is 0, but 22 in" },
    { false, 1, 0, 0, "" },
    { false, 0, 1, 9999, "entry 0 is 1, where" },
    { true, 0, 0x7fffffff, 9999, "entry 0 is 2147483647, where" },
    { false, 0, 9999, 0x7fffffff, "entry 0 is 2147483647 in the redundant" },
    { false, 0, 22, 22, "entry 0 is 22, as it is" },
    { false, 1, 40, 9999, "grain table at sector 40 overlaps" },
    { false, 1, 47, 9999, "grain table at sector 47 overlaps" },
    { false, 1, 255, 9999, "" },        /* behind the grains */
    { false, 1, 130, 9999, "entry 0 is 128, inside of the metadata" },
    { false, 3, 22, 9999, "overlap" },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 3,
                                              .unclean = cases[i].unclean });
    struct vmdk_extent x;

    set_both (&b, 0, sector_of (&b, 0));
    memset (&b.data[255 * 512], 0, 2048);
    if (cases[i].gde != 9999)
      poke (&b, b.gd[0] + 4 * cases[i].piece, 4, cases[i].gde);
    if (cases[i].copy != 9999)
      poke (&b, b.gd[1] + 4 * cases[i].piece, 4, cases[i].copy);
    if (cases[i].gde == 255)
      set_both (&b, 0, 256 + 3);
    must_open (&b, true, &x);
    if (cases[i].text[0])
      expect_text (x.no_write, cases[i].text);
    else if (x.no_write[0])
      fail_msg ("%zu: %s", i, x.no_write);
    close_extent (&x);
  }
}

/* ---- redundant copies -------------------------------------------------- */

/* peers M17, and a directory that is lost. */
static void
test_damaged_primary (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i < 7; ++i) {
    struct bytes b = build ((struct sample) { .capacity = 204800,
                                              .grains = 4,
                                              .unclean = i == 6 });
    struct vd_ctx ctx = new_ctx ();
    struct vmdk_extent x;
    const char *last;

    set_both (&b, 1, sector_of (&b, 0));
    set_both (&b, 2, sector_of (&b, 1));
    set_both (&b, 511, sector_of (&b, 3));
    set_both (&b, 512, sector_of (&b, 2));
    switch (i) {
    case 0: poke (&b, b.gd[0], 4, 0x7fffffff); break;
    case 1: memset (&b.data[b.gt[0]], 0, 2048); break;
    case 2: memset (&b.data[b.gt[0]], 0xff, 2048); break;
    case 3: poke (&b, b.gd[0], 4, 0); break;
    case 4: poke (&b, 56, 8, EOF_SECTOR); break;
    case 5: poke (&b, 56, 8, 0); break;
    case 6: poke (&b, b.gd[0], 4, 0x7fffffff); break;
    }
    assert_ok (&ctx, open_bytes (&ctx, &b, false, 0, &x));
    expect_run (&x, 0, 100 * MIB, VD_RUN_PARENT, GRAIN, 0);
    expect_run (&x, GRAIN, 99 * MIB, VD_RUN_DATA, 2 * GRAIN, GRAIN);
    expect_run (&x, 3 * GRAIN, 96 * MIB, VD_RUN_PARENT, 508 * GRAIN, 0);
    expect_run (&x, 511 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 4 * GRAIN);
    expect_run (&x, 512 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 3 * GRAIN);
    expect_text (warnings, "damaged");
    last = strchr (warnings, '\n');
    assert_string_equal (last, "\n");   /* one only */
    close_extent (&x);

    assert_ok (&ctx, open_bytes (&ctx, &b, true, 0, &x));
    assert_true (x.no_write[0]);
    expect_run (&x, GRAIN, 99 * MIB, VD_RUN_DATA, 2 * GRAIN, GRAIN);
    expect_run (&x, 3 * GRAIN, 96 * MIB, VD_RUN_PARENT, 508 * GRAIN, 0);
    close_extent (&x);
    free (b.data);
  }
}

/* A directory that is in the wrong place, inside of what is in the right one:
 * that is read.
 */
static void
test_wrong_place (void **state)
{
  unsigned i, j;

  (void) state;
  for (i = 0; i < 6; ++i) {
    struct bytes b = build ((struct sample) { .capacity = 204800,
                                              .grains = 3 });
    struct vd_ctx ctx = new_ctx ();
    struct vmdk_extent x;
    const char *field = i < 3 ? "rgdOffset is" : "gdOffset is";

    set_both (&b, 1, sector_of (&b, 0));
    set_both (&b, 513, sector_of (&b, 1));
    /* Entries that could be directory entries. */
    set_both (&b, 0, sector_of (&b, 2));
    switch (i) {
    case 0: poke (&b, 48, 8, b.gt[0] / 512); break;
    case 1: poke (&b, 48, 8, b.gt[0] / 512 + 5); break;
    case 2: poke (&b, 48, 8, b.overhead + 128); break;
    case 3: poke (&b, 56, 8, b.gt[1] / 512); break;
    case 4: poke (&b, 56, 8, b.gt[1] / 512 + 5); break;
    case 5:
      /* VirtualBox's resizing leaves the last entries 0. */
      poke (&b, b.gd[0] + 12, 4, 0);
      poke (&b, b.gd[1] + 12, 4, 0);
      poke (&b, 56, 8, b.gt[1] / 512 + 3);
      break;
    }
    for (j = 0; j < 2; ++j) {
      assert_ok (&ctx, open_bytes (&ctx, &b, j, 0, &x));
      expect_run (&x, 0, GRAIN, VD_RUN_DATA, GRAIN,
                  sector_of (&b, 2) * UINT64_C (512));
      expect_run (&x, GRAIN, GRAIN, VD_RUN_DATA, GRAIN,
                  sector_of (&b, 0) * UINT64_C (512));
      expect_run (&x, 513 * GRAIN, GRAIN, VD_RUN_DATA, GRAIN,
                  sector_of (&b, 1) * UINT64_C (512));
      expect_run (&x, 514 * GRAIN, GRAIN, VD_RUN_PARENT, GRAIN, 0);
      expect_text (j ? x.no_write : warnings, field);
      close_extent (&x);
    }
    free (b.data);
  }
}

static void
test_damaged_copy (void **state)
{
  unsigned i;

  (void) state;
  for (i = 0; i < 6; ++i) {
    struct bytes b = build ((struct sample) { .capacity = 204800,
                                              .grains = 4 });
    struct vd_ctx ctx = new_ctx ();
    struct vmdk_extent x;

    set_both (&b, 1, sector_of (&b, 0));
    set_both (&b, 512, sector_of (&b, 2));
    switch (i) {
    case 0: poke (&b, b.gd[1], 4, 0x7fffffff); break;
    case 1: memset (&b.data[b.gt[1]], 0, 2048); break;
    case 2: memset (&b.data[b.gt[1]], 0xff, 2048); break;
    case 3: poke (&b, b.gd[1], 4, 0); break;
    case 4: poke (&b, 48, 8, EOF_SECTOR); break;
    case 5: poke (&b, 48, 8, b.gd[0] / 512); break;
    }
    assert_ok (&ctx, open_bytes (&ctx, &b, false, 0, &x));
    expect_run (&x, GRAIN, 99 * MIB, VD_RUN_DATA, GRAIN, GRAIN);
    expect_run (&x, 2 * GRAIN, 97 * MIB, VD_RUN_PARENT, 510 * GRAIN, 0);
    expect_run (&x, 512 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 3 * GRAIN);
    assert_true (warnings[0]);
    assert_string_equal (strchr (warnings, '\n'), "\n");
    close_extent (&x);
    assert_ok (&ctx, open_bytes (&ctx, &b, true, 0, &x));
    assert_true (x.no_write[0]);
    close_extent (&x);
    free (b.data);
  }
}

/* Rules O10: what counts of two entries; 512 lies beyond the end. */
static const struct { uint32_t primary, copy, counts; } pairs[] = {
  { 0, 128, 128 }, { 128, 0, 128 }, { 0, 512, 0 }, { 512, 0, 0 },
  { 0, 1, 1 }, { 1, 0, 1 }, { 1, 256, 256 }, { 256, 1, 256 },
  { 1, 512, 1 }, { 512, 1, 1 }, { 384, 256, 384 }, { 512, 256, 256 },
  { 384, 512, 384 }, { 2, 0, 0 }, { 0, 2, 0 }, { 2, 256, 256 },
  { 385, 0, 0 },                /* not wholly in the file */
};

static void
test_pairs (void **state)
{
  size_t i, unclean;

  (void) state;
  for (unclean = 0; unclean < 2; ++unclean)
    for (i = 0; i < sizeof pairs / sizeof pairs[0]; ++i) {
      struct bytes b = build ((struct sample) {
        .version = 2, .flags = 7, .capacity = 204800, .grains = 3,
        .unclean = unclean });
      struct vd_ctx ctx = new_ctx ();
      uint32_t counts = pairs[i].counts;
      struct vmdk_extent x;
      const uint8_t *data;
      size_t size;
      unsigned k;

      set_one (&b, 0, 7, pairs[i].primary);
      set_one (&b, 1, 7, pairs[i].copy);
      /* Looked at twice: as found, and with the differences mended. */
      for (k = 0; k < (unclean ? 3u : 2u); ++k) {
        assert_ok (&ctx, open_bytes (&ctx, &b, k > 0, 0, &x));
        if (k > 0 && !unclean)
          expect_text (x.no_write, "redundant copy");
        else
          assert_string_equal (x.no_write, "");
        if (k == 2) {
          assert_ok (&ctx, begin (&ctx, &x));
          data = content (&x, &size);
          assert_int_equal (peek (data, b.gt[0] + 28, 4), counts);
          assert_int_equal (peek (data, b.gt[1] + 28, 4), counts);
          assert_int_equal (data[72], 1);
        }
        expect_run (&x, 7 * GRAIN, GRAIN,
                    counts == 0 ? VD_RUN_PARENT
                    : counts == 1 ? VD_RUN_ZERO : VD_RUN_DATA,
                    GRAIN, counts * 512);
        assert_int_equal (warnings[0] != 0, !unclean);
        data = content (&x, &size);
        if (k < 2)              /* opening alone changes nothing */
          assert_memory_equal (data, b.data, b.size);
        else {
          assert_ok (&ctx, put (&ctx, &x, 8, 0x99));
          assert_ok (&ctx, end (&ctx, &x));
          data = content (&x, &size);
          assert_int_equal (data[72], 0);
          assert_memory_equal (&data[b.gt[0]], &data[b.gt[1]], 8192);
        }
        close_extent (&x);
      }
      free (b.data);
    }
}

/* One of two directory entries is there after a crash. */
static void
test_half_table (void **state)
{
  unsigned copy;

  (void) state;
  for (copy = 0; copy < 2; ++copy) {
    struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 1,
                                              .unclean = true });
    struct vd_ctx ctx = new_ctx ();
    struct vmdk_extent x;
    const uint8_t *data;
    size_t size;

    poke (&b, b.gd[copy] + 4, 4, 0);
    must_open (&b, true, &x);
    assert_string_equal (x.no_write, "");
    expect_run (&x, 32 * MIB, 32 * MIB, VD_RUN_PARENT, 32 * MIB, 0);
    assert_ok (&ctx, begin (&ctx, &x));
    data = content (&x, &size);
    assert_int_equal (peek (data, b.gd[0] + 4, 4), 0);
    assert_int_equal (peek (data, b.gd[1] + 4, 4), 0);
    assert_ok (&ctx, put (&ctx, &x, 512, 0x42));
    assert_ok (&ctx, end (&ctx, &x));
    data = content (&x, &size);
    assert_int_not_equal (peek (data, b.gd[0] + 4, 4), 0);
    assert_int_not_equal (peek (data, b.gd[1] + 4, 4), 0);
    expect_run (&x, 32 * MIB, 32 * MIB, VD_RUN_DATA, GRAIN,
                peek (data, peek (data, b.gd[1] + 4, 4) * 512, 4) * 512);
    close_extent (&x);
  }
}

/* Somebody opened the image for writing while we read it. */
static void
test_other_writer (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 2 });
  struct vd_ctx ctx = new_ctx ();
  struct vd_store *st;
  struct vmdk_extent x;

  (void) state;
  assert_ok (&ctx, vd_memory_open (&ctx, "t", b.data, b.size, true, &st));
  assert_ok (&ctx, open_store (&ctx, st, false, 204800 * 512, &x));
  assert_ok (&ctx, vd_store_pwrite (&ctx, st, "\1", 1, 72, 0));
  assert_ok (&ctx, vd_store_pwrite (&ctx, st, "\0\2\0\0", 4, b.gt[0], 0));
  assert_ok (&ctx, vd_store_truncate (&ctx, st, 640 * 512));
  assert_ok (&ctx, vd_store_pwrite (&ctx, st, "\x7c\2\0\0", 4,
                                    b.gd[0] + 4, 0));
  assert_ok (&ctx, vd_store_pwrite (&ctx, st, "\x78\2\0\0", 4,
                                    b.gd[1] + 4, 0));
  assert_ok (&ctx, vd_store_pwrite (&ctx, st, "\x80\0\0\0", 4,
                                    636 * 512, 0));
  expect_run (&x, 32 * MIB, MIB, VD_RUN_DATA, GRAIN, 128 * 512);
  expect_run (&x, 0, MIB, VD_RUN_DATA, GRAIN, 512 * 512);
  assert_string_equal (warnings, "");
  close_extent (&x);
  free (b.data);
}

/* ---- writing ----------------------------------------------------------- */

static void
test_write (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 2 });
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place, second;
  struct vmdk_extent x;
  const uint8_t *data;
  uint64_t entry;
  size_t size;

  (void) state;
  set_both (&b, 5, sector_of (&b, 0));      /* the second is in nobody's use */
  must_open (&b, true, &x);
  assert_ok (&ctx, begin (&ctx, &x));
  data = content (&x, &size);
  assert_int_equal (data[72], 1);
  assert_int_equal (size, 256 * 512);

  assert_ok (&ctx, put (&ctx, &x, 700, 0xaa));
  assert_ok (&ctx, put (&ctx, &x, 3, 0xbb));
  expect_run (&x, 700 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 256 * 512);
  expect_run (&x, 3 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 384 * 512);
  data = content (&x, &size);
  assert_int_equal (peek (data, b.gt[0] + 12, 4), 0);
  assert_int_equal (peek (data, b.gt[1] + 12, 4), 0);
  assert_true (size > 512 * 512);       /* ahead of need */

  /* What was given back is used again, and not taken for zeroes. */
  assert_ok (&ctx, x.ops->reserve (&ctx, &x, 0, &place));
  assert_int_equal (place.value, 512);
  assert_true (place.fresh);
  assert_ok (&ctx, vd_store_pwrite (&ctx, x.store, "x", 1, place.position, 0));
  x.ops->abandon (&x, 0, &place);
  assert_ok (&ctx, x.ops->reserve (&ctx, &x, 0, &second));
  assert_int_equal (second.value, 512);
  assert_false (second.fresh);
  assert_ok (&ctx, x.ops->reserve (&ctx, &x, 0, &place));
  assert_int_equal (place.value, 640);
  assert_true (place.fresh);
  x.ops->abandon (&x, 0, &second);
  x.ops->abandon (&x, 0, &place);

  assert_ok (&ctx, flush (&ctx, &x));
  data = content (&x, &size);
  assert_int_equal (peek (data, b.gt[0] + 12, 4), 384);
  assert_int_equal (peek (data, b.gt[1] + 12, 4), 384);
  assert_int_equal (peek (data, b.gt[0] + 2800, 4), 256);
  assert_int_equal (peek (data, b.gt[1] + 2800, 4), 256);

  /* An entry moves one way only. */
  assert_fails (&ctx, x.ops->commit (&ctx, &x, 3 * GRAIN, VD_STATE_DATA,
                                     &place, &entry), EINVAL, "entry 3");
  assert_fails (&ctx, x.ops->commit (&ctx, &x, 0, VD_STATE_ZERO, NULL,
                                     &entry), EINVAL, "entry 0");

  assert_ok (&ctx, end (&ctx, &x));
  data = content (&x, &size);
  assert_int_equal (size, 512 * 512);
  assert_int_equal (data[72], 0);
  assert_int_equal (data[256 * 512], 0xaa);
  assert_int_equal (data[384 * 512], 0xbb);

  /* The next session goes on from there; nothing reads as what was there. */
  assert_ok (&ctx, begin (&ctx, &x));
  assert_ok (&ctx, put (&ctx, &x, 0, 0xcc));
  expect_run (&x, 0, MIB, VD_RUN_DATA, GRAIN, 512 * 512);
  assert_ok (&ctx, end (&ctx, &x));
  content (&x, &size);
  assert_int_equal (size, 640 * 512);
  close_extent (&x);
}

static void
test_write_zero (void **state)
{
  struct bytes b = build ((struct sample) { .version = 2, .flags = 7,
                                            .capacity = 204800 });
  struct vd_ctx ctx = new_ctx ();
  struct vmdk_extent x;
  const uint8_t *data;
  size_t size;

  (void) state;
  must_open (&b, true, &x);
  assert_ok (&ctx, begin (&ctx, &x));
  assert_ok (&ctx, put_zero (&ctx, &x, 4));
  assert_ok (&ctx, put_zero (&ctx, &x, 5));
  expect_run (&x, 4 * GRAIN, MIB, VD_RUN_ZERO, 2 * GRAIN, 0);
  assert_ok (&ctx, put (&ctx, &x, 5, 0x77));
  assert_ok (&ctx, flush (&ctx, &x));
  data = content (&x, &size);
  assert_int_equal (peek (data, b.gt[0] + 16, 4), 1);
  assert_int_equal (peek (data, b.gt[1] + 16, 4), 1);
  assert_int_equal (peek (data, b.gt[0] + 20, 4), 128);
  assert_int_equal (peek (data, b.gt[1] + 20, 4), 128);
  assert_ok (&ctx, end (&ctx, &x));
  close_extent (&x);
}

/* Tables that are not there; with and without copies, and odd sizes. */
static void
test_new_tables (void **state)
{
  static const struct sample samples[] = {
    { .grains = 1 }, { .no_rgd = true, .grains = 1 },
    { .grain = 8, .gtes = 4096 }, { .version = 2, .flags = 7 },
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof samples / sizeof samples[0]; ++i) {
    struct sample s = samples[i];
    struct vd_ctx ctx = new_ctx ();
    struct vmdk_extent x;
    const uint8_t *data;
    struct bytes b, after;
    size_t size;
    uint64_t k;

    s.capacity = 16 * 65536 * 4;
    b = build (s);
    for (k = 1; k < 4; ++k) {
      poke (&b, b.gd[0] + 4 * k, 4, 0);
      poke (&b, b.gd[1] + 4 * k, 4, 0);
    }
    must_open (&b, true, &x);
    assert_ok (&ctx, begin (&ctx, &x));
    for (k = 0; k < 4; ++k)
      assert_ok (&ctx, put (&ctx, &x, (3 - k) * b.gtes + k, 0x30 + k));
    if (x.has_zero)
      assert_ok (&ctx, put_zero (&ctx, &x, 3 * b.gtes + 9));
    data = content (&x, &size);
    assert_int_equal (peek (data, b.gd[0] + 4, 4), 0);
    assert_int_equal (peek (data, b.gd[1] + 4, 4), 0);
    assert_ok (&ctx, x.ops->write_tables (&ctx, &x));
    data = content (&x, &size);
    assert_int_not_equal (peek (data, b.gd[0] + 4, 4), 0);
    assert_int_not_equal (peek (data, b.gd[1] + 4, 4), 0);
    assert_int_equal (peek (data, peek (data, b.gd[0] + 4, 4) * 512 + 8, 4),
                      0);
    assert_ok (&ctx, flush (&ctx, &x));
    assert_ok (&ctx, put (&ctx, &x, 2 * b.gtes, 0x40));
    assert_ok (&ctx, end (&ctx, &x));
    data = content (&x, &size);
    assert_int_equal (size % b.grain, 0);
    after = b;
    after.data = malloc (size);
    after.size = size;
    memcpy (after.data, data, size);
    close_extent (&x);

    must_open (&after, true, &x);
    assert_string_equal (x.no_write, "");
    data = content (&x, &size);
    for (k = 0; k < 4; ++k) {
      struct vd_run run = locate (&x, ((3 - k) * b.gtes + k) * b.grain,
                                  b.grain);

      assert_int_equal (run.kind, VD_RUN_DATA);
      assert_int_equal (data[run.position], 0x30 + k);
    }
    if (x.has_zero)
      expect_run (&x, (3 * b.gtes + 9) * b.grain, b.grain, VD_RUN_ZERO,
                  b.grain, 0);
    close_extent (&x);
  }
}

/* Entries have 32 bits. */
static void
test_limit (void **state)
{
  UNIT_CTX (ctx);
  struct vmdk_extent x;
  struct hosted_header h;
  struct vd_store *st;
  uint8_t le[4] = { 0, 0xff, 0xff, 0xff };      /* 2^32 - 256 */
  uint64_t size;

  (void) state;
  assert_ok (ctx, vd_file_create (ctx, unit_path ("big"), VD_LOCK_OFF, &st));
  assert_ok (ctx, hosted_layout (ctx, "big", 4 * TIB / 512, 20, &h));
  assert_ok (ctx, hosted_create (ctx, st, &h, NULL, 0));
  size = h.gd_offset + 65536 * 2 * 4 / 512;
  assert_ok (ctx, vd_store_pwrite (ctx, st, le, 4, size * 512, 0));
  size = h.rgd_offset + 65536 * 2 * 4 / 512;
  assert_ok (ctx, vd_store_pwrite (ctx, st, le, 4, size * 512, 0));
  if (vd_store_truncate (ctx, st, 2 * TIB - GRAIN) < 0) {
    vd_store_close (st);
    print_message ("no file can be so large here: %s\n", ctx->message);
    skip ();
  }
  assert_ok (ctx, open_store (ctx, st, true, 4 * TIB, &x));
  assert_string_equal (x.no_write, "");
  assert_ok (ctx, begin (ctx, &x));
  assert_ok (ctx, put (ctx, &x, 1, 0x55));
  expect_run (&x, 0, MIB, VD_RUN_DATA, 2 * GRAIN, 2 * TIB - 2 * GRAIN);
  assert_fails (ctx, put (ctx, &x, 2, 0x55), ENOSPC, "32 bits");
  assert_fails (ctx, put (ctx, &x, 2, 0x55), ENOSPC, "32 bits");
  assert_ok (ctx, end (ctx, &x));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 2 * TIB);
  close_extent (&x);
}

/* A store that cannot grow, with rests of old data everywhere. */
static void
test_fixed_size (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 3 });
  struct vd_ctx ctx = new_ctx ();
  struct vd_place place;
  struct vmdk_extent x;
  struct vd_store *st;
  uint64_t size;

  (void) state;
  assert_ok (&ctx, vd_memory_open (&ctx, "t", b.data, b.size, true, &st));
  st->fixed_size = true;
  assert_ok (&ctx, open_store (&ctx, st, true, 204800 * 512, &x));
  assert_ok (&ctx, begin (&ctx, &x));
  assert_ok (&ctx, x.ops->reserve (&ctx, &x, 0, &place));
  assert_false (place.fresh);
  assert_int_equal (place.value, 128);
  x.ops->abandon (&x, 0, &place);
  assert_ok (&ctx, put (&ctx, &x, 0, 1));
  assert_ok (&ctx, put (&ctx, &x, 1, 1));
  assert_ok (&ctx, put (&ctx, &x, 2, 1));
  assert_fails (&ctx, put (&ctx, &x, 3, 1), ENOSPC, "cannot grow");
  assert_ok (&ctx, end (&ctx, &x));
  assert_ok (&ctx, vd_store_get_size (&ctx, st, &size));
  assert_int_equal (size, b.size);
  close_extent (&x);
  free (b.data);
}

/* ---- big ones ---------------------------------------------------------- */

/* A store that counts, over another one. */
struct counting {
  struct vd_store st;
  struct vd_store *below;
  uint64_t calls, bytes;
};

static int
counting_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  return vd_store_get_size (ctx, ((struct counting *) st)->below, ret);
}

static int
counting_preadv (struct vd_ctx *ctx, struct vd_store *st,
                 struct iovec *iov, int niov, uint64_t offset)
{
  struct counting *c = (struct counting *) st;
  int i;

  c->calls++;
  for (i = 0; i < niov; ++i)
    c->bytes += iov[i].iov_len;
  return vd_store_preadv (ctx, c->below, iov, niov, offset);
}

static int
counting_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
                 bool *ret_hole, uint64_t *ret_end)
{
  return vd_store_extent (ctx, ((struct counting *) st)->below, offset,
                          ret_hole, ret_end);
}

static int
counting_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  (void) ctx;
  (void) st;
  return 0;
}

static void
counting_close (struct vd_store *st)
{
  struct counting *c = (struct counting *) st;

  vd_store_close (c->below);
  free (c);
}

static const struct vd_store_ops counting_ops = {
  .kind = "counting",
  .get_size = counting_get_size,
  .preadv = counting_preadv,
  .sync = counting_sync,
  .extent = counting_extent,
  .close = counting_close,
};

static void
test_huge (void **state)
{
  struct vd_ctx ctx_ = new_ctx (), *ctx = &ctx_;
  const uint64_t size = 62 * TIB;
  struct counting *c = calloc (1, sizeof *c);
  struct vmdk_extent x;
  struct hosted_header h;
  unsigned i, copy;
  uint64_t at, n = 0;
  struct vd_run run;

  (void) state;
  assert_non_null (c);
  assert_int_equal (vd_store_init (&c->st, &counting_ops, "huge", true), 0);
  assert_ok (ctx, vd_file_create (ctx, unit_path ("huge"), VD_LOCK_OFF,
                                  &c->below));
  assert_ok (ctx, hosted_layout (ctx, "huge", size / 512, 20, &h));
  assert_ok (ctx, hosted_create (ctx, c->below, &h, NULL, 0));

  /* Opening reads the header and next to nothing else. */
  assert_ok (ctx, open_store (ctx, &c->st, false, size, &x));
  assert_in_range (c->calls, 1, 5);
  assert_in_range (c->bytes, 1, 65536);
  c->calls = 0;
  for (at = 0; at < size; at += 37 * GIB)
    n += locate (&x, at, 4096).kind == VD_RUN_PARENT;
  assert_int_equal (n, (size + 37 * GIB - 1) / (37 * GIB));
  assert_in_range (c->calls, n, n * 8 + 5);       /* read and map */
  /* All of it, as block status asks: tables in a hole are not read. */
  n = c->calls = 0;
  for (at = 0; at < size; at += run.length, ++n) {
    assert_ok (ctx, x.ops->locate (ctx, &x, at, size - at, VD_LOCATE_MAP,
                                   &run));
    assert_int_equal (run.kind, VD_RUN_PARENT);
  }
  assert_in_range (n, 1, 200);
  assert_in_range (c->calls, 1, 5000);
  x.ops->close (&x);

  /* ... unless there is something in them. */
  for (i = 0; i < 2; ++i) {
    uint64_t table = (i ? h.rgd_offset : h.gd_offset) + 2031616 / 128 +
      4 * (5 * TIB / (32 * MIB));

    assert_ok (ctx, vd_store_pwrite (ctx, c->below, "\0\0\0\377", 4,
                                     table * 512 + 12, 0));
    assert_ok (ctx, open_store (ctx, &c->st, false, size, &x));
    for (at = 0; at < size; at += run.length) {
      assert_ok (ctx, x.ops->locate (ctx, &x, at, size - at, VD_LOCATE_MAP,
                                     &run));
      if (run.kind != VD_RUN_PARENT)
        break;
    }
    if (i == 0) {
      assert_int_equal (at, size);      /* only one of two copies, a bad one */
      expect_text (warnings, "damaged");
    }
    else {
      assert_int_equal (at, 5 * TIB + 3 * GRAIN);
      assert_int_equal (run.kind, VD_RUN_BAD);
      assert_string_equal (warnings, "");
    }
    x.ops->close (&x);
    if (i == 1)
      for (copy = 0; copy < 2; ++copy)
        assert_ok (ctx, vd_store_pwrite (ctx, c->below, "\0\0\0", 4,
                                         ((copy ? h.rgd_offset : h.gd_offset)
                                          + 2031616 / 128 +
                                          4 * (5 * TIB / (32 * MIB))) * 512
                                         + 12, 0));
  }

  /* For writing all tables count, but a hole is not read. */
  c->calls = c->bytes = 0;
  assert_ok (ctx, open_store (ctx, &c->st, true, size, &x));
  assert_string_equal (x.no_write, "");
  assert_in_range (c->bytes, 1, 64 * MIB);
  close_extent (&x);
}

/* Directory entries that are 0 go by fast. */
static void
test_huge_empty (void **state)
{
  UNIT_CTX (ctx);
  const uint64_t size = 62 * TIB;
  struct vmdk_extent x;
  struct hosted_header h;
  struct vd_store *st;
  uint8_t sector[512];
  uint64_t at, n = 0;

  (void) state;
  assert_ok (ctx, hosted_layout (ctx, "empty", size / 512, 20, &h));
  assert_ok (ctx, vd_file_create (ctx, unit_path ("empty"), VD_LOCK_OFF,
                                  &st));
  assert_ok (ctx, vd_store_truncate (ctx, st, h.overhead * 512));
  hosted_header_encode (&h, sector);
  assert_ok (ctx, vd_store_pwrite (ctx, st, sector, 512, 0, 0));
  assert_ok (ctx, open_store (ctx, st, false, size, &x));
  for (at = 0; at < size; ++n)
    at += locate (&x, at, size - at).length;
  assert_in_range (n, 1, 300);
  close_extent (&x);
}

/* ---- crashes and faults ------------------------------------------------ */

#define CRASH_GRAINS 6

/* Grain n of the disk is all of one byte; which one? */
static int
value_of (struct vd_ctx *ctx, struct vmdk_extent *x, uint64_t n)
{
  struct vd_run run = locate (x, n * x->grain, x->grain);
  uint8_t *buf;
  int value;

  if (run.kind == VD_RUN_PARENT || run.kind == VD_RUN_ZERO)
    return 0;
  assert_int_equal (run.kind, VD_RUN_DATA);
  assert_int_equal (run.length, x->grain);
  buf = malloc (x->grain);
  assert_non_null (buf);
  assert_ok (ctx, vd_store_pread (ctx, run.store, buf, x->grain,
                                  run.position));
  value = buf[0];
  if (memcmp (buf, buf + 1, x->grain - 1) != 0)
    value = -1;
  free (buf);
  return value;
}

static uint64_t
crash_grain (const struct bytes *b, unsigned i)
{
  return (uint64_t) i % 3 * b->gtes + i;
}

/* Two grains, a flush, and so on.  The number of grains flushed, or what went
 * wrong.
 */
static int
crash_session (struct vd_ctx *ctx, struct vd_sim *sim, const struct bytes *b,
               struct vd_store *st, unsigned *ret_flushed)
{
  struct vmdk_extent x;
  unsigned i;
  int r;

  *ret_flushed = 0;
  r = open_store (ctx, st, true, b->gtes * b->grain * 3, &x);
  if (r < 0)
    return r;
  assert_string_equal (x.no_write, "");
  r = begin (ctx, &x);
  for (i = 0; r == 0 && i < CRASH_GRAINS; ++i) {
    r = put (ctx, &x, crash_grain (b, i), 0x60 + i);
    if (r == 0 && i % 2 == 1) {
      r = flush (ctx, &x);
      if (r == 0) {
        *ret_flushed = i + 1;
        vd_sim_mark (sim, i + 1);
      }
    }
  }
  if (r == 0)
    r = end (ctx, &x);
  x.ops->close (&x);
  return r;
}

/* What a crash left opens for writing, and holds all that was flushed. */
static void
check_crashed (struct vd_sim *sim, const struct bytes *b, unsigned flushed)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_store *st;
  struct vmdk_extent x;
  unsigned i, k;
  int value, before[CRASH_GRAINS];

  assert_ok (&ctx, vd_sim_open (&ctx, sim, "t", true, &st));
  for (k = 0; k < 3; ++k) {
    assert_ok (&ctx, open_store (&ctx, st, k > 0,
                                 b->gtes * b->grain * 3, &x));
    if (x.no_write[0])
      fail_msg ("%s", x.no_write);
    if (k == 2)
      assert_ok (&ctx, begin (&ctx, &x));
    for (i = 0; i < CRASH_GRAINS; ++i) {
      value = value_of (&ctx, &x, crash_grain (b, i));
      if (value != 0x60 + (int) i && (i < flushed || value != 0))
        fail_msg ("grain %u is %x, %u are flushed", i, value, flushed);
      if (k > 0)
        assert_int_equal (value, before[i]);
      before[i] = value;
    }
    if (k == 2) {
      for (i = 0; i < CRASH_GRAINS; ++i)
        if (before[i] == 0)
          assert_ok (&ctx, put (&ctx, &x, crash_grain (b, i), 0x60 + i));
      assert_ok (&ctx, put (&ctx, &x, b->gtes - 1, 0x42));
      assert_ok (&ctx, end (&ctx, &x));
      for (i = 0; i < CRASH_GRAINS; ++i)
        assert_int_equal (value_of (&ctx, &x, crash_grain (b, i)), 0x60 + i);
    }
    assert_string_equal (warnings, "");
    x.ops->close (&x);
  }
  /* Clean now, and the copies are equal. */
  assert_ok (&ctx, open_store (&ctx, st, true, b->gtes * b->grain * 3, &x));
  assert_string_equal (x.no_write, "");
  x.ops->close (&x);
  vd_store_close (st);
}

static struct bytes
crash_image (void)
{
  struct bytes b = build ((struct sample) { .capacity = 8 * 512 * 3,
                                            .grain = 8, .grains = 1 });

  /* The last two tables are not there. */
  poke (&b, b.gd[0] + 4, 8, 0);
  poke (&b, b.gd[1] + 4, 8, 0);
  return b;
}

static struct vd_sim *
crash_sim (struct vd_ctx *ctx, const struct bytes *b)
{
  struct vd_sim *sim = vd_sim_new (), *clean;
  struct vd_store *st;

  assert_non_null (sim);
  assert_ok (ctx, vd_sim_open (ctx, sim, "t", true, &st));
  assert_ok (ctx, vd_store_pwrite (ctx, st, b->data, b->size, 0, 0));
  vd_store_close (st);
  clean = vd_sim_clone (sim);
  assert_non_null (clean);
  vd_sim_free (sim);
  return clean;
}

static void
test_crash (void **state)
{
  struct bytes b = crash_image ();
  struct vd_ctx ctx = new_ctx ();
  struct vd_sim *sim = crash_sim (&ctx, &b), *cut;
  struct vd_store *st;
  unsigned flushed, k;
  uint64_t seed = 1;
  size_t i;

  (void) state;
  assert_ok (&ctx, vd_sim_open (&ctx, sim, "t", true, &st));
  assert_ok (&ctx, crash_session (&ctx, sim, &b, st, &flushed));
  vd_store_close (st);
  assert_int_equal (flushed, CRASH_GRAINS);
  for (i = 0; i <= vd_sim_log_length (sim); ++i) {
    flushed = vd_sim_last_mark (sim, i);
    cut = vd_sim_prefix (sim, i);
    check_crashed (cut, &b, flushed);
    vd_sim_free (cut);
    for (k = 0; k < 20; ++k) {
      cut = vd_sim_power_cut (sim, i, &seed);
      check_crashed (cut, &b, flushed);
      vd_sim_free (cut);
    }
  }
  vd_sim_free (sim);
  free (b.data);
}

/* The n-th call fails: what was flushed is there, all is freed. */
static void
test_faults (void **state)
{
  static const int errors[] = { EIO, ENOSPC };
  struct bytes b = crash_image ();
  unsigned e, sticky, flushed;
  uint64_t n;

  (void) state;
  for (e = 0; e < 2; ++e)
    for (sticky = 0; sticky < 2; ++sticky)
      for (n = 1;; ++n) {
        struct vd_ctx ctx = new_ctx ();
        struct vd_sim *sim = crash_sim (&ctx, &b), *after;
        struct vd_store *st;
        bool hit;
        int r;

        assert_ok (&ctx, vd_sim_open (&ctx, sim, "t", true, &st));
        vd_sim_fail_at (sim, n, errors[e], sticky);
        r = crash_session (&ctx, sim, &b, st, &flushed);
        hit = vd_sim_fault_hit (sim);
        vd_sim_fail_at (sim, 0, 0, false);
        vd_store_close (st);
        if (r < 0)
          assert_int_equal (ctx.error, errors[e]);
        after = vd_sim_clone (sim);
        check_crashed (after, &b, flushed);
        vd_sim_free (after);
        vd_sim_free (sim);
        if (!hit) {
          assert_int_equal (r, 0);
          break;
        }
      }
  free (b.data);
}

/* The repair of a begin fails at every call, and is done by the next one. */
static void
test_repair_faults (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 204800, .grains = 3,
                                            .unclean = true });
  uint64_t n;

  (void) state;
  set_one (&b, 0, 1, 128);
  set_one (&b, 1, 2, 256);
  set_one (&b, 1, 1024, 384);
  poke (&b, b.gd[0] + 4, 4, 0);
  poke (&b, b.gd[1] + 12, 4, 0);
  for (n = 1;; ++n) {
    struct vd_ctx ctx = new_ctx ();
    struct vd_sim *sim = crash_sim (&ctx, &b);
    struct vd_store *st;
    struct vmdk_extent x;
    bool hit;
    int r;

    assert_ok (&ctx, vd_sim_open (&ctx, sim, "t", true, &st));
    assert_ok (&ctx, open_store (&ctx, st, true, 204800 * 512, &x));
    assert_string_equal (x.no_write, "");
    vd_sim_fail_at (sim, n, EIO, false);
    r = begin (&ctx, &x);
    hit = vd_sim_fault_hit (sim);
    vd_sim_fail_at (sim, 0, 0, false);
    expect_run (&x, GRAIN, MIB, VD_RUN_DATA, 2 * GRAIN, GRAIN);
    expect_run (&x, 1024 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 3 * GRAIN);
    if (r < 0) {
      /* A sync that failed is final for an open file. */
      if (atomic_load (&st->sync_failed)) {
        close_extent (&x);
        assert_ok (&ctx, vd_sim_open (&ctx, sim, "t", true, &st));
        assert_ok (&ctx, open_store (&ctx, st, true, 204800 * 512, &x));
      }
      assert_ok (&ctx, begin (&ctx, &x));
    }
    assert_ok (&ctx, end (&ctx, &x));
    x.ops->close (&x);
    assert_ok (&ctx, open_store (&ctx, st, true, 204800 * 512, &x));
    if (x.no_write[0])
      fail_msg ("%" PRIu64 ": %s", n, x.no_write);
    expect_run (&x, GRAIN, MIB, VD_RUN_DATA, 2 * GRAIN, GRAIN);
    expect_run (&x, 1024 * GRAIN, MIB, VD_RUN_DATA, GRAIN, 3 * GRAIN);
    expect_run (&x, 32 * MIB, MIB, VD_RUN_PARENT, MIB, 0);
    assert_string_equal (warnings, "");
    close_extent (&x);
    vd_sim_free (sim);
    if (!hit)
      break;
  }
  free (b.data);
}

/* ---- threads ----------------------------------------------------------- */

static struct vmdk_extent shared;
static _Atomic bool stop;

static void *
reader (void *opaque)
{
  struct vd_ctx ctx = new_ctx ();
  uint64_t seen = 0, at = 0;
  struct vd_run run;

  (void) opaque;
  while (!atomic_load (&stop)) {
    assert_int_equal (shared.ops->locate (&ctx, &shared, at,
                                          shared.size - at, VD_LOCATE_READ,
                                          &run), 0);
    if (run.kind == VD_RUN_DATA) {
      uint8_t byte;

      assert_int_equal (vd_store_pread (&ctx, run.store, &byte, 1,
                                        run.position), 0);
      assert_int_equal (byte, 0x5a);
      seen++;
    }
    else
      assert_int_equal (run.kind, VD_RUN_PARENT);
    at += run.length;
    if (at >= shared.size)
      at = 0;
  }
  return (void *) (uintptr_t) (seen > 0);
}

static void
test_threads (void **state)
{
  struct bytes b = build ((struct sample) { .capacity = 8 * 128 * 64,
                                            .grain = 8, .gtes = 128 });
  struct vd_ctx ctx = new_ctx ();
  pthread_t threads[3];
  uint64_t i;

  (void) state;
  for (i = 32; i < 64; ++i) {
    poke (&b, b.gd[0] + 4 * i, 4, 0);
    poke (&b, b.gd[1] + 4 * i, 4, 0);
  }
  must_open (&b, true, &shared);
  assert_ok (&ctx, begin (&ctx, &shared));
  atomic_store (&stop, false);
  for (i = 0; i < 3; ++i)
    assert_int_equal (pthread_create (&threads[i], NULL, reader, NULL), 0);
  for (i = 0; i < 3000; ++i) {
    assert_ok (&ctx, put (&ctx, &shared, i * 8191 % (128 * 64), 0x5a));
    if (i % 100 == 99)
      assert_ok (&ctx, flush (&ctx, &shared));
  }
  atomic_store (&stop, true);
  for (i = 0; i < 3; ++i)
    pthread_join (threads[i], NULL);
  assert_ok (&ctx, end (&ctx, &shared));
  close_extent (&shared);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_header_rows),
    cmocka_unit_test (test_header_more),
    cmocka_unit_test (test_layout),
    cmocka_unit_test (test_create),
    cmocka_unit_test (test_lookup),
    cmocka_unit_test (test_shapes),
    cmocka_unit_test (test_zeroed),
    cmocka_unit_test (test_compressed),
    cmocka_unit_test (test_bad_entries),
    cmocka_unit_test (test_no_write),
    cmocka_unit_test (test_places),
    cmocka_unit_test (test_directory),
    cmocka_unit_test (test_directory_no_write),
    cmocka_unit_test (test_damaged_primary),
    cmocka_unit_test (test_wrong_place),
    cmocka_unit_test (test_damaged_copy),
    cmocka_unit_test (test_pairs),
    cmocka_unit_test (test_half_table),
    cmocka_unit_test (test_other_writer),
    cmocka_unit_test (test_write),
    cmocka_unit_test (test_write_zero),
    cmocka_unit_test (test_new_tables),
    cmocka_unit_test (test_limit),
    cmocka_unit_test (test_fixed_size),
    cmocka_unit_test (test_huge),
    cmocka_unit_test (test_huge_empty),
    cmocka_unit_test (test_crash),
    cmocka_unit_test (test_faults),
    cmocka_unit_test (test_repair_faults),
    cmocka_unit_test (test_threads),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
