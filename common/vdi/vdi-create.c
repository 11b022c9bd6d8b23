/* SPDX-License-Identifier: BSD-3-Clause
 *
 * New images, laid out as VirtualBox lays them out (vdi-format 6, 11).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "cleanup.h"
#include "escape.h"
#include "rounding.h"
#include "vdi-private.h"

#define MIB (UINT64_C (1) << 20)

#define DEFAULT_BLOCK_SIZE MIB
#define DEFAULT_ALIGNMENT MIB

/* What VirtualBox makes; it opens 128 KiB to 128 MiB (vdi-format 18). */
#define USUAL_BLOCK_SIZE_MIN (MIB / 2)
#define USUAL_BLOCK_SIZE_MAX (8 * MIB)

#define MAP_PIECE MIB

/* The largest map that leaves offData in its 32 bits. */
static uint64_t
max_blocks (uint64_t off_blocks, uint64_t alignment)
{
  return min_u64 (VDI_BLOCKS_MAX,
                  (round_down (UINT32_MAX, alignment) - off_blocks) / 4);
}

static int
plan (struct vd_ctx *ctx, const char *name, const struct vd_create *how,
      struct vdi_header *h)
{
  uint64_t block_size = how->block_size ? how->block_size : DEFAULT_BLOCK_SIZE;
  uint64_t alignment = how->alignment ? how->alignment : DEFAULT_ALIGNMENT;
  uint64_t off_blocks, blocks, max;
  bool fixed;
  int r;

  if (how->variant == NULL || strcmp (how->variant, "dynamic") == 0)
    fixed = false;
  else if (strcmp (how->variant, "fixed") == 0)
    fixed = true;
  else {
    char text[64];

    return vd_error (ctx, EINVAL, "%s: variant is \"%s\", a VDI is "
                     "\"dynamic\" or \"fixed\"", name,
                     vd_escape (how->variant, strlen (how->variant),
                                text, sizeof text));
  }
  /* VirtualBox makes such images, but they hide the parent completely
   * (observed 4).
   */
  if (fixed && !vd_uuid_is_null (&how->link.parent))
    return vd_error (ctx, EINVAL, "%s: variant is \"fixed\", but an image "
                     "with a parent must be \"dynamic\"", name);
  if (vd_uuid_is_null (&how->link.parent) &&
      !vd_uuid_is_null (&how->link.parent_modification))
    return vd_error (ctx, EINVAL, "%s: uuidParentModify is given "
                     "without the UUID of a parent", name);

  if (!is_power_of_2 (block_size) ||
      block_size < VDI_BLOCK_SIZE_MIN || block_size > VDI_BLOCK_SIZE_MAX)
    return vd_error (ctx, EINVAL, "%s: block-size is %" PRIu64
                     ", must be a power of two from %" PRIu64 " to %" PRIu64,
                     name, block_size,
                     USUAL_BLOCK_SIZE_MIN, USUAL_BLOCK_SIZE_MAX);
  if (!how->force &&
      (block_size < USUAL_BLOCK_SIZE_MIN || block_size > USUAL_BLOCK_SIZE_MAX))
    return vd_error (ctx, EINVAL, "%s: block-size is %" PRIu64
                     ", VirtualBox uses %" PRIu64 " to %" PRIu64
                     "; others need \"force\"", name, block_size,
                     USUAL_BLOCK_SIZE_MIN, USUAL_BLOCK_SIZE_MAX);
  if (!is_power_of_2 (alignment) || alignment < VDI_SECTOR || alignment > MIB)
    return vd_error (ctx, EINVAL, "%s: alignment is %" PRIu64
                     ", must be a power of two from 512 to %" PRIu64,
                     name, alignment, MIB);
  if (how->size == 0 || how->size % VDI_SECTOR != 0)
    return vd_error (ctx, EINVAL, "%s: size is %" PRIu64
                     ", must be a multiple of 512, and not 0", name,
                     how->size);

