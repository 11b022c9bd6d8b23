/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A store that gives out so many bytes and no more: for a look into files of
 * which nothing is known yet.
 */

#ifndef VDKIT_LIMIT_H
#define VDKIT_LIMIT_H

#include "store.h"

/* Read-only, over another store, which belongs to it from now on (also if this
 * fails).  Reads that go beyond bytes in all fail with -EFBIG.
 */
extern int vd_limit_new (struct vd_ctx *ctx, struct vd_store *under,
                         uint64_t bytes, struct vd_store **ret);

#endif /* VDKIT_LIMIT_H */
