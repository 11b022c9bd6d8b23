/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <dirent.h>
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

int
vd_folder_of_fd (struct vd_ctx *ctx, const char *path, int fd,
                 const struct vd_policy *policy, enum vd_lock lock,
                 struct vd_folder **ret)
{
  const char *slash = strrchr (path, '/');
  struct stat was, is;
  int r;

  r = vd_folder_of (ctx, path, policy, lock, ret);
  if (r < 0)
    return r;
  if (fstat (fd, &was) == 0 &&
      fstatat (local_of (*ret)->fd, slash ? slash + 1 : path, &is,
               AT_SYMLINK_NOFOLLOW) == 0 &&
      was.st_dev == is.st_dev && was.st_ino == is.st_ino)
    return 0;
  vd_folder_close (*ret);
  return vd_error (ctx, ESTALE, "%s: was replaced while it was opened", path);
}

/* ---- the box ---------------------------------------------------------- */

#define WALK_FOLDERS 64         /* below the first */
#define WALK_LINKS 40           /* as the kernel */

/* The target of the link behind an O_PATH descriptor, with what came after
 * the link in the path.
 */
static char *
link_target (int fd, const char *rest)
{
  char target[PATH_MAX], *ret;
  ssize_t n = readlinkat (fd, "", target, sizeof target);

  if (n <= 0 || n == sizeof target) {
    if (n >= 0)
      errno = n ? ENAMETOOLONG : ENOENT;
    return NULL;
  }
  if (target[0] == '/') {
    errno = EXDEV;
    return NULL;
  }
  if (asprintf (&ret, "%.*s%s", (int) n, target, rest) == -1) {
    errno = ENOMEM;
    return NULL;
  }
  return ret;
}

/* find_beneath for kernels (or sandboxes) without openat2: look the path up
 * step by step.  The folders on the way stay open, so that ".." in a link
 * leads to where we came from, and never to where a folder was moved to
 * meanwhile.
 */
static int
walk_beneath (int folder, const char *path)
{
  CLEANUP_FREE char *copy = strdup (path);
  int folders[1 + WALK_FOLDERS] = { folder };
  char *p = copy, *rest, *target;
  unsigned n = 0, links = 0;
  int fd = -1, err = 0;
  struct stat sb;

  if (!copy)
    return -1;
  if (path[0] == '/' || path[0] == '\0') {
    errno = path[0] ? EXDEV : ENOENT;
    return -1;
  }
  for (;;) {
    p += strspn (p, "/");
    rest = p + strcspn (p, "/");
    if (p == rest) {
      /* The path ends in a slash or a dot: it is the folder where we are. */
      fd = fcntl (folders[n], F_DUPFD_CLOEXEC, 0);
      break;
    }
    if (rest - p == 1 && p[0] == '.') {
      p = rest;
      continue;
    }
    if (rest - p == 2 && p[0] == '.' && p[1] == '.') {
      if (n == 0) {
        errno = EXDEV;
        break;
      }
      close (folders[n--]);
      p = rest;
      continue;
    }

    if (*rest) {
      *rest = '\0';
      fd = openat (folders[n], p, O_PATH | O_NOFOLLOW | O_CLOEXEC);
      *rest = '/';
    }
    else
      fd = openat (folders[n], p, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd == -1 || fstat (fd, &sb) == -1)
      goto failed;

    if (S_ISLNK (sb.st_mode)) {
      if (++links > WALK_LINKS) {
        errno = ELOOP;
        goto failed;
      }
      target = link_target (fd, rest);
      if (!target)
        goto failed;
      close (fd);
      fd = -1;
      free (copy);
      p = copy = target;
      continue;
    }
    if (*rest == '\0')
      break;
    if (!S_ISDIR (sb.st_mode)) {
      errno = ENOTDIR;
      goto failed;
    }
    if (n == WALK_FOLDERS) {
      errno = ENAMETOOLONG;
      goto failed;
    }
    folders[++n] = fd;
    fd = -1;
    p = rest;
  }
  goto out;

 failed:
  err = errno;
  if (fd != -1)
    close (fd);
  fd = -1;
  errno = err;
 out:
  err = errno;
  while (n > 0)
    close (folders[n--]);
  errno = err;
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
  unsigned tries = 0;
  int fd;

  /* EAGAIN: something was renamed, and the kernel cannot tell whether it is
   * still below.  Who renames all the time must not keep us here.
   */
  do
    fd = syscall (SYS_openat2, folder, path, &how, sizeof how);
  while (fd == -1 && (errno == EINTR || (errno == EAGAIN && ++tries < 100)));
  if (fd == -1 && (errno == ENOSYS || errno == EPERM || errno == EAGAIN))
    fd = walk_beneath (folder, path);
  return fd;
}

