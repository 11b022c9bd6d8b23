/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Hosted sparse extents made by hand, for the unit tests of common/vmdk.
 * Offsets are written out as in vmdk-format 5.1 and 5.2, so that a wrong
 * constant in common/vmdk cannot hide itself.
 */

#ifndef VDKIT_TEST_VMDK_IMAGE_H
#define VDKIT_TEST_VMDK_IMAGE_H

#include "bytes.h"
#include "found.h"

#include "memory.h"
#include "vmdk-extent.h"

#define GRAIN (64 * KIB)

/* What is 0 gets the value that qemu and VirtualBox would give it. */
struct sample {
  uint32_t version;
  uint32_t flags;               /* 3 */
  uint64_t capacity;            /* sectors; must be given */
  uint64_t grain;               /* sectors */
  uint32_t gtes;
  bool no_rgd;
  bool unclean;
  uint64_t grains;              /* space behind the metadata, in grains */
};

struct bytes {
  uint8_t *data;
  size_t size;
  /* Where things are, for the tests. */
  uint64_t gd[2];               /* byte offset of primary and copy */
  uint64_t gt[2];               /* of the first grain table */
  uint64_t grain;               /* bytes */
  uint32_t gtes;
  uint64_t overhead;            /* sectors */
};

/* Each byte of the n-th grain behind the metadata. */
static inline uint8_t
pattern (uint64_t n)
{
  return 0x11 + n;
}

/* Its sector: what an entry holds. */
static inline uint32_t
sector_of (const struct bytes *b, uint64_t n)
{
  return b->overhead + n * b->grain / 512;
}

static inline struct bytes
build (struct sample s)
{
  struct bytes b = { 0 };
  uint64_t tables, directory, i;
  unsigned copy;

  if (!s.version) s.version = 1;
  if (!s.flags) s.flags = s.no_rgd ? 1 : 3;
  if (!s.grain) s.grain = 128;
  if (!s.gtes) s.gtes = 512;

  b.grain = s.grain * 512;
  b.gtes = s.gtes;
  tables = ((s.capacity + s.grain - 1) / s.grain + s.gtes - 1) / s.gtes;
  directory = (tables * 4 + 511) / 512;
  b.gd[1] = 21 * 512;
  b.gt[1] = b.gd[1] + directory * 512;
  b.gd[0] = s.no_rgd ? b.gd[1] : b.gt[1] + tables * s.gtes * 4;
  b.gt[0] = b.gd[0] + directory * 512;
  b.overhead = (b.gt[0] + tables * s.gtes * 4 + b.grain - 1)
    / b.grain * s.grain;

  b.size = b.overhead * 512 + s.grains * b.grain;
  b.data = calloc (1, b.size);
  assert_non_null (b.data);
  memcpy (b.data, "KDMV", 4);
  poke (&b, 4, 4, s.version);
  poke (&b, 8, 4, s.flags);
  poke (&b, 12, 8, s.capacity);
  poke (&b, 20, 8, s.grain);
  poke (&b, 28, 8, 1);
  poke (&b, 36, 8, 20);
  poke (&b, 44, 4, s.gtes);
  poke (&b, 48, 8, s.no_rgd ? 0 : b.gd[1] / 512);
  poke (&b, 56, 8, b.gd[0] / 512);
  poke (&b, 64, 8, b.overhead);
  b.data[72] = s.unclean;
  memcpy (&b.data[73], "\n \r\n", 4);
  if (s.flags & 0x10000)
    poke (&b, 77, 2, 1);
  for (copy = 0; copy < (s.no_rgd ? 1u : 2u); ++copy)
    for (i = 0; i < tables; ++i)
      poke (&b, b.gd[copy] + i * 4, 4,
            b.gt[copy] / 512 + i * (s.gtes * 4 / 512));
  for (i = 0; i < s.grains; ++i)
    memset (&b.data[b.overhead * 512 + i * b.grain], pattern (i), b.grain);
  return b;
}

/* Entry number index of the primary tables (0), the copies (1). */
static inline void
set_one (struct bytes *b, unsigned copy, uint64_t index, uint32_t value)
{
  poke (b, b->gt[copy] + index * 4, 4, value);
}

static inline void
set_both (struct bytes *b, uint64_t index, uint32_t value)
{
  set_one (b, 0, index, value);
  set_one (b, 1, index, value);
}

/* Open as vmdk-open.c does; the store stays the caller's.  Empties warnings.
 */
static inline int
open_store (struct vd_ctx *ctx, struct vd_store *st, bool write,
            uint64_t size, struct vmdk_extent *x)
{
  memset (x, 0, sizeof *x);
  x->access = VMDK_RW;
  x->size = size;
  x->store = st;
  x->write = write;
  x->embedded = true;
  x->table_memory = 64 * KIB;
  warnings[0] = '\0';
  return vmdk_hosted_open (ctx, x);
}

/* The bytes stay the caller's.  size 0: what the capacity says. */
static inline int
open_bytes (struct vd_ctx *ctx, const struct bytes *b, bool write,
            uint64_t size, struct vmdk_extent *x)
{
  struct vd_store *st;
  int r;

  assert_int_equal (vd_memory_open (ctx, "test.vmdk", b->data, b->size, write,
                                    &st), 0);
  r = open_store (ctx, st, write,
                  size ? size : peek (b->data, 12, 8) * 512, x);
  if (r < 0) {
    assert_null (x->priv);
    vd_store_close (st);
  }
  return r;
}

static inline void
close_extent (struct vmdk_extent *x)
{
  x->ops->close (x);
  vd_store_close (x->store);
}

/* Must succeed, and takes the bytes. */
static inline void
must_open (struct bytes *b, bool write, struct vmdk_extent *x)
{
  struct vd_ctx ctx = new_ctx ();

  if (open_bytes (&ctx, b, write, 0, x) < 0)
    fail_msg ("%s", ctx.message);
  free (b->data);
  b->data = NULL;
}

static inline struct vd_run
locate (struct vmdk_extent *x, uint64_t offset, uint64_t len)
{
  struct vd_ctx ctx = new_ctx ();
  struct vd_run run, again, first;

  if (x->ops->locate (&ctx, x, offset, len, VD_LOCATE_READ, &run) < 0)
    fail_msg ("%s", ctx.message);
  assert_int_equal (ctx.error, 0);
  assert_int_equal (x->ops->locate (&ctx, x, offset, len, VD_LOCATE_MAP,
                                    &again), 0);
  assert_int_equal (run.kind, again.kind);
  assert_in_range (run.length, 1, len);
  assert_in_range (again.length, run.length, len);

  /* What lies in one grain, its table in memory by now, has a shorter way. */
  assert_int_equal (x->ops->locate (&ctx, x, offset, 1, VD_LOCATE_READ,
                                    &first), 0);
  assert_int_equal (first.kind, run.kind);
  assert_int_equal (first.mode, run.mode);
  assert_int_equal (first.length, 1);
  assert_ptr_equal (first.store, run.store);
  assert_int_equal (first.position, run.position);
  return run;
}

static inline void
expect_run (struct vmdk_extent *x, uint64_t offset, uint64_t len,
            enum vd_run_kind kind, uint64_t length, uint64_t position)
{
  expect_found (locate (x, offset, len), x->store, kind, length, position);
}

#endif /* VDKIT_TEST_VMDK_IMAGE_H */
