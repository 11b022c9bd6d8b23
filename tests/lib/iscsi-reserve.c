/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Another initiator: reserve a LUN for itself (write exclusive, registrants
 * only), and keep it until standard input ends.
 *
 * usage: iscsi-reserve URL
 */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define KEY 0x1234

static void
check (const char *what, struct iscsi_context *iscsi, int ok)
{
  if (ok)
    return;
  fprintf (stderr, "%s: %s\n", what, iscsi_get_error (iscsi));
  exit (1);
}

static void
reserve_out (struct iscsi_context *iscsi, int lun, int action, uint64_t key,
             uint64_t new_key)
{
  struct scsi_persistent_reserve_out_basic basic = {
    .reservation_key = key, .service_action_reservation_key = new_key,
  };
  struct scsi_task *task = iscsi_persistent_reserve_out_sync
    (iscsi, lun, action, SCSI_PERSISTENT_RESERVE_SCOPE_LU,
     SCSI_PERSISTENT_RESERVE_TYPE_WRITE_EXCLUSIVE_REGISTRANTS_ONLY, &basic);

  check ("persistent reserve out", iscsi,
         task != NULL && task->status == SCSI_STATUS_GOOD);
  scsi_free_scsi_task (task);
}

int
main (int argc, char *argv[])
{
  struct iscsi_context *iscsi = iscsi_create_context ("iqn.2026-01.test:other");
  struct iscsi_url *url;
  char c;

  if (argc != 2 || iscsi == NULL)
    return 2;
  url = iscsi_parse_full_url (iscsi, argv[1]);
  check ("url", iscsi, url != NULL);
  iscsi_set_targetname (iscsi, url->target);
  iscsi_set_session_type (iscsi, ISCSI_SESSION_NORMAL);
  check ("log in", iscsi,
         iscsi_full_connect_sync (iscsi, url->portal, url->lun) == 0);
  reserve_out (iscsi, url->lun, SCSI_PERSISTENT_RESERVE_REGISTER, 0, KEY);
  reserve_out (iscsi, url->lun, SCSI_PERSISTENT_RESERVE_RESERVE, KEY, 0);
  printf ("reserved\n");
  fflush (stdout);
  while (read (0, &c, 1) > 0)
    ;
  reserve_out (iscsi, url->lun, SCSI_PERSISTENT_RESERVE_RELEASE, KEY, 0);
  iscsi_logout_sync (iscsi);
  iscsi_destroy_context (iscsi);
  return 0;
}
