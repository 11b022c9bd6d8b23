/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sim-private.h"

struct sim_folder {
  struct vd_folder f;
  struct vd_sim *sim;
};

static const struct vd_folder_ops sim_folder_ops;

static struct vd_sim *
sim_of_folder (struct vd_folder *f)
{
  assert (f->ops == &sim_folder_ops);
  return ((struct sim_folder *) f)->sim;
}

static int
find_or_fail (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
              const char *what, struct sim_file **ret)
{
  int r;

  sim_lock (sim);
  r = sim_fault (ctx, sim, name, what);
  if (r == 0) {
    *ret = sim_find_file (sim, name);
    if (*ret == NULL)
      r = vd_error (ctx, ENOENT, "%s: %s", name, strerror (ENOENT));
  }
  sim_unlock (sim);
  return r;
}

static int
folder_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
             bool write, bool device, bool *ret_writer, struct vd_store **ret)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file;
  int r;

  (void) device;
  (void) ret_writer;
  r = find_or_fail (ctx, sim, name, "open", &file);
  if (r < 0)
    return r;
  return sim_open_file (ctx, sim, name, write, file, ret);
}

static int
folder_stat (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
             bool device, struct stat *ret)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file;
  int r;

  (void) device;
  r = find_or_fail (ctx, sim, name, "stat", &file);
  if (r < 0)
    return r;
  memset (ret, 0, sizeof *ret);
  ret->st_mode = S_IFREG | 0600;
  ret->st_nlink = 1;
  ret->st_ino = (uintptr_t) file;
  sim_lock (sim);
  ret->st_size = file->now.size;
  sim_unlock (sim);
  return 0;
}

static int
folder_create (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               struct vd_store **ret)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file = NULL;
  int r;

  sim_lock (sim);
  r = sim_fault (ctx, sim, name, "create");
  if (r == 0 && sim_find_file (sim, name))
    r = vd_error (ctx, EEXIST, "%s: create: %s", name, strerror (EEXIST));
  if (r == 0) {
    file = sim_add_file (sim, name);
    if (file == NULL)
      r = vd_error (ctx, ENOMEM, "%s: out of memory", name);
  }
  sim_unlock (sim);
  if (r < 0)
    return r;
  r = sim_open_file (ctx, sim, name, true, file, ret);
  if (r < 0) {
    sim_lock (sim);
    file->removed = true;
    sim_unlock (sim);
  }
  return r;
}

static int
folder_remove (struct vd_ctx *ctx, struct vd_folder *f, const char *name)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file;
  int r;

  r = find_or_fail (ctx, sim, name, "remove", &file);
  if (r < 0)
    return r;
  sim_lock (sim);
  file->removed = true;
  sim_unlock (sim);
  return 0;
}

static int
folder_again (struct vd_ctx *ctx, struct vd_folder *f, struct vd_folder **ret)
{
  return vd_sim_folder (ctx, sim_of_folder (f), ret);
}

static int
folder_sync (struct vd_ctx *ctx, struct vd_folder *f)
{
  struct vd_sim *sim = sim_of_folder (f);
  int r;

  sim_lock (sim);
  r = sim_fault (ctx, sim, "folder", "sync");
  sim_unlock (sim);
  return r;
}

static void
folder_close (struct vd_folder *f)
{
  free (f);
}

static const struct vd_folder_ops sim_folder_ops = {
  .open = folder_open,
  .stat = folder_stat,
  .create = folder_create,
  .remove = folder_remove,
  .again = folder_again,
  .sync = folder_sync,
  .close = folder_close,
};

int
vd_sim_folder (struct vd_ctx *ctx, struct vd_sim *sim,
               struct vd_folder **ret)
{
  struct sim_folder *folder = calloc (1, sizeof *folder);

  if (folder == NULL)
    return vd_error (ctx, ENOMEM, "out of memory for a simulated folder");
  folder->f.ops = &sim_folder_ops;
  folder->sim = sim;
  *ret = &folder->f;
  return 0;
}
