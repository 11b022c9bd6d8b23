/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "chain.h"
#include "cleanup.h"
#include "lazy.h"
#include "owners.h"
#include "rounding.h"

/* 64 parents of 1 TiB must fit in 128 MiB (rules 3). */
#define PARENT_TABLE_MEMORY (1024 * 1024)

struct level {
  struct vd_chain *chain;
  size_t number;
  struct vd_image *_Atomic image;
  struct vd_image *replaced;    /* readers may still be in it */
  struct vd_parent parent;      /* what this level is to the next one */
  struct vd_owners *_Atomic owners;     /* of this view; made when used */
};

struct vd_chain {
  struct vd_open how;           /* of the top */
  bool has_below;
  struct vd_below below;
  const struct vd_chain *under, *over;  /* of a stack of chains; or NULL */
  struct vd_owner_pool *pool;   /* NULL: not made yet, or no memory */
  bool own_pool;
  bool own_limit;               /* how.open_limit is ours */
  pthread_mutex_t lock;         /* for making owners */
  size_t n;
  struct level levels[];
};

static struct vd_image *
image_of (const struct level *l)
{
  return atomic_load_explicit (&l->image, memory_order_acquire);
}

/* ---- what a level is to the image above it ----------------------------- */

static int
level_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
             uint64_t offset)
{
  return vd_image_pread (ctx, image_of (opaque), buf, len, offset);
}

static int
level_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
               uint64_t len, bool one,
               int (*fn) (void *, uint64_t, uint64_t, unsigned),
               void *fn_opaque)
{
  return vd_image_extents (ctx, image_of (opaque), offset, len, one, fn,
                           fn_opaque);
}

/* ---- links ------------------------------------------------------------- */

/* A wrong link ends the opening, or is a warning when the user insists. */
static int
wrong_link (struct vd_ctx *ctx, const struct vd_chain_open *how, int r)
{
  if (!how->force_link)
    return r;
  vd_warning (ctx, "%s; going on because of force-link", ctx->message);
  ctx->error = 0;
  return 0;
}

static int
check_link (struct vd_ctx *ctx, const struct vd_image *child,
            const struct vd_link *parent, const char *parent_name,
            const struct vd_chain_open *how)
{
  const struct vd_link *c = &child->link;
  char want[VD_UUID_TEXT], is[VD_UUID_TEXT];
  bool by_uuid = !vd_uuid_is_null (&c->parent) &&
    !vd_uuid_is_null (&parent->uuid);
  bool by_cid = c->has_cid && c->parent_cid != VD_CID_NONE &&
    parent->has_cid;
  int r;

  if (by_uuid && !vd_uuid_equal (&c->parent, &parent->uuid)) {
    r = vd_error (ctx, EUNATCH, "%s: its parent is the image with UUID %s, "
                  "but %s has UUID %s; give the right one, or force-link="
                  "true if you know better", child->name,
                  vd_uuid_text (&c->parent, want), parent_name,
                  vd_uuid_text (&parent->uuid, is));
    r = wrong_link (ctx, how, r);
    if (r < 0)
      return r;
  }
  if (by_cid && c->parent_cid != parent->cid) {
    r = vd_error (ctx, EUNATCH, "%s: its parentCID is %08" PRIx32 ", but the "
                  "CID of %s is %08" PRIx32 ": it is another image, or was "
                  "written since the snapshot; force-link=true if you know "
                  "better", child->name, c->parent_cid, parent_name,
                  parent->cid);
    r = wrong_link (ctx, how, r);
    if (r < 0)
      return r;
  }
  if (!by_uuid && !by_cid)
    vd_debug (ctx, "%s: there is nothing to check its link to %s by",
              child->name, parent_name);
  if (by_uuid && !vd_uuid_is_null (&c->parent_modification) &&
      !vd_uuid_equal (&c->parent_modification, &parent->modification))
    vd_warning (ctx, "%s: its parent modification UUID is %s, that of %s is "
                "%s: the parent was changed since, which is normal where "
                "snapshots were deleted", child->name,
                vd_uuid_text (&c->parent_modification, want), parent_name,
                vd_uuid_text (&parent->modification, is));
  return 0;
}

