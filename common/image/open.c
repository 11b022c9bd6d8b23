/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opening and closing: which format, read-only or not, with or without a
 * parent (design "Open semantics", rules 4).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "engine.h"
#include "escape.h"
#include "rounding.h"

#define DEFAULT_TABLE_MEMORY (16 * 1024 * 1024)

/* ---- the common way --------------------------------------------------- */

static struct vd_image *
new_image (struct vd_ctx *ctx, struct vd_store *store,
           const struct vd_open *how)
{
  struct vd_image *image;
  struct vd_engine *e;

  image = calloc (1, sizeof *image);
  if (image) {
    image->engine = e = calloc (1, sizeof *e);
    image->stores = malloc (sizeof image->stores[0]);
  }
  if (!image || !image->engine || !image->stores) {
    if (image) {
      free (image->stores);
      free (image->engine);
    }
    free (image);
    vd_error (ctx, ENOMEM, "%s: no memory to open the image", store->name);
    return NULL;
  }

  image->stores[0] = image->store = store;
  image->nstores = 1;
  image->name = store->name;
  image->table_memory = how->table_memory ? : DEFAULT_TABLE_MEMORY;
  image->open_limit = how->open_limit;
  e->log = how->log;
  e->honor_zeroes = how->honor_zeroes;
  e->honor_same = how->honor_same;
  if (how->parent) {
    e->parent = *how->parent;
    e->has_parent = true;
  }
  return image;
}

/* Everything but the session. */
static void
free_image (struct vd_image *image)
{
  struct vd_engine *e = image->engine;
  size_t i;

  if (image->write) {
    vd_sink_free (image);
    vd_round_free (image);
  }
  vd_packed_free (e->packed);
  vd_blocklock_free (e->locks);
  if (image->priv)
    image->format->close (image);
  for (i = 0; i < image->nstores; ++i)
    vd_store_close (image->stores[i]);
  vd_folder_close (image->folder);
  free (image->stores);
  free (e);
  free (image);
}

static int
probe (struct vd_ctx *ctx, struct vd_store *store,
       const struct vd_format **ret)
{
  uint8_t head[512] = { 0 };
  uint64_t size;
  size_t n;
  int r;

  r = vd_store_get_size (ctx, store, &size);
  if (r < 0)
    return r;
  n = min_u64 (size, sizeof head);
  r = vd_store_pread (ctx, store, head, n, 0);
  if (r < 0)
    return r;
  *ret = vd_format_probe (head, n);
  if (*ret == NULL)
    return vd_error (ctx, EMEDIUMTYPE,
                     "%s: is not a disk image of a known format (no "
                     "signature of one in its first %zu bytes)",
                     store->name, n);
  return 0;
}

static int
need_parent (struct vd_ctx *ctx, const struct vd_image *image)
{
  const char *hint = image->link.parent_hint;
  char uuid[VD_UUID_TEXT], shown[256];

  /* VMware and qemu give a file name and a content ID. */
  if (vd_uuid_is_null (&image->link.parent) &&
      image->link.has_cid && image->link.parent_cid != VD_CID_NONE)
    return vd_error (ctx, EUNATCH,
                     "%s: is a differencing image; what it does not hold is "
                     "in its parent, the image with CID %08" PRIx32
                     "%s%s%s", image->name, image->link.parent_cid,
                     hint ? " in the file \"" : "",
                     hint ? vd_escape (hint, strlen (hint), shown,
                                       sizeof shown) : "",
                     hint ? "\"" : "");
  if (vd_uuid_is_null (&image->link.parent))
    return vd_error (ctx, EUNATCH,
                     "%s: is a differencing image, and names no parent; "
                     "served alone it would read as zeroes what its parent "
                     "holds", image->name);
  return vd_error (ctx, EUNATCH,
                   "%s: is a differencing image; what it does not hold is in "
                   "its parent, the image with UUID %s",
                   image->name, vd_uuid_text (&image->link.parent, uuid));
}

/* What a writable image has more. */
static int
prepare_write (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_engine *e = image->engine;

  e->locks = vd_blocklock_new (image->block_size);
  if (!e->locks) {
    image->write = false;
    return vd_error (ctx, ENOMEM, "%s: no memory for block locks",
                     image->name);
  }
  vd_round_init (image);
  return image->front_to_back ? vd_sink_init (ctx, image) : 0;
}

