/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One parent of one image, by the hint in it, by UUID in a .vbox file, or
 * among the images of the places (vd-semantics 18.4, vmdk-format 10.3).
 * Private to common/machine.
 */

#ifndef VDKIT_PARENT_H
#define VDKIT_PARENT_H

#include "places.h"

/* The file that is the parent of child, which lies in the place p of s; for
 * vd_found_free.  0, or a negative errno with a message: those of
 * vd_find_chain that are about one parent.  Not thread-safe.
 */
extern int vd_find_parent (struct vd_ctx *ctx, struct places *s,
                           const struct place *p,
                           const struct vd_image *child,
                           struct found *ret);

#endif /* VDKIT_PARENT_H */