/* A file, or an image, can stand in a chain once only. */
static int
check_differ (struct vd_ctx *ctx, const struct vd_image *image,
              const struct vd_image *other)
{
  char uuid[VD_UUID_TEXT];

  if (vd_file_same (image->store, other->store))
    return vd_error (ctx, ELOOP, "%s: is the same file as %s: an image "
                     "cannot be its own parent", image->name, other->name);
  if (!vd_uuid_is_null (&image->link.uuid) &&
      vd_uuid_equal (&image->link.uuid, &other->link.uuid))
    return vd_error (ctx, ELOOP, "%s: has the UUID of %s, %s: a copy, or a "
                     "chain that bites its tail", image->name, other->name,
                     vd_uuid_text (&other->link.uuid, uuid));
  return 0;
}

/* The first n levels of a chain, against an image above them. */
static int
check_cycle (struct vd_ctx *ctx, const struct vd_chain *chain, size_t n,
             const struct vd_image *image)
{
  size_t j;
  int r = 0;

  for (j = 0; r == 0 && j < n; ++j)
    r = check_differ (ctx, image, image_of (&chain->levels[j]));
  return r;
}

static int
check_level (struct vd_ctx *ctx, const struct vd_chain *chain, size_t i,
             const struct vd_chain_open *how)
{
  const struct vd_image *image = image_of (&chain->levels[i]), *parent;
  int r = check_cycle (ctx, chain, i, image);

  if (r < 0)
    return r;
  if (i == 0 && (!chain->has_below || how->alone))
    return 0;
  if (image->fixed)
    return vd_error (ctx, EINVAL, "%s: is a fixed image (%s), which holds all "
                     "of its disk and can only be the base", image->name,
                     image->variant);
  if (!image->differencing) {
    r = vd_error (ctx, EUNATCH, "%s: is a base image, not a differencing one",
                  image->name);
    r = wrong_link (ctx, how, r);
    if (r < 0)
      return r;
  }
  if (i == 0) {
    if (!chain->below.has_link) {
      vd_debug (ctx, "%s: the layer below has no UUID to check", image->name);
      return 0;
    }
    return check_link (ctx, image, &chain->below.link, chain->below.name,
                       how);
  }
  parent = image_of (&chain->levels[i - 1]);
  return check_link (ctx, image, &parent->link, parent->name, how);
}

/* ---- open and close ---------------------------------------------------- */

static struct vd_open
level_how (const struct vd_chain *chain, size_t i)
{
  struct vd_open how = chain->how;

  how.parent = i > 0 ? &chain->levels[i - 1].parent :
    chain->has_below ? &chain->below.disk : NULL;
  how.stacked = how.parent != NULL;
  if (i < chain->n - 1)
    how.write = VD_WRITE_NO;
  if (chain->n > 1 && !how.table_memory)
    how.table_memory = i < chain->n - 1 ? PARENT_TABLE_MEMORY : 0;
  return how;
}

static int
open_level (struct vd_ctx *ctx, struct vd_chain *chain, size_t i,
            const char *path, int fd, const struct vd_chain_open *how)
{
  struct level *l = &chain->levels[i];
  struct vd_open level = level_how (chain, i);
  struct vd_image *image;
  int r;

  level.fd = fd;
  r = vd_image_open (ctx, path, &level, &image);
  if (r < 0)
    return r;
  atomic_store (&l->image, image);
  l->chain = chain;
  l->number = i;
  l->parent = (struct vd_parent) {
    .size = image->size, .opaque = l,
    .pread = level_pread, .extents = level_extents,
  };
  return check_level (ctx, chain, i, how);
}

