/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Numbers in images that are made by hand.
 */

#ifndef VDKIT_TEST_BYTES_H
#define VDKIT_TEST_BYTES_H

#include "unit.h"

#define KIB UINT64_C (1024)
#define MIB (UINT64_C (1024) * KIB)
#define GIB (UINT64_C (1024) * MIB)
#define TIB (UINT64_C (1024) * GIB)

/* Put value at offset, little-endian in width bytes, into *b: a struct with
 * data and their size.
 */
#define poke(b, offset, width, value)                           \
  poke_ ((b)->data, (b)->size, (offset), (width), (value))

static inline void
poke_ (uint8_t *data, size_t size, uint64_t offset, unsigned width,
       uint64_t value)
{
  unsigned i;

  assert_true (offset + width <= size);
  for (i = 0; i < width; ++i)
    data[offset + i] = value >> 8 * i & 0xff;
}

static inline uint64_t
peek (const uint8_t *data, uint64_t offset, unsigned width)
{
  uint64_t v = 0;
  unsigned i;

  for (i = 0; i < width; ++i)
    v |= (uint64_t) data[offset + i] << 8 * i;
  return v;
}

#endif /* VDKIT_TEST_BYTES_H */
