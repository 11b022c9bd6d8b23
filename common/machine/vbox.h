/* SPDX-License-Identifier: BSD-3-Clause
 *
 * VirtualBox machine settings (.vbox): which disk images there are, and where
 * (vd-semantics 18).
 *
 * The file is untrusted.  It is parsed by libxml2 without network and without
 * entities; a document type is refused.
 */

#ifndef VDKIT_VBOX_H
#define VDKIT_VBOX_H

#include "ctx.h"
#include "uuid.h"

#define VBOX_MAX (16 * 1024 * 1024)     /* bytes of a settings file */

struct vbox_disk {
  struct vd_uuid uuid;
  struct vd_uuid parent;        /* null: a base */
  char *location;               /* as written */
  bool encrypted;               /* has CRYPT/ properties */
};

struct vbox {
  char *path;
  struct vbox_disk *disks;
  size_t n;
};

/* fd: a descriptor (O_PATH will do) of the file, which stays the caller's; the
 * path is for messages.  -EIO: not well-formed, or not a settings file;
 * -EFBIG: too large.
 */
extern int vbox_read (struct vd_ctx *ctx, const char *path, int fd,
                      struct vbox **ret);
extern void vbox_free (struct vbox *v); /* NULL is fine */

/* NULL: not listed. */
extern const struct vbox_disk *vbox_find (const struct vbox *v,
                                          const struct vd_uuid *uuid);

#endif /* VDKIT_VBOX_H */
