/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writing, zeroing and trimming (rules 1, 2 and 3).
 *
 * Every request is cut into pieces that lie under one block lock.  What is
 * allocated already is changed in its place; what is not goes through
 * write_unallocated, which decides whether anything is stored at all.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "engine.h"
#include "inline.h"
#include "iszero.h"
#include "rounding.h"

/* Parent data is copied and compared in pieces of this size (rules O4). */
#define COPY_SIZE (1024 * 1024)

/* One request.  data NULL means zeroes. */
struct request {
  struct vd_image *image;
  const char *data;
  bool honor_zeroes;            /* of the image, or zero without MAY_TRIM */
  bool punch;                   /* zeroing may give space back */
  bool fast;
  bool fua;
  bool need_flush;              /* FUA, and a piece needs a round for it */
};

static const char *
data_at (const struct request *rq, uint64_t skip)
{
  return rq->data ? rq->data + skip : NULL;
}

static VD_INLINE int
check_deny (struct vd_ctx *ctx, struct request *rq,
            const struct vd_run *run, uint64_t offset)
{
  if (run->kind == VD_RUN_BAD || run->mode == VD_MODE_DENY)
    return vd_run_error (ctx, rq->image, run, offset, "write");
  return 0;
}

/* Is this a part that cannot be written, and reads as zeroes anyway?  Then
 * zeroing it is done already (vmdk-format 4).
 */
static bool
stays_zero (const struct vd_image *image, const struct vd_run *run)
{
  return run->mode == VD_MODE_DROP ||
    (run->mode == VD_MODE_DENY &&
     (run->kind == VD_RUN_ZERO ||
      (run->kind == VD_RUN_PARENT && !image->engine->has_parent)));
}

/* ---- in place --------------------------------------------------------- */

static int
zero_in_place (struct vd_ctx *ctx, struct request *rq,
               const struct vd_run *run)
{
  int r;

  if (rq->fast) {
    r = vd_store_zero (ctx, run->store, run->position, run->length,
                       rq->punch);
    if (r == -EOPNOTSUPP)
      return -ENOTSUP;
  }
  else
    r = vd_store_zero_or_write (ctx, run->store, run->position,
                                run->length, rq->punch);
  rq->need_flush = true;
  return r;
}

static VD_INLINE int
write_in_place (struct vd_ctx *ctx, struct request *rq,
                const struct vd_run *run, const char *data)
{
  struct vd_image *image = rq->image;
  unsigned flags = 0;
  int r;

  r = vd_session_begin (ctx, image);
  if (r < 0)
    return r;
  /* After a failed flush nothing is written (rules O11). */
  r = vd_round_check (ctx, image);
  if (r < 0)
    return r;
  if (!data)
    return zero_in_place (ctx, rq, run);

  /* With every entry durable, only this data need be made so. */
  if (rq->fua && vd_round_all_written (image))
    flags = VD_STORE_FUA;
  else
    rq->need_flush = true;
  r = vd_store_pwrite (ctx, run->store, data, run->length, run->position,
                       flags);
  if (r < 0 && atomic_load (&run->store->sync_failed))
    vd_round_poison (ctx, image);
  return r;
}

/* ---- what is not allocated -------------------------------------------- */

/* A block that has no data here, and the part of it that is written. */
struct piece {
  uint64_t start;               /* of the block */
  uint64_t block_length;        /* may reach beyond the end of the disk */
  uint64_t valid;               /* the part inside the disk */
  uint64_t offset, len;         /* what is written */
  bool below;                   /* what is not written is the parent's */
  bool is_zero_state;           /* has an explicit ZERO already */
};

/* Are these bytes of the disk, as they are below the image, all zero
 * (data NULL) or equal to data?  buf: COPY_SIZE bytes.
 */
static int
below_equals (struct vd_ctx *ctx, struct vd_image *image, char *buf,
              uint64_t offset, uint64_t len, const char *data)
{
  uint64_t n;
  int r;

  for (; len > 0; len -= n, offset += n) {
    n = min_u64 (len, COPY_SIZE);
    r = vd_parent_pread (ctx, image, buf, n, offset);
    if (r < 0)
      return r;
    if (data ? memcmp (buf, data, n) != 0 : !is_zero (buf, n))
      return 0;
    if (data)
      data += n;
  }
  return 1;
}

