/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Streams (streamOptimized): what the sink writes is walked here marker by
 * marker and read back; damage of each kind (vmdk-format 17) is refused with
 * its reason; crashes and failing calls never leave a file that passes for a
 * complete one and is not.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <pthread.h>

#include <libdeflate.h>

#include "byteorder.h"
#include "cleanup.h"
#include "iszero.h"
#include "memory.h"
#include "rounding.h"
#include "sim.h"
#include "vmdk-hosted.h"
#include "vmdk-private.h"

#define GRAIN 65536
#define OVERHEAD 128            /* sectors */

/* ---- an image around a store ------------------------------------------- */

struct disk {
  struct vd_image image;
  struct vmdk vmdk;
  struct vmdk_extent x;
};

static void
new_close (struct vmdk_extent *x)
{
  (void) x;
}

static const struct vmdk_extent_ops new_ops = {
  .kind = "stream",
  .close = new_close,
};

static void
init_disk (struct disk *d, struct vd_store *store, uint64_t size)
{
  memset (d, 0, sizeof *d);
  d->image.name = store->name;
  d->image.store = store;
  d->image.priv = &d->vmdk;
  d->image.size = size;
  d->vmdk.extents = &d->x;
  d->vmdk.nextents = 1;
  d->x.image = &d->image;
  d->x.size = size;
  d->x.store = store;
  d->x.table_memory = 1024 * 1024;
  d->x.ops = &new_ops;
}

static void
close_disk (struct disk *d)
{
  if (d->x.ops)
    d->x.ops->close (&d->x);
  d->x.ops = NULL;
}

static struct hosted_header
stream_header (uint64_t size)
{
  return (struct hosted_header) {
    .version = 3,
    .flags = HOSTED_FLAG_NEWLINES | HOSTED_FLAG_COMPRESSED |
      HOSTED_FLAG_MARKERS,
    .capacity = round_up (size, GRAIN) / VMDK_SECTOR,
    .grain = GRAIN / VMDK_SECTOR,
    .descriptor_offset = 1,
    .descriptor_size = 20,
    .gtes = 512,
    .gd_offset = HOSTED_GD_AT_END,
    .overhead = OVERHEAD,
    .compression = 1,
  };
}

/* What create leaves. */
static int
begin_stream (struct vd_ctx *ctx, struct vd_store *store, uint64_t size)
{
  struct hosted_header h = stream_header (size);
  uint8_t sector[HOSTED_HEADER];
  int r;

  hosted_header_encode (&h, sector);
  r = vd_store_pwrite (ctx, store, sector, sizeof sector, 0, 0);
  if (r == 0)
    r = vd_store_truncate (ctx, store, OVERHEAD * VMDK_SECTOR);
  return r < 0 ? r : stream_create_end (ctx, store, &h);
}

/* Content of a grain, in which each differs: texts that deflate well, noise
 * that does not, one byte only.
 */
static void
fill (uint8_t *buf, size_t len, uint64_t grain)
{
  uint64_t seed = grain * 2 + 1;
  size_t i;

  for (i = 0; i < len; ++i) {
    seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
    switch (grain % 3) {
    case 0: buf[i] = "grain of the stream"[(seed >> 60) + grain % 4]; break;
    case 1: buf[i] = seed >> 40; break;
    case 2: buf[i] = 1 + grain % 255; break;
    }
  }
}

static bool
is_right (const uint8_t *buf, size_t len, uint64_t grain)
{
  CLEANUP_FREE uint8_t *want = malloc (len);

  fill (want, len, grain);
  return memcmp (buf, want, len) == 0;
}

/* Write these grains through the sink, the last one of the disk cut. */
static int
write_grains (struct vd_ctx *ctx, struct disk *d,
              const uint64_t *grains, size_t n)
{
  CLEANUP_FREE uint8_t *buf = malloc (GRAIN);
  struct vd_sink *sink = vmdk_sink_open (ctx, &d->image);
  size_t i, len;
  int r = 0;

  if (!sink)
    return -ctx->error;
  for (i = 0; i < n && r == 0; ++i) {
    len = min_u64 (GRAIN, d->x.size - grains[i] * GRAIN);
    fill (buf, len, grains[i]);
    r = vmdk_sink_put (ctx, sink, grains[i] * GRAIN, buf, len);
  }
  if (r == 0)
    r = vmdk_sink_finish (ctx, sink);
  if (r == 0)
    r = vmdk_sink_finish (ctx, sink);
  vmdk_sink_close (sink);
  return r;
}