/* Parse the image in store.  Owns the store and the folder (which may be
 * NULL) only when it succeeds.
 */
static int
open_image (struct vd_ctx *ctx, struct vd_store *store,
            struct vd_folder *folder, bool write, bool *ret_writer,
            const struct vd_open *how, struct vd_image **ret)
{
  const struct vd_format *format;
  struct vd_image *image;
  bool parsed = false;
  int r;

  /* What we read may exist in the page cache only: a server before us may
   * have been killed (rules O13).
   */
  if (write) {
    r = vd_store_sync_always (ctx, store);
    if (r < 0)
      return r;
  }
  format = how->format;
  if (!format) {
    r = probe (ctx, store, &format);
    if (r < 0)
      return r;
  }
  image = new_image (ctx, store, how);
  if (!image)
    return -ENOMEM;
  image->format = format;
  image->folder = folder;
  image->info = how->info;
  image->strict = how->policy && how->policy->strict;
  image->write = write;
  image->drop_gaps = how->drop_gaps;

  r = format->open (ctx, image);
  if (r < 0) {
    if (ret_writer && image->other_writer)
      *ret_writer = true;
    goto fail;
  }
  parsed = true;
  if (image->differencing && !how->parent && !how->info) {
    r = need_parent (ctx, image);
    goto fail;
  }
  if (!image->differencing && !how->stacked)
    image->engine->has_parent = false;
  if (write && image->no_write[0]) {
    r = vd_error (ctx, EROFS, "%s: cannot be written: %s",
                  image->name, image->no_write);
    goto fail;
  }
  if (format->unpack) {
    r = vd_packed_init (ctx, image);
    if (r < 0)
      goto fail;
  }
  if (write) {
    r = prepare_write (ctx, image);
    if (r < 0)
      goto fail_write;
  }
  *ret = image;
  return 0;

 fail:
  image->write = false;         /* nothing of prepare_write to free */
 fail_write:
  if (!parsed)
    image->priv = NULL;
  /* The store and the folder stay the caller's. */
  memmove (&image->stores[0], &image->stores[1],
           --image->nstores * sizeof image->stores[0]);
  image->folder = NULL;
  free_image (image);
  return r;
}

/* ---- the ways in ------------------------------------------------------ */

/* As open_image, but owns store and folder also when it fails. */
static int
open_owned (struct vd_ctx *ctx, struct vd_store *store,
            struct vd_folder *folder, const struct vd_open *how,
            bool *ret_writer, struct vd_image **ret)
{
  bool write = how->write != VD_WRITE_NO && store->writable;
  int r;

  if (how->write == VD_WRITE_REQUIRE && !store->writable)
    r = vd_error (ctx, EROFS, "%s: is not writable", store->name);
  else {
    r = open_image (ctx, store, folder, write, ret_writer, how, ret);
    if (r == -EROFS && write && how->write == VD_WRITE_TRY) {
      vd_warning (ctx, "%s; opened read-only", ctx->message);
      r = open_image (ctx, store, folder, false, NULL, how, ret);
    }
  }
  if (r < 0) {
    vd_store_close (store);
    vd_folder_close (folder);
  }
  return r;
}

int
vd_image_open_store (struct vd_ctx *ctx, struct vd_store *store,
                     const struct vd_open *how, struct vd_image **ret)
{
  return open_owned (ctx, store, NULL, how, NULL, ret);
}

int
vd_image_open_folder (struct vd_ctx *ctx, struct vd_store *store,
                      struct vd_folder *folder, const struct vd_open *how,
                      struct vd_image **ret)
{
  return open_owned (ctx, store, folder, how, NULL, ret);
}

