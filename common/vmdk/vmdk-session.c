/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Changing the descriptor of an open image: its CID and modification UUID
 * when a session begins (rules O3, O15), and metadata outside of one.
 *
 * The store of a text descriptor is open and locked for as long as the image
 * is, so a new text cannot be renamed over it; it is written in place.  What a
 * crash can leave then:
 *
 *  - A session changes values of the same length: a mixture of old and new
 *    digits at worst, which is as good as either.
 *  - Text that only changes from some sector on to its end, of which either
 *    the old or the new form ends in that sector, goes over by one write of
 *    that sector.  A comment or a key at the end, say, or all of a short
 *    descriptor.
 *  - Anything else could be torn.  A complete copy of the new text lies
 *    beside the image meanwhile, under its name with ".new" behind it.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rounding.h"
#include "vmdk-private.h"

/* ---- the text in the store -------------------------------------------- */

/* Values were changed, but not their lengths.  Whole lines are written: an
 * earlier attempt may have left others than we know.
 */
static int
write_values (struct vd_ctx *ctx, struct vd_image *image,
              const char *old, const char *new, size_t len)
{
  const struct vmdk *vmdk = image->priv;
  const size_t old_len = len;
  size_t first = 0;

  while (first < len && old[first] == new[first])
    ++first;
  while (len > first && old[len - 1] == new[len - 1])
    --len;
  if (first == len)
    return 0;
  while (first > 0 && new[first - 1] != '\n')
    --first;
  while (len < old_len && new[len] != '\n')
    ++len;
  return vd_store_pwrite (ctx, image->store, new + first, len - first,
                          vmdk->descriptor_offset + first, 0);
}

/* Put a copy of the text beside the image.  It is a help, not a condition:
 * NULL if that is not possible.
 */
static char *
save_copy (struct vd_image *image, const char *text, size_t len)
{
  const char *name = strrchr (image->store->name, '/');
  struct vd_store *st;
  struct vd_ctx quiet;
  char *copy;
  int r;

  if (image->folder == NULL)
    return NULL;
  name = name ? name + 1 : image->store->name;
  if (asprintf (&copy, "%s.new", name) == -1)
    return NULL;
  vd_ctx_init (&quiet, NULL);
  if (vd_folder_create (&quiet, image->folder, copy, &st) < 0) {
    free (copy);
    return NULL;
  }
  r = vd_store_pwrite (&quiet, st, text, len, 0, 0);
  if (r == 0)
    r = vd_store_sync (&quiet, st);
  if (r == 0)
    r = vd_folder_sync (&quiet, image->folder);
  vd_store_close (st);
  if (r < 0) {
    vd_folder_remove (&quiet, image->folder, copy);
    free (copy);
    return NULL;
  }
  return copy;
}

static void
remove_copy (struct vd_image *image, char *copy)
{
  struct vd_ctx quiet;

  if (copy) {
    vd_ctx_init (&quiet, NULL);
    vd_folder_remove (&quiet, image->folder, copy);
    vd_folder_sync (&quiet, image->folder);
    free (copy);
  }
}

struct update {
  char *old, *new;              /* bytes in the file, to whole sectors */
  size_t size;                  /* of both */
  size_t write;                 /* nothing is written from here on */
  uint64_t cut;                 /* the file is cut here; 0: it is not */
};

static int
write_part (struct vd_ctx *ctx, struct vd_image *image,
            const struct update *u, size_t from, size_t to)
{
  const struct vmdk *vmdk = image->priv;

  to = min_u64 (to, u->write);
  if (from >= to)
    return 0;
  return vd_store_pwrite (ctx, image->store, u->new + from, to - from,
                          vmdk->descriptor_offset + from, 0);
}

/* Durable on return. */
static int
write_sectors (struct vd_ctx *ctx, struct vd_image *image,
               const struct update *u, size_t from, size_t to)
{
  int r = write_part (ctx, image, u, from * VMDK_SECTOR, to * VMDK_SECTOR);

  if (r < 0)
    return r;
  return vd_store_sync (ctx, image->store);
}

static int
apply (struct vd_ctx *ctx, struct vd_image *image, const struct update *u,
       size_t old_len, size_t new_len)
{
  size_t first = 0, end = u->size / VMDK_SECTOR;
  char *copy = NULL;
  int r;

  while (first < end && memcmp (u->old + first * VMDK_SECTOR,
                                u->new + first * VMDK_SECTOR,
                                VMDK_SECTOR) == 0)
    ++first;
  while (end > first && memcmp (u->old + (end - 1) * VMDK_SECTOR,
                                u->new + (end - 1) * VMDK_SECTOR,
                                VMDK_SECTOR) == 0)
    --end;
  if (first == end)
    return 0;

  if (end - first == 1)
    r = write_sectors (ctx, image, u, first, end);
  else if (old_len / VMDK_SECTOR == first) {
    /* The old text ends before what is written first. */
    r = write_sectors (ctx, image, u, first + 1, end);
    if (r == 0)
      r = write_sectors (ctx, image, u, first, first + 1);
  }
  else if (new_len / VMDK_SECTOR == first) {
    /* The new text ends before what is left over. */
    r = write_sectors (ctx, image, u, first, first + 1);
    if (r == 0)
      r = write_sectors (ctx, image, u, first + 1, end);
  }
  else {
    copy = save_copy (image, u->new, new_len);
    r = write_sectors (ctx, image, u, first, end);
    if (r < 0 && copy) {
      /* It is all there is. */
      vd_warning (ctx, "%s: descriptor may be damaged; a complete one is in "
                  "%s beside it", image->name, copy);
      free (copy);
    }
    else
      remove_copy (image, copy);
  }
  if (r == 0 && u->cut) {
    r = vd_store_truncate (ctx, image->store, u->cut);
    if (r == 0)
      r = vd_store_sync (ctx, image->store);
  }
  return r;
}

