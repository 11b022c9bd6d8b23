/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The header of a hosted sparse extent, and new extents (vmdk-format 5.1,
 * 5.2, 5.7).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "cleanup.h"
#include "rounding.h"
#include "vmdk-hosted.h"

/* Where the fields are (vmdk-format 5.1). */
#define OFF_MAGIC 0
#define OFF_VERSION 4
#define OFF_FLAGS 8
#define OFF_CAPACITY 12
#define OFF_GRAIN 20
#define OFF_DESCRIPTOR 28
#define OFF_DESCRIPTOR_SIZE 36
#define OFF_GTES 44
#define OFF_RGD 48
#define OFF_GD 56
#define OFF_OVERHEAD 64
#define OFF_UNCLEAN 72
#define OFF_NEWLINES 73
#define OFF_COMPRESSION 77

/* "kdmv": the file was being written and never completed (vmdk-format 1.1). */
#define MAGIC_UNFINISHED 0x766d646bu

#define FLAGS_INCOMPATIBLE 0xffff0000u

#define GRAIN_MIN 8u
#define GRAIN_MAX 2048u
#define GTES_MIN 128u
#define GTES_MAX 4096u
#define DESCRIPTOR_SECTORS_MAX 2048u

/* In sectors: no byte offset leaves the range of off_t. */
#define SECTORS_MAX (INT64_MAX / VMDK_SECTOR)

/* The default geometry of the tables (vmdk-format 5.2). */
#define NEW_GRAIN 128u
#define NEW_GTES 512u

#define PIECE (UINT64_C (1) << 20)

static const uint8_t newlines[4] = { '\n', ' ', '\r', '\n' };

uint64_t
hosted_ngts (const struct hosted_header *h)
{
  return div_round_up (div_round_up (h->capacity, h->grain), h->gtes);
}

bool
hosted_directory_fits (const struct hosted_header *h, uint64_t offset,
                       uint64_t file_size)
{
  uint64_t size = hosted_ngts (h) * 4;

  return offset > 0 && offset <= SECTORS_MAX && size <= file_size &&
    offset * VMDK_SECTOR <= file_size - size;
}

static int
check_format (struct vd_ctx *ctx, const char *name, const uint8_t *sector,
              const struct hosted_header *h)
{
  uint32_t unknown = h->flags & FLAGS_INCOMPATIBLE &
    ~(HOSTED_FLAG_COMPRESSED | HOSTED_FLAG_MARKERS);
  bool compressed = h->flags & HOSTED_FLAG_COMPRESSED;
  bool markers = h->flags & HOSTED_FLAG_MARKERS;

  if (h->version < 1 || h->version > 3)
    return vd_error (ctx, ENOTSUP, "%s: version of the sparse extent is %"
                     PRIu32 ", supported are 1 to 3", name, h->version);
  if (unknown)
    return vd_error (ctx, ENOTSUP, "%s: flags is 0x%" PRIx32
                     ", the meaning of 0x%" PRIx32
                     " is unknown and must not be ignored", name,
                     h->flags, unknown);
  if ((h->flags & HOSTED_FLAG_NEWLINES) &&
      memcmp (&sector[OFF_NEWLINES], newlines, sizeof newlines) != 0)
    return vd_error (ctx, EIO, "%s: the newline check bytes are %02x %02x "
                     "%02x %02x, must be 0a 20 0d 0a: the file was "
                     "transferred in text mode and is damaged", name,
                     sector[OFF_NEWLINES], sector[OFF_NEWLINES + 1],
                     sector[OFF_NEWLINES + 2], sector[OFF_NEWLINES + 3]);
  if (compressed != markers)
    return vd_error (ctx, ENOTSUP, "%s: flags is 0x%" PRIx32
                     ", grains %s are not supported", name, h->flags,
                     compressed ? "compressed but without markers"
                     : "with markers but not compressed");
  if (h->compression != (compressed ? 1 : 0))
    return vd_error (ctx, ENOTSUP, "%s: compressAlgorithm is %u, must be %d "
                     "as flags is 0x%" PRIx32, name, h->compression,
                     compressed ? 1 : 0, h->flags);
  return 0;
}

