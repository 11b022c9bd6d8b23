/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The block engine: what it does with each kind of run, the matrix of
 * honor-zeroes and honor-same on a real VDI, and (with a format made for
 * this test, since VDI has neither) compressed blocks and sinks.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "byteorder.h"
#include "image.h"
#include "memory.h"
#include "rounding.h"
#include "vdi.h"

#define MIB (1024 * 1024)

static void
fresh (struct vd_ctx *ctx)
{
  vd_ctx_init (ctx, NULL);
}

#define assert_ok(call)                                                 \
  do {                                                                  \
    int r_ = (call);                                                    \
    if (r_ != 0)                                                        \
      fail_msg ("%s: %d, %s", #call, r_, ctx.message);                  \
  } while (0)

/* ---- the matrix, vdi-format 10.1 -------------------------------------- */

/* A parent of 4 MiB: block 0 data, block 1 zeroes, block 2 has 4 KiB of data
 * at its start, block 3 data.
 */
static uint8_t parent_data[4 * MIB];

static int
parent_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
              uint64_t offset)
{
  (void) ctx;
  (void) opaque;
  assert_true (offset + len <= sizeof parent_data);
  memcpy (buf, parent_data + offset, len);
  return 0;
}

static int
parent_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
                uint64_t len, bool one,
                int (*fn) (void *, uint64_t, uint64_t, unsigned),
                void *fn_opaque)
{
  (void) ctx;
  (void) opaque;
  (void) one;
  return fn (fn_opaque, offset, len, 0);
}

static const struct vd_parent parent = {
  .size = sizeof parent_data,
  .pread = parent_pread,
  .extents = parent_extents,
};

static int
setup_parent (void **state)
{
  (void) state;
  memset (parent_data, 0x11, MIB);
  memset (parent_data + 2 * MIB, 0x33, 4096);
  memset (parent_data + 3 * MIB, 0x44, MIB);
  return 0;
}

enum { FREE = 'F', ZERO = 'Z', DATA = 'D' };

/* A new VDI of 8 MiB in memory, base or differencing. */
static struct vd_store *
new_vdi (bool differencing)
{
  struct vd_create how = { .size = 8 * MIB };
  struct vd_store *store;
  struct vd_ctx ctx;

  fresh (&ctx);
  if (differencing)
    vd_uuid_random (&how.link.parent);
  assert_ok (vd_memory_open (&ctx, "m.vdi", NULL, 0, true, &store));
  assert_ok (vd_format_vdi.create (&ctx, store, NULL, NULL, &how));
  return store;
}

static struct vd_image *
open_vdi (struct vd_store *store, bool differencing, bool z, bool s)
{
  struct vd_open how = {
    .write = VD_WRITE_REQUIRE, .honor_zeroes = z, .honor_same = s,
    .parent = differencing ? &parent : NULL,
  };
  struct vd_image *image;
  struct vd_ctx ctx;

  fresh (&ctx);
  assert_ok (vd_image_open_store (&ctx, store, &how, &image));
  return image;
}

/* The state of a block as it is on disk after a flush. */
static int
state_on_disk (struct vd_image *image, unsigned block)
{
  struct vd_ctx ctx;
  uint8_t entry[4];

  fresh (&ctx);
  assert_ok (vd_image_flush (&ctx, image));
  assert_ok (vd_store_pread (&ctx, image->store, entry, 4,
                             MIB + block * 4));
  switch (get_le32 (entry)) {
  case 0xffffffff: return FREE;
  case 0xfffffffe: return ZERO;
  default: return DATA;
  }
}

struct row {
  const char *what;
  bool differencing;
  const char *before;           /* "": free, "Z": a ZERO block */
  unsigned block;
  size_t offset, len;           /* in the block */
  int fill;                     /* byte written, -1: the parent's bytes */
  char want[5];                 /* none, Z, S, Z+S */
};

