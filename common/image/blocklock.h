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

#include <pthread.h>
#include <stdint.h>

#define VD_BLOCKLOCKS 256

/* Here only so that the functions below cost no call: every write uses them.
 */
struct vd_blocklock {
  unsigned shift;               /* log2 of the range */
  /* One lock per cache line: neighbours are used by different threads. */
  struct {
    _Alignas (64) pthread_rwlock_t lock;
  } locks[VD_BLOCKLOCKS];
};

/* NULL: out of memory. */
extern struct vd_blocklock *vd_blocklock_new (uint32_t block_size);
extern void vd_blocklock_free (struct vd_blocklock *locks);

static inline pthread_rwlock_t *
vd_blocklock_find (struct vd_blocklock *locks, uint64_t block)
{
  return &locks->locks[(block >> locks->shift) % VD_BLOCKLOCKS].lock;
}

/* block: the offset where a block starts. */
static inline void
vd_blocklock_shared (struct vd_blocklock *locks, uint64_t block)
{
  pthread_rwlock_rdlock (vd_blocklock_find (locks, block));
}

static inline void
vd_blocklock_exclusive (struct vd_blocklock *locks, uint64_t block)
{
  pthread_rwlock_wrlock (vd_blocklock_find (locks, block));
}

static inline void
vd_blocklock_unlock (struct vd_blocklock *locks, uint64_t block)
{
  pthread_rwlock_unlock (vd_blocklock_find (locks, block));
}

/* Blocks that start at or after block and before this offset share its
 * lock.
 */
static inline uint64_t
vd_blocklock_end (const struct vd_blocklock *locks, uint64_t block)
{
  return ((block >> locks->shift) + 1) << locks->shift;
}

#endif /* VDKIT_BLOCKLOCK_H */
