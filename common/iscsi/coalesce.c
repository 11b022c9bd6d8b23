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
#define SHARE 32
#define MAX_PAUSE 300           /* microseconds */
#define SLACK 50                /* how much longer Linux sleeps (prctl(2),
                                   PR_SET_TIMERSLACK) */

/* In percent of the answers without pauses. */
#define GOOD 105
#define HOPELESS 90             /* no need to try on */

/* In milliseconds. */
#define SAMPLE 100              /* to see whether it is of interest */
#define SLICE 40                /* of a trial, without pauses and with in turns:
                                   what else happens differs by more than what
                                   there is to be gained */
#define SLICES 6
#define STAY 4000               /* then see how it goes without */
#define AWAY 1000               /* when it was no good, twice as long each
                                   time */
#define MAX_AWAY 64000
#define FORGET 1000             /* nobody asked for so long */

static unsigned
choose_pause (uint64_t rate, unsigned in_flight)
{
  uint64_t us;

  if (rate == 0 || in_flight < VD_COALESCE_FLIGHT)
    return 0;
  us = in_flight * UINT64_C (10000) * SHARE / rate;
  return us > SLACK ? min_u64 (us - SLACK, MAX_PAUSE) : 0;
}

static void
end_trial (struct vd_coalesce *c, int64_t now)
{
  c->slice = 0;
  if (c->rate[1] * 100 >= c->rate[0] * GOOD) {
    c->pause = c->tried;
    c->away = 0;
    c->next = now + STAY;
  }
  else {
    c->pause = 0;
    c->away = c->away == 0 ? AWAY : min_u64 (2 * c->away, MAX_AWAY);
    c->next = now + c->away;
  }
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
    c->pause = c->slice = 0;
    c->away = 0;
  }
  else if (c->slice > 0) {
    c->rate[c->pause > 0] += rate;
    if (c->slice == SLICES
        || (c->pause && c->rate[1] * 100 < c->rate[0] * HOPELESS)) {
      end_trial (c, now);
      return;
    }
    c->slice++;
    c->pause = c->pause ? 0 : c->tried;
    c->next = now + SLICE;
  }
  else if (c->pause)
    c->pause = 0;
  else if (percent >= BUSY && (c->tried = choose_pause (rate, in_flight)) > 0) {
    c->slice = 1;
    c->rate[0] = c->rate[1] = 0;
    c->next = now + SLICE;
  }
}
