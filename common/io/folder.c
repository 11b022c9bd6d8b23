/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "escape.h"
#include "folder.h"

struct local {
  struct vd_folder f;
  int fd;
  char *path;                   /* real path, when it was opened */
};

static const struct vd_folder_ops local_ops;

static struct local *
local_of (struct vd_folder *f)
{
  assert (f->ops == &local_ops);
  return (struct local *) f;
}

static int
new_local (struct vd_ctx *ctx, int fd, const char *path,
           const struct vd_policy *policy, enum vd_lock lock,
           struct vd_folder **ret)
{
  struct local *l = calloc (1, sizeof *l);

  if (l)
    l->path = strdup (path);
  if (!l || !l->path) {
    free (l);
    close (fd);
    return vd_error (ctx, ENOMEM, "%s: no memory for the folder", path);
  }
  l->f.ops = &local_ops;
  l->f.policy = policy;
  l->f.lock = lock;
  l->fd = fd;
  *ret = &l->f;
  return 0;
}

int
vd_folder_of (struct vd_ctx *ctx, const char *path,
              const struct vd_policy *policy, enum vd_lock lock,
              struct vd_folder **ret)
{
  const char *slash = strrchr (path, '/');
  CLEANUP_FREE char *folder = NULL, *real = NULL;
  int fd;

