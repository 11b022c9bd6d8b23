/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Extents without a format: FLAT and VMFS are bytes of a file or device, ZERO
 * is nothing at all (vmdk-format 3 and 4).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "rounding.h"
#include "vmdk-extent.h"

/* Of an extent whose file is too short; others have none. */
struct flat {
  uint64_t there;               /* bytes of the extent that the file has */
  uint64_t file_size;
};

/* Why a write fails that gets here: for an image that is open for writing
 * only an extent that is RDONLY.
 */
static void
deny (const struct vmdk_extent *x, struct vd_run *run)
{
  run->mode = VD_MODE_DENY;
  run->error = x->access == VMDK_RW ? EROFS : EPERM;
  run->reason = x->access == VMDK_RW ? "the extent is open read-only"
    : "the extent is RDONLY";
  run->value = x->number;
}

static int
flat_locate (struct vd_ctx *ctx, struct vmdk_extent *x,
             uint64_t offset, uint64_t len, enum vd_locate what,
             struct vd_run *ret)
{
  const struct flat *flat = x->priv;
  const uint64_t there = flat ? flat->there : x->size;
  struct vd_run run = { .kind = VD_RUN_DATA, .mode = VD_MODE_IN_PLACE };

  (void) ctx;
  (void) what;
  if (flat && offset >= there) {
    *ret = (struct vd_run) {
      .kind = VD_RUN_BAD, .mode = VD_MODE_DENY, .length = len, .error = EIO,
      .reason = "the flat file ends before the extent does",
      .value = flat->file_size,
    };
    return 0;
  }
  if (!x->write)
    deny (x, &run);
  run.length = min_u64 (len, there - offset);
  run.store = x->store;
  run.position = x->file_offset + offset;
  *ret = run;
  return 0;
}

static void
flat_close (struct vmdk_extent *x)
{
  free (x->priv);
  x->priv = NULL;
}

static const struct vmdk_extent_ops flat_ops = {
  .kind = "flat",
  .locate = flat_locate,
  .close = flat_close,
};

int
vmdk_flat_open (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  uint64_t file_size, there;
  struct flat *flat;
  int r;

  r = vd_store_get_size (ctx, x->store, &file_size);
  if (r < 0)
    return r;
  there = file_size > x->file_offset ? file_size - x->file_offset : 0;
  there = min_u64 (there, x->size);
  /* A file is never made longer behind its owner's back, and what is missing
   * may be the better part of somebody's disk.
   */
  if (there < x->size) {
    snprintf (x->no_write, sizeof x->no_write,
              "its %s has %" PRIu64 " bytes, %" PRIu64 " are needed",
              x->store->fixed_size ? "device" : "file", file_size,
              x->file_offset + x->size);
    vd_warning (ctx, "%s: is too short for extent %u of %s, which needs %"
                PRIu64 " bytes and not %" PRIu64 ": what is missing cannot "
                "be read", x->store->name, x->number, x->image->name,
                x->file_offset + x->size, file_size);
    flat = malloc (sizeof *flat);
    if (!flat)
      return vd_error (ctx, ENOMEM, "%s: no memory for an extent",
                       x->image->name);
    flat->there = there;
    flat->file_size = file_size;
    x->priv = flat;
  }
  x->ops = &flat_ops;
  return 0;
}

static int
zero_locate (struct vd_ctx *ctx, struct vmdk_extent *x,
             uint64_t offset, uint64_t len, enum vd_locate what,
             struct vd_run *ret)
{
  (void) ctx;
  (void) offset;
  (void) what;
  *ret = (struct vd_run) {
    .kind = VD_RUN_ZERO, .mode = VD_MODE_DENY, .length = len, .error = EPERM,
    .reason = "a ZERO extent cannot be written", .value = x->number,
  };
  if (x->drop)
    ret->mode = VD_MODE_DROP;
  return 0;
}

static void
zero_close (struct vmdk_extent *x)
{
  (void) x;
}

static const struct vmdk_extent_ops zero_ops = {
  .kind = "zero",
  .locate = zero_locate,
  .close = zero_close,
};

int
vmdk_zero_open (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  (void) ctx;
  x->ops = &zero_ops;
  return 0;
}
