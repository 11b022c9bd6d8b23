/* SPDX-License-Identifier: BSD-3-Clause
 *
 * SEsparse extents: snapshots of ESX since VMFS 6, and of large disks
 * (vmdk-format 8.3).  supported: reading version 2.1.  not supported: an
 * extent whose journal must be replayed, writing.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "byteorder.h"
#include "iszero.h"
#include "rounding.h"
#include "vmdk-esx.h"

#define MAGIC UINT64_C (0xcafebabe)
#define VOLATILE_MAGIC UINT64_C (0xcafecafe)
#define VERSION_2_1 UINT64_C (0x200000001)  /* 2.1 */
#define GRAIN 8u                /* sectors */
#define GT 64u                  /* sectors: ESX_GTES entries */

#define OFF_VERSION 8
#define OFF_CAPACITY 16
#define OFF_GRAIN 24
#define OFF_GT 32
#define OFF_FLAGS 40
#define OFF_RESERVED 48
#define OFF_VOLATILE 80
#define OFF_GD 128              /* and its size at + 8 */
#define OFF_TABLES 144
#define OFF_GRAINS 192
#define OFF_END 208             /* of what is known */

#define VOLATILE_REPLAY 24

/* Sectors: as bytes further than any file, and two of them can be added. */
#define SECTORS_MAX (UINT64_C (1) << 53)

static const char *
table_at (const struct esx_map *m, uint64_t entry, uint64_t *ret)
{
  uint64_t index = entry & UINT32_MAX;

  if (entry >> 32 != 0x10000000)
    return "grain directory entry is not of the form 0x10000000xxxxxxxx";
  *ret = m->tables + index * GT * VMDK_SECTOR;
  return *ret + GT * VMDK_SECTOR > m->tables_end
    ? "grain directory entry points behind the grain tables" : NULL;
}

static const char *
grain_at (const struct esx_map *m, uint64_t entry,
          enum vd_run_kind *ret_kind, uint64_t *ret)
{
  uint64_t index;

  switch (entry >> 60) {
  case 0:
    *ret_kind = VD_RUN_PARENT;
    return entry != 0 ? "grain table entry is of type 0 and not 0" : NULL;
  case 1:                       /* unmapped by the guest */
  case 2:
    *ret_kind = VD_RUN_ZERO;
    return NULL;
  case 3:
    *ret_kind = VD_RUN_DATA;
    index = (entry & UINT64_C (0xffffffffffff)) << 12 |
      (entry >> 48 & 0xfff);
    if (index > m->file_size / (GRAIN * VMDK_SECTOR))
      return "grain table entry points beyond the end of the file";
    *ret = m->grains + index * GRAIN * VMDK_SECTOR;
    return NULL;
  default:
    return "grain table entry is of an unknown type";
  }
}

static const struct esx_kind sesparse_kind = {
  .width = 2,
  .read_only = "an seSparse extent is only read",
  .table_at = table_at,
  .grain_at = grain_at,
};

static const struct vmdk_extent_ops sesparse_ops = {
  .kind = "sesparse",
  .locate = esx_locate,
  .close = esx_close,
};

static int
check_volatile (struct vd_ctx *ctx, const struct vmdk_extent *x,
                uint64_t sector, uint64_t file_size)
{
  const char *name = x->store->name;
  uint8_t buf[VMDK_SECTOR];
  int r;

  if (sector == 0 || sector > SECTORS_MAX ||
      (sector + 1) * VMDK_SECTOR > file_size)
    return vd_error (ctx, EIO, "%s: the volatile header is at sector %" PRIu64
                     ", not inside the file of %" PRIu64 " bytes", name,
                     sector, file_size);
  r = vd_store_pread (ctx, x->store, buf, sizeof buf, sector * VMDK_SECTOR);
  if (r < 0)
    return r;
  if (get_le64 (buf) != VOLATILE_MAGIC)
    return vd_error (ctx, EIO, "%s: the magic of the volatile header is 0x%"
                     PRIx64 ", must be 0x%" PRIx64, name, get_le64 (buf),
                     VOLATILE_MAGIC);
  if (get_le64 (&buf[VOLATILE_REPLAY]) != 0)
    return vd_error (ctx, ENOTSUP, "%s: is a dirty seSparse extent, its "
                     "journal must be replayed: open and close it once with "
                     "ESX", name);
  return 0;
}

