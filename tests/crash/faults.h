/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fault at call n: creating, opening, reading, writing and flushing an image
 * on a simulated disk, with the n-th store or folder call failing, for every
 * n until none is left to fail; then the same for the n-th memory allocation.
 *
 * Whatever fails: no crash and no leak (run it under ASan), an error is
 * reported with a message, what was flushed before is there, and the image
 * opens for writing again.
 *
 * Linked with --wrap=malloc and friends.
 */

#ifndef VDKIT_FAULTS_H
#define VDKIT_FAULTS_H

#include "image.h"
#include "sim.h"

#define FAULTS_BLOCK 4096
#define FAULTS_DISK (64 * FAULTS_BLOCK)

struct faults_case {
  const char *name;
  const char *file;             /* that is opened */
  /* Make a new image of FAULTS_DISK bytes; what the format makes (create) or
   * another one (prepare; NULL: the same).
   */
  int (*create) (struct vd_ctx *ctx, struct vd_sim *sim, const char *name);
  int (*prepare) (struct vd_ctx *ctx, struct vd_sim *sim, const char *name);
  /* A file that create makes beside the image, which must not be left when
   * it fails; NULL: none.
   */
  const char *beside;
  bool stream;                  /* can be written once only */
};

extern int faults_main (const struct faults_case *cases, size_t ncases);

#endif /* VDKIT_FAULTS_H */
