/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Images that are written once, front to back (streamOptimized VMDK).
 *
 * NBD clients write in parallel and somewhat out of order, and in pieces of
 * any size.  Whole blocks are gathered here and handed to the format in
 * ascending order.  A block is handed over when everything before it has
 * been written, or when more than WINDOW bytes are waiting: then what is
 * missing before it counts as zeroes, and writing data there later is an
 * error.  What is missing may be on its way, in a thread that had no luck: so
 * those who are ahead wait a little for it, while this has been of use.
 *
 * The format's put only takes the block over, and compresses it elsewhere, so
 * the lock is held for longer only when the format is behind; then all wait.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "engine.h"
#include "iszero.h"
#include "rounding.h"

#define WINDOW (64 * 1024 * 1024)

/* How long to wait for what is missing; half as long after each time in vain,
 * so that a client which leaves holes loses two seconds in all.
 */
#define PATIENCE_MS 1000

/* The request that all wait for may still be in the socket, so not all
 * threads may wait: the others fill a second window.
 */
#define WAITERS_MAX 4

/* A block with data, wholly or in part. */
struct waiting {
  struct waiting *prev, *next;  /* ascending by start */
  uint64_t start;
  size_t length;                /* cut at the end of the disk */
  char data[];
};

/* What requests have covered: all up to the front, and ranges ahead of it, so
 * that it can jump over them.  Requests are few and big, so these merge soon;
 * what finds no room is forgotten, and then waits until the window is full.
 */
#define NR_AHEAD 1024

struct range {
  uint64_t start, end;
};

struct covered {
  uint64_t front;               /* without a gap from 0 to here */
  unsigned n;
  struct range ahead[NR_AHEAD]; /* ascending, apart, beyond the front */
};

struct vd_sink_state {
  pthread_mutex_t lock;
  pthread_cond_t moved;         /* written.front has grown */
  struct vd_sink *sink;         /* the format's; NULL before the first write
                                   and after the last */
  bool finished;
  bool failed;
  bool guessed;                 /* something missing was taken for zeroes */
  bool unflushed;               /* written since the last flush */
  uint64_t stored;              /* blocks that start before this are gone */
  struct covered written;       /* zeroes included */
  struct covered zeroed;        /* before all data: see vd_sink_pwrite */
  struct waiting *first, *last;
  size_t bytes;                 /* that wait */
  unsigned patience;            /* ms */
  unsigned waiters;
  uint64_t hole;                /* written.front at which we wait ... */
  struct timespec until;        /* ... and until when, CLOCK_MONOTONIC */
  uint8_t *has_data;            /* a bit for block_size bytes: not zeroes */
};

int
vd_sink_init (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_sink_state *s;
  pthread_condattr_t attr;

  /* What is left out would be the parent's, and not zeroes. */
  if (image->engine->has_parent)
    return vd_error (ctx, EROFS, "%s: has a parent, and is of a variant "
                     "that can be written without one only", image->name);

  s = calloc (1, sizeof *s);
  if (s)
    s->has_data = calloc (image->size / image->block_size / 8 + 1, 1);
  if (!s || !s->has_data) {
    free (s);
    return vd_error (ctx, ENOMEM, "%s: no memory for writing", image->name);
  }
  s->patience = PATIENCE_MS;
  s->hole = UINT64_MAX;
  pthread_mutex_init (&s->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&s->moved, &attr);
  pthread_condattr_destroy (&attr);
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
  for (w = s->first; w; w = next) {
    next = w->next;
    free (w);
  }
  if (s->sink)
    image->format->sink_close (s->sink);
  pthread_cond_destroy (&s->moved);
  pthread_mutex_destroy (&s->lock);
  free (s->has_data);
  free (s);
  image->engine->sink = NULL;
}

/* ---- what was written ------------------------------------------------- */

static void
set_has_data (const struct vd_image *image, struct vd_sink_state *s,
              uint64_t offset)
{
  uint64_t i = offset / image->block_size;

  s->has_data[i / 8] |= 1 << i % 8;
}