#define NR(a) (sizeof (a) / sizeof (a)[0])

/* A finished stream in memory, and closed again. */
static struct vd_store *
make_stream (uint64_t size, const uint64_t *grains, size_t n)
{
  struct vd_store *store;
  struct disk d;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", NULL, 0, true, &store));
  assert_ok (ctx, begin_stream (ctx, store, size));
  init_disk (&d, store, size);
  assert_ok (ctx, write_grains (ctx, &d, grains, n));
  close_disk (&d);
  return store;
}

static int
open_disk (struct vd_ctx *ctx, struct disk *d, struct vd_store *store,
           uint64_t size)
{
  int r;

  init_disk (d, store, size);
  r = vmdk_hosted_open (ctx, &d->x);
  if (r < 0)
    d->x.ops = NULL;
  return r;
}

/* Read one grain as the engine does.  1: it is not there. */
static int
read_grain (struct vd_ctx *ctx, struct disk *d, uint64_t grain, uint8_t *buf)
{
  struct vd_run run;
  uint64_t offset = grain * GRAIN;
  int r;

  r = d->x.ops->locate (ctx, &d->x, offset,
                        min_u64 (GRAIN, d->x.size - offset),
                        VD_LOCATE_READ, &run);
  if (r < 0)
    return r;
  switch (run.kind) {
  case VD_RUN_PARENT:
    return 1;
  case VD_RUN_PACKED:
    return d->x.ops->unpack (ctx, &d->x, run.block, buf);
  case VD_RUN_BAD:
    return vd_error (ctx, run.error, "%s", run.reason);
  default:
    return vd_error (ctx, EINVAL, "run of kind %d", run.kind);
  }
}

/* All grains of the disk are these, and right. */
static bool
holds (struct vd_ctx *ctx, struct disk *d, const uint64_t *grains, size_t n)
{
  CLEANUP_FREE uint8_t *buf = malloc (GRAIN);
  uint64_t i, j = 0, len, all = div_round_up (d->x.size, GRAIN);
  int r;

  for (i = 0; i < all; ++i) {
    r = read_grain (ctx, d, i, buf);
    if (r < 0)
      return false;
    if (j == n || grains[j] != i) {
      if (r != 1)
        return false;
      continue;
    }
    len = min_u64 (GRAIN, d->x.size - i * GRAIN);
    if (r != 0 || !is_right (buf, len, i) ||
        !is_zero (buf + len, GRAIN - len))
      return false;
    j++;
  }
  return j == n;
}

/* ---- the form ---------------------------------------------------------- */

/* The blocks of a stream, as "sector kind" words. */
static void
walk (struct vd_store *store, char *text, size_t room)
{
  size_t size, used = 0, sector = OVERHEAD, n;
  const uint8_t *data = vd_memory_data (store, &size), *p;
  struct libdeflate_decompressor *d = libdeflate_alloc_decompressor ();
  static uint8_t out[GRAIN];

  assert_int_equal (size % VMDK_SECTOR, 0);
  text[0] = '\0';
  for (; sector < size / VMDK_SECTOR; sector += n) {
    uint64_t value;
    uint32_t bytes, type;

    p = data + sector * VMDK_SECTOR;
    value = get_le64 (p);
    bytes = get_le32 (p + 8);
    type = get_le32 (p + 12);
    if (bytes > 0) {
      assert_int_equal (libdeflate_zlib_decompress (d, p + 12, bytes, out,
                                                    GRAIN, NULL),
                        LIBDEFLATE_SUCCESS);
      n = div_round_up (12 + bytes, VMDK_SECTOR);
      assert_true (is_zero (p + 12 + bytes, n * VMDK_SECTOR - 12 - bytes));
      used += snprintf (text + used, room - used, "%zu:lba%u ", sector,
                        (unsigned) value);
      continue;
    }
    assert_true (is_zero (p + 16, VMDK_SECTOR - 16));
    n = 1 + value;
    used += snprintf (text + used, room - used, "%zu:type%u+%u ", sector,
                      type, (unsigned) value);
  }
  assert_int_equal (sector, size / VMDK_SECTOR);
  libdeflate_free_decompressor (d);
}

