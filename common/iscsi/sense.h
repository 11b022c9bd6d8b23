/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the answer of a target means.
 */

#ifndef VDKIT_ISCSI_SENSE_H
#define VDKIT_ISCSI_SENSE_H

#include <stdbool.h>
#include <stddef.h>

/* How a command ended. */
struct vd_scsi_result {
  int status;                   /* SCSI status, see scsi-lowlevel.h */
  int key;                      /* sense, if status is CHECK CONDITION */
  int ascq;                     /* ASC and ASCQ, as 0xAAQQ */
  bool short_data;              /* not all bytes were transferred */
};

enum vd_scsi_verdict {
  VD_SCSI_GOOD,
  VD_SCSI_AGAIN,                /* send it again at once */
  VD_SCSI_LATER,                /* send it again after a while, and for long */
  VD_SCSI_FEW,                  /* the same, but only some times */
  VD_SCSI_FAILED,
};

extern enum vd_scsi_verdict vd_scsi_judge (const struct vd_scsi_result *r);

/* The (positive) errno of a failure.  writes: the command changes the LUN. */
extern int vd_scsi_errno (const struct vd_scsi_result *r, bool writes);

/* The target says that it does not know the command, or this use of it. */
extern bool vd_scsi_refused (const struct vd_scsi_result *r);

extern const char *vd_scsi_text (const struct vd_scsi_result *r,
                                 char *buf, size_t size);

#endif /* VDKIT_ISCSI_SENSE_H */
