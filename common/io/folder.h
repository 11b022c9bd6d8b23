/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The files that an image names: its extents, and its parent.
 *
 * Names come out of the image and are hostile.  A folder opens what lies in
 * (or below) the real folder of the image, whatever the name is made of, and
 * beyond that only what the user has allowed (rules 7).
 */

#ifndef VDKIT_FOLDER_H
#define VDKIT_FOLDER_H

#include "file.h"
#include "store.h"

/* What the user allows; all strings belong to the caller and outlive the
 * folder.  Paths should be absolute.
 */
struct vd_policy {
  const char *const *allow_paths;       /* folders, ends with NULL; or NULL */
  const char *const *raw_disks;         /* devices or files, likewise */
  bool any_raw_disk;                    /* raw-disk=allow */
  bool strict;                          /* OpenStack's gate: plain names in
                                           the folder only, whatever the
                                           members above say */
};

/* May an image name any disk of the host at all?  policy may be NULL. */
static inline bool
vd_policy_has_raw_disks (const struct vd_policy *policy)
{
  return policy && (policy->any_raw_disk ||
                    (policy->raw_disks && policy->raw_disks[0]));
}

struct vd_folder;

struct vd_folder_ops {
  /* Open an existing file by the name in an image.  device: a raw disk may
   * be meant.  Errors as vd_file_open; -EACCES where the name leads out of
   * the box (the message says what would allow it): it is absolute, has a
   * component "..", or passes a link that leaves the folder.  Links that stay
   * inside pass.  -EINVAL for no name, or one with control characters.
   * Nothing is opened before it is known to be allowed, a FIFO or character
   * device never.  Thread-safe.
   */
  int (*open) (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool write, bool device, bool *ret_writer,
               struct vd_store **ret);
  /* What open would open: type, inode and size.  Errors as open. */
  int (*stat) (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool device, struct stat *ret);
  /* Is name a folder that is not empty?  *ret is the name of one of its
   * entries then, which the caller frees, and else NULL: also where there is
   * no such name, or it leads out of the box.  -EACCES: it is a folder, but
   * cannot be read.  NULL: there are no folders in here.
   */
  int (*first_in) (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                   char **ret);
  /* As vd_folder_find; NULL: not of the file system. */
  int (*find) (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool device, int *ret_fd, char **ret_path);
  /* Create a file; name is a plain name (no slash).  -EEXIST. */
  int (*create) (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                 struct vd_store **ret);
  int (*remove) (struct vd_ctx *ctx, struct vd_folder *f, const char *name);
  /* The same folder once more. */
  int (*again) (struct vd_ctx *ctx, struct vd_folder *f,
                struct vd_folder **ret);
  /* Names are durable on return. */
  int (*sync) (struct vd_ctx *ctx, struct vd_folder *f);
  void (*close) (struct vd_folder *f);
};

struct vd_folder {
  const struct vd_folder_ops *ops;
  const struct vd_policy *policy;       /* NULL: nothing is allowed */
  enum vd_lock lock;
  const char *namer;                    /* who names the files, for messages;
                                           NULL: the image.  The caller's */

  /* While an image that is open read-only is opened once more for writing
   * (vd_file_reopen_write): its files, whose locks must not stand in the way
   * of the new ones.  A file that is one of these (same inode) is reopened
   * from it.
   */
  struct vd_store *const *inherit;
  size_t ninherit;
};

/* The folder of the file at path, on the local file system. */
extern int vd_folder_of (struct vd_ctx *ctx, const char *path,
                         const struct vd_policy *policy, enum vd_lock lock,
                         struct vd_folder **ret);

/* The same, when the file was looked up before and fd (O_PATH will do) is what
 * it was then.  -ESTALE: another file has that name now, so the folder may be
 * another one too.
 */
extern int vd_folder_of_fd (struct vd_ctx *ctx, const char *path, int fd,
                            const struct vd_policy *policy, enum vd_lock lock,
                            struct vd_folder **ret);

extern int vd_folder_open (struct vd_ctx *ctx, struct vd_folder *f,
                           const char *name, bool write, bool device,
                           bool *ret_writer, struct vd_store **ret);
extern int vd_folder_stat (struct vd_ctx *ctx, struct vd_folder *f,
                           const char *name, bool device, struct stat *ret);
extern int vd_folder_first_in (struct vd_ctx *ctx, struct vd_folder *f,
                               const char *name, char **ret);
/* An O_PATH descriptor (> 0) of what open would open, for the caller to close,
 * and its real path (NULL is fine), for messages and for its folder.  Errors
 * as open; -ENOTSUP where a folder is not one of the file system.
 */
extern int vd_folder_find (struct vd_ctx *ctx, struct vd_folder *f,
                           const char *name, bool device, int *ret_fd,
                           char **ret_path);
extern int vd_folder_create (struct vd_ctx *ctx, struct vd_folder *f,
                             const char *name, struct vd_store **ret);
extern int vd_folder_remove (struct vd_ctx *ctx, struct vd_folder *f,
                             const char *name);
/* The same folder, whatever its name is now, to open again for writing what
 * is open already: inherit belongs to the caller and is used by
 * vd_folder_open only.
 */
extern int vd_folder_again (struct vd_ctx *ctx, struct vd_folder *f,
                            struct vd_store *const *inherit, size_t ninherit,
                            struct vd_folder **ret);
extern int vd_folder_sync (struct vd_ctx *ctx, struct vd_folder *f);
extern void vd_folder_close (struct vd_folder *f);      /* NULL is fine */

#endif /* VDKIT_FOLDER_H */