static int
check_numbers (struct vd_ctx *ctx, const char *name, uint64_t nominal,
               const struct hosted_header *h)
{
  if (!is_power_of_2 (h->grain) ||
      h->grain < GRAIN_MIN || h->grain > GRAIN_MAX)
    return vd_error (ctx, EIO, "%s: grainSize is %" PRIu64
                     ", must be a power of two from %u to %u", name,
                     h->grain, GRAIN_MIN, GRAIN_MAX);
  if (!is_power_of_2 (h->gtes) || h->gtes < GTES_MIN || h->gtes > GTES_MAX)
    return vd_error (ctx, EIO, "%s: numGTEsPerGT is %" PRIu32
                     ", must be a power of two from %u to %u", name,
                     h->gtes, GTES_MIN, GTES_MAX);
  if (h->capacity > SECTORS_MAX - GRAIN_MAX)
    return vd_error (ctx, EIO, "%s: capacity is %" PRIu64
                     " sectors, more than any disk can have", name,
                     h->capacity);
  if (nominal > round_up (h->capacity, h->grain))
    return vd_error (ctx, EIO, "%s: capacity is %" PRIu64
                     ", but the descriptor gives this extent %" PRIu64
                     " sectors", name, h->capacity, nominal);
  return 0;
}

static int
check_places (struct vd_ctx *ctx, const char *name, uint64_t file_size,
              uint64_t nominal, const struct hosted_header *h)
{
  if (h->gd_offset == HOSTED_GD_AT_END) {
    if (!(h->flags & HOSTED_FLAG_COMPRESSED))
      return vd_error (ctx, EIO, "%s: gdOffset is %" PRIu64
                       " (in the footer), which only compressed extents have",
                       name, h->gd_offset);
  }
  /* Its copy may do: the caller sees (vmdk-format 5.3). */
  else if (!hosted_directory_fits (h, h->gd_offset, file_size) &&
           !(h->flags & HOSTED_FLAG_REDUNDANT &&
             hosted_directory_fits (h, h->rgd_offset, file_size)))
    return vd_error (ctx, EIO, "%s: gdOffset is %" PRIu64
                     ": the grain directory (%" PRIu64
                     " entries for a capacity of %" PRIu64
                     " sectors) does not lie in the file of %" PRIu64
                     " bytes: is it a complete copy?", name, h->gd_offset,
                     hosted_ngts (h), h->capacity, file_size);
  if (h->overhead > file_size / VMDK_SECTOR)
    return vd_error (ctx, EIO, "%s: overHead is %" PRIu64
                     " sectors, but the file has %" PRIu64
                     " bytes: is it a complete copy?", name, h->overhead,
                     file_size);

  /* Split extents have such fields too, but no text (vmdk-format 5.2). */
  if (nominal != 0 || h->descriptor_offset == 0)
    return 0;
  if (h->descriptor_size == 0 || h->descriptor_size > DESCRIPTOR_SECTORS_MAX)
    return vd_error (ctx, EIO, "%s: descriptorSize is %" PRIu64
                     ", must be from 1 to %u sectors", name,
                     h->descriptor_size, DESCRIPTOR_SECTORS_MAX);
  if (h->descriptor_offset > file_size / VMDK_SECTOR ||
      h->descriptor_size > file_size / VMDK_SECTOR - h->descriptor_offset)
    return vd_error (ctx, EIO, "%s: descriptorOffset is %" PRIu64
                     ": the descriptor of %" PRIu64
                     " sectors does not lie in the file of %" PRIu64
                     " bytes", name, h->descriptor_offset,
                     h->descriptor_size, file_size);
  return 0;
}

