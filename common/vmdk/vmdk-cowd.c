/* SPDX-License-Identifier: BSD-3-Clause
 *
 * COWD extents (vmfsSparse, VMFSSPARSE): the redo logs and snapshots of ESX
 * (vmdk-format 8.2).  supported: reading.  not supported: writing.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "byteorder.h"
#include "iszero.h"
#include "rounding.h"
#include "vmdk-esx.h"

#define HEADER 2048u
#define GRAIN_MAX 2048u         /* sectors */

#define OFF_VERSION 4
#define OFF_FLAGS 8
#define OFF_CAPACITY 12
#define OFF_GRAIN 16
#define OFF_GD 20
#define OFF_NGDES 24
#define OFF_PARENT 32           /* a root has its geometry there */
#define PARENT_SIZE 1024
#define OFF_UNCLEAN 1648

#define FLAGS_KNOWN 3u

static const char *
table_at (const struct esx_map *m, uint64_t entry, uint64_t *ret)
{
  *ret = entry * VMDK_SECTOR;
  return *ret < m->tables
    ? "grain directory entry points into the header or the directory" : NULL;
}

static const char *
grain_at (const struct esx_map *m, uint64_t entry,
          enum vd_run_kind *ret_kind, uint64_t *ret)
{
  if (entry == 0) {
    *ret_kind = VD_RUN_PARENT;
    return NULL;
  }
  *ret_kind = VD_RUN_DATA;
  *ret = entry * VMDK_SECTOR;
  return *ret < m->grains
    ? "grain table entry points into the header or the directory" : NULL;
}

static const struct esx_kind cowd_kind = {
  .width = 1,
  .read_only = "a COWD (vmfsSparse) extent is only read",
  .table_at = table_at,
  .grain_at = grain_at,
};

static const struct vmdk_extent_ops cowd_ops = {
  .kind = "cowd",
  .locate = esx_locate,
  .close = esx_close,
};

/* A child has the name of its parent where a root has three small numbers. */
static bool
names_parent (const uint8_t *header)
{
  const uint8_t *p = &header[OFF_PARENT];
  size_t n = strnlen ((const char *) p, PARENT_SIZE), i;

  for (i = 0; i < n; ++i)
    if (p[i] < 0x20 || p[i] == 0x7f)
      return false;
  return n > 0 && is_zero (p + n, PARENT_SIZE - n);
}

int
vmdk_cowd_open (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  const char *name = x->store->name;
  uint64_t file_size, sectors = x->size / VMDK_SECTOR, gd, gd_end, ngdes;
  uint32_t version, flags, capacity, grain;
  uint8_t header[HEADER];
  struct esx_map m = { .kind = &cowd_kind };
  int r;

  r = vd_store_get_size (ctx, x->store, &file_size);
  if (r < 0)
    return r;
  if (file_size < HEADER)
    return vd_error (ctx, EIO, "%s: is %" PRIu64 " bytes long, too short for "
                     "the header of a COWD extent", name, file_size);
  r = vd_store_pread (ctx, x->store, header, sizeof header, 0);
  if (r < 0)
    return r;

  version = get_le32 (&header[OFF_VERSION]);
  flags = get_le32 (&header[OFF_FLAGS]);
  capacity = get_le32 (&header[OFF_CAPACITY]);
  grain = get_le32 (&header[OFF_GRAIN]);
  if (memcmp (header, "COWD", 4) != 0)
    return vd_error (ctx, EIO, "%s: is not a COWD extent, as the descriptor "
                     "says (magic 0x%08" PRIx32 ")", name, get_le32 (header));
  /* 3 is the same layout, of Workstation 3. */
  if (version != 1 && version != 3)
    return vd_error (ctx, ENOTSUP, "%s: version is %" PRIu32
                     ", 1 and 3 are known", name, version);
  if (flags & ~FLAGS_KNOWN)
    return vd_error (ctx, ENOTSUP, "%s: flags is 0x%" PRIx32
                     ", the meaning of 0x%" PRIx32 " is unknown", name, flags,
                     flags & ~FLAGS_KNOWN);
  if (!is_power_of_2 (grain) || grain > GRAIN_MAX)
    return vd_error (ctx, EIO, "%s: grainSize is %" PRIu32
                     " sectors, must be a power of two up to %u", name, grain,
                     GRAIN_MAX);
  if (sectors > round_up (capacity, grain))
    return vd_error (ctx, EIO, "%s: numSectors is %" PRIu32
                     ", but the descriptor has %" PRIu64 " sectors", name,
                     capacity, sectors);

  m.grain = (uint64_t) grain * VMDK_SECTOR;
  m.file_size = file_size;
  ngdes = esx_ngdes (x, m.grain);
  gd = (uint64_t) get_le32 (&header[OFF_GD]) * VMDK_SECTOR;
  gd_end = gd + ngdes * 4;
  if (get_le32 (&header[OFF_NGDES]) < ngdes)
    return vd_error (ctx, EIO, "%s: numGDEntries is %" PRIu32
                     ", must be at least %" PRIu64, name,
                     get_le32 (&header[OFF_NGDES]), ngdes);
  if (gd < HEADER || gd_end > file_size)
    return vd_error (ctx, EIO, "%s: gdOffset is %" PRIu32 ", a directory of %"
                     PRIu64 " entries there is not inside the file of %"
                     PRIu64 " bytes", name, get_le32 (&header[OFF_GD]), ngdes,
                     file_size);
  m.tables = m.grains = gd == HEADER ? gd_end : HEADER;
  /* So is that of a virtual machine that runs. */
  if (get_le32 (&header[OFF_UNCLEAN]) != 0)
    vd_debug (ctx, "%s: uncleanShutdown is set", name);
  x->differing = names_parent (header);
  return esx_open (ctx, x, &cowd_ops, &m, gd);
}