/* The bytes of the block around what is written: do they read as zeroes? */
static int
rest_is_zero (struct vd_ctx *ctx, struct vd_image *image, char *buf,
              const struct piece *p)
{
  uint64_t end = p->offset + p->len, block_end = p->start + p->valid;
  int r;

  if (!p->below)
    return 1;
  r = below_equals (ctx, image, buf, p->start, p->offset - p->start, NULL);
  if (r == 1)
    r = below_equals (ctx, image, buf, end, block_end - end, NULL);
  return r;
}

/* Copy bytes of the parent into a place that reads as zeroes. */
static int
fill_from_below (struct vd_ctx *ctx, struct vd_image *image, char *buf,
                 const struct vd_place *place, uint64_t start,
                 uint64_t offset, uint64_t len)
{
  uint64_t n;
  int r;

  for (; len > 0; len -= n, offset += n) {
    n = min_u64 (len, COPY_SIZE);
    r = vd_parent_pread (ctx, image, buf, n, offset);
    if (r < 0)
      return r;
    if (is_zero (buf, n))
      continue;
    r = vd_store_pwrite (ctx, place->store, buf, n,
                         place->position + (offset - start), 0);
    if (r < 0)
      return r;
  }
  return 0;
}

/* Everything a block's place must hold before an entry may name it. */
static int
fill_place (struct vd_ctx *ctx, struct request *rq, char *buf,
            const struct piece *p, const char *data,
            const struct vd_place *place)
{
  struct vd_image *image = rq->image;
  uint64_t end = p->offset + p->len, block_end = p->start + p->valid;
  uint64_t position = place->position + (p->offset - p->start);
  int r;

  if (!place->fresh && !(data && p->len == p->block_length)) {
    r = vd_store_zero_or_write (ctx, place->store, place->position,
                                p->block_length, true);
    if (r < 0)
      return r;
  }
  if (p->below) {
    r = fill_from_below (ctx, image, buf, place, p->start,
                         p->start, p->offset - p->start);
    if (r == 0)
      r = fill_from_below (ctx, image, buf, place, p->start,
                           end, block_end - end);
    if (r < 0)
      return r;
  }
  if (data)
    return vd_store_pwrite (ctx, place->store, data, p->len, position, 0);
  if (!rq->punch)               /* the space is asked for, not only zeroes */
    return vd_store_zero_or_write (ctx, place->store, position, p->len,
                                   false);
  return 0;
}

static int
allocate (struct vd_ctx *ctx, struct request *rq, char *buf,
          const struct piece *p, const char *data)
{
  struct vd_image *image = rq->image;
  struct vd_place place;
  uint64_t value;
  int r;

  r = vd_session_begin (ctx, image);
  if (r < 0)
    return r;
  r = vd_round_slot (ctx, image);
  if (r < 0)
    return r;
  r = image->format->reserve (ctx, image, p->start, &place);
  if (r < 0)
    goto give_back;
  r = fill_place (ctx, rq, buf, p, data, &place);
  if (r == 0)
    r = image->format->commit (ctx, image, p->start, VD_STATE_DATA, &place,
                               &value);
  if (r < 0) {
    image->format->abandon (image, p->start, &place);
    goto give_back;
  }
  vd_round_queue (image, p->start, value);
  rq->need_flush = true;
  return 0;

 give_back:
  vd_round_give_back (image);
  return r;
}

static int
mark_zero (struct vd_ctx *ctx, struct request *rq, const struct piece *p)
{
  struct vd_image *image = rq->image;
  uint64_t value;
  int r;

  if (p->is_zero_state)
    return 0;
  r = vd_session_begin (ctx, image);
  if (r < 0)
    return r;
  r = vd_round_slot (ctx, image);
  if (r < 0)
    return r;
  r = image->format->commit (ctx, image, p->start, VD_STATE_ZERO, NULL,
                             &value);
  if (r < 0) {
    vd_round_give_back (image);
    return r;
  }
  vd_round_queue (image, p->start, value);
  rq->need_flush = true;
  return 0;
}

/* Write to a block that has no data here.  What is stored follows the matrix
 * measured on VirtualBox (vdi-format 10.1, observed 2):
 *
 * - zeroes over a whole block, or over a ZERO block, become (stay) a ZERO
 *   entry, unless zeroes are honoured or the format has no such entry;
 * - else what equals the data below is dropped, unless same data is honoured;
 * - else, if the block as a whole would be zeroes, a ZERO entry, as above;
 * - else the block is allocated.
 *
 * The caller holds the block's lock exclusively.
 */
