/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The thread pool: every job runs once, jobs start in order, freeing waits.
 */

#include <config.h>

#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "pool.h"

#define JOBS 10000

struct counted {
  struct vd_job job;
  _Atomic unsigned runs;
  unsigned thread;
};

static struct counted jobs[JOBS];

static void
count (struct vd_job *job, unsigned thread)
{
  struct counted *c = (struct counted *) job;

  c->thread = thread;
  atomic_fetch_add (&c->runs, 1);
}

static void
test_all_run_once (void **state)
{
  struct vd_pool *pool;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_pool_new (ctx, 4, &pool));
  assert_int_equal (vd_pool_threads (pool), 4);
  for (i = 0; i < JOBS; ++i) {
    jobs[i].job.run = count;
    vd_pool_submit (pool, &jobs[i].job);
  }
  vd_pool_free (pool);
  for (i = 0; i < JOBS; ++i) {
    assert_int_equal (jobs[i].runs, 1);
    assert_true (jobs[i].thread < 4);
  }
}

static unsigned order[JOBS], norder;

static void
note (struct vd_job *job, unsigned thread)
{
  (void) thread;
  order[norder++] = (struct counted *) job - jobs;
}

static void
test_order (void **state)
{
  struct vd_pool *pool;
  unsigned i;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_pool_new (ctx, 1, &pool));
  for (i = 0; i < JOBS; ++i) {
    jobs[i].job.run = note;
    vd_pool_submit (pool, &jobs[i].job);
  }
  vd_pool_free (pool);
  assert_int_equal (norder, JOBS);
  for (i = 0; i < JOBS; ++i)
    assert_int_equal (order[i], i);
}

/* Both jobs run at once: each waits for the other. */
static pthread_barrier_t both;

static void
meet (struct vd_job *job, unsigned thread)
{
  (void) job;
  (void) thread;
  pthread_barrier_wait (&both);
}

static void
test_parallel (void **state)
{
  struct vd_job a = { .run = meet }, b = { .run = meet };
  struct vd_pool *pool;
  UNIT_CTX (ctx);

  (void) state;
  pthread_barrier_init (&both, NULL, 2);
  assert_ok (ctx, vd_pool_new (ctx, 2, &pool));
  vd_pool_submit (pool, &a);
  vd_pool_submit (pool, &b);
  vd_pool_free (pool);
  pthread_barrier_destroy (&both);
}

/* A job that submits itself again, and the signals its thread takes. */
static struct vd_pool *again_pool;
static unsigned again_left = 100;
static bool takes_sigterm;

static void
again (struct vd_job *job, unsigned thread)
{
  sigset_t set;

  (void) thread;
  pthread_sigmask (SIG_SETMASK, NULL, &set);
  if (!sigismember (&set, SIGTERM))
    takes_sigterm = true;
  if (again_left-- > 0)
    vd_pool_submit (again_pool, job);
}

static void
test_again (void **state)
{
  struct vd_job job = { .run = again };
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_pool_new (ctx, 2, &again_pool));
  vd_pool_submit (again_pool, &job);
  vd_pool_free (again_pool);
  assert_int_equal (again_left, (unsigned) -1);
  assert_false (takes_sigterm);
}

static void
test_idle (void **state)
{
  struct vd_pool *pool;
  UNIT_CTX (ctx);

  (void) state;
  assert_true (vd_pool_processors () >= 1);
  assert_ok (ctx, vd_pool_new (ctx, vd_pool_processors (), &pool));
  vd_pool_free (pool);
  vd_pool_free (NULL);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_all_run_once),
    cmocka_unit_test (test_order),
    cmocka_unit_test (test_parallel),
    cmocka_unit_test (test_again),
    cmocka_unit_test (test_idle),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