static const struct row rows[] = {
  /* base */
  { "base: whole block of zeroes", false, "", 4, 0, MIB, 0, "ZFZD" },
  { "base: 512 bytes of zeroes", false, "", 4, 1024, 512, 0, "FFZD" },
  { "base: data", false, "", 4, 512, 512, 0x41, "DDDD" },
  { "base: whole block of data", false, "", 4, 0, MIB, 0x41, "DDDD" },
  { "base: zeroes on a ZERO block", false, "Z", 4, 0, 512, 0, "ZZZD" },
  { "base: whole zeroes on a ZERO block", false, "Z", 4, 0, MIB, 0, "ZZZD" },
  { "base: data on a ZERO block", false, "Z", 4, 0, 512, 1, "DDDD" },
  /* differencing */
  { "whole zeroes over data", true, "", 0, 0, MIB, 0, "ZDZD" },
  { "whole zeroes over zeroes", true, "", 1, 0, MIB, 0, "ZFZD" },
  { "whole zeroes beyond the parent", true, "", 6, 0, MIB, 0, "ZFZD" },
  { "some zeroes over data", true, "", 0, 512, 512, 0, "DDDD" },
  { "some zeroes over zeroes", true, "", 1, 512, 512, 0, "FFZD" },
  { "zeroes that leave nothing but zeroes", true, "", 2, 0, 4096, 0,
    "ZDZD" },
  { "zeroes beside data", true, "", 2, 8192, 512, 0, "FFDD" },
  { "same data, part", true, "", 3, 512, 512, -1, "FFDD" },
  { "same data, whole", true, "", 3, 0, MIB, -1, "FFDD" },
  { "other data", true, "", 3, 512, 512, 0x45, "DDDD" },
  { "data over zeroes", true, "", 1, 512, 512, 0x45, "DDDD" },
};

static void
test_matrix (void **state)
{
  static uint8_t data[MIB], want[MIB], got[MIB];
  unsigned r, flags;

  (void) state;
  for (r = 0; r < sizeof rows / sizeof rows[0]; ++r) {
    for (flags = 0; flags < 4; ++flags) {
      const struct row *row = &rows[r];
      bool z = flags & 1, s = flags & 2;
      struct vd_store *store = new_vdi (row->differencing);
      struct vd_image *image;
      struct vd_ctx ctx;
      uint64_t start = (uint64_t) row->block * MIB;
      int is;

      fresh (&ctx);
      if (*row->before) {
        image = open_vdi (store, row->differencing, false, false);
        assert_ok (vd_image_zero (&ctx, image, MIB, start, VD_MAY_TRIM));
        assert_int_equal (state_on_disk (image, row->block), ZERO);
        /* memory stores go with their image: copy */
        {
          size_t size;
          const uint8_t *bytes;
          struct vd_store *copy;

          assert_ok (vd_image_end_session (&ctx, image));
          bytes = vd_memory_data (image->store, &size);
          assert_ok (vd_memory_open (&ctx, "m.vdi", bytes, size, true,
                                     &copy));
          assert_ok (vd_image_close (&ctx, image));
          store = copy;
        }
      }
      image = open_vdi (store, row->differencing, z, s);

      assert_ok (vd_image_pread (&ctx, image, want, MIB, start));
      if (row->fill >= 0)
        memset (data, row->fill, row->len);
      else
        memcpy (data, parent_data + start + row->offset, row->len);
      memcpy (want + row->offset, data, row->len);

      assert_ok (vd_image_pwrite (&ctx, image, data, row->len,
                                  start + row->offset, 0));
      is = state_on_disk (image, row->block);
      if (is != row->want[flags])
        fail_msg ("%s, honor-zeroes=%d honor-same=%d: %c, want %c",
                  row->what, z, s, is, row->want[flags]);
      assert_ok (vd_image_pread (&ctx, image, got, MIB, start));
      assert_memory_equal (got, want, MIB);
      assert_ok (vd_image_close (&ctx, image));
    }
  }
}

/* vd-semantics T6: the map after a series of writes, for each flag. */
static void
test_matrix_series (void **state)
{
  static const char *const maps[4] = {
    "ZFDFZZFF", "FFDFFFFF", "ZZDZZZFF", "DDDDDDFF"
  };
  static uint8_t data[2 * MIB];
  unsigned flags, i;

  (void) state;
  for (flags = 0; flags < 4; ++flags) {
    struct vd_image *image =
      open_vdi (new_vdi (false), false, flags & 1, flags & 2);
    struct vd_ctx ctx;
    char map[9];

    fresh (&ctx);
    memset (data, 0, sizeof data);
    assert_ok (vd_image_pwrite (&ctx, image, data, MIB, 0, 0));
    assert_ok (vd_image_pwrite (&ctx, image, data, 512, MIB, 0));
    assert_ok (vd_image_pwrite (&ctx, image, data, 512, 3 * MIB, 0));
    assert_ok (vd_image_pwrite (&ctx, image, data, 2 * MIB, 4 * MIB, 0));
    memset (data, 0x41, 4096);
    assert_ok (vd_image_pwrite (&ctx, image, data, 4096, 2 * MIB, 0));
    for (i = 0; i < 8; ++i)
      map[i] = state_on_disk (image, i);
    map[8] = '\0';
    assert_string_equal (map, maps[flags]);
    assert_ok (vd_image_close (&ctx, image));
  }
}

