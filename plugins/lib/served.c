/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cleanup.h"
#include "served.h"

struct handle {
  struct served *disk;
  bool writable;                /* and counted in disk->writers */
  char description[512];        /* nbdkit reads it while negotiating */
};

/* ---- messages --------------------------------------------------------- */

/* nbdkit sends errors of a daemon to the system log, and has no warnings.
 * Where somebody can see stderr a warning goes there; in a daemon it goes the
 * way of the errors, as nobody would see it elsewhere.
 */
void
served_log (const char *name, enum vd_log_level level, const char *text)
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

/* Say what happened.  r is what a core function returned. */
static void
report (const struct vd_ctx *ctx, int r)
{
  nbdkit_error ("%s", ctx->error != 0 ? ctx->message : strerror (-r));
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
  report (ctx, r);
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

void
served_dump_plugin (const struct served *d)
{
  const struct vd_format *format = vd_format_by_name (d->name);
  const struct vd_format_key *key;

  printf ("vdkit_version=%s\n", PACKAGE_VERSION);
  if (format == NULL)
    return;
  printf ("%s_capabilities=%s\n", d->name, format->capabilities);
  printf ("%s_extensions=%s\n", d->name, format->extensions);
  printf ("%s_config=", d->name);
  for (key = format->keys; key != NULL && key->name != NULL; key++)
    printf ("%s%s=%s", key == format->keys ? "" : ",", key->name, key->value);
  printf ("\n");
}

static struct vd_open
open_how (const struct served *d, enum vd_write write)
{
  return (struct vd_open) {
    .write = write,
    .lock = d->params.lock,
    .honor_zeroes = d->params.honor_zeroes,
    .honor_same = d->params.honor_same,
    .policy = &d->params.policy,
    .log = d->log,
  };
}

/* A write beyond the limit on the size of files (ulimit -f) is an error like a
 * full disk, and no reason to end.  Not SIG_IGN, which the command of --run
 * would inherit.
 */
static void
file_too_big (int sig)
{
  (void) sig;
}

static void
survive_file_size_limit (void)
{
  struct sigaction old;
  const struct sigaction sa = {
    .sa_handler = file_too_big,
    .sa_flags = SA_RESTART,
  };

  if (sigaction (SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
    sigaction (SIGXFSZ, &sa, NULL);
}

/* nbdkit does not tell whether there is a -r, so this only reads, unless the
 * user insists on writing: then a lock held by another, or damage, should end
 * nbdkit here, where the message is seen.
 */
int
served_get_ready (struct served *d)
{
  const struct params *p = &d->params;
  const struct vd_format *format = vd_format_by_name (d->name);
  const struct vd_open how =
    open_how (d, p->require ? VD_WRITE_REQUIRE : VD_WRITE_NO);
  struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  survive_file_size_limit ();

  vd_ctx_init (&ctx, d->log);
  if (p->how.variant != NULL) {
    r = vd_image_create (&ctx, p->file, format, p->lock, &p->how);
    if (r < 0) {
      report (&ctx, r);
      return -1;
    }
  }

  r = vd_image_open (&ctx, p->file, &how, &image);
  if (r < 0) {
    report (&ctx, r);
    return -1;
  }
  if (image->format != format) {
    nbdkit_error ("%s: this is an image of the format %s, not %s",
                  p->file, image->format->name, d->name);
    vd_image_close (&ctx, image);
    return -1;
  }

  d->first = image;
  d->decided = p->readonly || p->require;
  if (!d->decided && image->no_write[0] != '\0') {
    /* Known already: say it while there is a terminal. */
    vd_warning (&ctx, "%s: cannot be written: %s; served read-only",
                p->file, image->no_write);
    d->decided = true;
  }
  atomic_store_explicit (&d->image, image, memory_order_release);
  return 0;
}

static struct vd_image *
image_of (const struct served *d)
{
  return atomic_load_explicit (&d->image, memory_order_acquire);
}

/* Make the image writable for all connections if that is not settled yet.
 * The lock is held.  What failed in a way that may pass (above all a writer
 * in another program) fails this connection and is tried again with the next.
 */
static int
make_writable (struct served *d)
{
  const struct vd_open how = open_how (d, VD_WRITE_TRY);
  struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  if (d->decided)
    return 0;

  vd_ctx_init (&ctx, d->log);
  r = vd_image_reopen_write (&ctx, d->first, &how, &image);
  switch (r) {
  case 0:
    atomic_store_explicit (&d->image, image, memory_order_release);
    break;
  case -EROFS:                  /* the core has said why */
    break;
  case -EAGAIN:                 /* other readers, who may leave */
    return 0;
  default:
    report (&ctx, r);
    return -1;
  }
  d->decided = true;
  return 0;
}

void *
served_open (struct served *d, int readonly)
{
  struct handle *h = calloc (1, sizeof *h);

  if (h == NULL) {
    nbdkit_error ("calloc: %m");
    return NULL;
  }
  h->disk = d;

  /* Under the lock, so that no writer starts while served_close ends the
   * session of the one before.
   */
  if (!readonly && !d->params.readonly) {
    LOCK_SCOPE (&d->lock);

    if (make_writable (d) == -1) {
      free (h);
      return NULL;
    }
    h->writable = vd_image_writable (image_of (d));
    if (h->writable)
      d->writers++;
  }
  return h;
}

void
served_close (void *handle)
{
  struct handle *h = handle;
  struct served *d = h->disk;
  struct vd_ctx ctx;
  int r;

  if (h->writable) {
    LOCK_SCOPE (&d->lock);

    if (--d->writers == 0) {
      vd_ctx_init (&ctx, d->log);
      r = vd_image_end_session (&ctx, image_of (d));
      if (r < 0)
        report (&ctx, r);
    }
  }
  free (h);
}

static void
close_image (struct served *d, struct vd_image *image)
{
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, d->log);
  r = vd_image_close (&ctx, image);
  if (r < 0)
    report (&ctx, r);
}

/* No request is under way any more.  Whether served_close ran for every
 * handle is not certain: the session ends here in any case.
 */
void
served_cleanup (struct served *d)
{
  struct vd_image *image =
    atomic_exchange_explicit (&d->image, NULL, memory_order_acq_rel);

  if (image != d->first)
    close_image (d, image);
  close_image (d, d->first);
  d->first = NULL;
}

void
served_unload (struct served *d)
{
  params_free (&d->params);
}

/* ---- what a connection can do ------------------------------------------ */

const char *
served_export_description (void *handle)
{
  struct handle *h = handle;

  vd_image_description (image_of (h->disk), h->description,
                        sizeof h->description);
  return h->description;
}

int64_t
served_get_size (void *handle)
{
  struct handle *h = handle;

  return image_of (h->disk)->size;
}

/* Any request works.  4 KiB, because guests take this for the size of a
 * physical sector or the best transfer (qemu passes it on), and the image's
 * block size, 1 MiB, would only make them align things needlessly.
 */
int
served_block_size (void *handle, uint32_t *minimum,
                   uint32_t *preferred, uint32_t *maximum)
{
  (void) handle;
  *minimum = 1;
  *preferred = 4096;
  *maximum = UINT32_MAX;
  return 0;
}

int
served_can_write (void *handle)
{
  struct handle *h = handle;

  return h->writable;
}

/* Clients with several connections (nbdcopy) write at as many places far
 * apart, which is not how a stream can be written.
 */
int
served_can_multi_conn (void *handle)
{
  struct handle *h = handle;

  return !(h->writable && image_of (h->disk)->front_to_back);
}

int
served_is_rotational (void *handle)
{
  (void) handle;
  return 0;
}

int
served_can_fua (void *handle)
{
  (void) handle;
  return NBDKIT_FUA_NATIVE;
}

int
served_can_cache (void *handle)
{
  (void) handle;
  return NBDKIT_CACHE_NATIVE;
}

/* For everything that always works.  Several connections do: they share the
 * image, and a flush covers what was completed on any of them.
 */
int
served_can (void *handle)
{
  (void) handle;
  return 1;
}

/* ---- data -------------------------------------------------------------- */

static unsigned
core_flags (uint32_t flags)
{
  return (flags & NBDKIT_FLAG_FUA ? VD_FUA : 0)
    | (flags & NBDKIT_FLAG_MAY_TRIM ? VD_MAY_TRIM : 0)
    | (flags & NBDKIT_FLAG_FAST_ZERO ? VD_FAST : 0);
}

int
served_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  (void) flags;
  vd_ctx_init (&ctx, h->disk->log);
  r = vd_image_pread (&ctx, image_of (h->disk), buf, count, offset);
  return r < 0 ? fail (&ctx, r) : 0;
}

int
served_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
               uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, h->disk->log);
  r = vd_image_pwrite (&ctx, image_of (h->disk), buf, count, offset,
                       core_flags (flags));
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
flush (struct served *d)
{
  struct vd_image *image = image_of (d);
  struct vd_ctx ctx;
  int r;

  if (!vd_image_writable (image))
    return 0;
  vd_ctx_init (&ctx, d->log);
  r = vd_image_flush (&ctx, image);
  return r < 0 ? fail (&ctx, r) : 0;
}