/* Does the name itself go up?  (A link that does may stay inside.) */
static bool
has_dotdot (const char *name)
{
  const char *p = name;

  for (;;) {
    p += strspn (p, "/");
    if (*p == '\0')
      return false;
    if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || p[2] == '\0'))
      return true;
    p += strcspn (p, "/");
  }
}

/* ---- what the user allows ---------------------------------------------- */

/* NULL: nothing. */
static const struct vd_policy *
allowances (const struct local *l)
{
  return l->f.policy && !l->f.policy->strict ? l->f.policy : NULL;
}

static char *
join (const char *folder, const char *name)
{
  char *ret;

  if (name[0] == '/')
    return strdup (name);
  return asprintf (&ret, "%s/%s", folder, name) == -1 ? NULL : ret;
}

/* The path with ".", ".." and doubled slashes worked out as text. */
static char *
tidy (const char *path)
{
  CLEANUP_FREE char *copy = strdup (path);
  char *out = malloc (strlen (path) + 2);
  char *part, *save = NULL;
  size_t len = 0;

  if (!copy || !out) {
    free (out);
    return NULL;
  }
  for (part = strtok_r (copy, "/", &save); part;
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

/* The path of path as seen from folder, both tidy; NULL: not below. */
static const char *
below (const char *folder, const char *path)
{
  size_t n;

  if (!folder || !path)
    return NULL;
  n = strlen (folder);
  if (n == 1)
    n = 0;                      /* "/" */
  if (strncmp (path, folder, n) != 0 || path[n] != '/' || !path[n + 1])
    return NULL;
  return &path[n + 1];
}

/* Look a name up in the folders that the user allows.  What is compared is
 * text, and only says in which folder to look: the look-up is confined to
 * that folder, whatever happens to the names meanwhile.
 */
static int
find_allowed (const struct local *l, const char *name)
{
  const struct vd_policy *policy = allowances (l);
  const char *const *allow = policy ? policy->allow_paths : NULL;
  CLEANUP_FREE char *joined = NULL, *text = NULL, *real = NULL;
  int err;

  if (!allow || !*allow) {
    errno = EXDEV;
    return -1;
  }
  joined = join (l->path, name);
  text = joined ? tidy (joined) : NULL;
  if (!text) {
    errno = ENOMEM;
    return -1;
  }
  /* A link in the image's folder may lead to an allowed one. */
  real = realpath (joined, NULL);

  for (; *allow; ++allow) {
    CLEANUP_FREE char *folder = realpath (*allow, NULL);
    CLEANUP_FREE char *written =
      (*allow)[0] == '/' ? tidy (*allow) : NULL;
    const char *rest[3];
    int up, fd, i;

    if (!folder)
      continue;
    rest[0] = below (folder, text);
    rest[1] = below (written, text);
    rest[2] = below (folder, real);
    for (i = 0; i < 3; ++i) {
      if (!rest[i])
        continue;
      up = open (folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (up == -1)
        return -1;
      fd = find_beneath (up, rest[i]);
      err = errno;
      close (up);
      errno = err;
      if (fd != -1 || err != EXDEV)
        return fd;
    }
  }
  errno = EXDEV;
  return -1;
}

/* Is this one of the raw disks that the user allows?  Compared are inodes and
 * device numbers, so it does not matter by which name.
 */
static bool
is_raw_disk (const struct local *l, const struct stat *sb)
{
  const struct vd_policy *policy = allowances (l);
  const char *const *d;
  struct stat disk;

  if (!policy)
    return false;
  if (policy->any_raw_disk)
    return true;
  for (d = policy->raw_disks; d && *d; ++d) {
    if (stat (*d, &disk) == -1)
      continue;
    if (vd_same_inode (&disk, sb))
      return true;
  }
  return false;
}

/* Look up a raw disk anywhere.  EXDEV: not allowed, which is also said of
 * what is not there, unless the user has given that name.
 */
static int
find_raw_disk (const struct local *l, const char *name)
{
  const struct vd_policy *policy = allowances (l);
  const char *const *d = policy ? policy->raw_disks : NULL;
  struct stat sb;
  int fd;

  if (!vd_policy_has_raw_disks (policy)) {
    errno = EXDEV;
    return -1;
  }
  fd = openat (l->fd, name, O_PATH | O_CLOEXEC);
  if (fd == -1) {
    for (; d && *d; ++d)
      if (strcmp (*d, name) == 0)
        return -1;
    if (!policy->any_raw_disk)
      errno = EXDEV;
    return -1;
  }
  if (fstat (fd, &sb) == 0 && is_raw_disk (l, &sb))
    return fd;
  close (fd);
  errno = EXDEV;
  return -1;
}

/* name: as it was given; it leads out of the box. */
static int
refuse (struct vd_ctx *ctx, const struct local *l, const char *name,
        const char *shown, bool device)
{
  const char *namer = l->f.namer ? l->f.namer : "the image", *why;

  if (l->f.policy && l->f.policy->strict)
    return vd_error (ctx, EACCES, "%s: %s names this file, which is "
                     "not a plain file in its folder %s; strict=true allows "
                     "nothing else", shown, namer, l->path);
  /* Such a name is not followed even if it leads back. */
  if (name[0] == '/')
    why = "by an absolute path, and only names relative to";
  else if (has_dotdot (name))
    why = "by a path with \"..\", and only names that stay below";
  else
    return vd_error (ctx, EACCES, "%s: %s names this file, which is not "
                     "in its folder %s; if you trust it, allow the file with "
                     "%s", shown, namer, l->path,
                     device ? "raw-disk=" : "allow-paths=");
  return vd_error (ctx, EACCES, "%s: %s names this file %s its folder %s are "
                   "followed; if you trust it, allow the file with %s", shown,
                   namer, why, l->path, device ? "raw-disk=" : "allow-paths=");
}

static int
check_name (struct vd_ctx *ctx, const struct local *l, const char *name,
            const char *shown)
{
  const char *p;

  if (name[0] == '\0')
    return vd_error (ctx, EINVAL, "%s: the image names a file with no name",
                     l->path);
  for (p = name; *p; ++p)
    if ((unsigned char) *p < 0x20 || *p == 0x7f)
      return vd_error (ctx, EINVAL, "%s: the image names this file; control "
                       "characters in a name are not allowed", shown);
  if (l->f.policy && l->f.policy->strict && strchr (name, '/'))
    return refuse (ctx, l, name, shown, false);
  return 0;
}

/* Find what may be opened under this name: an O_PATH descriptor. */
static int
find (struct vd_ctx *ctx, struct local *l, const char *name,
      const char *shown, bool device)
{
  struct stat sb;
  int fd = -1, r;

  r = check_name (ctx, l, name, shown);
  if (r < 0)
    return r;
  if (name[0] == '/' || has_dotdot (name))
    errno = EXDEV;
  else
    fd = find_beneath (l->fd, name);
  if (fd == -1 && errno == EXDEV)
    fd = find_allowed (l, name);
  if (fd == -1 && errno == EXDEV && device)
    fd = find_raw_disk (l, name);
  if (fd == -1 && errno == EXDEV)
    return refuse (ctx, l, name, shown, device);
  if (fd == -1)
    return vd_error (ctx, errno, "%s: %m", shown);
  if (fstat (fd, &sb) == -1) {
    r = vd_error (ctx, errno, "%s: %m", shown);
    close (fd);
    return r;
  }

  /* A node of a block device is as good anywhere as in /dev. */
  if (S_ISBLK (sb.st_mode) && !(device && is_raw_disk (l, &sb))) {
    close (fd);
    if (!device)
      return vd_error (ctx, EACCES, "%s: is a block device, which the image "
                       "must not name here", shown);
    return refuse (ctx, l, name, shown, true);
  }
  return fd;
}

/* The name as in messages, with the folder. */
#define SHOWN_SIZE 1024

static const char *
show (const struct local *l, const char *name, char shown[SHOWN_SIZE])
{
  char escaped[SHOWN_SIZE / 2];

  vd_escape (name, strlen (name), escaped, sizeof escaped);
  if (name[0] == '/' ||
      snprintf (shown, SHOWN_SIZE, "%s/%s", l->path, escaped) >= SHOWN_SIZE)
    strcpy (shown, escaped);
  return shown;
}

static int
local_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
            bool write, bool device, bool *ret_writer, struct vd_store **ret)
{
  struct local *l = local_of (f);
  char shown[SHOWN_SIZE];
  struct stat sb;
  size_t i;
  int fd, r;

  show (l, name, shown);
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
  char shown[SHOWN_SIZE];
  int fd, r = 0;

  show (l, name, shown);
  fd = find (ctx, l, name, shown, device);
  if (fd < 0)
    return fd;
  if (fstat (fd, ret) == -1)
    r = vd_error (ctx, errno, "%s: %m", shown);
  close (fd);
  return r;
}

/* The real path of what was found under this name. */
static char *
path_of (const struct local *l, const char *name, int fd)
{
  CLEANUP_FREE char *joined = NULL;
  struct stat was, is;
  char proc[32], *path;

  /* What the kernel says, whatever led there. */
  snprintf (proc, sizeof proc, "/proc/self/fd/%d", fd);
  path = realpath (proc, NULL);
  if (!path) {                  /* no /proc */
    joined = join (l->path, name);
    path = joined ? realpath (joined, NULL) : NULL;
  }
  if (!path)
    return NULL;
  if (fstat (fd, &was) == 0 && stat (path, &is) == 0 &&
      was.st_dev == is.st_dev && was.st_ino == is.st_ino)
    return path;
  free (path);
  errno = ESTALE;
  return NULL;
}

static int
local_find (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
            bool device, int *ret_fd, char **ret_path)
{
  struct local *l = local_of (f);
  char shown[SHOWN_SIZE];
  int fd, up;

  show (l, name, shown);
  fd = find (ctx, l, name, shown, device);
  if (fd < 0)
    return fd;
  if (fd == 0) {                /* in a process without stdin */
    up = fcntl (fd, F_DUPFD_CLOEXEC, 1);
    close (fd);
    if (up == -1)
      return vd_error (ctx, errno, "%s: dup: %m", shown);
    fd = up;
  }
  if (ret_path) {
    *ret_path = path_of (l, name, fd);
    if (!*ret_path) {
      int r = vd_error (ctx, errno, "%s: its real path: %m", shown);

      close (fd);
      return r;
    }
  }
  *ret_fd = fd;
  return 0;
}

static int
local_first_in (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                char **ret)
{
  struct local *l = local_of (f);
  const struct dirent *entry;
  char shown[SHOWN_SIZE];
  struct vd_ctx quiet;
  struct stat sb;
  int probe, fd, err;
  DIR *d = NULL;

  *ret = NULL;
  show (l, name, shown);
  vd_ctx_init (&quiet, NULL);
  probe = find (&quiet, l, name, shown, false);
  if (vd_is_shortage (probe))
    return vd_error (ctx, -probe, "%s", quiet.message);
  if (probe < 0)
    return 0;
  if (fstat (probe, &sb) == -1 || !S_ISDIR (sb.st_mode)) {
    close (probe);
    return 0;
  }
  fd = openat (probe, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd != -1)
    d = fdopendir (fd);
  err = errno;
  close (probe);
  if (!d) {
    if (fd != -1)
      close (fd);
    errno = err;
    return vd_error (ctx, err, "%s: open: %m", shown);
  }

  errno = 0;
  while ((entry = readdir (d)) &&
         (strcmp (entry->d_name, ".") == 0 ||
          strcmp (entry->d_name, "..") == 0))
    ;
  err = errno;
  if (entry) {
    *ret = strdup (entry->d_name);
    err = *ret ? 0 : ENOMEM;
  }
  closedir (d);
  errno = err;
  return err ? vd_error (ctx, err, "%s: list: %m", shown) : 0;
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

  assert (!strchr (name, '/'));
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
  .first_in = local_first_in,
  .find = local_find,
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
vd_folder_first_in (struct vd_ctx *ctx, struct vd_folder *f,
                    const char *name, char **ret)
{
  *ret = NULL;
  return f->ops->first_in ? f->ops->first_in (ctx, f, name, ret) : 0;
}

int
vd_folder_find (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
                bool device, int *ret_fd, char **ret_path)
{
  if (!f->ops->find)
    return vd_error (ctx, ENOTSUP, "%s: is not on a file system", name);
  return f->ops->find (ctx, f, name, device, ret_fd, ret_path);
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
