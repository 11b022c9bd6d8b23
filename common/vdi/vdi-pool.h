/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which places of the data area are taken: a sparse bitmap over the physical
 * block numbers, a bit each.  Memory is used only around numbers that are
 * taken.  Not thread-safe.
 */

#ifndef VDKIT_VDI_POOL_H
#define VDKIT_VDI_POOL_H

#include <stdbool.h>
#include <stdint.h>

struct vdi_pool;

/* A pool of n free places.  NULL: out of memory. */
extern struct vdi_pool *vdi_pool_new (uint32_t n);
extern void vdi_pool_free (struct vdi_pool *pool);

/* Take a given place (< n): 1, or 0 if it is taken already, or -ENOMEM. */
extern int vdi_pool_take (struct vdi_pool *pool, uint32_t place);

/* Take the lowest free place: 1, or 0 if there is none, or -ENOMEM. */
extern int vdi_pool_take_lowest (struct vdi_pool *pool, uint32_t *ret);

/* Free a place that was taken. */
extern void vdi_pool_give (struct vdi_pool *pool, uint32_t place);

/* 1 + the highest place that is taken, 0 if none is. */
extern uint32_t vdi_pool_end (const struct vdi_pool *pool);

#endif /* VDKIT_VDI_POOL_H */