/* NBD's own zero and trim, rules 1 and 3. */
static void
test_zero_and_trim_in_difference (void **state)
{
  struct vd_image *image = open_vdi (new_vdi (true), true, false, false);
  static uint8_t got[MIB], zero[MIB];
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  /* MAY_TRIM: a ZERO entry; without: as honor-zeroes, a block. */
  assert_ok (vd_image_zero (&ctx, image, MIB, 0, VD_MAY_TRIM));
  assert_int_equal (state_on_disk (image, 0), ZERO);
  assert_ok (vd_image_zero (&ctx, image, MIB, 3 * MIB, 0));
  assert_int_equal (state_on_disk (image, 3), DATA);
  assert_ok (vd_image_pread (&ctx, image, got, MIB, 3 * MIB));
  assert_memory_equal (got, zero, MIB);
  assert_ok (vd_image_close (&ctx, image));

  image = open_vdi (new_vdi (true), true, false, false);
  assert_ok (vd_image_trim (&ctx, image, 512, 512, 0));     /* a part */
  assert_int_equal (state_on_disk (image, 0), FREE);
  assert_ok (vd_image_trim (&ctx, image, 2 * MIB, 0, 0));
  assert_int_equal (state_on_disk (image, 0), ZERO);
  assert_int_equal (state_on_disk (image, 1), FREE);    /* zero anyway */
  /* Fast zero: what would need the parent is refused, with no effect. */
  assert_int_equal (vd_image_zero (&ctx, image, MIB, 3 * MIB - 512,
                                   VD_MAY_TRIM | VD_FAST), -ENOTSUP);
  assert_int_equal (state_on_disk (image, 2), FREE);
  assert_int_equal (state_on_disk (image, 3), FREE);
  assert_ok (vd_image_zero (&ctx, image, MIB, 3 * MIB,
                            VD_MAY_TRIM | VD_FAST));
  assert_int_equal (state_on_disk (image, 3), ZERO);
  assert_ok (vd_image_close (&ctx, image));
}

/* A suppressed write starts no session; a stored one starts one only. */
static void
test_session (void **state)
{
  struct vd_image *image = open_vdi (new_vdi (false), false, false, false);
  struct vd_uuid before = image->link.modification, first;
  static uint8_t data[512];
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  assert_ok (vd_image_pwrite (&ctx, image, data, 512, 0, 0));
  assert_ok (vd_image_flush (&ctx, image));
  assert_true (vd_uuid_equal (&before, &image->link.modification));
  data[0] = 1;
  assert_ok (vd_image_pwrite (&ctx, image, data, 512, 0, 0));
  first = image->link.modification;
  assert_false (vd_uuid_equal (&before, &first));
  assert_ok (vd_image_flush (&ctx, image));
  assert_ok (vd_image_pwrite (&ctx, image, data, 512, 0, 0));
  assert_true (vd_uuid_equal (&first, &image->link.modification));
  assert_ok (vd_image_end_session (&ctx, image));
  assert_ok (vd_image_end_session (&ctx, image));
  assert_true (vd_uuid_equal (&first, &image->link.modification));
  assert_ok (vd_image_pwrite (&ctx, image, data, 512, 0, 0));
  assert_false (vd_uuid_equal (&first, &image->link.modification));
  assert_ok (vd_image_close (&ctx, image));
}

/* A lone differencing image is refused, its parent named; info opens it. */
static void
test_needs_parent (void **state)
{
  struct vd_open how = { .write = VD_WRITE_NO };
  struct vd_create create = { .size = 8 * MIB };
  struct vd_store *store;
  struct vd_image *image;
  char uuid[VD_UUID_TEXT];
  struct vd_ctx ctx;
  int i;

  (void) state;
  fresh (&ctx);
  vd_uuid_random (&create.link.parent);
  for (i = 0; i < 2; ++i) {
    assert_ok (vd_memory_open (&ctx, "m.vdi", NULL, 0, true, &store));
    assert_ok (vd_format_vdi.create (&ctx, store, NULL, NULL, &create));
    how.info = i == 1;
    if (i == 0) {
      assert_int_equal (vd_image_open_store (&ctx, store, &how, &image),
                        -EUNATCH);
      assert_non_null (strstr (ctx.message,
                               vd_uuid_text (&create.link.parent, uuid)));
    }
    else {
      assert_ok (vd_image_open_store (&ctx, store, &how, &image));
      assert_ok (vd_image_close (&ctx, image));
    }
  }
}

