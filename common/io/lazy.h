/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Read-only files of a folder that are opened when they are first read, with
 * a limit on how many are open at once: a descriptor can name thousands.
 */

#ifndef VDKIT_LAZY_H
#define VDKIT_LAZY_H

#include "folder.h"

struct vd_lazy;                 /* a set of files with one limit */

/* The folder must outlive the set and its stores; vd_lazy_free may be called
 * before its stores are closed.
 */
extern int vd_lazy_new (struct vd_ctx *ctx, struct vd_folder *folder,
                        unsigned max_open, struct vd_lazy **ret);
extern void vd_lazy_free (struct vd_lazy *set);

/* Check that the file may be opened, and its size, and close it again unless
 * there is room.  Later it must still be the same inode (else -ESTALE), and
 * fails as vd_folder_open does, when it is read.  The size is the one that it
 * had when it was opened last.  While more than max_open threads read
 * different files, so many are open.
 */
extern int vd_lazy_open (struct vd_ctx *ctx, struct vd_lazy *set,
                         const char *name, bool device,
                         struct vd_store **ret);

#endif /* VDKIT_LAZY_H */
