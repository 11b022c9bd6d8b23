/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "byteorder.h"
#include "rounding.h"
#include "vdi-header.h"

/* By the signature only: the text in front of it differs from tool to tool
 * and may be empty (vdi-format 2).
 */
bool
vdi_probe (const uint8_t *head, size_t n)
{
  return n >= VDI_PRE_HEADER_SIZE &&
    get_le32 (&head[VDI_SIGNATURE]) == VDI_SIGNATURE_VALUE;
}

bool
vdi_header_has_lchs (const struct vdi_header *h)
{
  /* The map may begin right behind an old header, even if cbHeader claims
   * that there is a new one (vdi-format 8, step 3).
   */
  return h->version == VDI_VERSION_1_1 && h->header_size >= VDI_HEADER_LCHS &&
    h->off_blocks >= VDI_PRE_HEADER_SIZE + VDI_HEADER_LCHS;
}

/* VirtualBox's resize leaves garbage here (vdi-format 14, bug 3), and "set"
 * means all three (17).
 */
static struct vd_geometry
plausible_lchs (struct vd_geometry g)
{
  if (g.cylinders == 0 || g.heads == 0 || g.heads > 255 ||
      g.sectors == 0 || g.sectors > 63)
    return (struct vd_geometry) { 0 };
  return g;
}

int
vdi_check_lchs (struct vd_ctx *ctx, const char *name,
                const struct vd_geometry *lchs)
{
  /* The limits of VirtualBox's setter (vdi-format 17). */
  if (lchs->heads > 255)
    return vd_error (ctx, EINVAL, "%s: LCHS heads is %" PRIu32
                     ", at most 255 are possible", name, lchs->heads);
  if (lchs->sectors > 63)
    return vd_error (ctx, EINVAL, "%s: LCHS sectors is %" PRIu32
                     ", at most 63 are possible", name, lchs->sectors);
  return 0;
}

static void
decode_comment (const uint8_t *p, struct vdi_header *h)
{
  /* Not always terminated (vdi-format 8.1). */
  size_t n = strnlen ((const char *) p, VD_COMMENT_MAX);

  memcpy (h->comment, p, n);
  h->comment[n] = '\0';
}

static void
decode_0 (const uint8_t *p, struct vdi_header *h)
{
  h->type = get_le32 (&p[VDI0_TYPE]);
  h->flags = get_le32 (&p[VDI0_FLAGS]);
  decode_comment (&p[VDI0_COMMENT], h);
  h->disk_size = get_le64 (&p[VDI0_DISK_SIZE]);
  h->block_size = get_le32 (&p[VDI0_BLOCK_SIZE]);
  h->blocks = get_le32 (&p[VDI0_BLOCKS]);
  h->allocated = get_le32 (&p[VDI0_ALLOCATED]);
  vd_uuid_from_disk (&p[VDI0_UUID_CREATE], &h->link.uuid);
  vd_uuid_from_disk (&p[VDI0_UUID_MODIFY], &h->link.modification);
  vd_uuid_from_disk (&p[VDI0_UUID_LINKAGE], &h->link.parent);
  h->off_blocks = VDI0_MAP;
  h->off_data = VDI0_MAP + UINT64_C (4) * h->blocks;
}

static void
decode_1 (const uint8_t *p, struct vdi_header *h)
{
  h->header_size = get_le32 (&p[VDI_HEADER_SIZE]);
  h->type = get_le32 (&p[VDI_TYPE]);
  h->flags = get_le32 (&p[VDI_FLAGS]);
  decode_comment (&p[VDI_COMMENT], h);
  h->off_blocks = get_le32 (&p[VDI_OFF_BLOCKS]);
  h->off_data = get_le32 (&p[VDI_OFF_DATA]);
  h->disk_size = get_le64 (&p[VDI_DISK_SIZE]);
  h->block_size = get_le32 (&p[VDI_BLOCK_SIZE]);
  h->block_extra = get_le32 (&p[VDI_BLOCK_EXTRA]);
  h->blocks = get_le32 (&p[VDI_BLOCKS]);
  h->allocated = get_le32 (&p[VDI_ALLOCATED]);
  vd_uuid_from_disk (&p[VDI_UUID_CREATE], &h->link.uuid);
  vd_uuid_from_disk (&p[VDI_UUID_MODIFY], &h->link.modification);
  vd_uuid_from_disk (&p[VDI_UUID_LINKAGE], &h->link.parent);
  vd_uuid_from_disk (&p[VDI_UUID_PARENT_MODIFY],
                     &h->link.parent_modification);
  if (vdi_header_has_lchs (h)) {
    struct vd_geometry g = {
      .cylinders = get_le32 (&p[VDI_LCHS_CYLINDERS]),
      .heads = get_le32 (&p[VDI_LCHS_HEADS]),
      .sectors = get_le32 (&p[VDI_LCHS_SECTORS]),
    };
    h->lchs = plausible_lchs (g);
  }
}