/* What we would read wrongly otherwise. */
static int
check_variant (struct vd_ctx *ctx, const char *name, const uint8_t *header)
{
  static const struct {
    const char *name;
    unsigned offset;
    uint64_t value;
  } fields[] = {
    { "version", OFF_VERSION, VERSION_2_1 },
    { "grain size", OFF_GRAIN, GRAIN },
    { "grain table size", OFF_GT, GT },
    { "flags", OFF_FLAGS, 0 },
    { "reserved1", OFF_RESERVED, 0 },
    { "reserved2", OFF_RESERVED + 8, 0 },
    { "reserved3", OFF_RESERVED + 16, 0 },
    { "reserved4", OFF_RESERVED + 24, 0 },
  };
  size_t i;

  for (i = 0; i < sizeof fields / sizeof fields[0]; ++i) {
    uint64_t v = get_le64 (&header[fields[i].offset]);

    if (v != fields[i].value)
      return vd_error (ctx, ENOTSUP, "%s: %s is 0x%" PRIx64
                       ", only 0x%" PRIx64 " is known", name, fields[i].name,
                       v, fields[i].value);
  }
  if (!is_zero (&header[OFF_END], VMDK_SECTOR - OFF_END))
    return vd_error (ctx, ENOTSUP, "%s: the header goes on after byte %d, "
                     "with what is unknown", name, OFF_END);
  return 0;
}

int
vmdk_sesparse_open (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  const char *name = x->store->name;
  uint64_t file_size, sectors = x->size / VMDK_SECTOR, ngdes, capacity;
  uint64_t gd, gd_size, tables, tables_size, grains;
  uint8_t header[VMDK_SECTOR];
  struct esx_map m = { .kind = &sesparse_kind };
  int r;

  r = vd_store_get_size (ctx, x->store, &file_size);
  if (r < 0)
    return r;
  if (file_size < sizeof header)
    return vd_error (ctx, EIO, "%s: is %" PRIu64 " bytes long, too short for "
                     "the header of an seSparse extent", name, file_size);
  r = vd_store_pread (ctx, x->store, header, sizeof header, 0);
  if (r < 0)
    return r;

  if (get_le64 (header) != MAGIC)
    return vd_error (ctx, EIO, "%s: is not an seSparse extent, as the "
                     "descriptor says (magic 0x%016" PRIx64 ")", name,
                     get_le64 (header));
  r = check_variant (ctx, name, header);
  if (r < 0)
    return r;
  capacity = get_le64 (&header[OFF_CAPACITY]);
  if (capacity > SECTORS_MAX || sectors > round_up (capacity, GRAIN))
    return vd_error (ctx, EIO, "%s: the capacity is %" PRIu64
                     " sectors, but the descriptor has %" PRIu64, name,
                     capacity, sectors);
  r = check_volatile (ctx, x, get_le64 (&header[OFF_VOLATILE]), file_size);
  if (r < 0)
    return r;

  m.grain = GRAIN * VMDK_SECTOR;
  m.file_size = file_size;
  ngdes = esx_ngdes (x, m.grain);
  gd = get_le64 (&header[OFF_GD]);
  gd_size = get_le64 (&header[OFF_GD + 8]);
  tables = get_le64 (&header[OFF_TABLES]);
  tables_size = get_le64 (&header[OFF_TABLES + 8]);
  grains = get_le64 (&header[OFF_GRAINS]);
  if (gd_size > SECTORS_MAX || gd_size * VMDK_SECTOR < ngdes * 8)
    return vd_error (ctx, EIO, "%s: the grain directory has %" PRIu64
                     " sectors, must have room for %" PRIu64 " entries", name,
                     gd_size, ngdes);
  if (gd == 0 || gd > SECTORS_MAX || gd * VMDK_SECTOR > file_size ||
      ngdes * 8 > file_size - gd * VMDK_SECTOR)
    return vd_error (ctx, EIO, "%s: the grain directory is at sector %" PRIu64
                     ", not inside the file of %" PRIu64 " bytes", name, gd,
                     file_size);
  if (tables == 0 || tables > SECTORS_MAX || tables_size > SECTORS_MAX)
    return vd_error (ctx, EIO, "%s: the grain tables are at sector %" PRIu64
                     " and have %" PRIu64 " sectors", name, tables,
                     tables_size);
  if (grains == 0 || grains > SECTORS_MAX)
    return vd_error (ctx, EIO, "%s: the grains begin at sector %" PRIu64,
                     name, grains);
  m.tables = tables * VMDK_SECTOR;
  m.tables_end = m.tables + tables_size * VMDK_SECTOR;
  m.grains = grains * VMDK_SECTOR;
  return esx_open (ctx, x, &sesparse_ops, &m, gd * VMDK_SECTOR);
}