/* Is a block with data stored in the range? */
static bool
has_data (const struct vd_image *image, const struct vd_sink_state *s,
          uint64_t offset, uint64_t end)
{
  uint64_t i;

  for (i = offset / image->block_size; i * image->block_size < end; ++i)
    if (s->has_data[i / 8] & 1 << i % 8)
      return true;
  return false;
}

/* The front moves to offset at least, and over what was covered ahead. */
static void
cover_to (struct covered *c, uint64_t offset)
{
  unsigned n = 0;

  c->front = max_u64 (c->front, offset);
  while (n < c->n && c->ahead[n].start <= c->front)
    c->front = max_u64 (c->front, c->ahead[n++].end);
  c->n -= n;
  memmove (c->ahead, c->ahead + n, c->n * sizeof c->ahead[0]);
}

static void
cover (struct covered *c, uint64_t offset, uint64_t end)
{
  unsigned from, to, i;

  if (offset <= c->front) {
    cover_to (c, end);
    return;
  }
  /* [from, to) are those that it touches; mostly the last one. */
  for (to = c->n; to > 0 && c->ahead[to - 1].start > end; --to)
    ;
  for (from = to; from > 0 && c->ahead[from - 1].end >= offset; --from)
    ;
  if (from == to) {
    if (c->n == NR_AHEAD)
      return;
    for (i = c->n++; i > from; --i)
      c->ahead[i] = c->ahead[i - 1];
    c->ahead[from].start = offset;
    c->ahead[from].end = end;
    return;
  }
  c->ahead[from].start = min_u64 (c->ahead[from].start, offset);
  c->ahead[from].end = max_u64 (c->ahead[to - 1].end, end);
  memmove (c->ahead + from + 1, c->ahead + to,
           (c->n - to) * sizeof c->ahead[0]);
  c->n -= to - from - 1;
}

static void
note_written (struct vd_sink_state *s, uint64_t offset, uint64_t end)
{
  uint64_t front = s->written.front;

  cover (&s->written, offset, end);
  if (s->written.front != front)
    pthread_cond_broadcast (&s->moved);
}

/* Do both together cover all up to size? */
static bool
cover_all (const struct covered *a, const struct covered *b, uint64_t size)
{
  uint64_t front = max_u64 (a->front, b->front);
  unsigned i = 0, j = 0;

  while (front < size) {
    if (i < a->n && a->ahead[i].start <= front)
      front = max_u64 (front, a->ahead[i++].end);
    else if (j < b->n && b->ahead[j].start <= front)
      front = max_u64 (front, b->ahead[j++].end);
    else
      return false;
  }
  return true;
}

static uint64_t
end_of (const struct covered *c)
{
  return c->n > 0 ? c->ahead[c->n - 1].end : c->front;
}

/* ---- blocks that wait ------------------------------------------------- */

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

/* Hand the first one over. */
static int
put_first (struct vd_ctx *ctx, struct vd_image *image,
           struct vd_sink_state *s)
{
  struct waiting *w = s->first;
  int r;

  if (!is_zero (w->data, w->length)) {
    r = image->format->sink_put (ctx, s->sink, w->start, w->data, w->length);
    if (r < 0) {
      s->failed = true;
      return r;
    }
    set_has_data (image, s, w->start);
  }
  s->first = w->next;
  *(w->next ? &w->next->prev : &s->last) = NULL;
  s->bytes -= w->length;
  s->stored = w->start + w->length;
  note_written (s, 0, s->stored);
  free (w);
  return 0;
}

/* The window is full.  True: look again, as the lock was released. */
static bool
wait_for_hole (struct vd_sink_state *s)
{
  int r;

  if (s->patience == 0)
    return false;
  if (s->hole != s->written.front) {
    s->hole = s->written.front;
    clock_gettime (CLOCK_MONOTONIC, &s->until);
    s->until.tv_sec += s->patience / 1000;
    s->until.tv_nsec += s->patience % 1000 * 1000000L;
    if (s->until.tv_nsec >= 1000000000L) {
      s->until.tv_sec++;
      s->until.tv_nsec -= 1000000000L;
    }
  }
  s->waiters++;
  r = pthread_cond_timedwait (&s->moved, &s->lock, &s->until);
  s->waiters--;
  if (r != ETIMEDOUT || s->hole != s->written.front)
    return true;
  s->patience /= 2;
  return false;
}

