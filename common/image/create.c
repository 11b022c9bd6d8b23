/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Creating image files (rules O16).
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "image.h"
#include "raw.h"

static int
create (struct vd_ctx *ctx, const char *path, const struct vd_format *format,
        enum vd_lock lock, const struct vd_create *how)
{
  struct vd_folder *folder;
  struct vd_store *store;
  const char *name = strrchr (path, '/');
  int r;

  name = name ? name + 1 : path;
  r = vd_folder_of (ctx, path, NULL, lock, &folder);
  if (r < 0)
    return r;
  r = vd_folder_create (ctx, folder, name, &store);
  if (r < 0)
    goto out;
  r = format->create (ctx, store, folder, name, how);
  if (r == 0)
    r = vd_folder_sync (ctx, folder);
  /* Removed before the lock goes: nobody has seen it. */
  if (r < 0) {
    struct vd_ctx quiet;

    vd_ctx_init (&quiet, ctx->log);
    vd_folder_remove (&quiet, folder, name);
  }
  vd_store_close (store);
 out:
  vd_folder_close (folder);
  return r;
}

int
vd_image_create (struct vd_ctx *ctx, const char *path,
                 const struct vd_format *format, enum vd_lock lock,
                 const struct vd_create *how)
{
  struct vd_create with_raw = *how;
  struct vd_raw raw;
  int r;

  if (!format->create)
    return vd_error (ctx, ENOTSUP, "%s: %s images cannot be created",
                     path, format->name);
  r = format->check_create (ctx, how);
  if (r < 0)
    return r;
  if (!how->raw)
    return create (ctx, path, format, lock, how);

  raw = *how->raw;
  r = vd_raw_open (ctx, path, lock, how->size, &raw);
  with_raw.raw = &raw;
  with_raw.size = raw.size;
  /* Once more, as the size is known now. */
  if (r == 0)
    r = format->check_create (ctx, &with_raw);
  if (r == 0)
    r = create (ctx, path, format, lock, &with_raw);
  vd_raw_close (&raw);
  return r;
}