  off_blocks = round_up (VDI_PRE_HEADER_SIZE + VDI_HEADER_LCHS, alignment);
  blocks = div_round_up (how->size, block_size);
  max = max_blocks (off_blocks, alignment);
  if (blocks > max) {
    uint64_t larger = block_size;

    while (larger < VDI_BLOCK_SIZE_MAX && max * larger < how->size)
      larger *= 2;
    if (max * larger < how->size)
      return vd_error (ctx, EFBIG, "%s: size is %" PRIu64
                       ", more than a VDI can hold (%" PRIu64 ")", name,
                       how->size, max * larger);
    return vd_error (ctx, EFBIG, "%s: size is %" PRIu64
                     ", with blocks of %" PRIu64 " bytes at most %" PRIu64
                     "; use a larger block-size: %" PRIu64 "%s", name,
                     how->size, block_size, max * block_size, larger,
                     larger > USUAL_BLOCK_SIZE_MAX ? " and \"force\"" : "");
  }

  if (how->comment && strlen (how->comment) > VD_COMMENT_MAX)
    return vd_error (ctx, EINVAL, "%s: comment is %zu bytes long, "
                     "a VDI has room for %d", name,
                     strlen (how->comment), VD_COMMENT_MAX);
  r = vdi_check_lchs (ctx, name, &how->lchs);
  if (r < 0)
    return r;

  *h = (struct vdi_header) {
    .version = VDI_VERSION_1_1,
    .header_size = VDI_HEADER_LCHS,
    .type = fixed ? VDI_TYPE_FIXED
      : vd_uuid_is_null (&how->link.parent) ? VDI_TYPE_NORMAL : VDI_TYPE_DIFF,
    .off_blocks = off_blocks,
    .off_data = round_up (off_blocks + 4 * blocks, alignment),
    .disk_size = how->size,
    .block_size = block_size,
    .blocks = blocks,
    .allocated = fixed ? blocks : 0,
    .link = how->link,
    .lchs = how->lchs,
  };
  if (how->comment)
    memcpy (h->comment, how->comment, strlen (how->comment));
  return 0;
}

int
vdi_check_create (struct vd_ctx *ctx, const struct vd_create *how)
{
  struct vdi_header h;

  return plan (ctx, "vdi", how, &h);
}

/* Free entries, or each block at its own number. */
static int
write_new_map (struct vd_ctx *ctx, struct vd_store *store,
               const struct vdi_header *h)
{
  uint64_t size = UINT64_C (4) * h->blocks;
  uint64_t piece = min_u64 (size, MAP_PIECE);
  uint64_t offset, n, i;
  CLEANUP_FREE uint8_t *buf = malloc (piece);
  int r;

  if (buf == NULL)
    return vd_error (ctx, ENOMEM, "%s: %s", store->name, strerror (ENOMEM));
  memset (buf, 0xff, piece);
  for (offset = 0; offset < size; offset += n) {
    n = min_u64 (piece, size - offset);
    if (h->type == VDI_TYPE_FIXED)
      for (i = 0; i < n; i += 4)
        put_le32 (&buf[i], (uint32_t) ((offset + i) / 4));
    r = vd_store_pwrite (ctx, store, buf, n, h->off_blocks + offset, 0);
    if (r < 0)
      return r;
  }
  return 0;
}

int
vdi_create (struct vd_ctx *ctx, struct vd_store *store,
            const struct vd_create *how)
{
  uint8_t sector[VDI_SECTOR];
  struct vdi_header h;
  uint64_t size;
  int r;

  r = plan (ctx, store->name, how, &h);
  if (r < 0)
    return r;
  if (vd_uuid_is_null (&h.link.uuid))
    vd_uuid_random (&h.link.uuid);
  if (vd_uuid_is_null (&h.link.modification))
    vd_uuid_random (&h.link.modification);

  size = h.off_data + (uint64_t) h.allocated * h.block_size;
  if (h.type == VDI_TYPE_FIXED)
    r = vd_store_allocate (ctx, store, 0, size);
  else
    r = vd_store_truncate (ctx, store, size);
  if (r < 0)
    return r;

  /* The file is no VDI before its map is complete (rules O16). */
  r = write_new_map (ctx, store, &h);
  if (r < 0)
    return r;
  r = vd_store_sync (ctx, store);
  if (r < 0)
    return r;
  vdi_header_encode (&h, sector);
  r = vd_store_pwrite (ctx, store, sector, sizeof sector, 0, 0);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}