static void
test_form (void **state)
{
  /* The walk of a VirtualBox file with these grains (vmdk-format 6.2). */
  static const uint64_t grains[] = { 0, 3, 16, 17, 800 };
  uint64_t size = 100 * 1024 * 1024;
  struct vd_sink *sink;
  struct vd_store *store;
  uint8_t buf[GRAIN];
  const uint8_t *data;
  char text[4096];
  struct disk d;
  size_t i, n;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", NULL, 0, true, &store));
  assert_ok (ctx, begin_stream (ctx, store, size));
  init_disk (&d, store, size);
  sink = vmdk_sink_open (ctx, &d.image);
  assert_non_null (sink);
  memset (buf, 0x41, sizeof buf);
  for (i = 0; i < NR (grains); ++i)
    assert_ok (ctx, vmdk_sink_put (ctx, sink, grains[i] * GRAIN, buf, GRAIN));
  assert_ok (ctx, vmdk_sink_finish (ctx, sink));
  vmdk_sink_close (sink);
  close_disk (&d);

  walk (store, text, sizeof text);
  assert_string_equal (text,
                       "128:lba0 129:lba384 130:lba2048 131:lba2176 "
                       "132:type1+4 137:lba102400 138:type1+4 "
                       "143:type2+1 145:type3+1 147:type0+0 ");
  data = vd_memory_data (store, &n);
  assert_int_equal (n, 148 * VMDK_SECTOR);
  /* Tables: 133, none for the empty table, 139. */
  assert_int_equal (get_le32 (data + 144 * VMDK_SECTOR), 133);
  assert_int_equal (get_le32 (data + 144 * VMDK_SECTOR + 4), 139);
  assert_int_equal (get_le32 (data + 144 * VMDK_SECTOR + 8), 0);
  assert_int_equal (get_le32 (data + 133 * VMDK_SECTOR + 3 * 4), 129);
  /* The header is as it was; the footer differs in gdOffset only. */
  assert_int_equal (get_le64 (data + 56), HOSTED_GD_AT_END);
  assert_int_equal (get_le64 (data + 146 * VMDK_SECTOR + 56), 144);
  assert_memory_equal (data, data + 146 * VMDK_SECTOR, 56);
  assert_memory_equal (data + 64, data + 146 * VMDK_SECTOR + 64, 448);
  vd_store_close (store);
}

static void
test_empty_tables (void **state)
{
  /* Of four tables the second and third have no grains. */
  static const uint64_t grains[] = { 511, 1536 };
  uint64_t size = UINT64_C (2048) * GRAIN;
  struct vd_store *store = make_stream (size, grains, NR (grains));
  size_t n;
  const uint8_t *data = vd_memory_data (store, &n);
  uint64_t gd = get_le64 (data + n - 2 * VMDK_SECTOR + 56) * VMDK_SECTOR;
  struct disk d;
  UNIT_CTX (ctx);

  (void) state;
  assert_int_not_equal (get_le32 (data + gd), 0);
  assert_int_equal (get_le32 (data + gd + 4), 0);
  assert_int_equal (get_le32 (data + gd + 8), 0);
  assert_int_not_equal (get_le32 (data + gd + 12), 0);
  assert_ok (ctx, open_disk (ctx, &d, store, size));
  assert_true (holds (ctx, &d, grains, NR (grains)));
  close_disk (&d);
  vd_store_close (store);
}

static void
test_round_trip (void **state)
{
  /* 389 and 1954 sectors end inside a grain. */
  static const uint64_t sizes[] = {
    VMDK_SECTOR, GRAIN, 389 * VMDK_SECTOR, 1954 * VMDK_SECTOR,
    600 * GRAIN - VMDK_SECTOR,
  };
  uint64_t grains[600];
  struct vd_store *store;
  struct disk d;
  size_t i, j, n;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < NR (sizes); ++i) {
    for (n = j = 0; j < div_round_up (sizes[i], GRAIN); ++j)
      if (j % 7 != 5)
        grains[n++] = j;
    store = make_stream (sizes[i], grains, n);
    assert_ok (ctx, open_disk (ctx, &d, store, sizes[i]));
    assert_string_not_equal (d.x.no_write, "");
    assert_true (holds (ctx, &d, grains, n));
    close_disk (&d);
    vd_store_close (store);
  }
}

