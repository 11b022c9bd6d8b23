/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "coalesce.h"
#include "rounding.h"

/* In percent of one processor: with less the target, or the client, is what
 * decides.
 */
#define BUSY 50

/* In percent of the time in which as many answers come as are in flight.  A
 * bench with two processors was fastest with 25 to 30; with 50 they were idle.
 */
#define SHARE 28
#define MAX_PAUSE 300           /* microseconds */

/* In percent of the answers without pauses.  Samples of one thing differ by as
 * much, but pauses that are any good are worth more, and who is wrong once
 * tries again.
 */
#define NO_GOOD 95

/* In milliseconds. */
#define SAMPLE 100
#define STAY 4000               /* then see how it goes without */
#define AWAY 1000               /* when it was no good, twice as long each
                                   time */
#define MAX_AWAY 64000
#define FORGET 1000             /* nobody asked for so long */

static unsigned
choose_pause (uint64_t rate, unsigned in_flight)
{
  if (rate == 0 || in_flight < VD_COALESCE_FLIGHT)
    return 0;
  return min_u64 (in_flight * UINT64_C (10000) * SHARE / rate, MAX_PAUSE);
}

void
vd_coalesce_decide (struct vd_coalesce *c, int64_t now, int64_t used_us,
                    uint64_t answers, unsigned in_flight)
{
  const int64_t wall = now - c->last;
  const uint64_t rate = wall > 0 ? (answers - c->answers) * 1000 / wall : 0;
  const int64_t percent = wall > 0 ? (used_us - c->used) / (wall * 10) : 0;
  const bool fresh = c->last == 0 || now > c->next + FORGET;

  c->last = now;
  c->used = used_us;
  c->answers = answers;
  c->next = now + SAMPLE;
  if (fresh) {
    c->pause = 0;
    c->away = 0;
  }
  else if (c->pause == 0) {
    if (percent < BUSY)
      return;
    c->pause = choose_pause (rate, in_flight);
    c->base = rate;
    c->trial = true;
  }
  else if (c->trial && rate * 100 < c->base * NO_GOOD) {
    c->pause = 0;
    c->away = c->away == 0 ? AWAY : min_u64 (2 * c->away, MAX_AWAY);
    c->next = now + c->away;
  }
  else if (c->trial) {
    c->trial = false;
    c->away = 0;
    c->next = now + STAY;
  }
  else
    c->pause = 0;
}