/* What must hold for reading (vdi-format 8 and 21). */
static int
check (struct vd_ctx *ctx, const char *name, uint64_t file_size,
       const struct vdi_header *h)
{
  uint64_t map_end;

  if (h->version != VDI_VERSION_0 && h->header_size < VDI_HEADER_OLD)
    return vd_error (ctx, EIO, "%s: cbHeader is %" PRIu32
                     ", must be at least %d", name,
                     h->header_size, VDI_HEADER_OLD);
  if (h->type < VDI_TYPE_NORMAL || h->type > VDI_TYPE_DIFF)
    return vd_error (ctx, EIO, "%s: u32Type is %" PRIu32
                     ", must be from 1 to 4", name, h->type);
  if (h->flags & VDI_FLAGS_REFUSED)
    return vd_error (ctx, EIO, "%s: fFlags is 0x%" PRIx32
                     ", the bits 0x%" PRIx32 " must not be set", name,
                     h->flags, h->flags & VDI_FLAGS_REFUSED);
  if (h->disk_size < VDI_SECTOR)
    return vd_error (ctx, EIO, "%s: cbDisk is %" PRIu64
                     ", must be at least one sector of 512 bytes", name,
                     h->disk_size);
  if (!is_power_of_2 (h->block_size) ||
      h->block_size < VDI_BLOCK_SIZE_MIN || h->block_size > VDI_BLOCK_SIZE_MAX)
    return vd_error (ctx, EIO, "%s: cbBlock is %" PRIu32
                     ", must be a power of two from %" PRIu32 " to %" PRIu32,
                     name, h->block_size,
                     VDI_BLOCK_SIZE_MIN, VDI_BLOCK_SIZE_MAX);
  if (h->block_extra != 0 &&
      (!is_power_of_2 (h->block_extra) || h->block_extra == 1 ||
       h->block_extra > h->block_size))
    return vd_error (ctx, EIO, "%s: cbBlockExtra is %" PRIu32
                     ", must be 0 or a power of two from 2 to cbBlock (%"
                     PRIu32 ")", name, h->block_extra, h->block_size);
  if (h->blocks == 0 || h->blocks > VDI_BLOCKS_MAX)
    return vd_error (ctx, EIO, "%s: cBlocks is %" PRIu32
                     ", must be from 1 to %" PRIu32, name,
                     h->blocks, VDI_BLOCKS_MAX);
  if ((uint64_t) h->blocks * h->block_size < h->disk_size)
    return vd_error (ctx, EIO, "%s: cbDisk is %" PRIu64
                     ", more than cBlocks (%" PRIu32 ") of cbBlock (%"
                     PRIu32 ") bytes can hold", name,
                     h->disk_size, h->blocks, h->block_size);

  /* 72 + 384, whatever cbHeader says. */
  if (h->version != VDI_VERSION_0 &&
      h->off_blocks < VDI_PRE_HEADER_SIZE + VDI_HEADER_OLD)
    return vd_error (ctx, EIO, "%s: offBlocks is %" PRIu32
                     ", inside of the header, which ends at %d", name,
                     h->off_blocks, VDI_PRE_HEADER_SIZE + VDI_HEADER_OLD);
  map_end = h->off_blocks + UINT64_C (4) * h->blocks;
  if (h->off_data < map_end)
    return vd_error (ctx, EIO, "%s: offData is %" PRIu64
                     ", but the block map (offBlocks %" PRIu32 ", cBlocks %"
                     PRIu32 ") ends at %" PRIu64, name,
                     h->off_data, h->off_blocks, h->blocks, map_end);
  if (map_end > file_size)
    return vd_error (ctx, EIO, "%s: the block map (offBlocks %" PRIu32
                     ", cBlocks %" PRIu32 ") ends at %" PRIu64
                     ", but the file has %" PRIu64
                     " bytes: is it a complete copy?", name,
                     h->off_blocks, h->blocks, map_end, file_size);
  return 0;
}

