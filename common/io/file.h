/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A local file or block device as a store, with the locks that keep qemu and
 * vdkit out of each other's way (nbdkit-facts 2.4, rules 4).
 */

#ifndef VDKIT_FILE_H
#define VDKIT_FILE_H

#include <sys/stat.h>

#include "store.h"

/* Locks are open-file-description locks on single bytes.  They survive the
 * fork of a daemon and go when the last descriptor is closed.
 */
enum vd_lock {
  VD_LOCK_OFF,
  VD_LOCK_AUTO,                 /* reader's or writer's, as it is opened */
};

/* Open an existing regular file or block device.  O_CLOEXEC; anything but a
 * regular file or block device is refused (-EINVAL, or -EISDIR) without
 * blocking on it.  write: O_RDWR and the writer's lock, otherwise O_RDONLY
 * and the reader's.
 *
 * -EBUSY: another process holds a conflicting lock; *ret_writer (may be NULL)
 * then says whether a writer holds it (true) or only readers.
 * -EACCES, -EPERM, -EROFS, -ETXTBSY and the other errors of open as such.
 */
extern int vd_file_open (struct vd_ctx *ctx, const char *path, bool write,
                         enum vd_lock lock, bool *ret_writer,
                         struct vd_store **ret);

/* The same for what the O_PATH descriptor probe stands for, which stays the
 * caller's.  name is for messages.
 */
extern int vd_file_open_fd (struct vd_ctx *ctx, const char *name, int probe,
                            bool write, enum vd_lock lock, bool *ret_writer,
                            struct vd_store **ret);

/* Do both stand for the same bytes?  Nodes of one block device do, wherever
 * they are.
 */
extern bool vd_same_inode (const struct stat *a, const struct stat *b);

/* Are these the same file?  False for stores that are not files. */
extern bool vd_file_same (const struct vd_store *a, const struct vd_store *b);

/* Is this store the file with this inode? */
extern bool vd_file_is (const struct vd_store *st, const struct stat *sb);

/* The descriptor of a store that is a file here, for libraries that read it
 * themselves; it stays the store's.  -1: it is something else.
 */
extern int vd_file_fd (const struct vd_store *st);

/* Open for writing what st (from vd_file_open or vd_lazy_open, read-only) has
 * open: the same inode, whatever the name means now.  The writer's lock bytes
 * are taken on the new store before those of st are given up, so no other
 * writer gets in between.  On success st stays open without a lock, and the
 * caller closes it when no reader uses it any more; on failure st has its lock
 * back.
 * Errors as vd_file_open; -ENOTSUP: st is no local file.
 */
extern int vd_file_reopen_write (struct vd_ctx *ctx, struct vd_store *st,
                                 enum vd_lock lock, bool *ret_writer,
                                 struct vd_store **ret);

/* Undo vd_file_reopen_write after it succeeded: st takes the reader's lock
 * back, best before the writing store is closed.  Does nothing if st has its
 * lock, or is not a file.
 */
extern int vd_file_relock (struct vd_ctx *ctx, struct vd_store *st,
                           enum vd_lock lock);

/* Create a new file (O_EXCL, mode 0600: rules O16) with the writer's lock.
 * -EEXIST if it exists.
 */
extern int vd_file_create (struct vd_ctx *ctx, const char *path,
                           enum vd_lock lock, struct vd_store **ret);

/* The same relative to an open folder; name is for messages. */
extern int vd_file_create_at (struct vd_ctx *ctx, int folder,
                              const char *path, const char *name,
                              enum vd_lock lock, struct vd_store **ret);

/* fsync the folder that holds path, so that a new name survives a crash. */
extern int vd_file_sync_folder (struct vd_ctx *ctx, const char *path);

#endif /* VDKIT_FILE_H */
