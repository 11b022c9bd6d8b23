/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One iSCSI session: a connection to the target that is made again when it is
 * lost, with many commands in flight, submitted by any threads.
 *
 * libiscsi's context is not thread-safe, so it is used under the session's
 * lock only.  Who submits puts the commands into a queue and, if the lock is
 * free, sends them off himself; if it is not, its holder does.  One of those
 * who wait has the lead: he polls the socket and takes the answers for all,
 * and hands the lead on when his own are there.  So a single request wakes no
 * other thread at all.  A thread of the session's own does what is not bound
 * to a request: connecting, time limits, pings.
 */

#ifndef VDKIT_ISCSI_SESSION_H
#define VDKIT_ISCSI_SESSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "address.h"
#include "ctx.h"
#include "sense.h"

/* SCSI commands that we know. */
enum vd_scsi {
  VD_SCSI_READ,
  VD_SCSI_WRITE,
  VD_SCSI_FLUSH,
  VD_SCSI_UNMAP,
  VD_SCSI_WRITE_SAME,           /* of zeroes */
  VD_SCSI_LBA_STATUS,
  VD_SCSI_CAPACITY16,
  VD_SCSI_CAPACITY10,
  VD_SCSI_INQUIRY,              /* page -1: standard data */
  VD_SCSI_MODE_SENSE,           /* all pages */
};

/* A group is what one thread waits for. */
struct vd_scsi_group {
  _Atomic uint32_t word;        /* a futex, see session.c */
  unsigned pending;             /* commands not done; under the lock */
  struct vd_scsi_group *next;   /* finished groups; under the lock */
};

/* The caller fills the first part, and all memory stays until
 * vd_iscsi_run has returned.
 */
struct vd_scsi_cmd {
  enum vd_scsi what;
  uint64_t lba;
  uint32_t blocks;
  uint32_t block_size;
  struct iovec data;            /* READ, WRITE: blocks * block_size bytes */
  bool fua;                     /* WRITE */
  bool unmap;                   /* WRITE_SAME may unmap */
  bool ten;                     /* the 10 byte form */
  bool once;                    /* may be one that the target chokes on */
  int page;                     /* INQUIRY */
  uint8_t *in;                  /* other answers go here */
  uint32_t in_size;

  /* Results. */
  int error;                    /* 0 or a positive errno; EIO and no_answer
                                   when there was none in time */
  bool no_answer;
  bool stalled;                 /* once: ... though the target is there */
  uint32_t in_len;
  struct vd_scsi_result result;

  /* Private to session*.c. */
  struct vd_scsi_group *group;
  struct vd_scsi_cmd *prev, *next;
  void *session, *task;
  int64_t start, sent, not_before;
  unsigned tries, stalls;
};

struct vd_iscsi_settings {
  struct vd_iscsi_address address;
  unsigned timeout_ms;          /* of a request, reconnections included */
  unsigned keepalive_ms;        /* ping an idle target; 0: never */
  bool gather;                  /* threads that read and write, see gather.h */
  bool coalesce;                /* answers, see coalesce.h */
  int log_level;                /* libiscsi's, 0 to 10 */
  void (*lib_log) (int level, const char *text);
};

struct vd_iscsi_session;

/* Log in, or fail within the timeout.  settings must outlive the session and
 * are shared by several of them, which differ in index.  Starts a thread.
 */
extern int vd_iscsi_session_open (struct vd_ctx *ctx,
                                  const struct vd_iscsi_settings *settings,
                                  const char *name, uint32_t isid,
                                  unsigned index,
                                  struct vd_iscsi_session **ret);

/* Log out and free.  No request is under way.  NULL is fine. */
extern void vd_iscsi_session_close (struct vd_iscsi_session *s);

/* From now on a target that comes back with blocks of another size is not
 * taken for the same one.
 */
extern void vd_iscsi_session_expect (struct vd_iscsi_session *s,
                                     uint32_t block_size);

/* Send n commands and wait for all; each has its own result.  From any
 * thread.
 */
extern void vd_iscsi_run (struct vd_iscsi_session *s,
                          struct vd_scsi_cmd *cmds, unsigned n);

/* Why the connection was lost last, or "" (escaped). */
extern void vd_iscsi_last_error (struct vd_iscsi_session *s, char *buf,
                                 size_t size);

#endif /* VDKIT_ISCSI_SESSION_H */