int
hosted_header_parse (struct vd_ctx *ctx, const char *name,
                     const uint8_t *sector, uint64_t file_size,
                     uint64_t nominal, struct hosted_header *ret)
{
  struct hosted_header h = { 0 };
  uint32_t magic;
  int r;

  if (file_size < HOSTED_HEADER)
    return vd_error (ctx, EIO, "%s: the file has %" PRIu64
                     " bytes, the header of a sparse extent has %d", name,
                     file_size, HOSTED_HEADER);
  magic = get_le32 (&sector[OFF_MAGIC]);
  if (magic == MAGIC_UNFINISHED)
    return vd_error (ctx, EIO, "%s: the signature is that of an incomplete "
                     "stream image: whatever made it did not finish", name);
  if (magic != HOSTED_MAGIC)
    return vd_error (ctx, EIO, "%s: the signature is 0x%08" PRIx32
                     ", not that of a sparse extent (0x%08x)", name, magic,
                     HOSTED_MAGIC);

  h.version = get_le32 (&sector[OFF_VERSION]);
  h.flags = get_le32 (&sector[OFF_FLAGS]);
  h.capacity = get_le64 (&sector[OFF_CAPACITY]);
  h.grain = get_le64 (&sector[OFF_GRAIN]);
  h.descriptor_offset = get_le64 (&sector[OFF_DESCRIPTOR]);
  h.descriptor_size = get_le64 (&sector[OFF_DESCRIPTOR_SIZE]);
  h.gtes = get_le32 (&sector[OFF_GTES]);
  h.rgd_offset = get_le64 (&sector[OFF_RGD]);
  h.gd_offset = get_le64 (&sector[OFF_GD]);
  h.overhead = get_le64 (&sector[OFF_OVERHEAD]);
  h.unclean = sector[OFF_UNCLEAN] != 0;
  h.compression = get_le16 (&sector[OFF_COMPRESSION]);

  r = check_format (ctx, name, sector, &h);
  if (r == 0)
    r = check_numbers (ctx, name, nominal, &h);
  if (r == 0)
    r = check_places (ctx, name, file_size, nominal, &h);
  if (r < 0)
    return r;
  *ret = h;
  return 0;
}

void
hosted_header_encode (const struct hosted_header *h, uint8_t *sector)
{
  memset (sector, 0, HOSTED_HEADER);
  put_le32 (&sector[OFF_MAGIC], HOSTED_MAGIC);
  put_le32 (&sector[OFF_VERSION], h->version);
  put_le32 (&sector[OFF_FLAGS], h->flags);
  put_le64 (&sector[OFF_CAPACITY], h->capacity);
  put_le64 (&sector[OFF_GRAIN], h->grain);
  put_le64 (&sector[OFF_DESCRIPTOR], h->descriptor_offset);
  put_le64 (&sector[OFF_DESCRIPTOR_SIZE], h->descriptor_size);
  put_le32 (&sector[OFF_GTES], h->gtes);
  put_le64 (&sector[OFF_RGD], h->rgd_offset);
  put_le64 (&sector[OFF_GD], h->gd_offset);
  put_le64 (&sector[OFF_OVERHEAD], h->overhead);
  sector[OFF_UNCLEAN] = h->unclean;
  memcpy (&sector[OFF_NEWLINES], newlines, sizeof newlines);
  put_le16 (&sector[OFF_COMPRESSION], h->compression);
}

int
hosted_read_unclean (struct vd_ctx *ctx, struct vd_store *store, bool *ret)
{
  uint8_t byte;
  int r;

  r = vd_store_pread (ctx, store, &byte, 1, OFF_UNCLEAN);
  if (r == 0)
    *ret = byte != 0;
  return r;
}

int
hosted_write_unclean (struct vd_ctx *ctx, struct vd_store *store,
                      bool unclean)
{
  uint8_t sector[HOSTED_HEADER];
  int r;

  /* The rest of the sector stays as it is on disk: it may hold what we do not
   * know.
   */
  r = vd_store_pread (ctx, store, sector, sizeof sector, 0);
  if (r < 0)
    return r;
  sector[OFF_UNCLEAN] = unclean;
  return vd_store_pwrite (ctx, store, sector, sizeof sector, 0, 0);
}

