/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "cleanup.h"
#include "disk.h"

/* Open files; more are of no use to a chain (MAX_OPEN of io/lazy.c). */
#define MANY_FILES 8192

/* ---- messages --------------------------------------------------------- */

/* nbdkit sends errors of a daemon to the system log, and has no warnings.
 * Where somebody can see stderr a warning goes there; in a daemon it goes the
 * way of the errors, as nobody would see it elsewhere.
 */
void
disk_log (const char *name, enum vd_log_level level, const char *text)
{
  struct stat st;

  if (level == VD_LOG_DEBUG)
    nbdkit_debug ("%s", text);
  else if (fstat (STDERR_FILENO, &st) == -1
           || (S_ISCHR (st.st_mode) && st.st_rdev == makedev (1, 3)))
    nbdkit_error ("warning: %s", text);
  else
    fprintf (stderr, "nbdkit: %s: warning: %s\n", name, text);
}

void
disk_report (const struct vd_ctx *ctx, int r)
{
  const char *message = ctx->error != 0 ? ctx->message : strerror (-r);
  struct rlimit limit;

  if (r == -EMFILE && getrlimit (RLIMIT_NOFILE, &limit) == 0)
    nbdkit_error ("%s; nbdkit may have %ju files open at once, which is too "
                  "few for this: raise the limit (ulimit -n)", message,
                  (uintmax_t) limit.rlim_cur);
  else
    nbdkit_error ("%s", message);
}

/* The end of a request that failed.  NBD has few errors and nbdkit turns all
 * others into EINVAL, as if the client had asked for nonsense: to it they are
 * I/O errors.  That goes for ENOTSUP as well, which makes old nbdkit believe
 * that a request to zero is done (see nbdkit-plugin(3), .zero, and versions
 * before 1.44.1).
 */
static int
fail (const struct vd_ctx *ctx, int r)
{
  disk_report (ctx, r);
  switch (-r) {
  case EPERM: case EROFS: case ENOMEM: case ENOSPC: case EDQUOT: case EFBIG:
  case EINVAL:
    errno = -r;
    break;
  default:
    errno = EIO;
  }
  return -1;
}

/* ---- life ------------------------------------------------------------- */

/* A write beyond the limit on the size of files (ulimit -f) is an error like a
 * full disk, and no reason to end.  Not SIG_IGN, which the command of --run
 * would inherit.
 */
static void
file_too_big (int sig)
{
  (void) sig;
}

void
disk_survive_file_size_limit (void)
{
  struct sigaction old;
  const struct sigaction sa = {
    .sa_handler = file_too_big,
    .sa_flags = SA_RESTART,
  };

  if (sigaction (SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
    sigaction (SIGXFSZ, &sa, NULL);
}

void
disk_allow_many_files (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) == 0 &&
      limit.rlim_cur < MANY_FILES && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max < MANY_FILES ? limit.rlim_max : MANY_FILES;
    setrlimit (RLIMIT_NOFILE, &limit);
  }
}

void
disk_warn_of_children (struct disk *d)
{
  struct vd_ctx ctx;

  if (!d->spoils || !vd_chain_writable (d->chain))
    return;
  vd_ctx_init (&ctx, d->log);
  vd_warning (&ctx, "%s", d->spoils);
  free (d->spoils);
  d->spoils = NULL;
}

/* Make the topmost image writable for all connections if that is not settled
 * yet.  The lock is held.  What failed in a way that may pass (above all a
 * writer in another program) fails this connection and is tried again with
 * the next.
 */
static int
make_writable (struct disk *d)
{
  struct vd_ctx ctx;
  int r;

  if (d->decided)
    return 0;

  vd_ctx_init (&ctx, d->log);
  r = vd_chain_reopen_write (&ctx, d->chain);
  switch (r) {
  case 0:
    disk_warn_of_children (d);
    break;
  case -EROFS:                  /* the core has said why */
    break;
  case -EAGAIN:                 /* other readers, who may leave */
    return 0;
  default:
    disk_report (&ctx, r);
    return -1;
  }
  d->decided = true;
  return 0;
}

/* Under the lock, so that no writer starts while disk_remove_writer ends the
 * session of the one before.
 */
int
disk_add_writer (struct disk *d)
{
  LOCK_SCOPE (&d->lock);

  if (make_writable (d) == -1)
    return -1;
  if (!vd_chain_writable (d->chain))
    return 0;
  d->writers++;
  return 1;
}

void
disk_remove_writer (struct disk *d)
{
  struct vd_ctx ctx;
  int r;

  LOCK_SCOPE (&d->lock);
  if (--d->writers > 0)
    return;
  vd_ctx_init (&ctx, d->log);
  r = vd_chain_end_session (&ctx, d->chain);
  if (r < 0)
    disk_report (&ctx, r);
}

/* No request is under way any more.  Whether each writer was removed is not
 * certain: the session ends here in any case.
 */
void
disk_cleanup (struct disk *d)
{
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, d->log);
  r = vd_chain_close (&ctx, d->chain);
  if (r < 0)
    disk_report (&ctx, r);
  d->chain = NULL;
  free (d->spoils);
  d->spoils = NULL;
}

/* ---- levels ------------------------------------------------------------ */