int
vd_chain_open (struct vd_ctx *ctx, const char *const *paths, size_t n,
               const struct vd_chain_open *how, struct vd_chain **ret)
{
  struct vd_chain *chain;
  struct vd_ctx quiet;
  size_t i;
  int r = 0;

  if (n == 0 || n > VD_CHAIN_MAX)
    return vd_error (ctx, EINVAL, "%s: a chain of %zu images; 1 to %d are "
                     "possible", n ? paths[n - 1] : "", n, VD_CHAIN_MAX);
  chain = calloc (1, sizeof *chain + n * sizeof chain->levels[0]);
  if (!chain)
    return vd_error (ctx, ENOMEM, "%s: no memory for a chain of %zu images",
                     paths[n - 1], n);
  chain->how = how->how;
  if (how->below) {
    chain->has_below = true;
    chain->below = *how->below;
  }
  else if (how->alone) {
    chain->has_below = true;
    chain->below.name = "nothing";
  }
  chain->pool = how->pool;
  if (!chain->how.open_limit) {
    chain->how.open_limit = vd_open_limit_new (0);
    if (!chain->how.open_limit) {
      free (chain);
      return vd_error (ctx, ENOMEM, "%s: no memory for a chain", paths[n - 1]);
    }
    chain->own_limit = true;
  }
  pthread_mutex_init (&chain->lock, NULL);
  chain->n = n;
  for (i = 0; i < n && r == 0; ++i)
    r = open_level (ctx, chain, i, paths[i], how->fds ? how->fds[i] : -1, how);
  if (r < 0) {
    vd_ctx_init (&quiet, NULL);
    vd_chain_close (&quiet, chain);
    return r;
  }
  *ret = chain;
  return 0;
}

int
vd_chain_check_below (struct vd_ctx *ctx, const struct vd_chain *chain,
                      const struct vd_link *link, const char *name,
                      const struct vd_chain_open *how)
{
  char uuid[VD_UUID_TEXT];
  size_t i;

  for (i = 0; i < chain->n && !vd_uuid_is_null (&link->uuid); ++i) {
    const struct vd_image *image = image_of (&chain->levels[i]);

    if (vd_uuid_equal (&image->link.uuid, &link->uuid))
      return vd_error (ctx, ELOOP, "%s: has the UUID of %s, %s: a copy, or a "
                       "chain that bites its tail", image->name, name,
                       vd_uuid_text (&link->uuid, uuid));
  }
  return check_link (ctx, image_of (&chain->levels[0]), link, name, how);
}

int
vd_chain_stack (struct vd_ctx *ctx, struct vd_chain *chain,
                struct vd_chain *under, const struct vd_chain_open *how)
{
  const struct vd_image *parent = image_of (&under->levels[under->n - 1]);
  const struct vd_chain *c;
  size_t i;
  int r;

  for (c = under; c; c = c->under) {
    for (i = 0; i < chain->n; ++i) {
      r = check_cycle (ctx, c, c->n, image_of (&chain->levels[i]));
      if (r < 0)
        return r;
    }
  }
  r = check_link (ctx, image_of (&chain->levels[0]), &parent->link,
                  parent->name, how);
  if (r < 0)
    return r;
  chain->under = under;
  under->over = chain;
  return 0;
}

const struct vd_chain *
vd_chain_under (const struct vd_chain *chain)
{
  return chain->under;
}

const struct vd_chain *
vd_chain_over (const struct vd_chain *chain)
{
  return chain->over;
}

int
vd_chain_create_diff (struct vd_ctx *ctx, const char *path,
                      const struct vd_format *format, enum vd_lock lock,
                      uint64_t size, const struct vd_link *below,
                      const char *name_below)
{
  struct vd_create create = {
    /* A disk that ends inside a sector: the rest of it reads as zeroes. */
    .size = round_up (size, 512),
    .differencing = true,
    .link = {
      .parent = below->uuid,
      .parent_modification = below->modification,
      .parent_cid = below->has_cid ? below->cid : VD_CID_NONE,
      .has_cid = below->has_cid,
      .parent_hint = below->has_cid ? name_below : NULL,
    },
  };

  if (vd_uuid_is_null (&below->uuid))
    memset (&create.link.parent_modification, 0,
            sizeof create.link.parent_modification);
  return vd_image_create (ctx, path, format, lock, &create);
}

static struct level *
top (const struct vd_chain *chain)
{
  return (struct level *) &chain->levels[chain->n - 1];
}

int
vd_chain_reopen_write (struct vd_ctx *ctx, struct vd_chain *chain)
{
  struct level *l = top (chain);
  struct vd_open how = level_how (chain, l->number);
  struct vd_image *image;
  int r;

  if (how.write == VD_WRITE_NO)
    how.write = VD_WRITE_TRY;
  r = vd_image_reopen_write (ctx, image_of (l), &how, &image);
  if (r < 0)
    return r;
  l->replaced = image_of (l);
  atomic_store_explicit (&l->image, image, memory_order_release);
  return 0;
}