/* ---- a format for compressed blocks, damage and sinks ----------------- */

#define TOY_BLOCK 4096
#define TOY_BLOCKS 1024

/* Block i is: i % 8 == 5 BAD, i % 8 == 6 ZERO, else PACKED, holding byte
 * (i % 251).  Block 3 cannot be decoded.
 */
static _Atomic unsigned unpacked;

static bool
toy_probe (const uint8_t *head, size_t n)
{
  (void) head;
  (void) n;
  return false;
}

static int
toy_open (struct vd_ctx *ctx, struct vd_image *image)
{
  (void) ctx;
  image->size = TOY_BLOCK * TOY_BLOCKS - 1024;
  image->block_size = TOY_BLOCK;
  image->variant = "toy";
  image->front_to_back = image->format->sink_open != NULL;
  return 0;
}

static void
toy_close (struct vd_image *image)
{
  (void) image;
}

static void
toy_block_at (const struct vd_image *image, uint64_t offset,
              uint64_t *ret_start, uint64_t *ret_length)
{
  (void) image;
  *ret_start = round_down (offset, TOY_BLOCK);
  *ret_length = TOY_BLOCK;
}

static int
toy_locate (struct vd_ctx *ctx, struct vd_image *image, uint64_t offset,
            uint64_t len, enum vd_locate what, struct vd_run *run)
{
  uint64_t block = offset / TOY_BLOCK;

  (void) ctx;
  (void) image;
  (void) what;
  memset (run, 0, sizeof *run);
  run->mode = VD_MODE_DENY;
  run->error = EROFS;
  run->reason = "compressed";
  run->value = block;
  run->length = min_u64 (len, TOY_BLOCK - offset % TOY_BLOCK);
  if (block % 8 == 5) {
    run->kind = VD_RUN_BAD;
    run->error = EIO;
    run->reason = "table entry is damaged";
  }
  else if (block % 8 == 6)
    run->kind = VD_RUN_ZERO;
  else {
    run->kind = VD_RUN_PACKED;
    run->block = block * TOY_BLOCK;
  }
  return 0;
}

static int
toy_unpack (struct vd_ctx *ctx, struct vd_image *image, uint64_t block,
            void *buf)
{
  atomic_fetch_add (&unpacked, 1);
  if (block / TOY_BLOCK == 3)
    return vd_error (ctx, EIO, "%s: block 3 does not decode", image->name);
  memset (buf, block / TOY_BLOCK % 251, TOY_BLOCK);
  return 0;
}

static const struct vd_format toy = {
  .name = "toy",
  .probe = toy_probe,
  .open = toy_open,
  .close = toy_close,
  .block_at = toy_block_at,
  .locate = toy_locate,
  .unpack = toy_unpack,
};

static struct vd_image *
open_toy (const struct vd_format *format, enum vd_write write)
{
  struct vd_open how = { .write = write, .format = format };
  struct vd_store *store;
  struct vd_image *image;
  struct vd_ctx ctx;

  fresh (&ctx);
  assert_ok (vd_memory_open (&ctx, "toy", NULL, 512, true, &store));
  assert_ok (vd_image_open_store (&ctx, store, &how, &image));
  return image;
}

static void
test_packed (void **state)
{
  struct vd_image *image = open_toy (&toy, VD_WRITE_NO);
  uint8_t buf[TOY_BLOCK * 3];
  struct vd_ctx ctx;
  unsigned before;

  (void) state;
  fresh (&ctx);
  /* Parts of a block decode it once. */
  before = atomic_load (&unpacked);
  assert_ok (vd_image_pread (&ctx, image, buf, 100, 8 * TOY_BLOCK + 10));
  assert_int_equal (buf[0], 8);
  assert_int_equal (buf[99], 8);
  assert_ok (vd_image_pread (&ctx, image, buf, 100, 8 * TOY_BLOCK + 2000));
  assert_int_equal (atomic_load (&unpacked), before + 1);
  /* Across blocks. */
  assert_ok (vd_image_pread (&ctx, image, buf, TOY_BLOCK * 2 + 100,
                             8 * TOY_BLOCK + 50));
  assert_int_equal (buf[TOY_BLOCK - 51], 8);
  assert_int_equal (buf[TOY_BLOCK - 50], 9);
  assert_int_equal (buf[TOY_BLOCK * 2 + 99], 10);
  /* What does not decode is an error every time, and only there. */
  assert_int_equal (vd_image_pread (&ctx, image, buf, 10, 3 * TOY_BLOCK + 1),
                    -EIO);
  fresh (&ctx);
  assert_int_equal (vd_image_pread (&ctx, image, buf, 10, 3 * TOY_BLOCK + 1),
                    -EIO);
  assert_non_null (strstr (ctx.message, "does not decode"));
  assert_ok (vd_image_pread (&ctx, image, buf, 10, 4 * TOY_BLOCK));
  /* Damage. */
  assert_int_equal (vd_image_pread (&ctx, image, buf, 10, 5 * TOY_BLOCK),
                    -EIO);
  assert_non_null (strstr (ctx.message, "table entry is damaged"));
  assert_ok (vd_image_close (&ctx, image));
}