/* The reader sees the grains when finish returns. */
static void
test_readable_when_finished (void **state)
{
  static const uint64_t grains[] = { 1, 2, 5 };
  struct vd_store *store;
  struct disk d;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", NULL, 0, true, &store));
  assert_ok (ctx, begin_stream (ctx, store, 8 * GRAIN));
  init_disk (&d, store, 8 * GRAIN);
  assert_ok (ctx, write_grains (ctx, &d, grains, NR (grains)));
  assert_true (holds (ctx, &d, grains, NR (grains)));
  close_disk (&d);
  vd_store_close (store);
}

/* ---- what must not be written ------------------------------------------ */

static void
test_wrong_puts (void **state)
{
  struct vd_store *store;
  struct vd_sink *sink;
  uint8_t buf[GRAIN];
  struct disk d;
  UNIT_CTX (ctx);

  (void) state;
  fill (buf, GRAIN, 1);
  assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", NULL, 0, true, &store));
  assert_ok (ctx, begin_stream (ctx, store, 8 * GRAIN));
  init_disk (&d, store, 8 * GRAIN);
  sink = vmdk_sink_open (ctx, &d.image);
  assert_non_null (sink);
  assert_fails (ctx, vmdk_sink_put (ctx, sink, 512, buf, GRAIN), EINVAL,
                "not the next grain");
  assert_fails (ctx, vmdk_sink_put (ctx, sink, 8 * GRAIN, buf, GRAIN), EINVAL,
                "not the next grain");
  assert_ok (ctx, vmdk_sink_put (ctx, sink, 2 * GRAIN, buf, GRAIN));
  assert_fails (ctx, vmdk_sink_put (ctx, sink, 2 * GRAIN, buf, GRAIN), EINVAL,
                "not the next grain");
  assert_ok (ctx, vmdk_sink_finish (ctx, sink));
  assert_fails (ctx, vmdk_sink_put (ctx, sink, 3 * GRAIN, buf, GRAIN), EROFS,
                "complete");
  vmdk_sink_close (sink);
  close_disk (&d);

  /* Never again: what is there would be lost. */
  init_disk (&d, store, 8 * GRAIN);
  assert_null (vmdk_sink_open (ctx, &d.image));
  assert_int_equal (ctx->error, EROFS);
  assert_ok (ctx, open_disk (ctx, &d, store, 8 * GRAIN));
  close_disk (&d);
  vd_store_close (store);
}

/* A new stream that was ended is an image of zeroes, and can be written. */
static void
test_empty (void **state)
{
  static const uint64_t grains[] = { 0, 1, 2 };
  uint64_t size = UINT64_C (70000) * GRAIN;
  struct hosted_header h = stream_header (size);
  struct vd_store *store;
  uint64_t file_size;
  struct vd_run run;
  struct disk d;
  bool empty;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", NULL, 0, true, &store));
  assert_ok (ctx, begin_stream (ctx, store, size));
  assert_ok (ctx, vd_store_get_size (ctx, store, &file_size));
  assert_ok (ctx, stream_is_empty (ctx, "s", store, file_size, &h, &empty));
  assert_true (empty);
  /* Others make such images too; theirs stay as they are. */
  h.descriptor_size = 2;
  assert_ok (ctx, stream_is_empty (ctx, "s", store, file_size, &h, &empty));
  assert_false (empty);
  h.descriptor_size = 20;
  assert_ok (ctx, open_disk (ctx, &d, store, size));
  assert_ok (ctx, d.x.ops->locate (ctx, &d.x, 0, size, VD_LOCATE_READ, &run));
  assert_int_equal (run.kind, VD_RUN_PARENT);
  close_disk (&d);

  init_disk (&d, store, size);
  assert_ok (ctx, write_grains (ctx, &d, grains, NR (grains)));
  close_disk (&d);
  assert_ok (ctx, vd_store_get_size (ctx, store, &file_size));
  assert_ok (ctx, stream_is_empty (ctx, "s", store, file_size, &h, &empty));
  assert_false (empty);
  vd_store_close (store);
}

/* ---- damage ------------------------------------------------------------ */

/* A stream with the grains 0, 1 and 2 (cut at 100 sectors) to poke at. */
#define DAMAGE_SIZE (2 * GRAIN + 100 * VMDK_SECTOR)