static int
write_unallocated (struct vd_ctx *ctx, struct request *rq,
                   const struct piece *p, const char *data)
{
  struct vd_image *image = rq->image;
  const struct vd_engine *e = image->engine;
  bool whole = p->offset == p->start && p->len == p->valid;
  bool zero = !data || is_zero (data, p->len);
  bool zero_entry = zero && !rq->honor_zeroes && image->has_zero;
  CLEANUP_FREE char *buf = NULL;
  int r;

  r = vd_round_check (ctx, image);
  if (r < 0)
    return r;

  /* Zeroes over a ZERO block are dropped, but its entry may still wait. */
  if (p->is_zero_state && !vd_round_all_written (image))
    rq->need_flush = true;

  if (zero_entry && (p->is_zero_state || whole))
    return mark_zero (ctx, rq, p);

  if (p->below) {
    /* From here on the parent has to be read. */
    if (rq->fast)
      return -ENOTSUP;
    buf = malloc (COPY_SIZE);
    if (!buf)
      return vd_error (ctx, ENOMEM, "%s: no memory to copy a block",
                       image->name);
  }

  if (!e->honor_same) {
    if (p->below)
      r = below_equals (ctx, image, buf, p->offset, p->len, data);
    else
      r = zero;
    if (r < 0)
      return r;
    if (r == 1)
      return 0;
  }

  if (zero_entry) {
    r = rest_is_zero (ctx, image, buf, p);
    if (r < 0)
      return r;
    if (r == 1)
      return mark_zero (ctx, rq, p);
  }

  if (rq->fast)
    return -ENOTSUP;
  return allocate (ctx, rq, buf, p, data);
}

/* ---- cutting a request into pieces ------------------------------------ */

/* Under the exclusive lock of the block at p->start: write up to len bytes,
 * all in this block.  The run is what locate says now.
 */
static int
write_exclusive (struct vd_ctx *ctx, struct request *rq, uint64_t start,
                 uint64_t block_length, uint64_t offset, uint64_t len,
                 const char *data, uint64_t *ret_done)
{
  struct vd_image *image = rq->image;
  struct vd_run run;
  struct piece p;
  int r;

  r = image->format->locate (ctx, image, offset, len, VD_LOCATE_READ, &run);
  if (r < 0)
    return r;
  *ret_done = run.length;
  if (run.mode == VD_MODE_DROP || (!data && stays_zero (image, &run)))
    return 0;
  r = check_deny (ctx, rq, &run, offset);
  if (r < 0)
    return r;

  if (run.kind == VD_RUN_DATA)
    return write_in_place (ctx, rq, &run, data);

  /* The states of a block without data hold for the whole of it. */
  assert (run.kind == VD_RUN_PARENT || run.kind == VD_RUN_ZERO);
  assert (run.length == len);
  p.start = start;
  p.block_length = block_length;
  p.valid = min_u64 (block_length, image->size - start);
  p.offset = offset;
  p.len = len;
  p.is_zero_state = run.kind == VD_RUN_ZERO;
  p.below = image->engine->has_parent && !p.is_zero_state;
  return write_unallocated (ctx, rq, &p, data);
}

/* Data that goes over allocated blocks, as far as they go. */
static VD_INLINE int
write_shared (struct vd_ctx *ctx, struct request *rq, uint64_t offset,
              uint64_t len, const char *data, uint64_t *ret_done)
{
  struct vd_image *image = rq->image;
  struct vd_run run;
  int r;

  *ret_done = 0;
  while (len > 0) {
    r = image->format->locate (ctx, image, offset, len, VD_LOCATE_READ, &run);
    if (r == 0)
      r = check_deny (ctx, rq, &run, offset);
    if (r < 0)
      return r;
    if (run.kind != VD_RUN_DATA || run.mode != VD_MODE_IN_PLACE)
      return 0;
    r = write_in_place (ctx, rq, &run, data);
    if (r < 0)
      return r;
    *ret_done += run.length;
    offset += run.length;
    len -= run.length;
    data += run.length;
  }
  return 0;
}

/* Images without blocks to allocate (flat extents, raw disks) report the
 * whole disk as one block, so that nothing here has to know.
 */
