/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Read-only files of a folder that are opened when they are first read, with
 * a limit on how many are open at once: a descriptor can name thousands.
 */

#ifndef VDKIT_LAZY_H
#define VDKIT_LAZY_H

#include "folder.h"

/* How many files may be open at once, in all sets together.  Thread-safe. */
struct vd_open_limit;

/* max 0: what is good for this process, by its RLIMIT_NOFILE.  NULL: no
 * memory.  vd_open_limit_free (NULL is fine) may be called before the sets are
 * freed.
 */
extern struct vd_open_limit *vd_open_limit_new (unsigned max);
extern void vd_open_limit_free (struct vd_open_limit *limit);

/* Count n files that are opened otherwise, and stay open: false, and nothing
 * is counted, if that leaves too little for those that come and go.  must:
 * they are opened anyway.  vd_open_limit_give when they are closed.
 */
extern bool vd_open_limit_keep (struct vd_open_limit *limit, size_t n,
                                bool must);
extern void vd_open_limit_give (struct vd_open_limit *limit, size_t n);

struct vd_lazy;                 /* a set of files in one folder */

/* The folder must outlive the set and its stores; vd_lazy_free may be called
 * before its stores are closed.
 */
extern int vd_lazy_new (struct vd_ctx *ctx, struct vd_folder *folder,
                        struct vd_open_limit *limit, struct vd_lazy **ret);
extern void vd_lazy_free (struct vd_lazy *set);

/* Check that the file may be opened, and its size, and close it again unless
 * there is room.  Later it must still be the same inode (else -ESTALE), and
 * fails as vd_folder_open does, when it is read.  The size is the one that it
 * had when it was opened last.  While more threads than the limit allows read
 * different files, so many are open.  If the process can open no more, idle
 * files are closed, and some time is waited, before it is -EMFILE.
 */
extern int vd_lazy_open (struct vd_ctx *ctx, struct vd_lazy *set,
                         const char *name, bool device,
                         struct vd_store **ret);

#endif /* VDKIT_LAZY_H */