  if (slash == NULL)
    folder = strdup (".");
  else
    folder = strndup (path, slash == path ? 1 : slash - path);
  if (folder)
    real = realpath (folder, NULL);
  if (!real)
    return vd_error (ctx, errno, "%s: %m", folder ? folder : path);
  fd = open (real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  /* A folder that may be searched but not listed will do, but for syncing. */
  if (fd == -1 && errno == EACCES)
    fd = open (real, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd == -1)
    return vd_error (ctx, errno, "%s: open: %m", real);
  return new_local (ctx, fd, real, policy, lock, ret);
}

/* ---- the box ---------------------------------------------------------- */

/* Look up a path below a folder, step by step, for kernels (or sandboxes)
 * without openat2.  No links at all are followed: whether one leads out is
 * not worth knowing here.
 */
static int
walk_beneath (int folder, const char *path)
{
  CLEANUP_FREE char *copy = strdup (path);
  char *part, *save = NULL, *next;
  int fd, up;

  if (!copy)
    return -1;
  if (path[0] == '/' || path[0] == '\0') {
    errno = path[0] ? EXDEV : ENOENT;
    return -1;
  }
  fd = fcntl (folder, F_DUPFD_CLOEXEC, 0);
  for (part = strtok_r (copy, "/", &save); part && fd != -1; part = next) {
    struct stat sb;

    next = strtok_r (NULL, "/", &save);
    if (strcmp (part, "..") == 0) {
      close (fd);
      errno = EXDEV;
      return -1;
    }
    up = fd;
    fd = openat (up, part, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    close (up);
    if (fd != -1 && (fstat (fd, &sb) == -1 || S_ISLNK (sb.st_mode))) {
      close (fd);
      errno = ELOOP;
      return -1;
    }
  }
  return fd;
}

/* An O_PATH descriptor of what lies at path below the folder; nothing is
 * opened.  EXDEV: it is not below.
 */
static int
find_beneath (int folder, const char *path)
{
  struct open_how how = {
    .flags = O_PATH | O_CLOEXEC,
    .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
  };
  int fd;

  do
    fd = syscall (SYS_openat2, folder, path, &how, sizeof how);
  while (fd == -1 && errno == EAGAIN);
  if (fd == -1 && (errno == ENOSYS || errno == EPERM))
    fd = walk_beneath (folder, path);
  return fd;
}

/* The path with ".", ".." and doubled slashes worked out as text: only to see
 * which allowed folder may be meant, the look-up there is a confined one.
 */
static char *
absolute_text (const char *folder, const char *name)
{
  CLEANUP_FREE char *joined = NULL;
  char *out, *part, *save = NULL;
  size_t len = 0;

  if (asprintf (&joined, "%s/%s", name[0] == '/' ? "" : folder, name) == -1) {
    joined = NULL;
    return NULL;
  }
  out = malloc (strlen (joined) + 2);
  if (!out)
    return NULL;
  for (part = strtok_r (joined, "/", &save); part;
       part = strtok_r (NULL, "/", &save)) {
    if (strcmp (part, ".") == 0)
      continue;
    if (strcmp (part, "..") == 0) {
      while (len > 0 && out[--len] != '/')
        ;
      continue;
    }
    out[len++] = '/';
    memcpy (&out[len], part, strlen (part));
    len += strlen (part);
  }
  if (len == 0)
    out[len++] = '/';
  out[len] = '\0';
  return out;
}

static int
find_allowed (const struct local *l, const char *name)
{
  const char *const *allow = l->f.policy ? l->f.policy->allow_paths : NULL;
  CLEANUP_FREE char *text = absolute_text (l->path, name);
  int folder, fd;

  errno = text ? EXDEV : ENOMEM;
  for (; text && allow && *allow; ++allow) {
    CLEANUP_FREE char *real = realpath (*allow, NULL);
    size_t n = real ? strlen (real) : 0;

    if (!real)
      continue;
    if (n == 1)
      n = 0;                    /* "/" allows all */
    if (strncmp (text, real, n) != 0 || text[n] != '/' || !text[n + 1]) {
      errno = EXDEV;
      continue;
    }
    folder = open (real, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder == -1)
      return -1;
    fd = find_beneath (folder, &text[n + 1]);
    close (folder);
    if (fd != -1 || errno != EXDEV)
      return fd;
  }
  return -1;
}

static bool
is_raw_disk (const struct vd_policy *policy, const char *name)
{
  const char *const *d;

  if (!policy)
    return false;
  if (policy->any_raw_disk)
    return true;
  for (d = policy->raw_disks; d && *d; ++d) {
    CLEANUP_FREE char *a = realpath (*d, NULL), *b = realpath (name, NULL);

    if (strcmp (*d, name) == 0 || (a && b && strcmp (a, b) == 0))
      return true;
  }
  return false;
}

static int
refuse (struct vd_ctx *ctx, const struct local *l, const char *shown,
        bool device)
{
  return vd_error (ctx, EACCES, "%s: the image names this file, which is not "
                   "in its folder %s; if you trust the image, allow it with "
                   "%s", shown, l->path,
                   device ? "raw-disk=" : "allow-paths=");
}

/* Find what may be opened under this name: an O_PATH descriptor. */
static int
find (struct vd_ctx *ctx, struct local *l, const char *name,
      const char *shown, bool device)
{
  struct stat sb;
  int fd;

  if (name[0] == '\0')
    return vd_error (ctx, EINVAL, "%s: the image names a file with no name",
                     l->path);
  fd = name[0] == '/' ? -1 : find_beneath (l->fd, name);
  if (name[0] == '/')
    errno = EXDEV;
  if (fd == -1 && errno == EXDEV)
    fd = find_allowed (l, name);
  if (fd == -1 && errno == EXDEV) {
    if (!device || !is_raw_disk (l->f.policy, name))
      return refuse (ctx, l, shown, device);
    fd = openat (l->fd, name, O_PATH | O_CLOEXEC);
  }
  if (fd == -1)
    return vd_error (ctx, errno, "%s/%s: %m", l->path, shown);
  if (fstat (fd, &sb) == -1) {
    int err = errno;

    close (fd);
    errno = err;
    return vd_error (ctx, err, "%s: %m", shown);
  }
  if (S_ISBLK (sb.st_mode) &&
      !(device && is_raw_disk (l->f.policy, name))) {
    close (fd);
    return refuse (ctx, l, shown, true);
  }
  return fd;
}

static int
local_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
            bool write, bool device, bool *ret_writer, struct vd_store **ret)
{
  struct local *l = local_of (f);
  char shown[512];
  struct stat sb;
  size_t i;
  int fd, r;

  vd_escape (name, strlen (name), shown, sizeof shown);
  fd = find (ctx, l, name, shown, device);
  if (fd < 0)
    return fd;
  if (write && f->ninherit > 0 && fstat (fd, &sb) == 0) {
    for (i = 0; i < f->ninherit; ++i) {
      if (vd_file_is (f->inherit[i], &sb)) {
        close (fd);
        return vd_file_reopen_write (ctx, f->inherit[i], f->lock, ret_writer,
                                     ret);
      }
    }
  }
  r = vd_file_open_fd (ctx, shown, fd, write, f->lock, ret_writer, ret);
  close (fd);
  return r;
}

static int
local_stat (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
            bool device, struct stat *ret)
{
  struct local *l = local_of (f);
  char shown[512];
  int fd, r = 0;

  vd_escape (name, strlen (name), shown, sizeof shown);
  fd = find (ctx, l, name, shown, device);
  if (fd < 0)
    return fd;
  if (fstat (fd, ret) == -1)
    r = vd_error (ctx, errno, "%s: %m", shown);
  close (fd);
  return r;
}

static int
local_create (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
              struct vd_store **ret)
{
  struct local *l = local_of (f);
  CLEANUP_FREE char *path = NULL;

