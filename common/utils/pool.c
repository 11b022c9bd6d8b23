/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "pool.h"

struct worker {
  struct vd_pool *pool;
  unsigned number;
  pthread_t thread;
};

struct vd_pool {
  pthread_mutex_t lock;
  pthread_cond_t work;
  struct vd_job *first, **end;  /* the queue */
  bool stop;                    /* once the queue is empty */
  unsigned nworkers;
  struct worker workers[];
};

unsigned
vd_pool_processors (void)
{
  cpu_set_t set;
  int n;

  /* Fails where there are more than 1024; that many threads are no use. */
  if (sched_getaffinity (0, sizeof set, &set) < 0)
    return 8;
  n = CPU_COUNT (&set);
  return n < 1 ? 1 : n;
}

static void *
work (void *opaque)
{
  struct worker *w = opaque;
  struct vd_pool *pool = w->pool;
  struct vd_job *job;

  for (;;) {
    pthread_mutex_lock (&pool->lock);
    while (!pool->first && !pool->stop)
      pthread_cond_wait (&pool->work, &pool->lock);
    job = pool->first;
    if (job) {
      pool->first = job->next;
      if (!pool->first)
        pool->end = &pool->first;
    }
    pthread_mutex_unlock (&pool->lock);
    if (!job)
      return NULL;
    job->run (job, w->number);
  }
}

int
vd_pool_new (struct vd_ctx *ctx, unsigned threads, struct vd_pool **ret)
{
  struct vd_pool *pool;
  sigset_t all, old;
  int err = 0;

  pool = calloc (1, sizeof *pool + threads * sizeof pool->workers[0]);
  if (!pool)
    return vd_error (ctx, ENOMEM, "no memory for a pool of threads");
  pthread_mutex_init (&pool->lock, NULL);
  pthread_cond_init (&pool->work, NULL);
  pool->end = &pool->first;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  while (pool->nworkers < threads && err == 0) {
    struct worker *w = &pool->workers[pool->nworkers];

    w->pool = pool;
    w->number = pool->nworkers;
    err = pthread_create (&w->thread, NULL, work, w);
    if (err == 0)
      pool->nworkers++;
  }
  pthread_sigmask (SIG_SETMASK, &old, NULL);

  if (pool->nworkers == 0) {
    vd_pool_free (pool);
    return vd_error (ctx, err, "cannot start a thread: %s", strerror (err));
  }
  *ret = pool;
  return 0;
}

unsigned
vd_pool_threads (const struct vd_pool *pool)
{
  return pool->nworkers;
}

void
vd_pool_submit (struct vd_pool *pool, struct vd_job *job)
{
  LOCK_SCOPE (&pool->lock);
  job->next = NULL;
  *pool->end = job;
  pool->end = &job->next;
  pthread_cond_signal (&pool->work);
}

void
vd_pool_free (struct vd_pool *pool)
{
  unsigned i;

  if (!pool)
    return;
  pthread_mutex_lock (&pool->lock);
  pool->stop = true;
  pthread_cond_broadcast (&pool->work);
  pthread_mutex_unlock (&pool->lock);
  for (i = 0; i < pool->nworkers; ++i)
    pthread_join (pool->workers[i].thread, NULL);
  pthread_cond_destroy (&pool->work);
  pthread_mutex_destroy (&pool->lock);
  free (pool);
}