void
vd_image_block_at (const struct vd_image *image, uint64_t offset,
                   uint64_t *ret_start, uint64_t *ret_length)
{
  if (image->format->block_at)
    image->format->block_at (image, offset, ret_start, ret_length);
  else {
    *ret_start = round_down (offset, 1024 * 1024);
    *ret_length = 1024 * 1024;
  }
}

static VD_INLINE int
write_request (struct vd_ctx *ctx, struct request *rq,
               uint64_t offset, uint64_t len)
{
  struct vd_image *image = rq->image;
  struct vd_blocklock *locks = image->engine->locks;
  uint64_t start, block_length, end, n, done, skip = 0;
  int r;

  while (skip < len) {
    vd_image_block_at (image, offset + skip, &start, &block_length);

    if (rq->data) {
      end = max_u64 (vd_blocklock_end (locks, start), start + block_length);
      n = min_u64 (len - skip, end - (offset + skip));
      vd_blocklock_shared (locks, start);
      r = write_shared (ctx, rq, offset + skip, n, data_at (rq, skip), &done);
      vd_blocklock_unlock (locks, start);
      if (r < 0)
        return r;
      skip += done;
      if (done == n)
        continue;
      vd_image_block_at (image, offset + skip, &start, &block_length);
    }

    n = min_u64 (len - skip, start + block_length - (offset + skip));
    vd_blocklock_exclusive (locks, start);
    r = write_exclusive (ctx, rq, start, block_length, offset + skip, n,
                         data_at (rq, skip), &done);
    vd_blocklock_unlock (locks, start);
    if (r < 0)
      return r;
    skip += done;
  }
  return 0;
}

static int
check_writable (struct vd_ctx *ctx, const struct vd_image *image)
{
  if (image->write)
    return 0;
  return vd_error (ctx, EROFS, "%s: is open read-only", image->name);
}

/* An image that is written front to back: durable means complete, as soon as
 * it can be.
 */
static int
write_to_sink (struct vd_ctx *ctx, struct vd_image *image, const void *buf,
               size_t len, uint64_t offset, unsigned flags)
{
  int r = vd_sink_pwrite (ctx, image, buf, len, offset);

  return r < 0 || !(flags & VD_FUA) ? r : vd_sink_flush (ctx, image);
}

static int
finish (struct vd_ctx *ctx, struct request *rq)
{
  if (rq->fua && rq->need_flush)
    return vd_image_flush (ctx, rq->image);
  return 0;
}

int
vd_image_pwrite (struct vd_ctx *ctx, struct vd_image *image,
                 const void *buf, size_t len, uint64_t offset,
                 unsigned flags)
{
  struct request rq = {
    .image = image,
    .data = buf,
    .honor_zeroes = image->engine->honor_zeroes,
    .punch = !image->engine->honor_zeroes,
    .fua = flags & VD_FUA,
  };
  int r;

  r = check_writable (ctx, image);
  if (r < 0)
    return r;
  if (image->engine->sink)
    return write_to_sink (ctx, image, buf, len, offset, flags);
  r = write_request (ctx, &rq, offset, len);
  return r < 0 ? r : finish (ctx, &rq);
}

/* ---- zero ------------------------------------------------------------- */

/* Would zeroing the range take a slow path?  A look before anything is
 * changed, so that a refused fast zero has no effect; what changes between
 * the look and the act is caught there once more.
 */
static int
check_fast (struct vd_ctx *ctx, struct request *rq,
            uint64_t offset, uint64_t len)
{
  struct vd_image *image = rq->image;
  const struct vd_engine *e = image->engine;
  bool zero_entry = image->has_zero && !rq->honor_zeroes;
  uint64_t start, block_length, n;
  struct vd_run run;
  int r;

  for (; len > 0; offset += run.length, len -= run.length) {
    r = image->format->locate (ctx, image, offset, len, VD_LOCATE_READ, &run);
    if (r < 0)
      return r;
    if (stays_zero (image, &run))
      continue;
    switch (run.kind) {
    case VD_RUN_DATA:
      if (atomic_load (rq->punch ? &run.store->no_punch
                       : &run.store->no_zero))
        return -ENOTSUP;
      break;
    case VD_RUN_ZERO:
      if (!zero_entry && e->honor_same)
        return -ENOTSUP;
      break;
    case VD_RUN_PARENT:
      if (!e->has_parent) {
        if (!zero_entry && e->honor_same)
          return -ENOTSUP;
        break;
      }
      /* Only whole blocks can be marked without reading the parent. */
      if (!zero_entry)
        return -ENOTSUP;
      vd_image_block_at (image, offset, &start, &block_length);
      n = min_u64 (block_length, image->size - start);
      if (start != offset || run.length < n)
        return -ENOTSUP;
      vd_image_block_at (image, offset + run.length - 1, &start, &block_length);
      n = min_u64 (block_length, image->size - start);
      if (start + n != offset + run.length)
        run.length = start - offset;    /* the partial one comes next */
      break;
    default:
      break;                    /* BAD: the act reports it */
    }
  }
  return 0;
}