int
vdi_header_parse (struct vd_ctx *ctx, const char *name,
                  const uint8_t *head, size_t n,
                  uint64_t file_size, struct vdi_header *ret)
{
  /* Zeroes behind the end of a short file: LCHS may lie there. */
  uint8_t sector[VDI_SECTOR] = { 0 };
  struct vdi_header h = { 0 };
  size_t least;
  int r;

  memcpy (sector, head, n < sizeof sector ? n : sizeof sector);
  if (n >= VDI_PRE_HEADER_SIZE && !vdi_probe (sector, n))
    return vd_error (ctx, EMEDIUMTYPE, "%s: signature is 0x%08" PRIx32
                     ", not that of a VDI image (0x%08" PRIx32 ")", name,
                     get_le32 (&sector[VDI_SIGNATURE]), VDI_SIGNATURE_VALUE);

  h.version = get_le32 (&sector[VDI_VERSION]);
  if (n >= VDI_PRE_HEADER_SIZE &&
      h.version != VDI_VERSION_0 && h.version >> 16 != 1)
    return vd_error (ctx, ENOTSUP, "%s: version is %" PRIu32 ".%" PRIu32
                     ", supported are 1.x and 0.2", name,
                     h.version >> 16, h.version & 0xffff);

  least = h.version == VDI_VERSION_0
    ? VDI0_MAP : VDI_PRE_HEADER_SIZE + VDI_HEADER_OLD;
  if (n < least)
    return vd_error (ctx, EIO, "%s: the file has %zu bytes, a VDI header "
                     "ends at %zu: is it a complete copy?", name, n, least);

  if (h.version == VDI_VERSION_0)
    decode_0 (sector, &h);
  else
    decode_1 (sector, &h);
  r = check (ctx, name, file_size, &h);
  if (r < 0)
    return r;
  *ret = h;
  return 0;
}

void
vdi_header_no_write (const struct vdi_header *h, char *text, size_t size)
{
  text[0] = '\0';
  if (h->version != VDI_VERSION_1_1)
    snprintf (text, size, "version is %" PRIu32 ".%" PRIu32
              ", only 1.1 can be written",
              h->version >> 16, h->version & 0xffff);
  else if (h->flags & ~VDI_FLAGS_KNOWN)
    snprintf (text, size, "fFlags is 0x%" PRIx32
              ", the meaning of 0x%" PRIx32 " is unknown",
              h->flags, h->flags & ~VDI_FLAGS_KNOWN);
  else if (h->off_blocks < VDI_PRE_HEADER_SIZE + (uint64_t) h->header_size)
    snprintf (text, size, "cbHeader is %" PRIu32
              ", so the header overlaps the block map (offBlocks %" PRIu32 ")",
              h->header_size, h->off_blocks);
  /* An entry that straddles a sector, or data that shares one with the map,
   * can be torn by a power cut (rules O1).
   */
  else if (h->off_blocks % 4 != 0)
    snprintf (text, size, "offBlocks is %" PRIu32 ", not a multiple of 4",
              h->off_blocks);
  else if (h->off_data % VDI_SECTOR != 0)
    snprintf (text, size, "offData is %" PRIu64 ", not a multiple of 512",
              h->off_data);
  else if (h->block_extra % VDI_SECTOR != 0)
    snprintf (text, size, "cbBlockExtra is %" PRIu32
              ", not a multiple of 512", h->block_extra);
  /* No child could name this image (vdi-format 8, step 4). */
  else if (vd_uuid_is_null (&h->link.uuid))
    snprintf (text, size,
              "uuidCreate is null, VirtualBox opens no such image");
  else if (vd_uuid_is_null (&h->link.modification))
    snprintf (text, size,
              "uuidModify is null, VirtualBox opens no such image");
}

static void
put_lchs (uint8_t *p, const struct vd_geometry *g)
{
  put_le32 (&p[VDI_LCHS_CYLINDERS], g->cylinders);
  put_le32 (&p[VDI_LCHS_HEADS], g->heads);
  put_le32 (&p[VDI_LCHS_SECTORS], g->sectors);
  /* Must be 512 for VirtualBox, set or not (vdi-format 8, step 4). */
  put_le32 (&p[VDI_LCHS_SECTOR_SIZE], 512);
}

static void
put_comment (uint8_t *p, const char *comment)
{
  memset (&p[VDI_COMMENT], 0, VDI_COMMENT_SIZE);
  memcpy (&p[VDI_COMMENT], comment, strnlen (comment, VD_COMMENT_MAX));
}

