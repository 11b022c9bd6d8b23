/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Requests to the layer below must lie inside its size, be aligned as it wants
 * and not be larger than it takes (rules 5): nbdkit ends where they are not.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "below.h"
#include "cleanup.h"
#include "rounding.h"

/* Requests are cut at this size. */
#define MAX_REQUEST (32 * 1024 * 1024)

/* What requests to the layer below must be aligned to, and how much one may
 * ask for.
 */
static int
lower_limits (nbdkit_next *next, uint64_t *ret_align, uint64_t *ret_max)
{
  uint32_t minimum, preferred, maximum;

  if (next->block_size (next, &minimum, &preferred, &maximum) == -1)
    return -1;
  *ret_align = minimum ? minimum : 1;
  *ret_max = MAX_REQUEST;
  if (maximum != 0 && maximum < MAX_REQUEST)
    *ret_max = max_u64 (round_down (maximum, *ret_align), *ret_align);
  return 0;
}

/* How much of [offset, offset + len) fits in one request, aligned as it must
 * be.
 */
static uint64_t
lower_piece (uint64_t align, uint64_t max, uint64_t size,
             uint64_t offset, uint64_t len)
{
  uint64_t end = round_down (offset, align) + max;

  return min_u64 (min_u64 (len, size - offset), end - offset);
}

static int
lower_error (struct vd_ctx *ctx, int err, uint64_t offset)
{
  return vd_error (ctx, err > 0 ? err : EIO,
                   "the layer below failed at offset %llu: %s",
                   (unsigned long long) offset, strerror (err));
}

/* One request, inside the size; what is not aligned goes through a buffer. */
static int
lower_read (struct vd_ctx *ctx, nbdkit_next *next, uint64_t align,
            uint64_t size, char *buf, uint32_t len, uint64_t offset)
{
  uint64_t start = round_down (offset, align);
  uint64_t end = min_u64 (round_up (offset + len, align), size);
  CLEANUP_FREE char *bounce = NULL;
  int err = 0;

  if (start == offset && end == offset + len) {
    if (next->pread (next, buf, len, offset, 0, &err) == -1)
      return lower_error (ctx, err, offset);
    return 0;
  }
  bounce = malloc (end - start);
  if (!bounce)
    return vd_error (ctx, ENOMEM, "no memory to read the layer below");
  if (next->pread (next, bounce, end - start, start, 0, &err) == -1)
    return lower_error (ctx, err, start);
  memcpy (buf, bounce + (offset - start), len);
  return 0;
}

static int
lower_size (struct vd_ctx *ctx, nbdkit_next *next, uint64_t *ret)
{
  int64_t size = next->get_size (next);

  if (size == -1)
    return vd_error (ctx, EIO, "the size of the layer below is not known");
  *ret = size;
  return 0;
}

static int
below_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
             uint64_t offset)
{
  struct below *b = ctx->next;
  nbdkit_next *next = b->next;
  uint64_t size = 0, align = 1, max = MAX_REQUEST, n;
  char *p = buf;
  int r;

  (void) opaque;
  r = lower_size (ctx, next, &size);
  if (r < 0)
    return r;
  if (lower_limits (next, &align, &max) == -1)
    return vd_error (ctx, EIO, "the layer below has no block size");
  for (; len > 0 && offset < size; p += n, offset += n, len -= n) {
    n = lower_piece (align, max, size, offset, len);
    r = lower_read (ctx, next, align, size, p, n, offset);
    if (r < 0)
      return r;
  }
  memset (p, 0, len);           /* beyond its end */
  return 0;
}

/* Ask the layer for the extents of a range. */
static int
ask_extents (struct vd_ctx *ctx, nbdkit_next *next, uint64_t align,
             uint64_t size, uint64_t offset, uint64_t len, bool one,
             struct nbdkit_extents **ret)
{
  uint64_t start = round_down (offset, align);
  uint64_t end = min_u64 (round_up (offset + len, align), size);
  struct nbdkit_extents *exts = nbdkit_extents_new (start, end);
  int err = 0;

  if (!exts)
    return vd_error (ctx, ENOMEM, "no memory for the extents of the layer "
                     "below");
  if (next->extents (next, end - start, start,
                     one ? NBDKIT_FLAG_REQ_ONE : 0, exts, &err) == -1) {
    nbdkit_extents_free (exts);
    return lower_error (ctx, err, start);
  }
  *ret = exts;
  return 0;
}

