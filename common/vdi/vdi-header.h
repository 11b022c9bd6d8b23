/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The VDI header: where its fields are, what they may hold, and how they are
 * changed in place.
 */

#ifndef VDKIT_VDI_HEADER_H
#define VDKIT_VDI_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"

#define VDI_COMMENT_MAX 255     /* bytes of text, then a NUL */

/* Pre-header, all versions (vdi-format 2). */
#define VDI_TEXT 0
#define VDI_TEXT_SIZE 64
#define VDI_SIGNATURE 64
#define VDI_VERSION 68
#define VDI_PRE_HEADER_SIZE 72

#define VDI_SIGNATURE_VALUE UINT32_C (0xbeda107f)
#define VDI_VERSION_0 UINT32_C (0x00000002)
#define VDI_VERSION_1_1 UINT32_C (0x00010001)

/* Header of version 1 (vdi-format 3). */
#define VDI_HEADER_SIZE 72
#define VDI_TYPE 76
#define VDI_FLAGS 80
#define VDI_COMMENT 84
#define VDI_COMMENT_SIZE 256
#define VDI_OFF_BLOCKS 340
#define VDI_OFF_DATA 344
#define VDI_LEGACY_SECTOR_SIZE 360
#define VDI_DISK_SIZE 368
#define VDI_BLOCK_SIZE 376
#define VDI_BLOCK_EXTRA 380
#define VDI_BLOCKS 384
#define VDI_ALLOCATED 388
#define VDI_UUID_CREATE 392
#define VDI_UUID_MODIFY 408
#define VDI_UUID_LINKAGE 424
#define VDI_UUID_PARENT_MODIFY 440
#define VDI_LCHS_CYLINDERS 456
#define VDI_LCHS_HEADS 460
#define VDI_LCHS_SECTORS 464
#define VDI_LCHS_SECTOR_SIZE 468

/* cbHeader, counted from the end of the pre-header: without and with LCHS. */
#define VDI_HEADER_OLD 384
#define VDI_HEADER_LCHS 400

/* Header of version 0; the map follows at once (vdi-format 5). */
#define VDI0_TYPE 72
#define VDI0_FLAGS 76
#define VDI0_COMMENT 80
#define VDI0_DISK_SIZE 352
#define VDI0_BLOCK_SIZE 360
#define VDI0_BLOCKS 364
#define VDI0_ALLOCATED 368
#define VDI0_UUID_CREATE 372
#define VDI0_UUID_MODIFY 388
#define VDI0_UUID_LINKAGE 404
#define VDI0_MAP 420

/* Every field lies in the first sector, so a header write is atomic. */
#define VDI_SECTOR 512

/* Image types (vdi-format 4). */
#define VDI_TYPE_NORMAL 1
#define VDI_TYPE_FIXED 2
#define VDI_TYPE_UNDO 3
#define VDI_TYPE_DIFF 4

/* Flags (vdi-format 3.3): bit 0 is without effect.  Bits 1-7 are refused by
 * VirtualBox, bits 8 and 9 contradict the type, the rest is unknown.
 */
#define VDI_FLAGS_KNOWN UINT32_C (0x001)
#define VDI_FLAGS_REFUSED UINT32_C (0x3fe)

/* Map entries (vdi-format 7.1). */
#define VDI_ENTRY_ZERO UINT32_C (0xfffffffe)
#define VDI_ENTRY_FREE UINT32_C (0xffffffff)

/* Limits of ours (vdi-format 21, 22). */
#define VDI_BLOCK_SIZE_MIN UINT32_C (4096)
#define VDI_BLOCK_SIZE_MAX (UINT32_C (256) << 20)
#define VDI_BLOCKS_MAX (UINT32_C (1) << 30)

struct vdi_header {
  uint32_t version;
  uint32_t header_size;         /* cbHeader; 0 in version 0 */
  uint32_t type;
  uint32_t flags;
  uint32_t off_blocks;
  uint64_t off_data;            /* 64 bits: computed in version 0 */
  uint64_t disk_size;           /* as stored, perhaps odd */
  uint32_t block_size;
  uint32_t block_extra;
  uint32_t blocks;
  uint32_t allocated;           /* as stored, perhaps a lie */
  struct vd_link link;
  struct vd_geometry lchs;      /* all 0 unless plausible */
  char comment[VDI_COMMENT_MAX + 1];
};

extern bool vdi_probe (const uint8_t *head, size_t n);

/* Decode the first n bytes (512, or all the file has) of a file of file_size
 * bytes, and refuse what cannot be read safely.  On success all arithmetic on
 * the fields is free of overflow in 64 bits, the map lies in the file and
 * neither map nor data overlap what is before them.
 */
extern int vdi_header_parse (struct vd_ctx *ctx, const char *name,
                             const uint8_t *head, size_t n,
                             uint64_t file_size, struct vdi_header *ret);

/* Why an image with this header must not be written; "" if it may. */
extern void vdi_header_no_write (const struct vdi_header *h,
                                 char *text, size_t size);

/* Has the header room for the logical geometry?  (vdi-format 3.1) */
extern bool vdi_header_has_lchs (const struct vdi_header *h);

/* Can these heads and sectors be stored?  Messages begin with name. */
extern int vdi_check_lchs (struct vd_ctx *ctx, const char *name,
                           const struct vd_geometry *lchs);

/* Fill the first sector of a new version 1.1 image. */
extern void vdi_header_encode (const struct vdi_header *h,
                               uint8_t sector[VDI_SECTOR]);

/* Change fields of the header of an open image, in *h and on disk: what is
 * not NULL.  Bytes that are not understood stay as they are on disk, and
 * never more than the header that is there is written (vdi-format 8.2).
 * The values have been checked.  Does not sync.  On failure *h is unchanged.
 */
extern int vdi_header_update (struct vd_ctx *ctx, struct vd_store *store,
                              struct vdi_header *h,
                              const struct vd_meta_change *meta,
                              const uint32_t *allocated);

#endif /* VDKIT_VDI_HEADER_H */
