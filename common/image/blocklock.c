/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>

#include "blocklock.h"
#include "rounding.h"

#define MIN_RANGE (256 * 1024)

struct vd_blocklock *
vd_blocklock_new (uint32_t block_size)
{
  struct vd_blocklock *l;
  pthread_rwlockattr_t attr;
  unsigned i;

  l = aligned_alloc (_Alignof (struct vd_blocklock), sizeof *l);
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
  for (i = 0; i < VD_BLOCKLOCKS; ++i)
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
  for (i = 0; i < VD_BLOCKLOCKS; ++i)
    pthread_rwlock_destroy (&l->locks[i].lock);
  free (l);
}