int
vd_chain_close (struct vd_ctx *ctx, struct vd_chain *chain)
{
  int r = 0, r2;
  size_t i;

  if (!chain)
    return 0;
  for (i = chain->n; i-- > 0;) {
    struct level *l = &chain->levels[i];

    r2 = vd_image_close (ctx, image_of (l));
    if (r == 0)
      r = r2;
    vd_image_close (ctx, l->replaced);
    vd_owners_free (atomic_load (&l->owners));
  }
  if (chain->own_pool)
    vd_owner_pool_free (chain->pool);
  if (chain->own_limit)
    vd_open_limit_free (chain->how.open_limit);
  pthread_mutex_destroy (&chain->lock);
  free (chain);
  return r;
}

size_t
vd_chain_length (const struct vd_chain *chain)
{
  return chain->n;
}

struct vd_image *
vd_chain_image (const struct vd_chain *chain, size_t i)
{
  return image_of (&chain->levels[i]);
}

bool
vd_chain_writable (const struct vd_chain *chain)
{
  return vd_image_writable (image_of (top (chain)));
}

uint64_t
vd_chain_size (const struct vd_chain *chain, size_t level)
{
  return image_of (&chain->levels[level])->size;
}

/* ---- who owns what ----------------------------------------------------- */

/* From the view's image down: the first that holds all of the unit. */
static int
find_owner (struct vd_ctx *ctx, void *opaque, uint64_t offset, uint64_t len)
{
  const struct level *l = opaque;
  const struct vd_chain *chain = l->chain;
  size_t i;
  int r;

  for (i = l->number + 1; i-- > 0;) {
    struct vd_image *image = image_of (&chain->levels[i]);

    /* Beyond a smaller image's end there are zeroes, whatever lies below. */
    if (offset >= image->size)
      return OWNER_NOBODY;
    if (len > image->size - offset)
      return OWNER_MIXED;
    r = vd_image_holds (ctx, image, len, offset);
    if (r < 0)
      return r;
    if (r == 1)
      return i;
    if (r == 2)
      return OWNER_MIXED;
  }
  if (!chain->has_below || offset >= chain->below.disk.size)
    return OWNER_NOBODY;
  return len > chain->below.disk.size - offset ? OWNER_MIXED : OWNER_BELOW;
}

/* NULL: none is needed, or no memory for one. */
static struct vd_owners *
owners_of (struct vd_chain *chain, size_t level)
{
  struct level *l = &chain->levels[level];
  struct vd_owners *o =
    atomic_load_explicit (&l->owners, memory_order_acquire);
  uint32_t block = UINT32_MAX;
  size_t i;

  if (o || level == 0)
    return o;
  LOCK_SCOPE (&chain->lock);
  o = atomic_load (&l->owners);
  if (o)
    return o;
  if (!chain->pool) {
    chain->pool = vd_owner_pool_new (VD_OWNER_PAGES);
    chain->own_pool = true;
    if (!chain->pool)
      return NULL;
  }
  for (i = 0; i <= level; ++i)
    block = min_u64 (block, image_of (&chain->levels[i])->block_size);
  o = vd_owners_new (chain->pool, vd_chain_size (chain, level), block);
  atomic_store_explicit (&l->owners, o, memory_order_release);
  return o;
}

/* ---- views ------------------------------------------------------------- */

static int
read_from (struct vd_ctx *ctx, struct vd_chain *chain, size_t level,
           int owner, void *buf, size_t len, uint64_t offset)
{
  switch (owner) {
  case OWNER_NOBODY:
    memset (buf, 0, len);
    return 0;
  case OWNER_BELOW:
    return chain->below.disk.pread (ctx, chain->below.disk.opaque, buf, len,
                                    offset);
  case OWNER_MIXED:
    return vd_image_pread (ctx, image_of (&chain->levels[level]), buf, len,
                           offset);
  default:
    return vd_image_pread (ctx, image_of (&chain->levels[owner]), buf, len,
                           offset);
  }
}