static void *
packed_reader (void *opaque)
{
  struct vd_image *image = opaque;
  uint64_t i, seed = (uintptr_t) &i;
  uint8_t buf[600];
  struct vd_ctx ctx;

  for (i = 0; i < 20000; ++i) {
    uint64_t block, skip;

    seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
    block = (seed >> 33) % (TOY_BLOCKS - 1);
    skip = (seed >> 20) % (TOY_BLOCK - sizeof buf);
    vd_ctx_init (&ctx, NULL);
    if (vd_image_pread (&ctx, image, buf, sizeof buf,
                        block * TOY_BLOCK + skip) == 0) {
      uint8_t want = block % 8 == 6 ? 0 : block % 251;

      if (block == 3 || block % 8 == 5 || buf[0] != want ||
          buf[599] != want)
        return (void *) 1;
    }
    else if (block != 3 && block % 8 != 5)
      return (void *) 1;
  }
  return NULL;
}

static void
test_packed_threads (void **state)
{
  struct vd_image *image = open_toy (&toy, VD_WRITE_NO);
  pthread_t threads[8];
  struct vd_ctx ctx;
  void *r;
  int i;

  (void) state;
  fresh (&ctx);
  for (i = 0; i < 8; ++i)
    assert_int_equal (pthread_create (&threads[i], NULL, packed_reader,
                                      image), 0);
  for (i = 0; i < 8; ++i) {
    pthread_join (threads[i], &r);
    assert_null (r);
  }
  assert_ok (vd_image_close (&ctx, image));
}

static int
add_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  char *text = opaque;
  size_t used = strlen (text);

  snprintf (text + used, 4096 - used, "%llu+%llu:%u ",
            (unsigned long long) offset / TOY_BLOCK,
            (unsigned long long) len / TOY_BLOCK, type);
  return 0;
}

static void
test_toy_extents (void **state)
{
  struct vd_image *image = open_toy (&toy, VD_WRITE_NO);
  char text[4096] = "";
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  assert_ok (vd_image_extents (&ctx, image, 0, 16 * TOY_BLOCK, false,
                               add_extent, text));
  assert_string_equal (text, "0+6:0 6+1:3 7+7:0 14+1:3 15+1:0 ");
  text[0] = '\0';
  assert_ok (vd_image_extents (&ctx, image, 7 * TOY_BLOCK, 16 * TOY_BLOCK,
                               true, add_extent, text));
  assert_string_equal (text, "7+7:0 ");
  assert_ok (vd_image_close (&ctx, image));
}

/* ---- sinks ------------------------------------------------------------ */

struct vd_sink {
  int dummy;
};
static struct vd_sink the_sink;
static uint64_t put[4 * TOY_BLOCKS], nput, put_bytes;
static bool sink_is_finished, sink_is_closed;
static uint8_t sink_disk[TOY_BLOCK * TOY_BLOCKS];

static struct vd_sink *
toy_sink_open (struct vd_ctx *ctx, struct vd_image *image)
{
  (void) ctx;
  (void) image;
  nput = put_bytes = 0;
  sink_is_finished = sink_is_closed = false;
  memset (sink_disk, 0, sizeof sink_disk);
  return &the_sink;
}

static int
toy_sink_put (struct vd_ctx *ctx, struct vd_sink *sink, uint64_t block,
              const void *buf, size_t len)
{
  (void) ctx;
  assert_ptr_equal (sink, &the_sink);
  put[nput++] = block;
  put_bytes += len;
  memcpy (sink_disk + block, buf, len);
  return 0;
}

static int
toy_sink_finish (struct vd_ctx *ctx, struct vd_sink *sink)
{
  (void) ctx;
  (void) sink;
  sink_is_finished = true;
  return 0;
}

