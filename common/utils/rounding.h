/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Minimum, maximum, alignment and powers of two, for unsigned 64-bit sizes.
 */

#ifndef VDKIT_ROUNDING_H
#define VDKIT_ROUNDING_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t
min_u64 (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static inline uint64_t
max_u64 (uint64_t a, uint64_t b)
{
  return a > b ? a : b;
}

static inline bool
is_power_of_2 (uint64_t v)
{
  return v && !(v & (v - 1));
}

/* v must not be 0. */
static inline unsigned
log_2 (uint64_t v)
{
  return 63 - __builtin_clzll (v);
}

/* n must be a power of two.  The caller excludes overflow of round_up. */
static inline uint64_t
round_down (uint64_t v, uint64_t n)
{
  return v & ~(n - 1);
}

static inline uint64_t
round_up (uint64_t v, uint64_t n)
{
  return round_down (v + n - 1, n);
}

/* n != 0 */
static inline uint64_t
div_round_up (uint64_t v, uint64_t n)
{
  return v / n + (v % n != 0);
}

#endif /* VDKIT_ROUNDING_H */