int
vd_chain_pread (struct vd_ctx *ctx, struct vd_chain *chain, size_t level,
                void *buf, size_t len, uint64_t offset)
{
  struct level *l = &chain->levels[level];
  struct vd_owners *o = owners_of (chain, level);
  char *p = buf;
  uint64_t n;
  int owner, r;

  if (!o)
    return vd_image_pread (ctx, image_of (l), buf, len, offset);
  for (; len > 0; p += n, offset += n, len -= n) {
    owner = vd_owners_get (ctx, o, offset, len, find_owner, l, &n);
    if (owner < 0)
      return owner;
    r = read_from (ctx, chain, level, owner, p, n, offset);
    if (r < 0)
      return r;
  }
  return 0;
}

int
vd_chain_extents (struct vd_ctx *ctx, struct vd_chain *chain, size_t level,
                  uint64_t offset, uint64_t len, bool one,
                  int (*fn) (void *, uint64_t, uint64_t, unsigned),
                  void *opaque)
{
  return vd_image_extents (ctx, image_of (&chain->levels[level]), offset,
                           len, one, fn, opaque);
}

int
vd_chain_cache (struct vd_ctx *ctx, struct vd_chain *chain, size_t level,
                uint64_t len, uint64_t offset)
{
  struct level *l = &chain->levels[level];
  struct vd_owners *o = owners_of (chain, level);
  uint64_t n;
  int owner, r;

  if (!o)
    return vd_image_cache (ctx, image_of (l), len, offset);
  for (; len > 0; offset += n, len -= n) {
    owner = vd_owners_get (ctx, o, offset, len, find_owner, l, &n);
    if (owner < 0)
      return owner;
    if (owner < OWNERS_MAX) {
      r = vd_image_cache (ctx, image_of (&chain->levels[owner]), n, offset);
      if (r < 0)
        return r;
    }
  }
  return 0;
}

/* ---- the top ----------------------------------------------------------- */

/* A block that was written is the top's as a whole, whatever part of it the
 * request covered.
 */
static void
forget (struct vd_chain *chain, uint64_t offset, uint64_t len)
{
  struct level *l = top (chain);
  struct vd_image *image = image_of (l);
  uint64_t first, last, block;
  struct vd_owners *o;

  if (l->number == 0)           /* has no index, see owners_of */
    return;
  /* Either who makes the index now sees the write, or we see the index. */
  atomic_thread_fence (memory_order_seq_cst);
  o = atomic_load_explicit (&l->owners, memory_order_acquire);
  if (!o || len == 0)
    return;
  vd_image_block_at (image, offset, &first, &block);
  vd_image_block_at (image, offset + len - 1, &last, &block);
  last = min_u64 (last + block, image->size);
  vd_owners_forget (o, first, last - first, l->number);
}

int
vd_chain_pwrite (struct vd_ctx *ctx, struct vd_chain *chain,
                 const void *buf, size_t len, uint64_t offset, unsigned flags)
{
  struct level *l = top (chain);
  int r;

  if (l->number == 0)           /* nothing to forget, see there */
    return vd_image_pwrite (ctx, image_of (l), buf, len, offset, flags);
  r = vd_image_pwrite (ctx, image_of (l), buf, len, offset, flags);
  /* Also after a failure: part of it may have been done. */
  forget (chain, offset, len);
  return r;
}

int
vd_chain_zero (struct vd_ctx *ctx, struct vd_chain *chain,
               uint64_t len, uint64_t offset, unsigned flags)
{
  int r = vd_image_zero (ctx, image_of (top (chain)), len, offset, flags);

  forget (chain, offset, len);
  return r;
}

int
vd_chain_trim (struct vd_ctx *ctx, struct vd_chain *chain,
               uint64_t len, uint64_t offset, unsigned flags)
{
  int r = vd_image_trim (ctx, image_of (top (chain)), len, offset, flags);

  forget (chain, offset, len);
  return r;
}

int
vd_chain_flush (struct vd_ctx *ctx, struct vd_chain *chain)
{
  return vd_image_flush (ctx, image_of (top (chain)));
}

int
vd_chain_end_session (struct vd_ctx *ctx, struct vd_chain *chain)
{
  return vd_image_end_session (ctx, image_of (top (chain)));
}