/* A writer's own flush cannot meet the end of the session, another's can. */
int
served_flush (void *handle, uint32_t flags)
{
  struct handle *h = handle;

  (void) flags;
  if (h->writable)
    return flush (h->disk);

  LOCK_SCOPE (&h->disk->lock);
  return flush (h->disk);
}

int
served_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, h->disk->log);
  r = vd_image_trim (&ctx, image_of (h->disk), count, offset,
                     core_flags (flags));
  return r < 0 ? fail (&ctx, r) : 0;
}

int
served_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, h->disk->log);
  r = vd_image_zero (&ctx, image_of (h->disk), count, offset,
                     core_flags (flags));
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
served_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                struct nbdkit_extents *extents)
{
  struct handle *h = handle;
  struct extents_to to = { .extents = extents };
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, h->disk->log);
  r = vd_image_extents (&ctx, image_of (h->disk), offset, count,
                        (flags & NBDKIT_FLAG_REQ_ONE) != 0, add_extent, &to);
  if (r < 0 && to.reported) {
    errno = -r;
    return -1;
  }
  return r < 0 ? fail (&ctx, r) : 0;
}

int
served_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  (void) flags;
  vd_ctx_init (&ctx, h->disk->log);
  r = vd_image_cache (&ctx, image_of (h->disk), count, offset);
  return r < 0 ? fail (&ctx, r) : 0;
}