/* A file, and the folder it is in. */
static int
open_path (struct vd_ctx *ctx, const char *path, const struct vd_open *how,
           bool *ret_writer, struct vd_image **ret)
{
  struct vd_folder *folder;
  struct vd_store *store;
  bool write = how->write != VD_WRITE_NO;
  int r;

  if (how->fd > 0)
    r = vd_file_open_fd (ctx, path, how->fd, write, how->lock, ret_writer,
                         &store);
  else
    r = vd_file_open (ctx, path, write, how->lock, ret_writer, &store);
  if (r < 0)
    return r;
  if (how->fd > 0)
    r = vd_folder_of_fd (ctx, path, how->fd, how->policy, how->lock, &folder);
  else
    r = vd_folder_of (ctx, path, how->policy, how->lock, &folder);
  if (r < 0) {
    vd_store_close (store);
    return r;
  }
  return open_owned (ctx, store, folder, how, ret_writer, ret);
}

/* Would opening read-only be what "read-write if possible" means?  Not when
 * another process writes: its data would be a moving target.
 */
static bool
may_fall_back (int err, bool has_writer)
{
  switch (-err) {
  case EACCES: case EPERM: case EROFS: case ETXTBSY:
    return true;
  case EBUSY:
    return !has_writer;
  default:
    return false;
  }
}

int
vd_image_open (struct vd_ctx *ctx, const char *path,
               const struct vd_open *how, struct vd_image **ret)
{
  struct vd_open again = *how;
  bool has_writer = false;
  int r;

  if (how->write != VD_WRITE_NO) {
    again.write = VD_WRITE_REQUIRE;
    r = open_path (ctx, path, &again, &has_writer, ret);
    if (r == 0 || how->write == VD_WRITE_REQUIRE ||
        !may_fall_back (r, has_writer))
      return r;
    vd_warning (ctx, "%s; opened read-only", ctx->message);
  }

  /* Opened anew also when only the image forbids writing: a reader must not
   * keep the writer's lock.
   */
  again.write = VD_WRITE_NO;
  return open_path (ctx, path, &again, NULL, ret);
}

/* Give all files of an image back the locks that a failed reopening took from
 * them.
 */
static int
relock (struct vd_ctx *ctx, struct vd_image *image, enum vd_lock lock)
{
  size_t i;
  int r;

  for (i = 0; i < image->nstores; ++i) {
    r = vd_file_relock (ctx, image->stores[i], lock);
    if (r < 0)
      return r;
  }
  return 0;
}

static int
reopen (struct vd_ctx *ctx, struct vd_image *old, const struct vd_open *how,
        bool *ret_writer, struct vd_image **ret)
{
  struct vd_folder *folder = NULL;
  struct vd_store *store;
  struct vd_ctx quiet;
  int r;

  if (old->folder) {
    r = vd_folder_again (ctx, old->folder, old->stores, old->nstores,
                         &folder);
    if (r < 0)
      return r;
  }
  r = vd_file_reopen_write (ctx, old->store, how->lock, ret_writer, &store);
  if (r == 0) {
    r = open_image (ctx, store, folder, true, ret_writer, how, ret);
    if (r == 0)
      return 0;
    vd_ctx_init (&quiet, ctx->log);
    if (relock (&quiet, old, how->lock) < 0)
      vd_warning (ctx, "%s; it goes on being read without a lock",
                  quiet.message);
    vd_store_close (store);
  }
  vd_folder_close (folder);
  return r;
}

int
vd_image_reopen_write (struct vd_ctx *ctx, struct vd_image *old,
                       const struct vd_open *how, struct vd_image **ret)
{
  bool has_writer = false;
  int r;

  if (old->no_write[0])
    r = vd_error (ctx, EROFS, "%s: cannot be written: %s",
                  old->name, old->no_write);
  else
    r = reopen (ctx, old, how, &has_writer, ret);
  if (r < 0 && how->write == VD_WRITE_TRY && may_fall_back (r, has_writer)) {
    vd_warning (ctx, "%s; served read-only", ctx->message);
    return r == -EBUSY ? -EAGAIN : -EROFS;
  }
  return r;
}

int
vd_image_close (struct vd_ctx *ctx, struct vd_image *image)
{
  int r;

  if (!image)
    return 0;
  r = vd_image_end_session (ctx, image);
  free_image (image);
  return r;
}

bool
vd_image_writable (const struct vd_image *image)
{
  bool empty;

  return image->write &&
    (!image->engine->sink || vd_sink_unfinished (image, &empty));
}
