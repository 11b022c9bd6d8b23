/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Answers to small requests are taken together, as network cards do with
 * interrupts.
 *
 * Who waits for the target is woken by each answer, then wakes the thread that
 * it is for, which wakes the client.  When all of them are busy anyway it
 * may cost less, and so be faster, to let some answers come before they are
 * looked at.  Whether it is depends on the machine, and if the time goes
 * elsewhere (a far target) it is only a delay.  So both ways are tried in
 * turns, again and again, and pauses must be worth it.
 */

#ifndef VDKIT_ISCSI_COALESCE_H
#define VDKIT_ISCSI_COALESCE_H

#include <stdbool.h>
#include <stdint.h>

/* With fewer requests in flight there is nothing to wait for. */
#define VD_COALESCE_FLIGHT 4

/* A request for more bytes than that is not a small one. */
#define VD_COALESCE_BYTES 16384

/* Zeroed at first.  Times are those of a clock in milliseconds that starts
 * above 0.
 */
struct vd_coalesce {
  unsigned pause;               /* microseconds to leave the answers alone, 0:
                                   take each as it comes */
  unsigned slice;               /* of a trial, from 1; 0: there is none */
  unsigned tried;               /* the pause that is tried */
  int64_t next;                 /* when to decide again */
  int64_t last, used;           /* when it was done last, and what the two */
  uint64_t answers;             /* counters had then */
  uint64_t rate[2];             /* answers per second in the trial, sums of
                                   the slices without pauses, and with */
  int64_t away;                 /* how long, the last time it was no good */
};

/* Decide about the pause, when next has come: used_us is the CPU time of the
 * process, and answers how many have come, up to now; in_flight is how many
 * requests wait.  Not thread-safe, and without any effect but on c.
 */
extern void vd_coalesce_decide (struct vd_coalesce *c, int64_t now,
                                int64_t used_us, uint64_t answers,
                                unsigned in_flight);

#endif /* VDKIT_ISCSI_COALESCE_H */
