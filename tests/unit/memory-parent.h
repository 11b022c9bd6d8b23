/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes in memory as the parent of an image.
 */

#ifndef VDKIT_TEST_MEMORY_PARENT_H
#define VDKIT_TEST_MEMORY_PARENT_H

#include "unit.h"

#include <string.h>

#include "image.h"
#include "iszero.h"
#include "rounding.h"

struct memory_parent {
  uint8_t *data;
  uint64_t used;                /* bytes of data; then there are zeroes */
  uint64_t size;                /* that it claims to have */
};

/* The calls of struct vd_parent; opaque is a struct memory_parent. */
static inline int
memory_parent_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
                     uint64_t offset)
{
  const struct memory_parent *p = opaque;
  uint64_t n = 0;

  (void) ctx;
  assert_true (offset <= p->size && len <= p->size - offset);
  if (offset < p->used) {
    n = min_u64 (len, p->used - offset);
    memcpy (buf, p->data + offset, n);
  }
  memset ((char *) buf + n, 0, len - n);
  return 0;
}

/* Holes in units of 4 KiB. */
static inline int
memory_parent_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
                       uint64_t len, bool one,
                       int (*fn) (void *, uint64_t, uint64_t, unsigned),
                       void *fn_opaque)
{
  const struct memory_parent *p = opaque;
  uint64_t n;
  int r;

  (void) ctx;
  assert_true (offset <= p->size && len <= p->size - offset);
  for (; len > 0; offset += n, len -= n) {
    bool zero = offset >= p->used;

    n = len;
    if (!zero) {
      n = min_u64 (min_u64 (len, 4096 - offset % 4096), p->used - offset);
      zero = is_zero (p->data + offset, n);
    }
    r = fn (fn_opaque, offset, n, zero ? VD_EXTENT_HOLE | VD_EXTENT_ZERO : 0);
    if (r != 0 || one)
      return r;
  }
  return 0;
}

#endif /* VDKIT_TEST_MEMORY_PARENT_H */
