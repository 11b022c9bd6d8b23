/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Locks on blocks of a disk: a fixed number of read-write locks, chosen by
 * the offset.  Blocks that lie in the same range (a power of two, at least
 * 256 KiB) share a lock, so that one in-place write over several small blocks
 * takes one; different ranges nearly always have different locks.
 *
 * A thread holds at most one at a time.
 */

#ifndef VDKIT_BLOCKLOCK_H
#define VDKIT_BLOCKLOCK_H

#include <stdint.h>

struct vd_blocklock;

/* NULL: out of memory. */
extern struct vd_blocklock *vd_blocklock_new (uint32_t block_size);
extern void vd_blocklock_free (struct vd_blocklock *locks);

/* block: the offset where a block starts. */
extern void vd_blocklock_shared (struct vd_blocklock *locks, uint64_t block);
extern void vd_blocklock_exclusive (struct vd_blocklock *locks,
                                    uint64_t block);
extern void vd_blocklock_unlock (struct vd_blocklock *locks, uint64_t block);

/* Blocks that start at or after block and before this offset share its
 * lock.
 */
extern uint64_t vd_blocklock_end (const struct vd_blocklock *locks,
                                  uint64_t block);

#endif /* VDKIT_BLOCKLOCK_H */
