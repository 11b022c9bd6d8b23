/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who is whose parent: the images below a differencing image, found by the
 * hint in it (VMware), by UUID in a .vbox file, or among the images beside it
 * (vd-semantics 18.4, vmdk-format 10.3, rules 6 and 7).
 *
 * What is looked at: the folder of the image; in VirtualBox's layout, where
 * it is in "Snapshots", also the folder above; the same for each parent that
 * was found; the folders that the policy allows (but none below them).  Names
 * in images and settings pass the gate of io/folder.h.
 */

#ifndef VDKIT_MACHINE_H
#define VDKIT_MACHINE_H

#include "image.h"

struct vd_search {
  const struct vd_policy *policy;       /* NULL: nothing more is allowed */
  const char *parent;           /* the file that is the parent of the given
                                   image, whatever its links say; or NULL */
  bool alone;                   /* no parents are wanted: the image itself,
                                   if the .vbox files have nothing against
                                   it */
  vd_log_fn log;
};

/* The files of the image's chain, base first, the image itself last; absolute
 * names if path is.  The array ends with NULL; free with vd_paths_free.
 *
 * -EUNATCH: a parent cannot be found; the message names it, the places that
 * were looked at, and what to do.  -ENOTUNIQ: two files have the UUID.
 * -EFBIG: it may be in a folder with too many entries.  -ELOOP: too long, or
 * a circle.  -ENOTSUP: encrypted, by a .vbox file.
 */
extern int vd_find_chain (struct vd_ctx *ctx, const char *path,
                          const struct vd_search *how,
                          char ***ret, size_t *ret_n);

extern void vd_paths_free (char **paths);

#endif /* VDKIT_MACHINE_H */