/* Hand over what can be. */
static int
drain (struct vd_ctx *ctx, struct vd_image *image, struct vd_sink_state *s)
{
  int r;

  while (s->first) {
    if (s->first->start + s->first->length > s->written.front) {
      if (s->bytes <= WINDOW ||
          (s->waiters >= WAITERS_MAX && s->bytes <= 2 * WINDOW))
        break;
      if (wait_for_hole (s)) {
        if (s->failed)
          return check (ctx, image, s);
        continue;
      }
      s->guessed = true;
    }
    r = put_first (ctx, image, s);
    if (r < 0)
      return r;
  }
  return 0;
}

/* Find or make the block that starts there.  New data is mostly the last. */
static int
get_waiting (struct vd_ctx *ctx, struct vd_image *image,
             struct vd_sink_state *s, uint64_t start, size_t length,
             struct waiting **ret)
{
  struct waiting *after = s->last, *w;

  while (after && after->start > start)
    after = after->prev;
  if (after && after->start == start) {
    *ret = after;
    return 0;
  }
  w = calloc (1, sizeof *w + length);
  if (!w)
    return vd_error (ctx, ENOMEM, "%s: no memory for a block", image->name);
  w->start = start;
  w->length = length;
  w->prev = after;
  w->next = after ? after->next : s->first;
  *(w->prev ? &w->prev->next : &s->first) = w;
  *(w->next ? &w->next->prev : &s->last) = w;
  s->bytes += length;
  *ret = w;
  return 0;
}

/* ---- writing ---------------------------------------------------------- */

static int
behind (struct vd_ctx *ctx, const struct vd_image *image,
        const struct vd_sink_state *s, uint64_t offset)
{
  return vd_error (ctx, EIO, "%s: write at disk offset %" PRIu64 ": the "
                   "image is written front to back, and is past %" PRIu64
                   " already; write in order (nbdcopy --connections=1)",
                   image->name, offset, s->stored);
}

static int
write_data (struct vd_ctx *ctx, struct vd_image *image,
            struct vd_sink_state *s, const char *data,
            uint64_t offset, uint64_t end)
{
  uint64_t start, length, n;
  struct waiting *w = NULL;
  int r;

  for (; offset < end; offset += n, data += n) {
    image->format->block_at (image, offset, &start, &length);
    n = min_u64 (end - offset, start + length - offset);
    if (start < s->stored) {
      if (!has_data (image, s, start, start + length) && is_zero (data, n))
        continue;
      /* Who rewrites what he wrote before, keeps the image as it was then.
       * But if this was taken for zeroes, the image is wrong, and must not be
       * completed.
       */
      if (s->guessed)
        s->failed = true;
      return behind (ctx, image, s, offset);
    }
    r = get_waiting (ctx, image, s, start,
                     min_u64 (length, image->size - start), &w);
    if (r < 0)
      return r;
    memcpy (w->data + (offset - start), data, n);
  }
  return 0;
}

static int
write_zeroes (struct vd_ctx *ctx, struct vd_image *image,
              struct vd_sink_state *s, uint64_t offset, uint64_t end)
{
  struct waiting *w;
  uint64_t from, to;

  if (offset < s->stored &&
      has_data (image, s, offset, min_u64 (end, s->stored)))
    return behind (ctx, image, s, offset);
  for (w = s->last; w && w->start + w->length > offset; w = w->prev) {
    from = max_u64 (offset, w->start);
    to = min_u64 (end, w->start + w->length);
    if (from < to)
      memset (w->data + (from - w->start), 0, to - from);
  }
  return 0;
}

