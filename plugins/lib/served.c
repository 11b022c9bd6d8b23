/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"
#include "served.h"

struct handle {
  struct disk *disk;
  size_t level;                 /* of the chain */
  bool writable;                /* and counted with disk_add_writer */
  char description[512];        /* nbdkit reads it while negotiating */
};

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
    .drop_gaps = d->params.drop_gaps,
    .log = d->disk.log,
  };
}

static int
find_files (struct vd_ctx *ctx, struct served *d, struct vd_files *ret)
{
  const struct params *p = &d->params;
  const struct vd_search how = {
    .policy = &p->policy,
    .parent = p->parent,
    .alone = !p->parent && (p->no_chain || p->single_link),
    .log = d->disk.log,
  };

  return vd_find_chain (ctx, p->file, &how, ret);
}

static int
open_chain (struct vd_ctx *ctx, struct served *d)
{
  const struct params *p = &d->params;
  struct vd_chain_open how = {
    .how = open_how (d, p->require ? VD_WRITE_REQUIRE : VD_WRITE_NO),
    .alone = p->single_link,
    .force_link = p->force_link,
  };
  struct vd_files files;
  int r;

  r = find_files (ctx, d, &files);
  if (r < 0)
    return r;
  how.fds = files.fds;
  r = vd_chain_open (ctx, (const char *const *) files.paths, files.n, &how,
                     &d->disk.chain);
  if (r == 0) {
    d->disk.spoils = files.spoils;
    files.spoils = NULL;
    disk_warn_of_children (&d->disk);
  }
  vd_files_free (&files);
  return r;
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
  const struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  disk_survive_file_size_limit ();
  disk_allow_many_files ();
  vd_ctx_init (&ctx, d->disk.log);
  if (p->how.variant != NULL) {
    r = vd_image_create (&ctx, p->file, format, p->lock, &p->how);
    if (r == -EINVAL || r == -EFBIG) {  /* by one of the parameters */
      nbdkit_error ("create=%.40s: %s", p->how.variant, ctx.message);
      return -1;
    }
    if (r < 0) {
      disk_report (&ctx, r);
      return -1;
    }
  }

  r = open_chain (&ctx, d);
  if (r < 0) {
    disk_report (&ctx, r);
    return -1;
  }
  image = vd_chain_image (d->disk.chain, vd_chain_length (d->disk.chain) - 1);
  if (image->format != format) {
    nbdkit_error ("%s: this is an image of the format %s, not %s",
                  p->file, image->format->name, d->name);
    vd_chain_close (&ctx, d->disk.chain);
    d->disk.chain = NULL;
    return -1;
  }

  d->disk.level_exports = !p->no_level_exports;
  d->disk.decided = p->readonly || p->require || p->single_link;
  return 0;
}

int
served_list_exports (struct served *d, struct nbdkit_exports *exports)
{
  return disk_list_exports (&d->disk, exports);
}

void *
served_open (struct served *d, int readonly)
{
  const char *name = nbdkit_export_name ();
  struct handle *h;
  int r;

  if (!name)
    name = "";
  h = calloc (1, sizeof *h);
  if (h == NULL) {
    nbdkit_error ("calloc: %m");
    return NULL;
  }
  h->disk = &d->disk;
  if (!disk_find_level (&d->disk, name, &h->level)) {
    nbdkit_error ("there is no export '%s'; see nbdinfo --list", name);
    free (h);
    errno = ENOENT;
    return NULL;
  }

  /* Levels that were asked for by name are views, and read-only. */
  if (!readonly && !d->params.readonly && *name == '\0') {
    r = disk_add_writer (&d->disk);
    if (r == -1) {
      free (h);
      return NULL;
    }
    h->writable = r;
  }
  return h;
}

void
served_close (void *handle)
{
  struct handle *h = handle;

  if (h->writable)
    disk_remove_writer (h->disk);
  free (h);
}

void
served_cleanup (struct served *d)
{
  disk_cleanup (&d->disk);
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

  vd_image_description (vd_chain_image (h->disk->chain, h->level),
                        h->description, sizeof h->description);
  return h->description;
}

int64_t
served_get_size (void *handle)
{
  struct handle *h = handle;

  return vd_chain_size (h->disk->chain, h->level);
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

  return !(h->writable &&
           vd_chain_image (h->disk->chain, h->level)->front_to_back);
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

int
served_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  struct handle *h = handle;

  (void) flags;
  return disk_pread (h->disk, NULL, h->level, buf, count, offset);
}

int
served_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
               uint32_t flags)
{
  struct handle *h = handle;

  return disk_pwrite (h->disk, NULL, buf, count, offset, flags);
}

int
served_flush (void *handle, uint32_t flags)
{
  struct handle *h = handle;

  (void) flags;
  return disk_flush (h->disk, NULL, h->writable);
}

int
served_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;

  return disk_trim (h->disk, NULL, count, offset, flags);
}

int
served_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;

  return disk_zero (h->disk, NULL, count, offset, flags);
}

int
served_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                struct nbdkit_extents *extents)
{
  struct handle *h = handle;

  return disk_extents (h->disk, NULL, h->level, count, offset, flags,
                       extents);
}

int
served_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;

  (void) flags;
  return disk_cache (h->disk, NULL, h->level, count, offset);
}