static int
write_text (struct vd_ctx *ctx, struct vd_image *image,
            const char *old, size_t old_len, const char *new, size_t new_len)
{
  const struct vmdk *vmdk = image->priv;
  uint64_t room = vmdk->descriptor_room;
  CLEANUP_FREE char *old_buf = NULL, *new_buf = NULL;
  struct update u = { 0 };
  uint64_t file_size;
  size_t n;
  int r;

  r = vd_store_get_size (ctx, image->store, &file_size);
  if (r < 0)
    return r;
  if (room == 0)
    room = image->store->fixed_size ? file_size : VMDK_DESCRIPTOR_MAX;
  if (new_len > room)
    return vd_error (ctx, ENOSPC, "%s: descriptor too long: %zu bytes, there "
                     "is room for %" PRIu64, image->name, new_len, room);

  /* With a NUL behind both, if there is room. */
  n = old_len > new_len ? old_len : new_len;
  u.write = n < room ? n + 1 : n;
  u.size = round_up (u.write, VMDK_SECTOR);
  u.old = old_buf = calloc (1, u.size);
  u.new = new_buf = calloc (1, u.size);
  if (!u.old || !u.new)
    return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor",
                     image->name);
  memcpy (u.new, new, new_len);
  n = 0;
  if (file_size > vmdk->descriptor_offset)
    n = min_u64 (u.size, file_size - vmdk->descriptor_offset);
  r = vd_store_pread (ctx, image->store, u.old, n, vmdk->descriptor_offset);
  if (r < 0)
    return r;
  if (n < old_len || memcmp (u.old, old, old_len) != 0)
    return vd_error (ctx, EIO, "%s: descriptor is not what it was when it "
                     "was read", image->name);

  if (vmdk->descriptor_room)
    u.write = min_u64 (u.size, vmdk->descriptor_room);
  else if (file_size > old_len || image->store->fixed_size)
    /* Padding stays. */
    u.write = max_u64 (new_len, n);
  else {
    /* A file that ends with its text goes on doing so. */
    u.write = old_len > new_len ? old_len : new_len;
    if (new_len < old_len)
      u.cut = new_len;
  }
  if (vmdk->descriptor_room == 0 && new_len > file_size) {
    /* Or the bytes could be there, but not the size.  The old text followed
     * by NULs is the old text.
     */
    r = vd_store_truncate (ctx, image->store, new_len);
    if (r == 0)
      r = vd_store_sync (ctx, image->store);
    if (r < 0)
      return r;
  }
  return apply (ctx, image, &u, old_len, new_len);
}

/* ---- the image -------------------------------------------------------- */

/* A second descriptor with the same text, to be changed. */
static int
copy_descriptor (struct vd_ctx *ctx, const struct vd_image *image,
                 char **ret_text, size_t *ret_len,
                 struct vmdk_descriptor **ret)
{
  const struct vmdk *vmdk = image->priv;
  struct vd_ctx quiet;
  int r;

  r = vmdk_descriptor_text (ctx, vmdk->descriptor, ret_text, ret_len);
  if (r < 0)
    return r;
  /* The warnings were given at open. */
  vd_ctx_init (&quiet, NULL);
  r = vmdk_descriptor_parse (&quiet, image->name, *ret_text, *ret_len, false,
                             ret);
  if (r < 0)
    return vd_error (ctx, -r, "%s", quiet.message);
  return 0;
}

/* Other threads look at the link when they choose a view or check it against
 * the layer below.  What has not changed is not written, not even with the
 * value that it has.
 */
static void
set_uuid (struct vd_uuid *uuid, const struct vd_uuid *value)
{
  if (!vd_uuid_equal (uuid, value))
    *uuid = *value;
}

/* The new descriptor is in the file: it is the image's from now on. */
static void
adopt (struct vd_image *image, struct vmdk_descriptor *d)
{
  const struct vmdk_fields *f = vmdk_descriptor_fields (d);
  struct vmdk *vmdk = image->priv;
  struct vd_link *l = &image->link;

  set_uuid (&l->uuid, &f->image);
  set_uuid (&l->modification, &f->modification);
  set_uuid (&l->parent, &f->parent);
  set_uuid (&l->parent_modification, &f->parent_modification);
  if (l->has_cid != f->has_cid)
    l->has_cid = f->has_cid;
  if (l->cid != f->cid)
    l->cid = f->cid;
  if (l->parent_cid != f->parent_cid)
    l->parent_cid = f->parent_cid;
  /* Texts lie in the descriptor. */
  l->parent_hint = f->parent_hint;
  image->lchs = f->lchs;
  image->comment = f->comment;
  image->variant = f->create_type ? f->create_type : "custom";
  vmdk_descriptor_free (vmdk->descriptor);
  vmdk->descriptor = d;
}

