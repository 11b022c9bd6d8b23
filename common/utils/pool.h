/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A fixed number of threads that work off a queue of jobs, first in first
 * out.  Jobs end in any order; who needs an order, or a limit on how many are
 * under way, keeps it himself.
 */

#ifndef VDKIT_POOL_H
#define VDKIT_POOL_H

#include "ctx.h"

struct vd_pool;

/* Embedded in whatever the job works on.  The caller owns it from the moment
 * that run is called (run may pass it on or free it) and must leave it alone
 * before.
 */
struct vd_job {
  /* thread: 0 to the number of threads - 1, for what each thread has of its
   * own.
   */
  void (*run) (struct vd_job *job, unsigned thread);
  struct vd_job *next;          /* private */
};

/* The processors that this process may use, at least 1. */
extern unsigned vd_pool_processors (void);

/* Start threads (>= 1); fewer if the system does not give us so many, and
 * -EAGAIN if none.  Signals are left to the threads of others.
 */
extern int vd_pool_new (struct vd_ctx *ctx, unsigned threads,
                        struct vd_pool **ret);

extern unsigned vd_pool_threads (const struct vd_pool *pool);

/* Never fails, never waits.  From any thread, also from a job. */
extern void vd_pool_submit (struct vd_pool *pool, struct vd_job *job);

/* Wait until all jobs have run, end the threads and free.  NULL is fine. */
extern void vd_pool_free (struct vd_pool *pool);

#endif /* VDKIT_POOL_H */
