/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writing: the places of blocks, the header and the map.  The order in which
 * the engine calls these is in docs/architecture.md, "Writing".
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cleanup.h"
#include "rounding.h"
#include "vdi-private.h"

/* The file grows ahead of need by this much, so that few allocations make a
 * system call for it.  What is not used is cut off at the end of the session.
 */
#define GROW_AHEAD (UINT64_C (64) << 20)

/* The file behind the last block that is in use is named by no entry, on disk
 * or in memory: cut it off.  It reads as zeroes when the file grows again.
 */
static int
cut_tail (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vdi *vdi = image->priv;
  LOCK_SCOPE (&vdi->grow_lock);
  uint64_t old, size;
  int r;

  if (image->store->fixed_size)
    return 0;

  {
    LOCK_SCOPE (&vdi->pool_lock);
    uint32_t end = vdi_pool_end (vdi->pool);

    old = atomic_load (&vdi->file_size);
    size = vdi_data_end (vdi, end);
    if (old <= size)
      return 0;
    /* A place that is reserved from now on finds the file too short, and
     * waits for grow_lock.
     */
    atomic_store (&vdi->file_size, size);
    vdi->used_end = end;
  }

  r = vd_store_truncate (ctx, image->store, size);
  if (r < 0) {
    /* Whatever lies there, it is not known to be zeroes. */
    atomic_store (&vdi->grown_from, old);
    atomic_store (&vdi->file_size, old);
    return r;
  }
  atomic_store (&vdi->grown_from, size);
  return 0;
}

int
vdi_begin_session (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vdi *vdi = image->priv;
  struct vd_uuid modification;
  const struct vd_meta_change change = { .modification = &modification };
  int r;

  vd_uuid_random (&modification);
  {
    LOCK_SCOPE (&vdi->header_lock);
    r = vdi_header_update (ctx, image->store, &vdi->header, &change, NULL);
  }
  if (r < 0)
    return r;
  /* Also makes durable what open has read, before a place that is free
   * according to it is used (rules O13).
   */
  r = vd_store_sync (ctx, image->store);
  if (r < 0)
    return r;
  image->link.modification = modification;

  /* A tail is left by a crash.  Places there would have to be zeroed one by
   * one.
   */
  return cut_tail (ctx, image);
}

/* Make the file cover place n. */
static int
grow (struct vd_ctx *ctx, struct vd_image *image, uint32_t n)
{
  struct vdi *vdi = image->priv;
  uint64_t need = vdi_data_end (vdi, n + 1);
  uint64_t more = vdi_data_end (vdi, min_u64 (vdi->header.blocks,
                                              n + 1 + GROW_AHEAD /
                                              vdi->stride));
  LOCK_SCOPE (&vdi->grow_lock);
  uint64_t size = atomic_load (&vdi->file_size);
  int r;

  if (need <= size)
    return 0;
  if (image->store->fixed_size)
    return vd_error (ctx, ENOSPC, "%s: block %" PRIu32 " would end at %" PRIu64
                     ", but there is room for %" PRIu64
                     " bytes only, and it cannot grow", image->name,
                     n, need, size);

  r = vd_store_truncate (ctx, image->store, more);
  if ((r == -ENOSPC || r == -EFBIG) && more > need) {
    more = need;
    r = vd_store_truncate (ctx, image->store, more);
    if (r == 0)
      ctx->error = 0;
  }
  if (r < 0)
    return r;
  atomic_store (&vdi->file_size, more);
  return 0;
}

int
vdi_reserve (struct vd_ctx *ctx, struct vd_image *image,
             uint64_t block, struct vd_place *ret)
{
  struct vdi *vdi = image->priv;
  bool unused = false;
  uint32_t n;
  int r;

  (void) block;

  {
    LOCK_SCOPE (&vdi->pool_lock);

    r = vdi_pool_take_lowest (vdi->pool, &n);
    if (r == 1) {
      unused = n >= vdi->used_end;
      if (unused)
        vdi->used_end = n + 1;
    }
  }
  if (r < 0)
    return vd_error (ctx, -r, "%s: not enough memory for the list of "
                     "used blocks", image->name);
  if (r == 0)
    return vd_error (ctx, ENOSPC, "%s: cBlocks is %" PRIu32
                     ", and all blocks are in use", image->name,
                     vdi->header.blocks);

  if (vdi_data_end (vdi, n + 1) > atomic_load (&vdi->file_size)) {
    r = grow (ctx, image, n);
    if (r < 0) {
      LOCK_SCOPE (&vdi->pool_lock);
      vdi_pool_give (vdi->pool, n);
      return r;
    }
  }

  ret->store = image->store;
  ret->position = vdi_position (vdi, n);
  ret->value = n;
  /* A place that was handed out before may hold what a failed write left. */
  ret->fresh = unused && ret->position >= atomic_load (&vdi->grown_from);
  return 0;
}