static struct vd_store *
damage_stream (void)
{
  static const uint64_t grains[] = { 0, 1, 2 };

  return make_stream (DAMAGE_SIZE, grains, NR (grains));
}

static void
poke (struct vd_store *store, uint64_t offset, const void *data, size_t len)
{
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_store_pwrite (ctx, store, data, len, offset, 0));
}

static void
poke32 (struct vd_store *store, uint64_t offset, uint32_t value)
{
  uint8_t buf[4];

  put_le32 (buf, value);
  poke (store, offset, buf, sizeof buf);
}

/* Where a grain's marker is. */
static uint64_t
marker_of (struct vd_store *store, unsigned grain)
{
  size_t n;
  const uint8_t *data = vd_memory_data (store, &n);
  uint64_t gd = get_le64 (data + n - 2 * VMDK_SECTOR + 56) * VMDK_SECTOR;
  uint64_t gt = (uint64_t) get_le32 (data + gd) * VMDK_SECTOR;

  return (uint64_t) get_le32 (data + gt + 4 * grain) * VMDK_SECTOR;
}

/* Reading that grain fails with the text; the others are fine. */
static void
assert_bad (struct vd_store *store, unsigned bad, const char *text)
{
  uint8_t buf[GRAIN];
  struct disk d;
  unsigned i;
  UNIT_CTX (ctx);

  assert_ok (ctx, open_disk (ctx, &d, store, DAMAGE_SIZE));
  for (i = 0; i < 3; ++i) {
    if (i != bad) {
      assert_ok (ctx, read_grain (ctx, &d, i, buf));
      assert_true (is_right (buf, i == 2 ? 100 * VMDK_SECTOR : GRAIN, i));
      continue;
    }
    assert_fails (ctx, read_grain (ctx, &d, i, buf), EIO, text);
    assert_non_null (strstr (ctx->message, "s.vmdk: grain "));
  }
  close_disk (&d);
  vd_store_close (store);
}

static void
test_marker_damage (void **state)
{
  struct vd_store *store;

  (void) state;
  store = damage_stream ();
  poke32 (store, marker_of (store, 1), 256);
  assert_bad (store, 1, "belongs to sector 256, not 128");

  store = damage_stream ();
  poke32 (store, marker_of (store, 1) + 8, 0);
  assert_bad (store, 1, "size is 0, must be from 1 to 131072");

  store = damage_stream ();
  poke32 (store, marker_of (store, 1) + 8, 2 * GRAIN + 1);
  assert_bad (store, 1, "size is 131073, must be");

  store = damage_stream ();
  poke32 (store, marker_of (store, 2) + 8, 2 * GRAIN);
  assert_bad (store, 2, "reach beyond the end of the file");

  /* Less than there is, and one bit wrong in the data. */
  store = damage_stream ();
  poke32 (store, marker_of (store, 1) + 8, 1000);
  assert_bad (store, 1, "do not inflate");
  store = damage_stream ();
  poke32 (store, marker_of (store, 0) + 40, 0x12345678);
  assert_bad (store, 0, "do not inflate");
}

/* Put other data in a grain's place (it is long enough: noise). */
static void
replace (struct vd_store *store, unsigned grain, const void *data, size_t len)
{
  struct libdeflate_compressor *c = libdeflate_alloc_compressor (6);
  static uint8_t out[3 * GRAIN];
  uint64_t marker = marker_of (store, grain);
  size_t n = libdeflate_zlib_compress (c, data, len, out, sizeof out);

  assert_true (n > 0);
  poke32 (store, marker + 8, n);
  poke (store, marker + 12, out, n);
  libdeflate_free_compressor (c);
}

