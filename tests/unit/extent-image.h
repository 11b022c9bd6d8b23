/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One extent of a VMDK on its own, for the unit tests of common/vmdk: bytes
 * made by hand, the extent that is opened over them, and what locate says.
 */

#ifndef VDKIT_TEST_EXTENT_IMAGE_H
#define VDKIT_TEST_EXTENT_IMAGE_H

#include "bytes.h"

#include <errno.h>

#include "memory.h"
#include "vmdk-extent.h"

#define SECTOR 512

struct bytes {
  uint8_t *data;
  size_t size;
};

static inline struct bytes
bytes_new (size_t size)
{
  struct bytes b = { calloc (1, size ? size : 1), size };

  assert_non_null (b.data);
  return b;
}

static inline void
fill (struct bytes *b, uint64_t offset, size_t len, uint8_t value)
{
  assert_true (offset + len <= b->size);
  memset (b->data + offset, value, len);
}

/* An extent over a store, with what vmdk-open.c sets. */
struct sample {
  struct vd_image image;
  struct vmdk_extent x;
};

static inline void
sample_init (struct sample *s, struct vd_store *st, uint64_t size)
{
  memset (s, 0, sizeof *s);
  s->image.name = "disk.vmdk";
  s->x.image = &s->image;
  s->x.number = 7;
  s->x.size = size;
  s->x.store = st;
  s->x.table_memory = 1 << 20;
}

/* Over a copy of the bytes. */
static inline void
sample_bytes (struct sample *s, const struct bytes *b, uint64_t size)
{
  struct vd_store *st;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_memory_open (ctx, "extent", b->data, b->size, false,
                                  &st));
  sample_init (s, st, size);
}

static inline void
sample_free (struct sample *s)
{
  if (s->x.ops)
    s->x.ops->close (&s->x);
  vd_store_close (s->x.store);
}

static inline struct vd_run
locate (struct sample *s, uint64_t offset, uint64_t len)
{
  struct vd_run run, map;
  UNIT_CTX (ctx);

  assert_true (len > 0 && offset + len <= s->x.size);
  assert_ok (ctx, s->x.ops->locate (ctx, &s->x, offset, len, VD_LOCATE_READ,
                                    &run));
  assert_int_equal (ctx->error, 0);
  assert_true (run.length >= 1 && run.length <= len);
  assert_ok (ctx, s->x.ops->locate (ctx, &s->x, offset, len, VD_LOCATE_MAP,
                                    &map));
  assert_int_equal (map.kind, run.kind);
  assert_int_equal (map.mode, run.mode);
  assert_int_equal (map.length, run.length);
  assert_int_equal (map.position, run.position);
  if (run.mode == VD_MODE_DENY) {
    assert_true (run.error > 0);
    assert_non_null (run.reason);
  }
  return run;
}

/* From offset on there is exactly this; position counts for DATA only. */
static inline void
check_run (struct sample *s, uint64_t offset, uint64_t len,
           enum vd_run_kind kind, uint64_t length, uint64_t position)
{
  struct vd_run run = locate (s, offset, len);

  assert_int_equal (run.kind, kind);
  assert_int_equal (run.length, length);
  if (kind == VD_RUN_DATA) {
    assert_ptr_equal (run.store, s->x.store);
    assert_int_equal (run.position, position);
  }
}

static inline void
check_bad (struct sample *s, uint64_t offset, uint64_t len, uint64_t length,
           const char *reason, uint64_t value)
{
  struct vd_run run = locate (s, offset, len);

  assert_int_equal (run.kind, VD_RUN_BAD);
  assert_int_equal (run.length, length);
  assert_int_equal (run.mode, VD_MODE_DENY);
  assert_int_equal (run.error, EIO);
  if (!strstr (run.reason, reason))
    fail_msg ("\"%s\" lacks \"%s\"", run.reason, reason);
  assert_int_equal (run.value, value);
}

/* Read a byte as the core would, PARENT as 'P'; -1: damaged. */
static inline int
byte_at (struct sample *s, uint64_t offset)
{
  struct vd_run run = locate (s, offset, 1);
  uint8_t c;
  UNIT_CTX (ctx);

  switch (run.kind) {
  case VD_RUN_PARENT:
    return 'P';
  case VD_RUN_ZERO:
    return 0;
  case VD_RUN_DATA:
    assert_ok (ctx, vd_store_pread (ctx, run.store, &c, 1, run.position));
    return c;
  default:
    return -1;
  }
}

/* Opening fails and leaves nothing behind. */
static inline void
expect_refused (int (*open) (struct vd_ctx *, struct vmdk_extent *),
                const struct bytes *b, uint64_t size, int err,
                const char *text)
{
  struct sample s;
  UNIT_CTX (ctx);

  sample_bytes (&s, b, size);
  assert_fails (ctx, open (ctx, &s.x), err, text);
  assert_null (s.x.ops);
  assert_null (s.x.priv);
  sample_free (&s);
}

#endif /* VDKIT_TEST_EXTENT_IMAGE_H */