static int
add_level (struct disk *d, struct nbdkit_exports *exports, size_t level)
{
  char uuid[VD_UUID_TEXT], description[512];
  const char *name;

  vd_image_description (vd_chain_image (d->chain, level), description,
                        sizeof description);
  name = vd_chain_level_uuid (d->chain, level, uuid);
  if (name && nbdkit_add_export (exports, name, description) == -1)
    return -1;
  name = vd_chain_level_file (d->chain, level);
  if (name && nbdkit_add_export (exports, name, description) == -1)
    return -1;
  return 0;
}

int
disk_list_exports (struct disk *d, struct nbdkit_exports *exports)
{
  size_t i, n = vd_chain_length (d->chain);
  char description[512];

  vd_image_description (vd_chain_image (d->chain, n - 1), description,
                        sizeof description);
  if (nbdkit_add_export (exports, "", description) == -1)
    return -1;
  for (i = n; d->level_exports && i-- > 0;)
    if (add_level (d, exports, i) == -1)
      return -1;
  return 0;
}

bool
disk_find_level (struct disk *d, const char *name, size_t *ret)
{
  if (*name == '\0') {
    *ret = vd_chain_length (d->chain) - 1;
    return true;
  }
  return d->level_exports && vd_chain_find_level (d->chain, name, ret);
}

/* ---- data -------------------------------------------------------------- */

static void
init_ctx (struct vd_ctx *ctx, struct disk *d, void *next)
{
  vd_ctx_init (ctx, d->log);
  ctx->next = next;
}

static unsigned
core_flags (uint32_t flags)
{
  return (flags & NBDKIT_FLAG_FUA ? VD_FUA : 0)
    | (flags & NBDKIT_FLAG_MAY_TRIM ? VD_MAY_TRIM : 0)
    | (flags & NBDKIT_FLAG_FAST_ZERO ? VD_FAST : 0);
}

int
disk_pread (struct disk *d, void *next, size_t level, void *buf,
            uint32_t count, uint64_t offset)
{
  struct vd_ctx ctx;
  int r;

  init_ctx (&ctx, d, next);
  r = vd_chain_pread (&ctx, d->chain, level, buf, count, offset);
  return r < 0 ? fail (&ctx, r) : 0;
}

int
disk_pwrite (struct disk *d, void *next, const void *buf, uint32_t count,
             uint64_t offset, uint32_t flags)
{
  struct vd_ctx ctx;
  int r;

  init_ctx (&ctx, d, next);
  r = vd_chain_pwrite (&ctx, d->chain, buf, count, offset,
                       core_flags (flags));
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
flush (struct disk *d, void *next)
{
  struct vd_ctx ctx;
  int r;

  if (!vd_chain_writable (d->chain))
    return 0;
  init_ctx (&ctx, d, next);
  r = vd_chain_flush (&ctx, d->chain);
  return r < 0 ? fail (&ctx, r) : 0;
}

int
disk_flush (struct disk *d, void *next, bool writer)
{
  /* A writer's own flush cannot meet the end of the session, another's can.
   */
  if (writer)
    return flush (d, next);

  LOCK_SCOPE (&d->lock);
  return flush (d, next);
}

int
disk_trim (struct disk *d, void *next, uint32_t count, uint64_t offset,
           uint32_t flags)
{
  struct vd_ctx ctx;
  int r;

  init_ctx (&ctx, d, next);
  r = vd_chain_trim (&ctx, d->chain, count, offset, core_flags (flags));
  return r < 0 ? fail (&ctx, r) : 0;
}

int
disk_zero (struct disk *d, void *next, uint32_t count, uint64_t offset,
           uint32_t flags)
{
  struct vd_ctx ctx;
  int r;

  init_ctx (&ctx, d, next);
  r = vd_chain_zero (&ctx, d->chain, count, offset, core_flags (flags));
  if (r == -ENOTSUP && (flags & NBDKIT_FLAG_FAST_ZERO)) {
    /* An answer, not a failure. */
    errno = ENOTSUP;
    return -1;
  }
  return r < 0 ? fail (&ctx, r) : 0;
}

struct extents_to {
  struct nbdkit_extents *extents;
  bool reported;
};

static int
add_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  struct extents_to *to = opaque;

  if (nbdkit_add_extent (to->extents, offset, len,
                         (type & VD_EXTENT_HOLE ? NBDKIT_EXTENT_HOLE : 0)
                         | (type & VD_EXTENT_ZERO ? NBDKIT_EXTENT_ZERO : 0))
      == -1) {
    to->reported = true;
    return errno != 0 ? -errno : -EIO;
  }
  return 0;
}

int
disk_extents (struct disk *d, void *next, size_t level, uint32_t count,
              uint64_t offset, uint32_t flags,
              struct nbdkit_extents *extents)
{
  struct extents_to to = { .extents = extents };
  struct vd_ctx ctx;
  int r;

  init_ctx (&ctx, d, next);
  r = vd_chain_extents (&ctx, d->chain, level, offset, count,
                        (flags & NBDKIT_FLAG_REQ_ONE) != 0, add_extent, &to);
  if (r < 0 && to.reported) {
    errno = -r;
    return -1;
  }
  return r < 0 ? fail (&ctx, r) : 0;
}

int
disk_cache (struct disk *d, void *next, size_t level, uint32_t count,
            uint64_t offset)
{
  struct vd_ctx ctx;
  int r;

  init_ctx (&ctx, d, next);
  r = vd_chain_cache (&ctx, d->chain, level, count, offset);
  return r < 0 ? fail (&ctx, r) : 0;
}
