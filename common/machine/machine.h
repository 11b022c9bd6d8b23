/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who is whose parent: the images below a differencing image, found by the
 * hint in it (VMware), by UUID in a .vbox file, or among the images beside it
 * (vd-semantics 18.4, vmdk-format 10.3, rules 6 and 7).
 *
 * What is looked at: the folder of the image; in VirtualBox's layout, where
 * it is in "Snapshots", also the folder above; what the policy allows.
 */

#ifndef VDKIT_MACHINE_H
#define VDKIT_MACHINE_H

#include "image.h"

struct vd_search {
  const struct vd_policy *policy;       /* NULL: nothing more is allowed */
  const char *parent;           /* the file that is the parent of the given
                                   image, whatever its links say; or NULL */
  vd_log_fn log;
};

/* The files of the image's chain, base first, the image itself last; absolute
 * names if path is.  The array ends with NULL; free with vd_paths_free.
 *
 * -EUNATCH: a parent cannot be found; the message names it, the places that
 * were looked at, and what to do.  -ENOTUNIQ: two files have the UUID.
 * -ELOOP: too long, or a circle.  -ENOTSUP: encrypted, by a .vbox file.
 */
extern int vd_find_chain (struct vd_ctx *ctx, const char *path,
                          const struct vd_search *how,
                          char ***ret, size_t *ret_n);

extern void vd_paths_free (char **paths);

#endif /* VDKIT_MACHINE_H */
