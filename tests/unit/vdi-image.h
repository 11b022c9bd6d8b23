/* SPDX-License-Identifier: BSD-3-Clause
 *
 * VDI images made by hand, for the unit tests of common/vdi.  Offsets are
 * written out as in vdi-format 3 and 5, so that a wrong constant in
 * common/vdi cannot hide itself.
 */

#ifndef VDKIT_TEST_VDI_IMAGE_H
#define VDKIT_TEST_VDI_IMAGE_H

#include "bytes.h"
#include "found.h"

#include "memory.h"
#include "vdi.h"

#define FREE UINT32_C (0xffffffff)
#define ZERO UINT32_C (0xfffffffe)

/* What is 0 gets the value that VirtualBox would give it. */
struct sample {
  uint32_t version;
  uint32_t header_size;
  uint32_t type;
  uint32_t off_blocks, off_data;
  uint64_t disk_size;           /* blocks * block_size */
  uint32_t block_size;
  uint32_t extra;
  uint32_t blocks;              /* must be given */
  const uint32_t *map;          /* NULL: all FREE */
  uint32_t allocated;           /* 1 + the highest entry */
  uint64_t file_size;           /* up to the last block in use */
};

struct bytes {
  uint8_t *data;
  size_t size;
};

/* Each byte of physical block n. */
static inline uint8_t
pattern (uint32_t n)
{
  return 0x11 + n;
}

static inline struct bytes
build (struct sample s)
{
  struct bytes b;
  uint32_t i, end = 0;
  uint64_t stride;

  if (!s.version) s.version = 0x00010001;
  if (!s.header_size) s.header_size = 400;
  if (!s.type) s.type = 1;
  if (!s.block_size) s.block_size = MIB;
  if (s.version == 2) {
    s.off_blocks = 420;
    s.off_data = 420 + 4 * s.blocks;
  }
  if (!s.off_blocks) s.off_blocks = MIB;
  if (!s.off_data)
    s.off_data = (s.off_blocks + 4 * s.blocks + MIB - 1) / MIB * MIB;
  if (!s.disk_size) s.disk_size = (uint64_t) s.blocks * s.block_size;
  stride = (uint64_t) s.block_size + s.extra;
  for (i = 0; s.map && i < s.blocks; ++i)
    if (s.map[i] < s.blocks && s.map[i] >= end)
      end = s.map[i] + 1;
  if (!s.allocated) s.allocated = end;
  if (!s.file_size) s.file_size = s.off_data + end * stride;

  b.size = s.file_size;
  b.data = calloc (1, b.size);
  assert_non_null (b.data);
  memcpy (b.data, "<<< test >>>\n", 13);
  poke (&b, 64, 4, 0xbeda107f);
  poke (&b, 68, 4, s.version);
  if (s.version == 2) {
    poke (&b, 72, 4, s.type);
    memcpy (&b.data[80], "old", 3);
    poke (&b, 348, 4, 512);
    poke (&b, 352, 8, s.disk_size);
    poke (&b, 360, 4, s.block_size);
    poke (&b, 364, 4, s.blocks);
    poke (&b, 368, 4, s.allocated);
    memset (&b.data[372], 0xc1, 16);
    memset (&b.data[388], 0xc2, 16);
  }
  else {
    poke (&b, 72, 4, s.header_size);
    poke (&b, 76, 4, s.type);
    memcpy (&b.data[84], "hello", 5);
    poke (&b, 340, 4, s.off_blocks);
    poke (&b, 344, 4, s.off_data);
    poke (&b, 360, 4, 512);
    poke (&b, 368, 8, s.disk_size);
    poke (&b, 376, 4, s.block_size);
    poke (&b, 380, 4, s.extra);
    poke (&b, 384, 4, s.blocks);
    poke (&b, 388, 4, s.allocated);
    memset (&b.data[392], 0xc1, 16);
    memset (&b.data[408], 0xc2, 16);
    if (s.header_size >= 400 && s.off_blocks >= 472)
      poke (&b, 468, 4, 512);
  }
  for (i = 0; i < s.blocks; ++i)
    poke (&b, s.off_blocks + 4 * (uint64_t) i, 4, s.map ? s.map[i] : FREE);
  for (i = 0; i < end; ++i) {
    uint64_t from = s.off_data + i * stride + s.extra;

    if (from < b.size)
      memset (&b.data[from], pattern (i),
              b.size - from < s.block_size ? b.size - from : s.block_size);
  }
  return b;
}

/* Open a store as the core does; the image owns it.  Empties warnings. */
static inline int
open_store (struct vd_ctx *ctx, struct vd_store *st, bool write,
            struct vd_image *image)
{
  memset (image, 0, sizeof *image);
  image->format = &vd_format_vdi;
  image->name = "test.vdi";
  image->store = st;
  image->write = write;
  image->table_memory = 64 * KIB;
  warnings[0] = '\0';
  return vd_format_vdi.open (ctx, image);
}

/* The bytes stay the caller's. */
static inline int
open_image (struct vd_ctx *ctx, struct bytes b, bool write,
            struct vd_image *image)
{
  struct vd_store *st;
  int r;

  assert_int_equal (vd_memory_open (ctx, "test.vdi", b.data, b.size, write,
                                    &st), 0);
  r = open_store (ctx, st, write, image);
  if (r < 0) {
    assert_null (image->priv);
    vd_store_close (st);
  }
  return r;
}

static inline void
close_image (struct vd_image *image)
{
  vd_format_vdi.close (image);
  vd_store_close (image->store);
}

/* As open_image, must succeed, and takes the bytes. */
static inline void
must_open (struct bytes b, bool write, struct vd_image *image)
{
  struct vd_ctx ctx = new_ctx ();

  if (open_image (&ctx, b, write, image) < 0)
    fail_msg ("%s", ctx.message);
  free (b.data);
}

static inline struct vd_run
locate (struct vd_image *image, uint64_t offset, uint64_t len)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_run run, again;

  if (vd_format_vdi.locate (&ctx, image, offset, len, VD_LOCATE_READ,
                            &run) < 0)
    fail_msg ("%s", ctx.message);
  assert_int_equal (ctx.error, 0);
  assert_int_equal (vd_format_vdi.locate (&ctx, image, offset, len,
                                          VD_LOCATE_MAP, &again), 0);
  assert_int_equal (run.kind, again.kind);
  assert_int_equal (run.length, again.length);
  assert_in_range (run.length, 1, len);
  return run;
}

static inline void
expect_run (struct vd_image *image, uint64_t offset, uint64_t len,
            enum vd_run_kind kind, uint64_t length, uint64_t position)
{
  expect_found (locate (image, offset, len), image->store, kind, length,
                position);
}

#endif /* VDKIT_TEST_VDI_IMAGE_H */