static void
toy_sink_close (struct vd_sink *sink)
{
  (void) sink;
  sink_is_closed = true;
}

static struct vd_format
toy_with_sink (void)
{
  struct vd_format f = toy;

  f.sink_open = toy_sink_open;
  f.sink_put = toy_sink_put;
  f.sink_finish = toy_sink_finish;
  f.sink_close = toy_sink_close;
  return f;
}

static void
test_sink (void **state)
{
  struct vd_format f = toy_with_sink ();
  struct vd_image *image = open_toy (&f, VD_WRITE_REQUIRE);
  static uint8_t data[16 * TOY_BLOCK], want[TOY_BLOCK * TOY_BLOCKS];
  uint64_t i;
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  memset (want, 0, sizeof want);
  memset (data, 0x5a, sizeof data);
  /* Out of order, in odd pieces, with a gap of zeroes and a zero block. */
  assert_ok (vd_image_pwrite (&ctx, image, data, 4 * TOY_BLOCK,
                              8 * TOY_BLOCK, 0));
  assert_int_equal (nput, 0);
  /* What waits cannot be read; what was never written reads as it did. */
  assert_int_equal (vd_image_pread (&ctx, image, want, 512, 8 * TOY_BLOCK),
                    -EIO);
  assert_ok (vd_image_pwrite (&ctx, image, data, 5000, 0, 0));
  assert_int_equal (nput, 1);
  assert_ok (vd_image_pwrite (&ctx, image, data, 8 * TOY_BLOCK - 5000, 5000,
                              0));
  assert_ok (vd_image_zero (&ctx, image, TOY_BLOCK, 3 * TOY_BLOCK,
                            VD_MAY_TRIM) == -EIO ? 0 : 1);
  /* What came early follows at once. */
  assert_int_equal (nput, 12);
  assert_ok (vd_image_zero (&ctx, image, 64 * TOY_BLOCK, 12 * TOY_BLOCK,
                            VD_MAY_TRIM));
  assert_ok (vd_image_pwrite (&ctx, image, data, 100,
                              f.name ? image->size - 100 : 0, 0));
  assert_ok (vd_image_flush (&ctx, image));
  assert_ok (vd_image_end_session (&ctx, image));
  assert_true (sink_is_finished);
  assert_true (sink_is_closed);

  memset (want, 0x5a, 12 * TOY_BLOCK);
  memset (want + image->size - 100, 0x5a, 100);
  assert_memory_equal (sink_disk, want, image->size);
  for (i = 1; i < nput; ++i)
    assert_true (put[i - 1] < put[i]);
  assert_int_equal (nput, 13);

  /* Complete is complete. */
  assert_int_equal (vd_image_pwrite (&ctx, image, data, 512, 0, 0), -EROFS);
  assert_ok (vd_image_close (&ctx, image));
}

static int
toy_open_big (struct vd_ctx *ctx, struct vd_image *image)
{
  int r = toy_open (ctx, image);

  image->front_to_back = true;
  image->size = 100 * MIB;
  return r;
}

static int
toy_sink_count (struct vd_ctx *ctx, struct vd_sink *sink, uint64_t block,
                const void *buf, size_t len)
{
  (void) ctx;
  (void) sink;
  (void) block;
  (void) buf;
  (void) len;
  nput++;
  return 0;
}

static void
test_sink_behind (void **state)
{
  struct vd_format f = toy_with_sink ();
  struct vd_image *image = open_toy (&f, VD_WRITE_REQUIRE);
  static uint8_t data[TOY_BLOCK];
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  memset (data, 1, sizeof data);
  assert_ok (vd_image_pwrite (&ctx, image, data, TOY_BLOCK, 0, 0));
  assert_int_equal (nput, 1);
  assert_int_equal (vd_image_pwrite (&ctx, image, data, 10, 5, 0), -EIO);
  assert_non_null (strstr (ctx.message, "front to back"));
  /* Not finished: closed all the same. */
  fresh (&ctx);
  assert_ok (vd_image_close (&ctx, image));
  assert_true (sink_is_closed);
}

/* More waits than the window holds: what is missing is taken for zeroes.  If
 * it comes then and is none, the image is not completed.
 */
