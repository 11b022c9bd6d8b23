/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Is a buffer all zeroes?  The first 16 bytes are compared by hand, the rest
 * with itself shifted: memcmp is vectorised by every libc.
 */

#ifndef VDKIT_ISZERO_H
#define VDKIT_ISZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static inline bool
is_zero (const void *buffer, size_t len)
{
  const unsigned char *p = buffer;
  size_t i, n = len < 16 ? len : 16;

  for (i = 0; i < n; ++i)
    if (p[i])
      return false;
  return len <= 16 || memcmp (p, p + 16, len - 16) == 0;
}

#endif /* VDKIT_ISZERO_H */
