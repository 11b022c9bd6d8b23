/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "escape.h"
#include "machine.h"
#include "parent.h"

void
vd_files_free (struct vd_files *files)
{
  size_t i;

  for (i = 0; i < files->n; ++i) {
    free (files->paths[i]);
    close (files->fds[i]);
  }
  free (files->paths);
  free (files->fds);
  free (files->spoils);
  *files = (struct vd_files) { 0 };
}

static int
check_encrypted (struct vd_ctx *ctx, const struct places *s,
                 const struct vd_image *image)
{
  size_t i, j;

  for (i = 0; i < s->n; ++i) {
    for (j = 0; j < s->list[i].nsettings; ++j) {
      const struct vbox_disk *d =
        vbox_find (s->list[i].settings[j], &image->link.uuid);

      if (d && d->encrypted)
        return vd_error (ctx, ENOTSUP, "%s: is encrypted, as %s says (CRYPT/ "
                         "properties); decrypt it with VirtualBox first",
                         image->name, s->list[i].settings[j]->path);
    }
  }
  return 0;
}

/* Who writes to an image changes what those on top of it read.  Settings are
 * not proof (the snapshots may be gone), and whoever writes may mean it: so
 * this is for a warning.
 */
static int
find_children (struct vd_ctx *ctx, const struct places *s,
               const struct vd_image *image, char **ret)
{
  const struct vbox_disk *first = NULL;
  const char *settings = NULL;
  char shown[VD_REMARK];
  size_t i, j, k;
  unsigned n = 0;

  *ret = NULL;
  if (vd_uuid_is_null (&image->link.uuid))
    return 0;
  for (i = 0; i < s->n; ++i) {
    for (j = 0; j < s->list[i].nsettings; ++j) {
      const struct vbox *v = s->list[i].settings[j];

      for (k = 0; k < v->n; ++k) {
        if (!vd_uuid_equal (&v->disks[k].parent, &image->link.uuid))
          continue;
        n++;
        if (first)
          continue;
        first = &v->disks[k];
        settings = v->path;
      }
    }
  }
  if (!first)
    return 0;
  vd_escape (first->location, strlen (first->location), shown, sizeof shown);
  if (asprintf (ret, "%s: is opened for writing, but %s shows that it has "
                "children (%u, such as %s), which will not be right any more "
                "once it is written; serve the topmost image instead, or this "
                "one read-only", image->name, settings, n, shown) == -1) {
    *ret = NULL;
    return vd_places_no_memory (ctx);
  }
  return 0;
}

/* A file that the user names. */
static int
find_named (struct vd_ctx *ctx, const char *path, struct found *ret)
{
  CLEANUP_FREE char *real = realpath (path, NULL);

  if (!real)
    return vd_error (ctx, errno, "%s: %m", path);
  ret->fd = open (real, O_PATH | O_CLOEXEC);
  if (ret->fd == -1)
    return vd_error (ctx, errno, "%s: open: %m", path);
  ret->path = real;
  real = NULL;
  return 0;
}

/* Look at the last file (the lowest image so far): 1 if *ret_parent is below
 * it, 0 if it is the base.
 */
static int
step (struct vd_ctx *ctx, struct places *s, const struct vd_search *how,
      struct vd_files *down, struct found *ret_parent)
{
  const struct found last = {
    .path = down->paths[down->n - 1], .fd = down->fds[down->n - 1],
  };
  struct place *place = NULL;
  struct vd_image *image;
  struct vd_ctx quiet;
  size_t i;
  int r;

  r = vd_places_add_of (ctx, s, last.path, last.fd);
  if (r == 0 && down->n == 1)
    r = vd_places_add_allowed (ctx, s);
  if (r == 0)                   /* the array may have moved */
    r = vd_places_add (ctx, s, last.path, last.fd, &place);
  if (r == 0)
    r = vd_found_read (ctx, s->policy, &last, &image);
  if (r < 0)
    return r;
  r = check_encrypted (ctx, s, image);
  if (r == 0 && down->n == 1)
    r = find_children (ctx, s, image, &down->spoils);
  if (how->alone)
    ;
  else if (r == 0 && down->n == 1 && how->parent)
    r = find_named (ctx, how->parent, ret_parent);
  else if (r == 0 && image->differencing)
    r = vd_find_parent (ctx, s, place, image, ret_parent);
  for (i = 0; r == 0 && ret_parent->path && i < down->n; ++i)
    if (strcmp (down->paths[i], ret_parent->path) == 0)
      r = vd_error (ctx, ELOOP, "%s: its parent would be %s, which is above "
                    "it already: a circle", image->name, ret_parent->path);
  vd_ctx_init (&quiet, NULL);
  vd_image_close (&quiet, image);
  if (r < 0) {
    vd_found_free (ret_parent);
    return r;
  }
  return ret_parent->path != NULL;
}

static void
turn_round (struct vd_files *files)
{
  size_t i;

  for (i = 0; i < files->n / 2; ++i) {
    size_t j = files->n - 1 - i;
    char *path = files->paths[i];
    int fd = files->fds[i];

    files->paths[i] = files->paths[j];
    files->fds[i] = files->fds[j];
    files->paths[j] = path;
    files->fds[j] = fd;
  }
}

int
vd_find_chain (struct vd_ctx *ctx, const char *path,
               const struct vd_search *how, struct vd_files *ret)
{
  struct places s = { .policy = how->policy };
  struct vd_files files = {
    .paths = calloc (VD_CHAIN_MAX, sizeof files.paths[0]),
    .fds = calloc (VD_CHAIN_MAX, sizeof files.fds[0]),
  };
  struct found next = { 0 };
  int r;

  if (!files.paths || !files.fds)
    r = vd_places_no_memory (ctx);
  else
    r = find_named (ctx, path, &next);
  if (r == 0)
    r = 1;
  while (r == 1) {
    if (files.n == VD_CHAIN_MAX) {
      vd_found_free (&next);
      r = vd_error (ctx, ELOOP, "%s: has more than %d images below it", path,
                    VD_CHAIN_MAX - 1);
      break;
    }
    files.paths[files.n] = next.path;
    files.fds[files.n++] = next.fd;
    next = (struct found) { 0 };
    r = step (ctx, &s, how, &files, &next);
  }
  vd_places_free (&s);
  if (r < 0) {
    vd_files_free (&files);
    return r;
  }
  /* Found from the top down, wanted from the base up. */
  turn_round (&files);
  *ret = files;
  return 0;
}

int
vd_check_settings (struct vd_ctx *ctx, const struct vd_chain *chain,
                   char **ret_spoils)
{
  const size_t n = vd_chain_length (chain);
  struct places s = { 0 };
  size_t i;
  int r = 0;

  *ret_spoils = NULL;
  for (i = 0; r == 0 && i < n; ++i) {
    const struct vd_image *image = vd_chain_image (chain, i);
    CLEANUP_FREE char *real = realpath (image->name, NULL);

    if (!real)
      r = vd_error (ctx, errno, "%s: %m", image->name);
    else
      r = vd_places_add_of (ctx, &s, real, -1);
    if (r == 0)
      r = check_encrypted (ctx, &s, image);
  }
  if (r == 0)
    r = find_children (ctx, &s, vd_chain_image (chain, n - 1), ret_spoils);
  vd_places_free (&s);
  return r;
}