  assert (!strchr (name, '/'));
  if (asprintf (&path, "%s/%s", l->path, name) == -1) {
    path = NULL;
    return vd_error (ctx, ENOMEM, "%s: no memory", name);
  }
  return vd_file_create_at (ctx, l->fd, name, path, f->lock, ret);
}

static int
local_remove (struct vd_ctx *ctx, struct vd_folder *f, const char *name)
{
  struct local *l = local_of (f);

  if (unlinkat (l->fd, name, 0) == -1)
    return vd_error (ctx, errno, "%s/%s: unlink: %m", l->path, name);
  return 0;
}

static int
local_again (struct vd_ctx *ctx, struct vd_folder *f, struct vd_folder **ret)
{
  struct local *l = local_of (f);
  int fd = fcntl (l->fd, F_DUPFD_CLOEXEC, 0);

  if (fd == -1)
    return vd_error (ctx, errno, "%s: dup: %m", l->path);
  return new_local (ctx, fd, l->path, f->policy, f->lock, ret);
}

static int
local_sync (struct vd_ctx *ctx, struct vd_folder *f)
{
  struct local *l = local_of (f);
  int r;

  do
    r = fsync (l->fd);
  while (r == -1 && errno == EINTR);
  /* EINVAL: a file system whose folders cannot be synced; EBADF: one that
   * could not be opened but to look names up.
   */
  if (r == -1 && errno != EINVAL && errno != EBADF)
    return vd_error (ctx, errno, "%s: fsync: %m", l->path);
  return 0;
}

static void
local_close (struct vd_folder *f)
{
  struct local *l = local_of (f);

  close (l->fd);
  free (l->path);
  free (l);
}

static const struct vd_folder_ops local_ops = {
  .open = local_open,
  .stat = local_stat,
  .create = local_create,
  .remove = local_remove,
  .again = local_again,
  .sync = local_sync,
  .close = local_close,
};

/* ---- for everyone ------------------------------------------------------ */

int
vd_folder_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                bool write, bool device, bool *ret_writer,
                struct vd_store **ret)
{
  return f->ops->open (ctx, f, name, write, device, ret_writer, ret);
}

int
vd_folder_stat (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                bool device, struct stat *ret)
{
  return f->ops->stat (ctx, f, name, device, ret);
}

int
vd_folder_create (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                  struct vd_store **ret)
{
  return f->ops->create (ctx, f, name, ret);
}

int
vd_folder_remove (struct vd_ctx *ctx, struct vd_folder *f, const char *name)
{
  return f->ops->remove (ctx, f, name);
}

int
vd_folder_again (struct vd_ctx *ctx, struct vd_folder *f,
                 struct vd_store *const *inherit, size_t ninherit,
                 struct vd_folder **ret)
{
  int r = f->ops->again (ctx, f, ret);

  if (r == 0) {
    (*ret)->inherit = inherit;
    (*ret)->ninherit = ninherit;
  }
  return r;
}

int
vd_folder_sync (struct vd_ctx *ctx, struct vd_folder *f)
{
  return f->ops->sync (ctx, f);
}

void
vd_folder_close (struct vd_folder *f)
{
  if (f)
    f->ops->close (f);
}