void
vdi_header_encode (const struct vdi_header *h, uint8_t sector[VDI_SECTOR])
{
  static const char text[] = "<<< vdkit Virtual Disk Image >>>\n";

  memset (sector, 0, VDI_SECTOR);
  memcpy (&sector[VDI_TEXT], text, sizeof text - 1);
  put_le32 (&sector[VDI_SIGNATURE], VDI_SIGNATURE_VALUE);
  put_le32 (&sector[VDI_VERSION], VDI_VERSION_1_1);
  put_le32 (&sector[VDI_HEADER_SIZE], VDI_HEADER_LCHS);
  put_le32 (&sector[VDI_TYPE], h->type);
  put_le32 (&sector[VDI_FLAGS], h->flags);
  put_comment (sector, h->comment);
  put_le32 (&sector[VDI_OFF_BLOCKS], h->off_blocks);
  put_le32 (&sector[VDI_OFF_DATA], (uint32_t) h->off_data);
  /* qemu wants it (vdi-format 3). */
  put_le32 (&sector[VDI_LEGACY_SECTOR_SIZE], 512);
  put_le64 (&sector[VDI_DISK_SIZE], h->disk_size);
  put_le32 (&sector[VDI_BLOCK_SIZE], h->block_size);
  put_le32 (&sector[VDI_BLOCK_EXTRA], h->block_extra);
  put_le32 (&sector[VDI_BLOCKS], h->blocks);
  put_le32 (&sector[VDI_ALLOCATED], h->allocated);
  vd_uuid_to_disk (&h->link.uuid, &sector[VDI_UUID_CREATE]);
  vd_uuid_to_disk (&h->link.modification, &sector[VDI_UUID_MODIFY]);
  vd_uuid_to_disk (&h->link.parent, &sector[VDI_UUID_LINKAGE]);
  vd_uuid_to_disk (&h->link.parent_modification,
                   &sector[VDI_UUID_PARENT_MODIFY]);
  put_lchs (sector, &h->lchs);
}

int
vdi_header_update (struct vd_ctx *ctx, struct vd_store *store,
                   struct vdi_header *h,
                   const struct vd_meta_change *meta,
                   const uint32_t *allocated)
{
  static const struct vd_meta_change nothing;
  uint8_t sector[VDI_SECTOR];
  size_t n = h->header_size < VDI_HEADER_LCHS
    ? h->header_size : VDI_HEADER_LCHS;
  struct vdi_header new = *h;
  int r;

  if (meta == NULL)
    meta = &nothing;

  r = vd_store_pread (ctx, store, &sector[VDI_PRE_HEADER_SIZE], n,
                      VDI_PRE_HEADER_SIZE);
  if (r < 0)
    return r;

  if (meta->uuid) {
    new.link.uuid = *meta->uuid;
    vd_uuid_to_disk (meta->uuid, &sector[VDI_UUID_CREATE]);
  }
  if (meta->modification) {
    new.link.modification = *meta->modification;
    vd_uuid_to_disk (meta->modification, &sector[VDI_UUID_MODIFY]);
  }
  if (meta->parent) {
    new.link.parent = *meta->parent;
    vd_uuid_to_disk (meta->parent, &sector[VDI_UUID_LINKAGE]);
  }
  if (meta->parent_modification) {
    new.link.parent_modification = *meta->parent_modification;
    vd_uuid_to_disk (meta->parent_modification,
                     &sector[VDI_UUID_PARENT_MODIFY]);
  }
  if (meta->comment) {
    put_comment (sector, meta->comment);
    decode_comment (&sector[VDI_COMMENT], &new);
  }
  if (meta->lchs) {
    put_lchs (sector, meta->lchs);
    new.lchs = plausible_lchs (*meta->lchs);
  }
  if (allocated) {
    new.allocated = *allocated;
    put_le32 (&sector[VDI_ALLOCATED], *allocated);
  }

  r = vd_store_pwrite (ctx, store, &sector[VDI_PRE_HEADER_SIZE], n,
                       VDI_PRE_HEADER_SIZE, 0);
  if (r < 0)
    return r;
  /* Not the rest: others read it meanwhile. */
  h->link = new.link;
  h->lchs = new.lchs;
  h->allocated = new.allocated;
  memcpy (h->comment, new.comment, sizeof h->comment);
  return 0;
}
