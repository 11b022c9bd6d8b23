/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gather.h"
#include "processors.h"
#include "rounding.h"

/* In percent of one processor: with less there is nothing to gain; with more
 * one is not enough, though apart the threads need up to a third more than
 * together.
 */
#define IDLE 5
#define ENOUGH 110
#define TOO_MUCH 95

/* In milliseconds. */
#define SAMPLE 30               /* to see how it goes without a home */
#define SOON 60                 /* when there is a home: with the threads there,
                                   is it enough, and are processors scarce? */
#define PERIOD 250
#define AWAY 1000               /* when one was not enough, twice as long each
                                   time */
#define MAX_AWAY 64000
#define STAY 4000               /* then see where the scheduler would go */
#define FORGET 2000             /* nobody asked for so long */
#define FOLLOW 20               /* to see where the client is: as long as it is
                                   elsewhere everything is slow */

void
vd_gather_decide (struct vd_gather *g, int64_t now, int64_t used_us,
                  int64_t idle_us, int cpu)
{
  int64_t wall = now - g->last;
  int64_t percent = wall > 0 ? (used_us - g->used) / (wall * 10) : 0;
  bool fresh = g->last == 0 || wall > g->away + FORGET;

  g->scarce = !fresh && idle_us >= 0 && g->idle >= 0
    && idle_us - g->idle < wall * 1000;
  g->last = now;
  g->used = used_us;
  g->idle = idle_us;
  g->next = now + PERIOD;
  if (fresh || (g->home != VD_GATHER_ANYWHERE && now - g->since >= STAY)) {
    /* Another process may have come to stay on this processor. */
    g->away = 0;
    g->home = VD_GATHER_ANYWHERE;
    g->next = now + SAMPLE;
  }
  else if (g->home != VD_GATHER_ANYWHERE && percent > TOO_MUCH) {
    g->home = VD_GATHER_ANYWHERE;
    g->away = g->away == 0 ? AWAY : min_u64 (2 * g->away, MAX_AWAY);
    g->next = now + g->away;
  }
  else if (g->home == VD_GATHER_ANYWHERE && percent >= IDLE
           && percent < ENOUGH) {
    g->home = cpu;
    g->since = now;
    g->next = now + SOON;
  }
}

bool
vd_gather_follows (const struct vd_gather *g)
{
  return g->home != VD_GATHER_ANYWHERE && g->scarce;
}

void
vd_gather_follow (struct vd_gather *g, int64_t now, int cpu)
{
  g->look = now + FOLLOW;
  if (cpu >= 0 && vd_gather_follows (g))
    g->home = cpu;
}

/* nbdkit's threads are those of the process, not of a session. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct vd_gather gather = { .home = VD_GATHER_ANYWHERE };

/* What this thread was told last. */
static _Thread_local bool was_told;
static _Thread_local int told;

/* The main thread stays as it is, and so tells what the user allows, also if
 * that is changed meanwhile (taskset -p).  The mask of the calling thread tells
 * nothing, not even at first: who started it may have been at home, as it is if
 * a filter reads something when a client connects.
 */
static bool
get_allowed (cpu_set_t *ret)
{
  return sched_getaffinity (getpid (), sizeof *ret, ret) == 0;
}

static bool
is_in (int cpu, const cpu_set_t *set)
{
  return cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET (cpu, set);
}

/* Where the client is, if we may go there; else -1. */
static int
find_client (int64_t now)
{
  cpu_set_t allowed;
  int cpu = vd_iscsi_client_processor (now, gather.home);

  return cpu >= 0 && get_allowed (&allowed) && is_in (cpu, &allowed) ? cpu : -1;
}

static void
look (int64_t now)
{
  int64_t used;

  if (pthread_mutex_trylock (&lock) != 0)
    return;
  if (now >= gather.next && (used = vd_iscsi_cpu_time ()) >= 0)
    vd_gather_decide (&gather, now, used, vd_iscsi_idle_time (),
                      sched_getcpu ());
  if (now >= gather.look)
    vd_gather_follow (&gather, now, vd_gather_follows (&gather)
                      ? find_client (now) : -1);
  pthread_mutex_unlock (&lock);
}

static void
move_self (int to)
{
  cpu_set_t set;

  if (syscall (SYS_gettid) == getpid () || !get_allowed (&set))
    return;
  if (is_in (to, &set)) {
    CPU_ZERO (&set);
    CPU_SET (to, &set);
  }
  (void) !sched_setaffinity (0, sizeof set, &set);
}

void
vd_iscsi_gather (int64_t now)
{
  int to;

  if (now >= atomic_load_explicit (&gather.next, memory_order_relaxed)
      || now >= atomic_load_explicit (&gather.look, memory_order_relaxed))
    look (now);
  to = atomic_load_explicit (&gather.home, memory_order_relaxed);
  if (was_told && to == told)
    return;
  was_told = true;
  told = to;
  move_self (to);
}