static void
test_sink_too_late (void **state)
{
  struct vd_format f = toy_with_sink ();
  static uint8_t data[MIB];
  struct vd_image *image;
  struct vd_ctx ctx;
  unsigned i;

  (void) state;
  fresh (&ctx);
  memset (data, 1, sizeof data);
  f.open = toy_open_big;
  f.sink_put = toy_sink_count;
  image = open_toy (&f, VD_WRITE_REQUIRE);
  assert_ok (vd_image_pwrite (&ctx, image, data, TOY_BLOCK, 0, 0));
  nput = 0;
  for (i = 1; i <= 64; ++i)
    assert_ok (vd_image_pwrite (&ctx, image, data, MIB, i * MIB, 0));
  assert_int_equal (nput, 0);
  assert_ok (vd_image_pwrite (&ctx, image, data, TOY_BLOCK, 65 * MIB, 0));
  assert_int_equal (nput, 64 * MIB / TOY_BLOCK + 1);
  assert_ok (vd_image_zero (&ctx, image, TOY_BLOCK, TOY_BLOCK, 0));
  assert_ok (vd_image_flush (&ctx, image));
  assert_int_equal (vd_image_pwrite (&ctx, image, data, 1, TOY_BLOCK, 0),
                    -EIO);
  assert_non_null (strstr (ctx.message, "front to back"));
  assert_int_equal (vd_image_flush (&ctx, image), -EIO);
  assert_int_equal (vd_image_end_session (&ctx, image), -EIO);
  assert_false (sink_is_finished);
  assert_int_equal (vd_image_close (&ctx, image), -EIO);
  assert_true (sink_is_closed);
}

static void *
late_writer (void *opaque)
{
  static uint8_t data[TOY_BLOCK] = { 1 };
  struct vd_ctx ctx;

  fresh (&ctx);
  usleep (200000);
  return vd_image_pwrite (&ctx, opaque, data, sizeof data, TOY_BLOCK, 0) < 0 ?
    opaque : NULL;
}

/* A request that was delayed on its way is waited for. */
static void
test_sink_waits (void **state)
{
  struct vd_format f = toy_with_sink ();
  static uint8_t data[MIB];
  struct vd_image *image;
  struct vd_ctx ctx;
  pthread_t thread;
  unsigned i;
  void *bad;

  (void) state;
  fresh (&ctx);
  memset (data, 1, sizeof data);
  f.open = toy_open_big;
  f.sink_put = toy_sink_count;
  image = open_toy (&f, VD_WRITE_REQUIRE);
  assert_int_equal (pthread_create (&thread, NULL, late_writer, image), 0);
  assert_ok (vd_image_pwrite (&ctx, image, data, TOY_BLOCK, 0, 0));
  for (i = 0; i < 90; ++i)
    assert_ok (vd_image_pwrite (&ctx, image, data, MIB,
                                2 * TOY_BLOCK + i * MIB, 0));
  pthread_join (thread, &bad);
  assert_null (bad);
  assert_ok (vd_image_end_session (&ctx, image));
  assert_true (sink_is_finished);
  assert_int_equal (nput, 2 + 90 * MIB / TOY_BLOCK);
  assert_ok (vd_image_close (&ctx, image));
}

/* Every order of pieces in a window gives the same, with nothing left behind
 * longer than it must be.
 */
static void
test_sink_shuffled (void **state)
{
  struct vd_format f = toy_with_sink ();
  static uint8_t disk[TOY_BLOCK * TOY_BLOCKS];
  unsigned round, i, order[64];
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  for (round = 0; round < 200; ++round) {
    struct vd_image *image = open_toy (&f, VD_WRITE_REQUIRE);
    uint64_t seed = round, piece = 512 * (1 + round % 40);
    unsigned n = div_round_up (image->size, piece), window = 1 + round % 64;
    unsigned held = 0, next = 0;
    bool any = false;

    memset (disk, 0, sizeof disk);
    while (next < n || held > 0) {
      uint64_t offset, len;

      while (held < window && next < n)
        order[held++] = next++;
      seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
      i = (seed >> 33) % held;
      offset = order[i] * piece;
      order[i] = order[--held];
      len = min_u64 (piece, image->size - offset);
      if ((seed >> 50) % 4 == 0 && any) {
        assert_ok (vd_image_zero (&ctx, image, len, offset, 0));
        continue;
      }
      any = true;
      memset (disk + offset, 1 + (seed >> 55), len);
      assert_ok (vd_image_pwrite (&ctx, image, disk + offset, len, offset,
                                  0));
    }
    /* All was written, so all was put; and a flush completes the image. */
    i = nput;
    assert_ok (vd_image_flush (&ctx, image));
    assert_int_equal (nput, i);
    assert_true (sink_is_finished && sink_is_closed);
    assert_memory_equal (sink_disk, disk, image->size);
    for (i = 1; i < nput; ++i)
      assert_true (put[i - 1] < put[i]);
    assert_ok (vd_image_end_session (&ctx, image));
    assert_ok (vd_image_close (&ctx, image));
  }
}

