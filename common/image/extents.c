/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Block status: the same runs that reading uses, with the holes that a store
 * has inside its data, merged into as few extents as possible.
 */

#include <config.h>

#include <stddef.h>

#include "engine.h"
#include "rounding.h"

/* A walk over a range. */
struct walk {
  int (*fn) (void *opaque, uint64_t offset, uint64_t len, unsigned type);
  void *opaque;
  bool one;
  bool done;                    /* "one" has what it wanted */

  uint64_t parent_end;          /* of the range that the parent is asked for */

  /* The extent that is growing; len 0: none yet. */
  uint64_t offset, len;
  unsigned type;

  /* What the store said last: [from, to) of it is data or hole.  A file with
   * many blocks often has few extents.
   */
  struct vd_store *store;
  uint64_t from, to;
  bool hole;
};

/* Not 0: the walk ends, because it is done, or fn returned that. */
static int
add (struct walk *w, uint64_t offset, uint64_t len, unsigned type)
{
  int r;

  if (w->len > 0 && w->type == type) {
    w->len += len;
    return 0;
  }
  if (w->len > 0) {
    if (w->one) {
      w->done = true;
      return 1;
    }
    r = w->fn (w->opaque, w->offset, w->len, w->type);
    if (r != 0)
      return r;
  }
  w->offset = offset;
  w->len = len;
  w->type = type;
  return 0;
}

static int
add_data (struct vd_ctx *ctx, struct walk *w, const struct vd_run *run,
          uint64_t offset)
{
  uint64_t done, position, n;
  int r;

  for (done = 0; done < run->length; done += n) {
    position = run->position + done;
    if (w->store != run->store || position < w->from || position >= w->to) {
      w->store = NULL;
      r = vd_store_extent (ctx, run->store, position, &w->hole, &w->to);
      if (r < 0)
        return r;
      w->store = run->store;
      w->from = position;
    }
    n = min_u64 (run->length - done, w->to - position);
    r = add (w, offset + done, n,
             w->hole ? VD_EXTENT_HOLE | VD_EXTENT_ZERO : 0);
    if (r != 0)
      return r;
  }
  return 0;
}

static int
add_from_parent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  struct walk *w = opaque;

  /* Its answer may reach into what is not its own here. */
  return add (w, offset, min_u64 (len, w->parent_end - offset), type);
}

static int
add_parent (struct vd_ctx *ctx, struct walk *w, struct vd_image *image,
            uint64_t offset, uint64_t len)
{
  const struct vd_engine *e = image->engine;
  const uint64_t end = offset + len;
  int r;

  w->parent_end = e->has_parent ? min_u64 (end, e->parent.size) : 0;
  while (offset < w->parent_end) {
    r = e->parent.extents (ctx, e->parent.opaque, offset,
                           w->parent_end - offset, w->one, add_from_parent, w);
    if (r != 0)
      return r;
    /* With one, the first extent only: there may be more of its type. */
    offset = w->offset + w->len;
  }
  if (offset == end)
    return 0;
  return add (w, offset, end - offset, VD_EXTENT_HOLE | VD_EXTENT_ZERO);
}

int
vd_image_extents (struct vd_ctx *ctx, struct vd_image *image,
                  uint64_t offset, uint64_t len, bool one,
                  int (*fn) (void *opaque, uint64_t offset, uint64_t len,
                             unsigned type),
                  void *opaque)
{
  struct walk w = { .fn = fn, .opaque = opaque, .one = one };
  struct vd_run run;
  bool empty;
  int r = 0;

  if (image->engine->sink && vd_sink_unfinished (image, &empty))
    return fn (opaque, offset, len,
               empty ? VD_EXTENT_HOLE | VD_EXTENT_ZERO : 0);
  while (len > 0) {
    r = image->format->locate (ctx, image, offset, len, VD_LOCATE_MAP, &run);
    if (r < 0)
      return r;

    switch (run.kind) {
    case VD_RUN_DATA:
      r = add_data (ctx, &w, &run, offset);
      break;
    case VD_RUN_PACKED:
    case VD_RUN_BAD:            /* the client must ask and get the error */
      r = add (&w, offset, run.length, 0);
      break;
    case VD_RUN_ZERO:
      r = add (&w, offset, run.length, VD_EXTENT_HOLE | VD_EXTENT_ZERO);
      break;
    case VD_RUN_PARENT:
      r = add_parent (ctx, &w, image, offset, run.length);
      break;
    }
    if (r != 0)
      break;
    offset += run.length;
    len -= run.length;
  }

  if (r != 0 && !w.done)
    return r;
  return w.len > 0 ? fn (opaque, w.offset, w.len, w.type) : 0;
}