int
vd_image_zero (struct vd_ctx *ctx, struct vd_image *image,
               uint64_t len, uint64_t offset, unsigned flags)
{
  struct request rq = {
    .image = image,
    .data = NULL,
    /* NO_HOLE asks for this request what honor-zeroes asks for all. */
    .honor_zeroes = image->engine->honor_zeroes || !(flags & VD_MAY_TRIM),
    .fast = flags & VD_FAST,
    .fua = flags & VD_FUA,
  };
  int r;

  rq.punch = !rq.honor_zeroes;
  r = check_writable (ctx, image);
  if (r < 0)
    return r;
  if (image->engine->sink)
    return write_to_sink (ctx, image, NULL, len, offset, flags);
  if (rq.fast) {
    r = check_fast (ctx, &rq, offset, len);
    if (r < 0)
      return r;
  }
  r = write_request (ctx, &rq, offset, len);
  return r < 0 ? r : finish (ctx, &rq);
}

/* ---- trim ------------------------------------------------------------- */

/* One block, or part of it, under its exclusive lock. */
static int
trim_block (struct vd_ctx *ctx, struct request *rq, uint64_t start,
            uint64_t block_length, uint64_t offset, uint64_t len,
            uint64_t *ret_done)
{
  struct vd_image *image = rq->image;
  CLEANUP_FREE char *buf = NULL;
  struct vd_run run;
  struct piece p = { .start = start };
  int r;

  r = image->format->locate (ctx, image, offset, len, VD_LOCATE_READ, &run);
  if (r < 0)
    return r;
  *ret_done = run.length;

  switch (run.kind) {
  case VD_RUN_DATA:
    if (run.mode == VD_MODE_DENY || atomic_load (&run.store->no_punch))
      return 0;
    r = vd_round_check (ctx, image);
    if (r == 0)
      r = vd_session_begin (ctx, image);
    if (r < 0)
      return r;
    r = vd_store_zero (ctx, run.store, run.position, run.length, true);
    return r == -EOPNOTSUPP ? 0 : r;

  case VD_RUN_PARENT:
    /* Trimmed data must not turn into older data of the parent, and a hint
     * is not worth copying a block: only a whole block is marked, and only
     * if it does not read as zeroes anyway.
     */
    if (!image->engine->has_parent || !image->has_zero ||
        run.mode == VD_MODE_DENY || offset != start ||
        len < min_u64 (block_length, image->size - start))
      return 0;
    buf = malloc (COPY_SIZE);
    if (!buf)
      return vd_error (ctx, ENOMEM, "%s: no memory to read the parent",
                       image->name);
    r = below_equals (ctx, image, buf, offset, len, NULL);
    if (r == 0)
      r = mark_zero (ctx, rq, &p);
    else if (r == 1)
      r = 0;
    return r;

  default:
    return 0;
  }
}

int
vd_image_trim (struct vd_ctx *ctx, struct vd_image *image,
               uint64_t len, uint64_t offset, unsigned flags)
{
  struct request rq = {
    .image = image,
    .fua = flags & VD_FUA,
    .need_flush = true,
  };
  struct vd_blocklock *locks = image->engine->locks;
  uint64_t start, block_length, n, done;
  int r;

  r = check_writable (ctx, image);
  if (r < 0)
    return r;
  if (image->engine->sink)
    return 0;

  for (; len > 0; offset += done, len -= done) {
    vd_image_block_at (image, offset, &start, &block_length);
    n = min_u64 (len, start + block_length - offset);
    vd_blocklock_exclusive (locks, start);
    r = trim_block (ctx, &rq, start, block_length, offset, n, &done);
    vd_blocklock_unlock (locks, start);
    if (r < 0)
      return r;
  }
  return finish (ctx, &rq);
}