/* The whole disk is zeroed first, as qemu-img does, and then written, not
 * quite in order.
 */
static void
test_sink_zeroed_first (void **state)
{
  struct vd_format f = toy_with_sink ();
  struct vd_image *image = open_toy (&f, VD_WRITE_REQUIRE);
  static uint8_t data[2 * TOY_BLOCK];
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  memset (data, 1, sizeof data);
  assert_ok (vd_image_zero (&ctx, image, image->size, 0, VD_MAY_TRIM));
  assert_ok (vd_image_flush (&ctx, image));
  assert_false (sink_is_finished);
  assert_ok (vd_image_pwrite (&ctx, image, data, sizeof data, 4 * TOY_BLOCK,
                              0));
  assert_ok (vd_image_pwrite (&ctx, image, data, sizeof data, 2 * TOY_BLOCK,
                              0));
  assert_ok (vd_image_end_session (&ctx, image));
  assert_true (sink_is_finished);
  assert_int_equal (nput, 4);
  assert_ok (vd_image_close (&ctx, image));
}

/* What was never written is zeroes; what came too late and is zeroes too, is
 * no error.
 */
static void
test_sink_zeroes (void **state)
{
  struct vd_format f = toy_with_sink ();
  struct vd_image *image = open_toy (&f, VD_WRITE_REQUIRE);
  static uint8_t data[2 * TOY_BLOCK], zeroes[2 * TOY_BLOCK];
  char text[4096] = "";
  struct vd_ctx ctx;

  (void) state;
  fresh (&ctx);
  memset (data, 1, sizeof data);
  assert_ok (vd_image_extents (&ctx, image, 0, 16 * TOY_BLOCK, false,
                               add_extent, text));
  assert_string_equal (text, "0+16:3 ");
  assert_ok (vd_image_zero (&ctx, image, 8 * TOY_BLOCK, 0, 0));
  assert_ok (vd_image_pwrite (&ctx, image, data, sizeof data, 8 * TOY_BLOCK,
                              0));
  assert_int_equal (nput, 0);
  assert_ok (vd_image_pwrite (&ctx, image, zeroes, 512, 0, 0));
  assert_ok (vd_image_zero (&ctx, image, 8 * TOY_BLOCK, 0, 0));
  assert_int_equal (nput, 2);
  text[0] = '\0';
  assert_ok (vd_image_extents (&ctx, image, 0, 16 * TOY_BLOCK, false,
                               add_extent, text));
  assert_string_equal (text, "0+16:0 ");

  assert_ok (vd_image_pread (&ctx, image, data, sizeof data, 6 * TOY_BLOCK));
  assert_memory_equal (data, zeroes, sizeof data);
  assert_int_equal (vd_image_pread (&ctx, image, data, sizeof data,
                                    7 * TOY_BLOCK), -EIO);
  assert_ok (vd_image_zero (&ctx, image, 8 * TOY_BLOCK, 0, 0));
  assert_ok (vd_image_pwrite (&ctx, image, zeroes, sizeof zeroes, 0, 0));
  assert_int_equal (vd_image_zero (&ctx, image, 512, 8 * TOY_BLOCK, 0), -EIO);
  assert_int_equal (vd_image_pwrite (&ctx, image, zeroes, 512, 8 * TOY_BLOCK,
                                     0), -EIO);
  assert_int_equal (nput, 2);
  assert_ok (vd_image_close (&ctx, image));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_matrix),
    cmocka_unit_test (test_matrix_series),
    cmocka_unit_test (test_zero_and_trim_in_difference),
    cmocka_unit_test (test_session),
    cmocka_unit_test (test_needs_parent),
    cmocka_unit_test (test_packed),
    cmocka_unit_test (test_packed_threads),
    cmocka_unit_test (test_toy_extents),
    cmocka_unit_test (test_sink),
    cmocka_unit_test (test_sink_behind),
    cmocka_unit_test (test_sink_too_late),
    cmocka_unit_test (test_sink_waits),
    cmocka_unit_test (test_sink_shuffled),
    cmocka_unit_test (test_sink_zeroed_first),
    cmocka_unit_test (test_sink_zeroes),
  };

  return cmocka_run_group_tests (tests, setup_parent, NULL);
}
