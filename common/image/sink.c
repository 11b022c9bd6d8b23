/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Images that are written once, front to back (streamOptimized VMDK).
 *
 * NBD clients write in parallel and somewhat out of order, and in pieces of
 * any size.  Whole blocks are gathered here and handed to the format in
 * ascending order.  A block is handed over when everything before it has
 * been, or when more than WINDOW bytes are waiting: then what is missing
 * before it counts as zeroes, and writing it later is an error.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "engine.h"
#include "iszero.h"
#include "rounding.h"

#define WINDOW (64 * 1024 * 1024)

/* A block that has been written to, wholly or in part. */
struct waiting {
  struct waiting *next;         /* ascending by start */
  uint64_t start;
  size_t length;                /* cut at the end of the disk */
  char data[];
};

struct vd_sink_state {
  pthread_mutex_t lock;
  struct vd_sink *sink;         /* the format's; NULL before the first write
                                   and after the last */
  bool finished;
  bool failed;
  uint64_t stored;              /* blocks that start before this are gone */
  uint64_t complete;            /* written in one go from the front to here */
  struct waiting *waiting;
  size_t bytes;                 /* in the waiting list */
};

int
vd_sink_init (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_sink_state *s = calloc (1, sizeof *s);

  if (!s)
    return vd_error (ctx, ENOMEM, "%s: no memory for writing", image->name);
  pthread_mutex_init (&s->lock, NULL);
  image->engine->sink = s;
  return 0;
}

void
vd_sink_free (struct vd_image *image)
{
  struct vd_sink_state *s = image->engine->sink;
  struct waiting *w, *next;

  if (!s)
    return;
  for (w = s->waiting; w; w = next) {
    next = w->next;
    free (w);
  }
  if (s->sink)
    image->format->sink_close (s->sink);
  pthread_mutex_destroy (&s->lock);
  free (s);
  image->engine->sink = NULL;
}

/* Hand the first waiting block over. */
static int
put_first (struct vd_ctx *ctx, struct vd_image *image,
           struct vd_sink_state *s)
{
  struct waiting *w = s->waiting;
  int r = 0;

  if (!is_zero (w->data, w->length))
    r = image->format->sink_put (ctx, s->sink, w->start, w->data, w->length);
  if (r < 0) {
    s->failed = true;
    return r;
  }
  s->waiting = w->next;
  s->bytes -= w->length;
  s->stored = w->start + w->length;
  s->complete = max_u64 (s->complete, s->stored);
  free (w);
  return 0;
}

/* Find or make the waiting block. */
static int
get_waiting (struct vd_ctx *ctx, struct vd_image *image,
             struct vd_sink_state *s, uint64_t start, size_t length,
             bool make, struct waiting **ret)
{
  struct waiting **p, *w;

  for (p = &s->waiting; *p && (*p)->start < start; p = &(*p)->next)
    ;
  if ((*p && (*p)->start == start) || !make) {
    *ret = *p && (*p)->start == start ? *p : NULL;
    return 0;
  }
  w = calloc (1, sizeof *w + length);
  if (!w)
    return vd_error (ctx, ENOMEM, "%s: no memory for a block", image->name);
  w->start = start;
  w->length = length;
  w->next = *p;
  *p = w;
  s->bytes += length;
  *ret = w;
  return 0;
}

/* One block or a part of it; data NULL: zeroes. */
static int
write_block (struct vd_ctx *ctx, struct vd_image *image,
             struct vd_sink_state *s, uint64_t start, size_t length,
             uint64_t offset, size_t len, const char *data)
{
  struct waiting *w = NULL;
  int r;

  if (start < s->stored) {
    if (!data && start + length > s->stored)
      return 0;
    return vd_error (ctx, EIO, "%s: write at disk offset %" PRIu64 ": the "
                     "image is written front to back, and is past %" PRIu64
                     " already; write in order (nbdcopy --connections=1)",
                     image->name, offset, s->stored);
  }
  r = get_waiting (ctx, image, s, start, length, data != NULL, &w);
  if (r < 0 || !w)
    return r;
  if (data)
    memcpy (w->data + (offset - start), data, len);
  else
    memset (w->data + (offset - start), 0, len);
  return 0;
}

/* Hand over what can be. */
static int
drain (struct vd_ctx *ctx, struct vd_image *image, struct vd_sink_state *s)
{
  int r;

  while (s->waiting &&
         (s->bytes > WINDOW ||
          s->waiting->start + s->waiting->length <= s->complete)) {
    r = put_first (ctx, image, s);
    if (r < 0)
      return r;
  }
  return 0;
}

static int
check (struct vd_ctx *ctx, struct vd_image *image, struct vd_sink_state *s)
{
  if (s->failed)
    return vd_error (ctx, EIO, "%s: an earlier write failed; the image is "
                     "incomplete, create it again", image->name);
  if (s->finished)
    return vd_error (ctx, EROFS, "%s: the image is complete and cannot be "
                     "changed", image->name);
  return 0;
}

int
vd_sink_pwrite (struct vd_ctx *ctx, struct vd_image *image,
                const void *buf, size_t len, uint64_t offset)
{
  struct vd_sink_state *s = image->engine->sink;
  uint64_t start, block_length, n, end = offset + len;
  const char *data = buf;
  int r;

  LOCK_SCOPE (&s->lock);
  r = check (ctx, image, s);
  if (r < 0)
    return r;
  if (!s->sink) {
    s->sink = image->format->sink_open (ctx, image);
    if (!s->sink)
      return -ctx->error;
  }
  if (offset <= s->complete)
    s->complete = max_u64 (s->complete, end);
  for (; offset < end; offset += n) {
    image->format->block_at (image, offset, &start, &block_length);
    block_length = min_u64 (block_length, image->size - start);
    n = min_u64 (end - offset, start + block_length - offset);
    r = write_block (ctx, image, s, start, block_length, offset, n, data);
    if (r < 0)
      return r;
    if (data)
      data += n;
  }
  return drain (ctx, image, s);
}

int
vd_sink_check_read (struct vd_ctx *ctx, struct vd_image *image,
                    size_t len, uint64_t offset)
{
  struct vd_sink_state *s = image->engine->sink;
  const struct waiting *w;

  LOCK_SCOPE (&s->lock);
  for (w = s->waiting; w; w = w->next)
    if (w->start < offset + len && w->start + w->length > offset)
      return vd_error (ctx, EIO, "%s: read at disk offset %" PRIu64 ": what "
                       "is being written cannot be read before the image is "
                       "complete", image->name, offset);
  return 0;
}

int
vd_sink_finish (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_sink_state *s = image->engine->sink;
  int r;

  LOCK_SCOPE (&s->lock);
  if (!s->sink || s->finished)
    return 0;
  r = check (ctx, image, s);
  while (r == 0 && s->waiting)
    r = put_first (ctx, image, s);
  if (r == 0)
    r = image->format->sink_finish (ctx, s->sink);
  if (r < 0)
    s->failed = true;
  else {
    s->finished = true;
    image->format->sink_close (s->sink);
    s->sink = NULL;
  }
  return r;
}
