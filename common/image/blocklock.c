/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <pthread.h>
#include <stdlib.h>

#include "blocklock.h"
#include "rounding.h"

#define NR_LOCKS 256
#define MIN_RANGE (256 * 1024)

/* One lock per cache line: neighbours are used by different threads. */
struct padded_lock {
  pthread_rwlock_t lock;
} __attribute__ ((__aligned__ (64)));

struct vd_blocklock {
  struct padded_lock locks[NR_LOCKS];
  unsigned shift;               /* log2 of the range */
};

struct vd_blocklock *
vd_blocklock_new (uint32_t block_size)
{
  struct vd_blocklock *l;
  pthread_rwlockattr_t attr;
  unsigned i;

  l = aligned_alloc (64, round_up (sizeof *l, 64));
  if (!l)
    return NULL;
  l->shift = log_2 (MIN_RANGE);
  while ((UINT64_C (1) << l->shift) < block_size)
    l->shift++;
  /* By default who wants it exclusively waits for as long as others, one
   * after another, share it: a trim in a busy block would never return.
   */
  pthread_rwlockattr_init (&attr);
  pthread_rwlockattr_setkind_np (&attr,
                                 PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  for (i = 0; i < NR_LOCKS; ++i)
    pthread_rwlock_init (&l->locks[i].lock, &attr);
  pthread_rwlockattr_destroy (&attr);
  return l;
}

void
vd_blocklock_free (struct vd_blocklock *l)
{
  unsigned i;

  if (!l)
    return;
  for (i = 0; i < NR_LOCKS; ++i)
    pthread_rwlock_destroy (&l->locks[i].lock);
  free (l);
}

static pthread_rwlock_t *
find (struct vd_blocklock *l, uint64_t block)
{
  return &l->locks[(block >> l->shift) % NR_LOCKS].lock;
}

void
vd_blocklock_shared (struct vd_blocklock *l, uint64_t block)
{
  pthread_rwlock_rdlock (find (l, block));
}

void
vd_blocklock_exclusive (struct vd_blocklock *l, uint64_t block)
{
  pthread_rwlock_wrlock (find (l, block));
}

void
vd_blocklock_unlock (struct vd_blocklock *l, uint64_t block)
{
  pthread_rwlock_unlock (find (l, block));
}

uint64_t
vd_blocklock_end (const struct vd_blocklock *l, uint64_t block)
{
  return ((block >> l->shift) + 1) << l->shift;
}
