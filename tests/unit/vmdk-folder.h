/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A folder on a simulated disk, for the unit tests of common/vmdk: it knows
 * which files were made and removed.
 */

#ifndef VDKIT_TEST_VMDK_FOLDER_H
#define VDKIT_TEST_VMDK_FOLDER_H

#include "unit.h"

#include <errno.h>

#include "folder.h"
#include "sim.h"

struct sim_folder {
  struct vd_folder f;
  struct vd_sim *sim;
  char names[8][64];            /* what is there now */
  size_t n;
  unsigned syncs;
  unsigned fail_create;         /* the n-th from now on, 0: none */
};

static inline int
sim_folder_create_ (struct vd_ctx *ctx, struct vd_folder *f,
                    const char *name, struct vd_store **ret)
{
  struct sim_folder *sf = (struct sim_folder *) f;
  size_t i;
  int r;

  assert_null (strchr (name, '/'));
  for (i = 0; i < sf->n; ++i)
    if (strcmp (sf->names[i], name) == 0)
      return vd_error (ctx, EEXIST, "%s: exists", name);
  if (sf->fail_create > 0 && --sf->fail_create == 0)
    return vd_error (ctx, EMFILE, "%s: injected", name);
  r = vd_sim_open (ctx, sf->sim, name, true, ret);
  if (r < 0)
    return r;
  assert_true (sf->n < 8);
  snprintf (sf->names[sf->n++], sizeof sf->names[0], "%s", name);
  return 0;
}

static inline int
sim_folder_remove_ (struct vd_ctx *ctx, struct vd_folder *f,
                    const char *name)
{
  struct sim_folder *sf = (struct sim_folder *) f;
  size_t i;

  for (i = 0; i < sf->n; ++i)
    if (strcmp (sf->names[i], name) == 0) {
      memmove (sf->names[i], sf->names[i + 1],
               (sf->n - i - 1) * sizeof sf->names[0]);
      --sf->n;
      return 0;
    }
  return vd_error (ctx, ENOENT, "%s: is not there", name);
}

static inline int
sim_folder_sync_ (struct vd_ctx *ctx, struct vd_folder *f)
{
  (void) ctx;
  ++((struct sim_folder *) f)->syncs;
  return 0;
}

static inline void
sim_folder_init (struct sim_folder *sf, struct vd_sim *sim)
{
  static const struct vd_folder_ops ops = {
    .create = sim_folder_create_,
    .remove = sim_folder_remove_,
    .sync = sim_folder_sync_,
  };

  *sf = (struct sim_folder) { .f.ops = &ops, .sim = sim };
}

#endif /* VDKIT_TEST_VMDK_FOLDER_H */
