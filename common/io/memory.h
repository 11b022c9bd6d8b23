/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A store in memory, for unit tests and fuzzing.
 */

#ifndef VDKIT_MEMORY_H
#define VDKIT_MEMORY_H

#include "store.h"

/* A store of the given content (copied; data NULL: zeroes). */
extern int vd_memory_open (struct vd_ctx *ctx, const char *name,
                           const void *data, size_t size, bool writable,
                           struct vd_store **ret);

/* The content now; valid until the next write, truncate or close. */
extern const uint8_t *vd_memory_data (struct vd_store *st, size_t *ret_size);

#endif /* VDKIT_MEMORY_H */
