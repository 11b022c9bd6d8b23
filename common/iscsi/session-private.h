/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The inside of an iSCSI session, for session.c (commands, and who waits for
 * them) and session-thread.c (the connection).  What follows is called with
 * the lock held, if nothing else is said.
 */

#ifndef VDKIT_ISCSI_SESSION_PRIVATE_H
#define VDKIT_ISCSI_SESSION_PRIVATE_H

#include <pthread.h>

#include "coalesce.h"
#include "session.h"

struct vd_scsi_list {
  struct vd_scsi_cmd *first, *last;
};

struct vd_iscsi_session {
  const struct vd_iscsi_settings *settings;
  uint32_t isid;
  unsigned index;

  /* Commands on their way in, last first. */
  _Atomic (struct vd_scsi_cmd *) submitted;
  _Atomic unsigned running;     /* threads in vd_iscsi_run */
  _Atomic int64_t no_yield;     /* until then */

  pthread_mutex_t lock;         /* for all down to "the thread" */
  struct iscsi_context *ctx;    /* NULL: not connected */
  bool broken;                  /* to be torn down outside callbacks */
  bool tearing;                 /* callbacks tell of that */
  bool has_lead;
  bool polls_out;               /* who has the lead waits for room to write */
  unsigned generation;          /* of ctx */
  bool pinged;                  /* and nothing heard since */
  int64_t heard, ping_sent;     /* when */
  struct vd_scsi_list waiting;  /* not sent, or to be sent again */
  struct vd_scsi_list flying;   /* sent */
  struct vd_scsi_group *finished; /* to be told after the lock is released */
  uint64_t answers;             /* to commands, ever */
  struct vd_coalesce coalesce;
  uint32_t block_size;
  char last_error[512];

  int lead_kick;                /* eventfd: the leader should look again */

  /* The thread. */
  pthread_t thread;
  int thread_kick;              /* eventfd */
  _Atomic bool stop;
  pthread_mutex_t open_lock;
  pthread_cond_t open_cond;
  bool opened, open_failed;     /* under open_lock */
};

/* Set and reset an eventfd.  Without the lock, or with it. */
extern void vd_iscsi_kick (int fd);
extern void vd_iscsi_swallow (int fd);

/* Move what was submitted to the end of what waits, in order. */
extern void vd_iscsi_session_collect (struct vd_iscsi_session *s);

/* Do what can be done now; revents of the socket, or 0. */
extern void vd_iscsi_session_work (struct vd_iscsi_session *s, int revents);

/* Fail what has waited too long, and give up a connection on which an answer
 * is overdue.
 */
extern void vd_iscsi_session_expire (struct vd_iscsi_session *s, int64_t now);

/* Give up a connection.  What was on its way waits for the next one. */
extern void vd_iscsi_session_tear_down (struct vd_iscsi_session *s);

/* Release the lock, tell who is done, and look after what came meanwhile: who
 * submits and finds the lock taken relies on that.  Returns whether the caller
 * has the lead; want may be NULL.
 */
extern bool vd_iscsi_session_release (struct vd_iscsi_session *s,
                                      struct vd_scsi_group *want);

/* session-thread.c: the session's own thread, a start routine of pthreads.
 * Without the lock.
 */
extern void *vd_iscsi_session_thread (void *session);

#endif /* VDKIT_ISCSI_SESSION_PRIVATE_H */