static void
test_inflated_size (void **state)
{
  static uint8_t data[2 * GRAIN];
  struct vd_store *store;
  uint8_t buf[GRAIN];
  struct disk d;
  UNIT_CTX (ctx);

  (void) state;
  memset (data, 7, sizeof data);
  store = damage_stream ();
  replace (store, 1, data, GRAIN - 1);
  assert_bad (store, 1, "inflate to 65535, must be 65536");
  store = damage_stream ();
  replace (store, 1, data, GRAIN + 1);
  assert_bad (store, 1, "inflate to more than 65536");
  store = damage_stream ();
  replace (store, 2, data, 100 * VMDK_SECTOR - 1);
  assert_bad (store, 2, "inflate to 51199, must be 51200");
  store = damage_stream ();
  replace (store, 2, data, GRAIN + 1);
  assert_bad (store, 2, "inflate to more than 65536");

  /* qemu's and open-vmdk's short last grain: the rest is zeroes. */
  store = damage_stream ();
  replace (store, 2, data, 100 * VMDK_SECTOR);
  assert_ok (ctx, open_disk (ctx, &d, store, DAMAGE_SIZE));
  memset (buf, 1, sizeof buf);
  assert_ok (ctx, read_grain (ctx, &d, 2, buf));
  assert_memory_equal (buf, data, 100 * VMDK_SECTOR);
  assert_true (is_zero (buf + 100 * VMDK_SECTOR, 28 * VMDK_SECTOR));
  close_disk (&d);

  /* Rubbish behind the data, but inside the count, is none of ours. */
  poke32 (store, marker_of (store, 2) + 8, 400);
  assert_ok (ctx, open_disk (ctx, &d, store, DAMAGE_SIZE));
  assert_ok (ctx, read_grain (ctx, &d, 2, buf));
  assert_memory_equal (buf, data, 100 * VMDK_SECTOR);
  close_disk (&d);
  vd_store_close (store);
}

/* The end of the file, poked at, does not open. */
static void
assert_no_stream (struct vd_store *store, const char *text)
{
  struct disk d;
  UNIT_CTX (ctx);

  assert_fails (ctx, open_disk (ctx, &d, store, DAMAGE_SIZE), EIO, text);
  vd_store_close (store);
}

static void
test_footer_damage (void **state)
{
  struct vd_store *store;
  uint64_t size;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  /* Cut anywhere. */
  for (i = 1; i < 20; ++i) {
    store = damage_stream ();
    assert_ok (ctx, vd_store_get_size (ctx, store, &size));
    assert_ok (ctx, vd_store_truncate (ctx, store, size - i * VMDK_SECTOR));
    assert_no_stream (store, "incomplete or cut off");
  }
  store = damage_stream ();
  assert_ok (ctx, vd_store_truncate (ctx, store, size - 1));
  assert_no_stream (store, "incomplete or cut off");
  store = damage_stream ();
  assert_ok (ctx, vd_store_truncate (ctx, store, 3 * VMDK_SECTOR));
  assert_no_stream (store, "");

  /* Each of the three sectors. */
  store = damage_stream ();
  poke32 (store, size - 1536 + 12, MARKER_PROGRESS);
  assert_no_stream (store, "no footer marker");
  store = damage_stream ();
  poke32 (store, size - 1536 + 8, 5);
  assert_no_stream (store, "no footer marker");
  store = damage_stream ();
  poke32 (store, size - 1024, 0);
  assert_no_stream (store, "signature");
  store = damage_stream ();
  poke32 (store, size - 1024 + 4, 1);
  assert_no_stream (store, "the footer has version 1");
  store = damage_stream ();
  poke32 (store, size - 1024 + 56, 0xffffffff);
  poke32 (store, size - 1024 + 60, 0xffffffff);
  assert_no_stream (store, "gdOffset is missing in the footer");
  store = damage_stream ();
  poke32 (store, size - 1024 + 56, size / VMDK_SECTOR);
  assert_no_stream (store, "gdOffset");
  for (i = 0; i < 16; i += 4) {
    store = damage_stream ();
    poke32 (store, size - 512 + i, 1);
    assert_no_stream (store, "no end-of-stream marker");
  }
}

/* Transfers add bytes. */
static void
test_trailing_bytes (void **state)
{
  static const uint64_t grains[] = { 0, 1, 2 };
  static const uint8_t rubbish[511] = { 1, 2, 3 };
  static const unsigned lengths[] = { 1, 100, 511 };
  struct vd_store *store;
  struct disk d;
  uint64_t size;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < NR (lengths); ++i) {
    store = damage_stream ();
    assert_ok (ctx, vd_store_get_size (ctx, store, &size));
    poke (store, size, rubbish, lengths[i]);
    assert_ok (ctx, open_disk (ctx, &d, store, DAMAGE_SIZE));
    assert_true (holds (ctx, &d, grains, NR (grains)));
    close_disk (&d);
    vd_store_close (store);
  }
}