int
hosted_layout (struct vd_ctx *ctx, const char *name,
               uint64_t capacity, uint64_t descriptor_sectors,
               struct hosted_header *ret)
{
  struct hosted_header h = {
    .version = 1,
    .flags = HOSTED_FLAG_NEWLINES | HOSTED_FLAG_REDUNDANT,
    .capacity = capacity,
    .grain = NEW_GRAIN,
    .descriptor_offset = descriptor_sectors ? 1 : 0,
    .descriptor_size = descriptor_sectors,
    .gtes = NEW_GTES,
  };
  uint64_t tables;

  if (capacity == 0)
    return vd_error (ctx, EINVAL, "%s: a sparse extent must not be empty",
                     name);
  if (descriptor_sectors > DESCRIPTOR_SECTORS_MAX)
    return vd_error (ctx, EFBIG, "%s: the descriptor takes %" PRIu64
                     " sectors, at most %u are possible", name,
                     descriptor_sectors, DESCRIPTOR_SECTORS_MAX);

  /* From one directory to the next. */
  tables = div_round_up (hosted_ngts (&h) * 4, VMDK_SECTOR) +
    hosted_ngts (&h) * hosted_gt_sectors (&h);
  h.rgd_offset = 1 + descriptor_sectors;
  h.gd_offset = h.rgd_offset + tables;
  h.overhead = round_up (h.gd_offset + tables, h.grain);
  /* Room for a grain, at least, that 32 bits can name. */
  if (h.overhead > UINT32_MAX - h.grain)
    return vd_error (ctx, EFBIG, "%s: a sparse extent of %" PRIu64
                     " sectors has %" PRIu64 " sectors of tables, but a "
                     "file with 2 TiB at most", name, capacity, h.overhead);
  *ret = h;
  return 0;
}

/* A directory whose tables follow it. */
static int
write_directory (struct vd_ctx *ctx, struct vd_store *store,
                 const struct hosted_header *h, uint64_t offset)
{
  uint64_t n = hosted_ngts (h), i, j, count;
  uint64_t table = offset + div_round_up (n * 4, VMDK_SECTOR);
  CLEANUP_FREE uint8_t *buf = malloc (min_u64 (n * 4, PIECE));
  int r;

  if (buf == NULL)
    return vd_error (ctx, ENOMEM, "%s: %s", store->name, strerror (ENOMEM));
  for (i = 0; i < n; i += count) {
    count = min_u64 (n - i, PIECE / 4);
    for (j = 0; j < count; ++j, table += hosted_gt_sectors (h))
      put_le32 (&buf[j * 4], (uint32_t) table);
    r = vd_store_pwrite (ctx, store, buf, count * 4,
                         offset * VMDK_SECTOR + i * 4, 0);
    if (r < 0)
      return r;
  }
  return 0;
}

int
hosted_create (struct vd_ctx *ctx, struct vd_store *store,
               const struct hosted_header *h,
               const char *descriptor, size_t len)
{
  uint8_t sector[HOSTED_HEADER];
  int r;

  if (descriptor && len > h->descriptor_size * VMDK_SECTOR)
    return vd_error (ctx, EFBIG, "%s: the descriptor has %zu bytes, but there "
                     "is room for %" PRIu64, store->name, len,
                     h->descriptor_size * VMDK_SECTOR);

  /* The tables are all there, and name nothing: zeroes. */
  r = vd_store_truncate (ctx, store, h->overhead * VMDK_SECTOR);
  if (r == 0 && descriptor)
    r = vd_store_pwrite (ctx, store, descriptor, len,
                         h->descriptor_offset * VMDK_SECTOR, 0);
  if (r == 0 && (h->flags & HOSTED_FLAG_REDUNDANT))
    r = write_directory (ctx, store, h, h->rgd_offset);
  if (r == 0)
    r = write_directory (ctx, store, h, h->gd_offset);
  if (r == 0)
    r = vd_store_sync (ctx, store);
  if (r < 0)
    return r;

  /* The file is no VMDK before all that is durable (rules O16). */
  hosted_header_encode (h, sector);
  r = vd_store_pwrite (ctx, store, sector, sizeof sector, 0, 0);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}