int
vmdk_begin_session (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  CLEANUP_FREE char *old = NULL, *new = NULL;
  struct vmdk_descriptor *d;
  size_t old_len, new_len, i;
  int r;

  r = copy_descriptor (ctx, image, &old, &old_len, &d);
  if (r < 0)
    return r;
  r = vmdk_descriptor_renew (ctx, d);
  if (r == 0)
    r = vmdk_descriptor_text (ctx, d, &new, &new_len);
  if (r == 0)
    r = write_values (ctx, image, old, new, new_len);

  for (i = 0; r == 0 && i < vmdk->nextents; ++i) {
    struct vmdk_extent *x = &vmdk->extents[i];

    if (x->write && x->ops->begin_session)
      r = x->ops->begin_session (ctx, x);
  }
  /* Also makes durable what open has read, before anything is built on it
   * (rules O13).
   */
  for (i = 0; r == 0 && i < image->nstores; ++i)
    r = vd_store_sync (ctx, image->stores[i]);
  if (r < 0) {
    vmdk_descriptor_free (d);
    return r;
  }
  adopt (image, d);
  return 0;
}

int
vmdk_end_session (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  size_t i;
  int r;

  for (i = 0; i < vmdk->nextents; ++i) {
    struct vmdk_extent *x = &vmdk->extents[i];

    if (x->write && x->ops->end_session) {
      r = x->ops->end_session (ctx, x);
      if (r < 0)
        return r;
    }
  }
  return 0;
}

/* ---- metadata --------------------------------------------------------- */

/* Another parent, by UUID.  The CID and the name of the old one must not stay:
 * they would contradict it, or make a child of what is none any more.
 */
static int
set_parent (struct vd_ctx *ctx, struct vmdk_descriptor *d,
            const struct vd_uuid *parent)
{
  const struct vmdk_fields *f = vmdk_descriptor_fields (d);
  int r = 0;

  if (vd_uuid_equal (&f->parent, parent) &&
      !(vd_uuid_is_null (parent) && f->parent_cid != VD_CID_NONE))
    return 0;
  if (f->parent_cid != VD_CID_NONE)
    r = vmdk_descriptor_set_cid (ctx, d, "parentCID", VD_CID_NONE);
  if (r == 0)
    r = vmdk_descriptor_set (ctx, d, "parentFileNameHint", NULL, true);
  if (r == 0)
    r = vmdk_descriptor_set_uuid (ctx, d, "ddb.uuid.parent", parent);
  return r;
}

static int
change_descriptor (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                   const struct vd_meta_change *change)
{
  int r = 0;

  if (change->uuid)
    r = vmdk_descriptor_set_uuid (ctx, d, "ddb.uuid.image", change->uuid);
  if (r == 0 && change->modification)
    r = vmdk_descriptor_set_uuid (ctx, d, "ddb.uuid.modification",
                                  change->modification);
  if (r == 0 && change->parent)
    r = set_parent (ctx, d, change->parent);
  if (r == 0 && change->parent_modification)
    r = vmdk_descriptor_set_uuid (ctx, d, "ddb.uuid.parentmodification",
                                  change->parent_modification);
  if (r == 0 && change->lchs)
    r = vmdk_descriptor_set_geometry (ctx, d, true, change->lchs);
  if (r == 0 && change->comment)
    r = vmdk_descriptor_set_comment (ctx, d, change->comment);
  return r;
}

int
vmdk_set_meta (struct vd_ctx *ctx, struct vd_image *image,
               const struct vd_meta_change *change)
{
  CLEANUP_FREE char *old = NULL, *new = NULL;
  struct vmdk_descriptor *d;
  size_t old_len, new_len;
  int r;

  if (change->uuid && vd_uuid_is_null (change->uuid))
    return vd_error (ctx, EINVAL, "%s: ddb.uuid.image must not be null (0)",
                     image->name);
  if (change->lchs && change->lchs->heads > 255)
    return vd_error (ctx, EINVAL, "%s: LCHS heads is %" PRIu32
                     ", at most 255 are possible", image->name,
                     change->lchs->heads);
  if (change->lchs && change->lchs->sectors > 63)
    return vd_error (ctx, EINVAL, "%s: LCHS sectors is %" PRIu32
                     ", at most 63 are possible", image->name,
                     change->lchs->sectors);

  r = copy_descriptor (ctx, image, &old, &old_len, &d);
  if (r < 0)
    return r;
  r = change_descriptor (ctx, d, change);
  if (r == 0)
    r = vmdk_descriptor_text (ctx, d, &new, &new_len);
  if (r == 0)
    r = write_text (ctx, image, old, old_len, new, new_len);
  if (r < 0) {
    vmdk_descriptor_free (d);
    return r;
  }
  adopt (image, d);
  return 0;
}
