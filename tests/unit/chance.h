/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Chance, and what goes wrong with it, for the tests that run random
 * operations: a failure names the seed, which repeats it.
 *
 * VDKIT_MODEL_SEEDS: number of seeds; VDKIT_MODEL_FROM: the first.
 *
 * A test has its state in a struct that holds
 *   uint64_t seed, state;      the state starts as the test likes
 *   unsigned op;               number of the present operation
 *   const char *what;          its name
 */

#ifndef VDKIT_TEST_CHANCE_H
#define VDKIT_TEST_CHANCE_H

#include "unit.h"

#include <inttypes.h>
#include <stdbool.h>

/* splitmix64 */
static inline uint64_t
draw_ (uint64_t *state)
{
  uint64_t z = (*state += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static inline uint64_t
below_ (uint64_t *state, uint64_t n)
{
  return draw_ (state) % n;
}

#define draw(m) draw_ (&(m)->state)

/* 0 to n - 1. */
#define below(m, n) below_ (&(m)->state, (n))

#define chance(m, percent) (below (m, 100) < (percent))

/* A test that has more to tell defines it before. */
#ifndef complain
#define complain(m, fmt, ...)                                           \
  fail_msg ("seed %" PRIu64 ", operation %u (%s): " fmt,                \
            (m)->seed, (m)->op, (m)->what, ##__VA_ARGS__)
#endif

#define must(m, ctx, call)                                              \
  do {                                                                  \
    int r_ = (call);                                                    \
    if (r_ < 0)                                                         \
      complain (m, "%s: %d, %s", #call, r_, (ctx)->message);            \
  } while (0)

/* Damage is part of the tests, and so are the warnings. */
static inline void
quiet (enum vd_log_level level, const char *text)
{
  (void) level;
  (void) text;
}

#define CTX(ctx)                                                        \
  struct vd_ctx ctx##_, *ctx = (vd_ctx_init (&ctx##_, quiet), &ctx##_)

/* The seeds from *ret_first to below *ret_end: so many, unless the environment
 * wants others.  VDKIT_MODEL_SEEDS is for the kind of run that has most seeds,
 * which is the fastest one; the others have theirs in proportion, at least 1.
 */
static inline void
draw_seeds (uint64_t seeds, uint64_t most, uint64_t *ret_first,
            uint64_t *ret_end)
{
  const char *number = getenv ("VDKIT_MODEL_SEEDS");
  const char *from = getenv ("VDKIT_MODEL_FROM");

  if (number) {
    seeds = seeds * strtoull (number, NULL, 10) / most;
    if (seeds == 0)
      seeds = 1;
  }
  *ret_first = from ? strtoull (from, NULL, 10) : 1;
  *ret_end = *ret_first + seeds;
}

#endif /* VDKIT_TEST_CHANCE_H */