int
vd_sink_pwrite (struct vd_ctx *ctx, struct vd_image *image,
                const void *buf, size_t len, uint64_t offset)
{
  struct vd_sink_state *s = image->engine->sink;
  int r;

  LOCK_SCOPE (&s->lock);
  r = check (ctx, image, s);
  if (r < 0)
    return r;
  s->unflushed = true;
  if (!s->sink) {
    s->sink = image->format->sink_open (ctx, image);
    if (!s->sink)
      return -ctx->error;
  }
  r = buf ? write_data (ctx, image, s, buf, offset, offset + len)
          : write_zeroes (ctx, image, s, offset, offset + len);
  if (r < 0)
    return r;
  /* Clients like qemu-img zero the whole disk first, and then write: that
   * says nothing about the order of what follows.
   */
  if (!buf && !s->first && s->stored == 0) {
    cover (&s->zeroed, offset, offset + len);
    return 0;
  }
  note_written (s, offset, offset + len);
  return drain (ctx, image, s);
}

static int
finish (struct vd_ctx *ctx, struct vd_image *image, struct vd_sink_state *s)
{
  int r = check (ctx, image, s);

  while (r == 0 && s->first)
    r = put_first (ctx, image, s);
  if (r == 0)
    r = image->format->sink_finish (ctx, s->sink);
  if (r < 0) {
    s->failed = true;
    return r;
  }
  s->finished = true;
  image->format->sink_close (s->sink);
  s->sink = NULL;
  return 0;
}

/* A client that leaves in the middle of the disk may have had no more to write,
 * or have been killed: nobody can tell, the connection ends alike.  But who
 * cares about his data flushes them.
 */
int
vd_sink_finish (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_sink_state *s = image->engine->sink;
  uint64_t complete;
  bool doubtful;
  int r;

  LOCK_SCOPE (&s->lock);
  if (!s->sink || s->finished)
    return 0;
  complete = s->written.front;       /* before the gaps are closed */
  doubtful = s->unflushed && complete < image->size;
  r = finish (ctx, image, s);
  if (r == 0 && doubtful)
    vd_warning (ctx, "%s: is complete, but the client has left without a "
                "flush, and the first %" PRIu64 " of %" PRIu64 " bytes are "
                "all that it wrote without a gap: if it was interrupted, the "
                "image lacks what it would have written and has zeroes there",
                image->name, complete, image->size);
  return r;
}

/* Has all of the disk been written?  What was zeroed first counts (the disk may
 * begin with a hole); but if that is the whole disk, the data are still to come
 * until its end was written.
 */
static bool
all_written (const struct vd_sink_state *s, uint64_t size)
{
  if (!cover_all (&s->written, &s->zeroed, size))
    return false;
  return s->zeroed.front < size || end_of (&s->written) >= size;
}

/* An incomplete image is worth nothing, so there is nothing to make durable.
 * But a client that has written all of the disk shall hear now whether it
 * worked, not be told that all is well and then end up with a bad file.
 */
int
vd_sink_flush (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_sink_state *s = image->engine->sink;

  LOCK_SCOPE (&s->lock);
  if (s->finished)
    return 0;
  s->unflushed = false;
  if (s->sink && all_written (s, image->size))
    return finish (ctx, image, s);
  return check (ctx, image, s);
}

/* ---- reading ---------------------------------------------------------- */

int
vd_sink_check_read (struct vd_ctx *ctx, struct vd_image *image,
                    uint64_t len, uint64_t offset)
{
  struct vd_sink_state *s = image->engine->sink;
  const struct waiting *w;
  bool data;

  LOCK_SCOPE (&s->lock);
  if (s->finished)
    return 0;
  data = s->failed || has_data (image, s, offset, offset + len);
  for (w = s->last; w && w->start + w->length > offset; w = w->prev)
    data = data || w->start < offset + len;
  if (data)
    return vd_error (ctx, EIO, "%s: read at disk offset %" PRIu64 ": what "
                     "was written cannot be read before the image is "
                     "complete", image->name, offset);
  return 1;
}

bool
vd_sink_unfinished (const struct vd_image *image, bool *ret_empty)
{
  struct vd_sink_state *s = image->engine->sink;

  LOCK_SCOPE (&s->lock);
  *ret_empty = !s->sink && !s->failed;
  return !s->finished;
}
