/* SPDX-License-Identifier: BSD-3-Clause
 *
 * VMware's locks: while a virtual machine has FILE open there is a folder
 * FILE.lck beside it with a file in it that says who (vmdk-format 12).  It
 * knows nothing of the locks that we and qemu take on the file, so this is
 * all there is to keep two writers apart.  We make no such folders.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "escape.h"
#include "vmdk-private.h"

/* The lock folder of a file of the image, as the image would name it, or (for
 * messages) with its path.
 */
static char *
lock_folder (const struct vd_image *image, const char *name, bool path)
{
  const char *slash = strrchr (image->name, '/');
  char *ret;

  if (!name)
    name = slash ? slash + 1 : image->name;
  if (!path || !slash || name[0] == '/')
    slash = image->name - 1;
  return asprintf (&ret, "%.*s%s.lck", (int) (slash + 1 - image->name),
                   image->name, name) == -1 ? NULL : ret;
}

int
vmdk_check_lock_folder (struct vd_ctx *ctx, struct vd_image *image,
                        const char *name)
{
  CLEANUP_FREE char *folder = NULL, *path = NULL, *entry = NULL;
  char shown[512], shown_entry[128];
  struct vd_ctx quiet;
  int r;

  if (!image->folder || image->folder->lock == VD_LOCK_OFF)
    return 0;
  folder = lock_folder (image, name, false);
  path = lock_folder (image, name, true);
  if (!folder || !path)
    return vd_error (ctx, ENOMEM, "%s: no memory to look for locks",
                     image->name);

  /* What cannot be looked into may well hold something. */
  strcpy (shown_entry, "what cannot be read");
  vd_ctx_init (&quiet, NULL);
  r = vd_folder_first_in (&quiet, image->folder, folder, &entry);
  if (vd_is_shortage (r))
    return vd_error (ctx, -r, "%s", quiet.message);
  if (r == 0) {
    if (!entry)
      return 0;
    vd_escape (entry, strlen (entry), shown_entry, sizeof shown_entry);
  }
  vd_escape (path, strlen (path), shown, sizeof shown);
  if (image->write)
    return vd_error (ctx, EBUSY, "%s: is locked by VMware: the folder %s "
                     "holds %s; shut the virtual machine down that uses the "
                     "disk, or, if none does, remove that folder or use "
                     "lock=off (in the diff filter: diff-lock=off)",
                     image->name, shown, shown_entry);
  vd_warning (ctx, "%s: a virtual machine of VMware may be writing it, as the "
              "folder %s holds %s: what is read may be of different times",
              image->name, shown, shown_entry);
  return 0;
}
