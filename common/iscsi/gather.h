/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads that hand work to each other gather on one processor.
 *
 * nbdkit has a thread for each request.  For small requests most of the cost
 * is that such threads wake each other, and waking one on another processor
 * costs several times what it costs on the same one, most of all in a virtual
 * machine.  So as long as one processor is enough for all of the process, its
 * threads are kept on one, as if they were an event loop; when it is not, they
 * go back to where the user let them run.
 *
 * The client is woken most of all, by each of nbdkit's sends, so while there is
 * no processor to spare the one for all is that of the client, and a target on
 * this host has another for itself.  (The kernel brings a client to a server of
 * one thread by itself, but takes it away from a processor on which others want
 * to run.)
 */

#ifndef VDKIT_ISCSI_GATHER_H
#define VDKIT_ISCSI_GATHER_H

#include <stdbool.h>
#include <stdint.h>

#define VD_GATHER_ANYWHERE (-1)

/* Zeroed but for home = VD_GATHER_ANYWHERE.  Times are those of a clock in
 * milliseconds that starts above 0, CPU time is in microseconds.
 */
struct vd_gather {
  /* These three are read without a lock. */
  _Atomic int home;             /* the processor, or VD_GATHER_ANYWHERE */
  _Atomic int64_t next;         /* when to decide again */
  _Atomic int64_t look;         /* when to look where the client is */
  int64_t last, used, idle;     /* when it was decided last, and what the two
                                   counters had then */
  bool scarce;                  /* the processors had less than one of them to
                                   spare */
  int64_t since;                /* of home */
  int64_t away;                 /* how long, the last time one was too little */
};

/* Decide about home, when next has come: used_us is the CPU time of the
 * process up to now, idle_us that in which the host's processors had nothing to
 * do (-1: not known), cpu is where the caller runs.  Not thread-safe, and
 * without any effect but on g.
 */
extern void vd_gather_decide (struct vd_gather *g, int64_t now,
                              int64_t used_us, int64_t idle_us, int cpu);

/* Is it of interest where the client runs?  If so, when look has come, follow
 * it there (-1: it does not run).  As above.
 */
extern bool vd_gather_follows (const struct vd_gather *g);
extern void vd_gather_follow (struct vd_gather *g, int64_t now, int cpu);

/* The calling thread has a request: bring it to where the others of this
 * process are, or back.  now is that of vd_iscsi_now.  Processors that the main
 * thread may not use are not used, and the main thread itself stays where it
 * is.  From any thread; errors are ignored, as is fit for a matter of speed.
 * errno may change.
 */
extern void vd_iscsi_gather (int64_t now);

#endif /* VDKIT_ISCSI_GATHER_H */