/* A progress marker between grains is seen by sequential readers only. */
static void
test_progress_marker (void **state)
{
  static const uint64_t grains[] = { 0, 1, 2 };
  struct vd_store *store = damage_stream (), *moved;
  uint64_t second = marker_of (store, 1), gd, gt;
  uint8_t sector[VMDK_SECTOR] = { 0 };
  size_t n;
  const uint8_t *data = vd_memory_data (store, &n);
  struct disk d;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", data, second, true, &moved));
  put_le32 (sector + 12, MARKER_PROGRESS);
  poke (moved, second, sector, sizeof sector);
  poke (moved, second + sizeof sector, data + second, n - second);
  gd = get_le64 (data + n - 1024 + 56);
  gt = get_le32 (data + gd * VMDK_SECTOR);
  poke32 (moved, n + VMDK_SECTOR - 1024 + 56, gd + 1);
  poke32 (moved, (gd + 1) * VMDK_SECTOR, gt + 1);
  for (i = 1; i < 3; ++i)
    poke32 (moved, (gt + 1) * VMDK_SECTOR + 4 * i,
            get_le32 (data + gt * VMDK_SECTOR + 4 * i) + 1);
  assert_ok (ctx, open_disk (ctx, &d, moved, DAMAGE_SIZE));
  assert_true (holds (ctx, &d, grains, NR (grains)));
  close_disk (&d);
  vd_store_close (moved);
  vd_store_close (store);
}

/* Left without finishing: it says so, whatever was put. */
static void
test_abandoned (void **state)
{
  unsigned n, i;

  (void) state;
  for (n = 0; n < 40; n += 13) {
    struct vd_store *store;
    struct vd_sink *sink;
    uint8_t buf[GRAIN];
    struct disk d;
    UNIT_CTX (ctx);

    assert_ok (ctx, vd_memory_open (ctx, "s.vmdk", NULL, 0, true, &store));
    assert_ok (ctx, begin_stream (ctx, store, 64 * GRAIN));
    init_disk (&d, store, 64 * GRAIN);
    sink = vmdk_sink_open (ctx, &d.image);
    assert_non_null (sink);
    for (i = 0; i < n; ++i) {
      fill (buf, GRAIN, i);
      assert_ok (ctx, vmdk_sink_put (ctx, sink, i * GRAIN, buf, GRAIN));
    }
    vmdk_sink_close (sink);
    close_disk (&d);
    assert_fails (ctx, open_disk (ctx, &d, store, 64 * GRAIN), EIO,
                  "incomplete or cut off");
    vd_store_close (store);
  }
}

/* ---- many readers ------------------------------------------------------ */

#define THREADS 8
#define THREAD_GRAINS 300

static void *
reader (void *opaque)
{
  struct disk *d = opaque;
  CLEANUP_FREE uint8_t *buf = malloc (GRAIN);
  uint64_t seed = (uintptr_t) &buf;
  unsigned i;
  UNIT_CTX (ctx);

  for (i = 0; i < 400; ++i) {
    uint64_t grain;

    seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
    grain = (seed >> 33) % THREAD_GRAINS;
    if (read_grain (ctx, d, grain, buf) != 0 || !is_right (buf, GRAIN, grain))
      return d;
  }
  return NULL;
}

static void
test_threads (void **state)
{
  uint64_t size = (uint64_t) THREAD_GRAINS * GRAIN;
  uint64_t grains[THREAD_GRAINS];
  pthread_t threads[THREADS];
  struct vd_store *store;
  struct disk d;
  unsigned i;
  void *bad;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < THREAD_GRAINS; ++i)
    grains[i] = i;
  store = make_stream (size, grains, NR (grains));
  assert_ok (ctx, open_disk (ctx, &d, store, size));
  for (i = 0; i < THREADS; ++i)
    assert_int_equal (pthread_create (&threads[i], NULL, reader, &d), 0);
  for (i = 0; i < THREADS; ++i) {
    pthread_join (threads[i], &bad);
    assert_null (bad);
  }
  close_disk (&d);
  vd_store_close (store);
}

/* ---- crashes and failing calls ----------------------------------------- */

static const uint64_t sim_grains[] = { 0, 1, 4, 515, 516, 1029 };
#define SIM_SIZE (UINT64_C (1030) * GRAIN - 5 * VMDK_SECTOR)