void
vdi_abandon (struct vd_image *image, uint64_t block,
             const struct vd_place *place)
{
  struct vdi *vdi = image->priv;
  LOCK_SCOPE (&vdi->pool_lock);

  (void) block;
  vdi_pool_give (vdi->pool, (uint32_t) place->value);
}

int
vdi_commit (struct vd_ctx *ctx, struct vd_image *image,
            uint64_t block, enum vd_state state,
            const struct vd_place *place, uint64_t *ret_value)
{
  struct vdi *vdi = image->priv;
  uint64_t index = block >> vdi->shift;
  uint32_t old, new;
  int r;

  r = vd_table_get (ctx, vdi->map, index, &old);
  if (r < 0)
    return r;
  new = state == VD_STATE_DATA ? (uint32_t) place->value : VDI_ENTRY_ZERO;
  /* FREE -> ZERO -> DATA, nothing else (architecture.md, "Writing"). */
  if (old != VDI_ENTRY_FREE &&
      !(old == VDI_ENTRY_ZERO && state == VD_STATE_DATA))
    return vd_error (ctx, EINVAL, "%s: block map entry %" PRIu64 " is %" PRIu32
                     ", it must not become %" PRIu32, image->name,
                     index, old, new);
  r = vd_table_set (ctx, vdi->map, index, new);
  if (r < 0)
    return r;
  *ret_value = new;
  return 0;
}

/* Write the header if the count in it is not what it should be: at least
 * 1 + every place that an entry names or may name soon (rules O6 b).
 */
int
vdi_write_tables (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vdi *vdi = image->priv;
  LOCK_SCOPE (&vdi->header_lock);
  uint32_t end;

  {
    LOCK_SCOPE (&vdi->pool_lock);
    end = vdi_pool_end (vdi->pool);
  }
  if (end == vdi->header.allocated)
    return 0;
  return vdi_header_update (ctx, image->store, &vdi->header, NULL, &end);
}

int
vdi_write_map (struct vd_ctx *ctx, struct vd_image *image,
               const struct vd_change *changes, size_t n)
{
  struct vdi *vdi = image->priv;

  return vd_table_write_changes (ctx, vdi->map, NULL, vdi->shift, changes, n);
}

int
vdi_end_session (struct vd_ctx *ctx, struct vd_image *image)
{
  int r;

  /* Nothing is reserved now, so the count comes out exactly (rules O14). */
  r = vdi_write_tables (ctx, image);
  if (r < 0)
    return r;
  return cut_tail (ctx, image);
}

int
vdi_set_meta (struct vd_ctx *ctx, struct vd_image *image,
              const struct vd_meta_change *change)
{
  struct vdi *vdi = image->priv;
  LOCK_SCOPE (&vdi->header_lock);
  int r;

  if (change->uuid && vd_uuid_is_null (change->uuid))
    return vd_error (ctx, EINVAL, "%s: uuidCreate must not be null (0)",
                     image->name);
  if (change->modification && vd_uuid_is_null (change->modification))
    return vd_error (ctx, EINVAL, "%s: uuidModify must not be null (0)",
                     image->name);
  if (change->comment && strlen (change->comment) > VDI_COMMENT_MAX)
    return vd_error (ctx, EINVAL, "%s: comment is %zu bytes long, "
                     "a VDI has room for %d", image->name,
                     strlen (change->comment), VDI_COMMENT_MAX);
  if (change->lchs) {
    r = vdi_check_lchs (ctx, image->name, change->lchs);
    if (r < 0)
      return r;
    if (!vdi_header_has_lchs (&vdi->header))
      return vd_error (ctx, ENOTSUP, "%s: cbHeader is %" PRIu32
                       ", a header with room for the LCHS has %d",
                       image->name, vdi->header.header_size, VDI_HEADER_LCHS);
  }

  r = vdi_header_update (ctx, image->store, &vdi->header, change, NULL);
  if (r < 0)
    return r;
  /* Whether there is a parent below was settled when the image was opened;
   * image->differencing stays.
   */
  image->link = vdi->header.link;
  image->lchs = vdi->header.lchs;
  return 0;
}
