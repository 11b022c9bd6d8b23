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

#include "chain.h"

struct vd_search {
  const struct vd_policy *policy;       /* NULL: nothing more is allowed */
  const char *parent;           /* the file that is the parent of the given
                                   image, whatever its links say; or NULL */
  bool alone;                   /* no parents are wanted: the image itself,
                                   if the .vbox files have nothing against
                                   it */
  vd_log_fn log;
};

/* Files, base first.  Who checked them keeps them open: open these, as names
 * can come to mean other files.
 */
struct vd_files {
  size_t n;
  char **paths;                 /* real paths */
  int *fds;                     /* O_PATH */
  char *spoils;                 /* a warning, should the image be written: a
                                   .vbox shows that others are on top of it;
                                   NULL: none does */
};

/* The files of the image's chain, the image itself last; for vd_files_free.
 *
 * -EUNATCH: a parent cannot be found; the message names it, the places that
 * were looked at, and what to do.  -ENOTUNIQ: two files have the UUID.
 * -EFBIG: it may be in a folder with too many entries.  -ELOOP: too long, or
 * a circle.  -ENOTSUP: encrypted, by a .vbox file.  -ESTALE: a file was
 * replaced meanwhile.
 */
extern int vd_find_chain (struct vd_ctx *ctx, const char *path,
                          const struct vd_search *how, struct vd_files *ret);

extern void vd_files_free (struct vd_files *files);

/* For a chain whose images the user has named: have the .vbox files in the
 * places that vd_find_chain looks at anything against one of them?  -ENOTSUP:
 * it is encrypted.  *ret_spoils is as in struct vd_files, for the topmost
 * image; the caller frees it.
 */
extern int vd_check_settings (struct vd_ctx *ctx,
                              const struct vd_chain *chain,
                              char **ret_spoils);

#endif /* VDKIT_MACHINE_H */