/* A disk with a new, ended stream on it. */
static struct vd_sim *
sim_with_stream (void)
{
  struct vd_sim *sim = vd_sim_new (), *clean;
  struct vd_store *store;
  UNIT_CTX (ctx);

  assert_non_null (sim);
  assert_ok (ctx, vd_sim_open (ctx, sim, "s.vmdk", true, &store));
  assert_ok (ctx, begin_stream (ctx, store, SIM_SIZE));
  vd_store_close (store);
  clean = vd_sim_clone (sim);
  vd_sim_free (sim);
  return clean;
}

/* Closes; the result of writing. */
static int
sim_write (struct vd_ctx *ctx, struct vd_sim *sim)
{
  struct vd_store *store;
  struct disk d;
  int r;

  r = vd_sim_open (ctx, sim, "s.vmdk", true, &store);
  if (r < 0)
    return r;
  init_disk (&d, store, SIM_SIZE);
  r = write_grains (ctx, &d, sim_grains, NR (sim_grains));
  close_disk (&d);
  vd_store_close (store);
  return r;
}

enum { REFUSED, EMPTY, COMPLETE, WRONG };

static int
sim_state (struct vd_sim *sim)
{
  struct vd_store *store;
  struct disk d;
  int found = REFUSED;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_sim_open (ctx, sim, "s.vmdk", false, &store));
  if (open_disk (ctx, &d, store, SIM_SIZE) == 0) {
    found = holds (ctx, &d, NULL, 0) ? EMPTY :
      holds (ctx, &d, sim_grains, NR (sim_grains)) ? COMPLETE : WRONG;
    close_disk (&d);
  }
  vd_store_close (store);
  return found;
}

static void
test_crash (void **state)
{
  struct vd_sim *sim = sim_with_stream (), *cut;
  uint64_t seed = 1;
  size_t n, length;
  unsigned i, seen[4] = { 0 };
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, sim_write (ctx, sim));
  length = vd_sim_log_length (sim);
  for (n = 0; n <= length; ++n) {
    cut = vd_sim_prefix (sim, n);
    seen[sim_state (cut)]++;
    assert_true (n < length || sim_state (cut) == COMPLETE);
    vd_sim_free (cut);
    for (i = 0; i < 30; ++i) {
      cut = vd_sim_power_cut (sim, n, &seed);
      seen[sim_state (cut)]++;
      assert_true (n < length || sim_state (cut) == COMPLETE);
      /* The first records take the old end away, durably. */
      assert_true (n <= 2 || sim_state (cut) != EMPTY);
      vd_sim_free (cut);
    }
  }
  assert_int_equal (seen[WRONG], 0);
  assert_true (seen[REFUSED] > 0 && seen[EMPTY] > 0 && seen[COMPLETE] > 0);
  vd_sim_free (sim);
}

static void
test_faults (void **state)
{
  unsigned n, errors = 0;
  bool hit = true;
  int found, r;

  (void) state;
  for (n = 1; hit; ++n) {
    struct vd_sim *sim = sim_with_stream ();
    UNIT_CTX (ctx);

    vd_sim_fail_at (sim, n, n % 2 ? EIO : ENOSPC, false);
    r = sim_write (ctx, sim);
    hit = vd_sim_fault_hit (sim);
    vd_sim_fail_at (sim, 0, 0, false);
    found = sim_state (sim);
    if (hit)
      errors++;
    /* Every failed call is told of; what is said to be done, is. */
    assert_true (hit ? r < 0 : r == 0);
    assert_true (ctx->error != 0 || r == 0);
    assert_true (found != WRONG);
    if (r == 0)
      assert_int_equal (found, COMPLETE);
    vd_sim_free (sim);
  }
  assert_true (errors > 15);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_form),
    cmocka_unit_test (test_empty_tables),
    cmocka_unit_test (test_round_trip),
    cmocka_unit_test (test_readable_when_finished),
    cmocka_unit_test (test_wrong_puts),
    cmocka_unit_test (test_empty),
    cmocka_unit_test (test_marker_damage),
    cmocka_unit_test (test_inflated_size),
    cmocka_unit_test (test_footer_damage),
    cmocka_unit_test (test_trailing_bytes),
    cmocka_unit_test (test_progress_marker),
    cmocka_unit_test (test_abandoned),
    cmocka_unit_test (test_threads),
    cmocka_unit_test (test_crash),
    cmocka_unit_test (test_faults),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
