/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fault at call n, for VDI: see faults.h.
 */

#include <config.h>

#include "vdi.h"

#include "faults.h"

static int
create (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  struct vd_create how = {
    .size = FAULTS_DISK, .block_size = FAULTS_BLOCK, .alignment = 512,
    .force = true,
  };
  struct vd_store *store;
  int r;

  r = vd_sim_open (ctx, sim, name, true, &store);
  if (r < 0)
    return r;
  r = vd_format_vdi.create (ctx, store, NULL, NULL, &how);
  vd_store_close (store);
  return r;
}

static const struct faults_case cases[] = {
  { .name = "vdi", .file = "disk.vdi", .create = create },
};

int
main (void)
{
  return faults_main (cases, sizeof cases / sizeof cases[0]);
}