/* Does what is known say something of this offset?  Then b->i is where. */
static bool
knows (struct below *b, uint64_t offset)
{
  size_t n = b->known ? nbdkit_extents_count (b->known) : 0;

  for (; b->i < n; b->i++) {
    struct nbdkit_extent e = nbdkit_get_extent (b->known, b->i);

    if (offset < e.offset)
      break;
    if (offset < e.offset + e.length)
      return true;
  }
  return false;
}

/* What the layer says of one piece, handed on.  *ret_done is how far that
 * goes.
 */
static int
lower_extents (struct vd_ctx *ctx, struct below *b, uint64_t align,
               uint64_t max, uint64_t size, uint64_t offset, uint64_t len,
               bool one, int (*fn) (void *, uint64_t, uint64_t, unsigned),
               void *fn_opaque, uint64_t *ret_done)
{
  uint64_t to = offset;
  int r = 0;

  if (!knows (b, offset)) {
    diff_below_done (b);
    r = ask_extents (ctx, b->next, align, size, offset,
                     one || b->end <= offset ? len :
                     lower_piece (align, max, size, offset, b->end - offset),
                     one, &b->known);
    if (r < 0)
      return r;
  }
  for (; r == 0 && to < offset + len && knows (b, to) &&
         !(one && to > offset);) {
    struct nbdkit_extent e = nbdkit_get_extent (b->known, b->i);
    uint64_t from = to;

    to = min_u64 (e.offset + e.length, offset + len);
    r = fn (fn_opaque, from, to - from,
            (e.type & NBDKIT_EXTENT_HOLE ? VD_EXTENT_HOLE : 0) |
            (e.type & NBDKIT_EXTENT_ZERO ? VD_EXTENT_ZERO : 0));
  }
  *ret_done = to - offset;
  return r;
}

static int
below_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
               uint64_t len, bool one,
               int (*fn) (void *, uint64_t, uint64_t, unsigned),
               void *fn_opaque)
{
  struct below *b = ctx->next;
  nbdkit_next *next = b->next;
  uint64_t size = 0, align = 1, max = MAX_REQUEST, n;
  int can, r;

  (void) opaque;
  r = lower_size (ctx, next, &size);
  if (r < 0)
    return r;
  can = next->can_extents (next);
  if (can == -1 || lower_limits (next, &align, &max) == -1)
    return vd_error (ctx, EIO, "the layer below does not say what it can do");
  for (; len > 0 && offset < size; offset += n, len -= n) {
    n = lower_piece (align, max, size, offset, len);
    r = can ? lower_extents (ctx, b, align, max, size, offset, n, one, fn,
                             fn_opaque, &n)
      : fn (fn_opaque, offset, n, 0);
    if (r != 0)
      return r;
    if (n == 0)
      return vd_error (ctx, EIO, "the layer below knows no extents at "
                       "offset %llu", (unsigned long long) offset);
    if (one)
      return 0;
  }
  return len > 0 ? fn (fn_opaque, offset, len,
                       VD_EXTENT_HOLE | VD_EXTENT_ZERO) : 0;
}

void
diff_below_done (struct below *b)
{
  if (b->known)
    nbdkit_extents_free (b->known);
  b->known = NULL;
  b->i = 0;
}

/* The size is not known before a client comes; beyond its end it reads as
 * zeroes.
 */
const struct vd_below diff_below = {
  .disk = {
    .size = INT64_MAX,
    .pread = below_pread,
    .extents = below_extents,
  },
  .name = "the layer below",
};

/* ---- what it says of itself --------------------------------------------- */

/* The value of key in the description of the layer below (hostile text);
 * false if it is not there.
 */
static bool
described (const char *text, const char *key, char *out, size_t size)
{
  size_t n = strlen (key), len;

  if (strncmp (text, "vdkit1 ", 7) != 0)
    return false;
  for (text += 6; text; text = strchr (text + 1, ' ')) {
    if (strncmp (text + 1, key, n) != 0 || text[1 + n] != '=')
      continue;
    text += n + 2;
    len = strcspn (text, " ");
    if (len >= size)
      return false;
    memcpy (out, text, len);
    out[len] = '\0';
    return true;
  }
  return false;
}

void
diff_below_link (nbdkit_next *next, struct vd_link *ret)
{
  const char *text = next->export_description (next);
  char value[64];

  *ret = (struct vd_link) { .parent_cid = VD_CID_NONE };
  if (!text)
    return;
  if (described (text, "uuid", value, sizeof value))
    vd_uuid_parse (value, &ret->uuid);
  if (described (text, "muuid", value, sizeof value))
    vd_uuid_parse (value, &ret->modification);
  if (described (text, "cid", value, sizeof value))
    ret->has_cid = vd_cid_parse (value, &ret->cid);
}
