/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reading: runs turned into reads straight into the caller's buffer.  No lock
 * is held across I/O; none is needed, since an allocated block keeps its
 * place while the image is open (rules 1).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine.h"
#include "rounding.h"

int
vd_run_error (struct vd_ctx *ctx, const struct vd_image *image,
              const struct vd_run *run, uint64_t offset, const char *what)
{
  return vd_error (ctx, run->error,
                   "%s: %s at disk offset %" PRIu64 ": %s (%" PRIu64 ")",
                   image->name, what, offset, run->reason, run->value);
}

int
vd_parent_pread (struct vd_ctx *ctx, struct vd_image *image,
                 void *buf, size_t len, uint64_t offset)
{
  const struct vd_engine *e = image->engine;
  size_t n = 0;
  int r;

  if (e->has_parent && offset < e->parent.size) {
    n = min_u64 (len, e->parent.size - offset);
    r = e->parent.pread (ctx, e->parent.opaque, buf, n, offset);
    if (r < 0)
      return r;
  }
  memset ((char *) buf + n, 0, len - n);
  return 0;
}

int
vd_image_pread (struct vd_ctx *ctx, struct vd_image *image,
                void *buf, size_t len, uint64_t offset)
{
  struct vd_run run;
  char *p = buf;
  int r;

  if (image->engine->sink) {
    r = vd_sink_check_read (ctx, image, len, offset);
    if (r < 0)
      return r;
    if (r > 0) {
      memset (buf, 0, len);
      return 0;
    }
  }

  while (len > 0) {
    r = image->format->locate (ctx, image, offset, len, VD_LOCATE_READ, &run);
    if (r < 0)
      return r;

    switch (run.kind) {
    case VD_RUN_DATA:
      r = vd_store_pread (ctx, run.store, p, run.length, run.position);
      break;
    case VD_RUN_ZERO:
      memset (p, 0, run.length);
      break;
    case VD_RUN_PARENT:
      r = vd_parent_pread (ctx, image, p, run.length, offset);
      break;
    case VD_RUN_PACKED:
      r = vd_packed_pread (ctx, image, run.block, p, run.length, offset);
      break;
    case VD_RUN_BAD:
      r = vd_run_error (ctx, image, &run, offset, "read");
      break;
    }
    if (r < 0)
      return r;

    p += run.length;
    offset += run.length;
    len -= run.length;
  }
  return 0;
}

int
vd_image_cache (struct vd_ctx *ctx, struct vd_image *image,
                uint64_t len, uint64_t offset)
{
  struct vd_run run;
  bool empty;
  int r;

  if (image->engine->sink && vd_sink_unfinished (image, &empty))
    return 0;
  while (len > 0) {
    r = image->format->locate (ctx, image, offset, len, VD_LOCATE_READ, &run);
    if (r < 0)
      return r;
    if (run.kind == VD_RUN_DATA) {
      r = vd_store_cache (ctx, run.store, run.position, run.length);
      if (r < 0)
        return r;
    }
    offset += run.length;
    len -= run.length;
  }
  return 0;
}
