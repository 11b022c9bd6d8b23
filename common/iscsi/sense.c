/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdio.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "sense.h"

enum {
  NO_SENSE, RECOVERED, NOT_READY, MEDIUM, HARDWARE, ILLEGAL, ATTENTION,
  PROTECT, BLANK, VENDOR, COPY_ABORTED, ABORTED, OBSOLETE, OVERFLOW, MISCOMPARE
};

static enum vd_scsi_verdict
judge_sense (const struct vd_scsi_result *r)
{
  switch (r->key) {
  case RECOVERED:
    return r->short_data ? VD_SCSI_FAILED : VD_SCSI_GOOD;
  case NOT_READY:
    /* Becoming ready, and operations under way. */
    return r->ascq == 0x0401 || r->ascq == 0x0404 || r->ascq == 0x0407
      ? VD_SCSI_LATER : VD_SCSI_FAILED;
  case ATTENTION:
    return VD_SCSI_AGAIN;
  case ABORTED:
    return VD_SCSI_FEW;
  default:
    return VD_SCSI_FAILED;
  }
}

enum vd_scsi_verdict
vd_scsi_judge (const struct vd_scsi_result *r)
{
  switch (r->status) {
  case SCSI_STATUS_GOOD:
  case SCSI_STATUS_CONDITION_MET:
    return r->short_data ? VD_SCSI_FAILED : VD_SCSI_GOOD;
  case SCSI_STATUS_BUSY:
  case SCSI_STATUS_TASK_SET_FULL:
    return VD_SCSI_LATER;
  case SCSI_STATUS_TASK_ABORTED:
  case SCSI_STATUS_ACA_ACTIVE:
    return VD_SCSI_FEW;
  case SCSI_STATUS_CHECK_CONDITION:
    return judge_sense (r);
  default:
    return VD_SCSI_FAILED;
  }
}

int
vd_scsi_errno (const struct vd_scsi_result *r, bool writes)
{
  if (r->status == SCSI_STATUS_RESERVATION_CONFLICT)
    return EPERM;
  if (r->status != SCSI_STATUS_CHECK_CONDITION)
    return EIO;
  switch (r->key) {
  case ILLEGAL:
    /* Beyond the end: the LUN shrank. */
    return r->ascq == 0x2100 && writes ? ENOSPC : EIO;
  case PROTECT:
    return r->ascq == 0x2707 ? ENOSPC : EPERM;
  default:
    return EIO;
  }
}

bool
vd_scsi_refused (const struct vd_scsi_result *r)
{
  return r->status == SCSI_STATUS_CHECK_CONDITION && r->key == ILLEGAL
    && (r->ascq == 0x2000 || r->ascq == 0x2400 || r->ascq == 0x2600
        || r->ascq == 0x1a00);
}

static const char *
status_text (int status)
{
  switch (status) {
  case SCSI_STATUS_GOOD:
  case SCSI_STATUS_CONDITION_MET: return "fewer bytes than asked for";
  case SCSI_STATUS_BUSY: return "busy";
  case SCSI_STATUS_RESERVATION_CONFLICT:
    return "reserved by another initiator (reservation conflict)";
  case SCSI_STATUS_TASK_SET_FULL: return "too many commands (task set full)";
  case SCSI_STATUS_ACA_ACTIVE: return "ACA active";
  case SCSI_STATUS_TASK_ABORTED: return "command aborted by the target";
  default: return "unexpected status";
  }
}

static const char *
key_text (int key)
{
  static const char *const keys[] = {
    "no sense", "recovered error", "not ready", "medium error",
    "hardware error", "illegal request", "unit attention", "data protect",
    "blank check", "vendor specific", "copy aborted", "aborted command",
    "obsolete", "volume overflow", "miscompare", "completed",
  };

  return keys[key & 15];
}

static const char *
ascq_text (int ascq)
{
  static const struct { int ascq; const char *text; } known[] = {
    { 0x0400, "not ready" },
    { 0x0401, "becoming ready" },
    { 0x0c00, "write error" },
    { 0x1100, "unrecovered read error" },
    { 0x1a00, "parameter list length error" },
    { 0x2000, "unknown command" },
    { 0x2100, "block address out of range" },
    { 0x2400, "invalid field in the command" },
    { 0x2500, "there is no such LUN (any more)" },
    { 0x2600, "invalid field in the parameters" },
    { 0x2700, "write protected" },
    { 0x2701, "write protected" },
    { 0x2702, "write protected" },
    { 0x2707, "out of space (thin provisioning)" },
    { 0x2900, "power on or reset" },
    { 0x2a01, "mode parameters changed" },
    { 0x2a09, "capacity changed" },
    { 0x3a00, "no medium" },
    { 0x3f0e, "list of LUNs changed" },
    { 0x4400, "internal failure of the target" },
    { 0x4900, "invalid message" },
  };
  size_t i;

  for (i = 0; i < sizeof known / sizeof known[0]; i++)
    if (known[i].ascq == ascq)
      return known[i].text;
  return NULL;
}

const char *
vd_scsi_text (const struct vd_scsi_result *r, char *buf, size_t size)
{
  const char *known = ascq_text (r->ascq);

  if (r->status != SCSI_STATUS_CHECK_CONDITION)
    snprintf (buf, size, "%s (status 0x%02x)", status_text (r->status),
              r->status);
  else
    snprintf (buf, size, "%s%s%s (sense %x/%02x/%02x)", key_text (r->key),
              known ? ": " : "", known ? known : "", r->key, r->ascq >> 8 & 255,
              r->ascq & 255);
  return buf;
}
