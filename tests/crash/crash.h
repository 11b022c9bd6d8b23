/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Promise 1 by exhaustion and by seeded chance: what all formats share.
 *
 * A script of some hundred operations (writes, zeroes, trims, flushes, FUA)
 * runs on an image on a simulated disk.  Then, for every point at which the
 * power could have failed, and for many drawn reorderings of what was not
 * synced there, the image is opened again: it must open for writing, its
 * tables must be sound, and every sector must hold what the model allows.
 *
 * "--plant BUG" runs the same with an ordering bug put in; the run must then
 * find a violation, or the test is worth nothing.
 *
 * Usage: crash-FORMAT [--cuts N] [--step N] [--seed S] [--plant BUG]
 *
 * cuts: number of reorderings; step: only every N-th point is looked at with
 * all in place (for slow builds).
 */

#ifndef VDKIT_CRASH_H
#define VDKIT_CRASH_H

#include "image.h"
#include "model.h"
#include "sim.h"

#define CRASH_BLOCK 4096
#define CRASH_DISK (640 * 1024 + 1536)  /* the last block is cut */
#define CRASH_SECTORS (CRASH_DISK / SECTOR)

struct crash_case {
  const char *name;
  bool differencing;
  int (*create) (struct vd_ctx *ctx, struct vd_sim *sim,
                 const struct crash_case *c);
  unsigned variant;             /* the format's own */
};

struct crash_format {
  const char *name;
  const char *file;             /* that is opened */
  const struct crash_case *cases;
  size_t ncases;
  struct vd_format format;      /* perhaps with a bug; plant sets it up */
  bool (*plant) (struct crash_format *f, const char *bug);
  /* The tables as other programs would use them, read by hand.  changed: the
   * disk has a content that it had not when the case was created.  NULL, or
   * what is wrong.
   */
  const char *(*check) (struct vd_sim *sim, const struct crash_case *c,
                        bool changed);
  /* What does not go by this script; returns the number of violations.
   * NULL: nothing.
   */
  unsigned long (*more) (unsigned long cuts, uint64_t seed);
};

extern int crash_main (int argc, char *argv[], struct crash_format *f);

#endif /* VDKIT_CRASH_H */
