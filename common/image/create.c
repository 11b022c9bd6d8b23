/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Creating image files (rules O16).
 */

#include <config.h>

#include <errno.h>
#include <unistd.h>

#include "image.h"

int
vd_image_create (struct vd_ctx *ctx, const char *path,
                 const struct vd_format *format, enum vd_lock lock,
                 const struct vd_create *how)
{
  struct vd_store *store;
  int r;

  if (!format->create)
    return vd_error (ctx, ENOTSUP, "%s: %s images cannot be created",
                     path, format->name);
  r = format->check_create (ctx, how);
  if (r < 0)
    return r;
  r = vd_file_create (ctx, path, lock, &store);
  if (r < 0)
    return r;
  r = format->create (ctx, store, how);
  if (r == 0)
    r = vd_file_sync_folder (ctx, path);
  /* Removed before the lock goes: nobody has seen it. */
  if (r < 0)
    unlink (path);
  vd_store_close (store);
  return r;
}
