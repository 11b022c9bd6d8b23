/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <blkid/blkid.h>

#include "byteorder.h"
#include "cleanup.h"
#include "file.h"
#include "partitions.h"
#include "rounding.h"

#define SECTOR 512              /* libblkid's unit */

/* VirtualBox refuses larger ones (vmdk-format 9.2). */
#define GPT_ENTRIES_MAX (UINT64_C (64) << 20)

/* As many extended tables without a partition as libblkid goes through. */
#define EMPTY_TABLES_MAX 100

struct reader {
  struct vd_ctx *ctx;
  struct vd_store *disk;
  const char *name;             /* for messages */
  uint64_t size;
  unsigned sector;              /* what the table counts in */
  struct vd_partitions p;
};

static int
no_memory (struct reader *r)
{
  return vd_error (r->ctx, ENOMEM, "%s: no memory for the partition table",
                   r->name);
}

static int
compare_u64 (uint64_t a, uint64_t b)
{
  return a < b ? -1 : a > b;
}

static int
by_start (const void *a, const void *b)
{
  const struct vd_partition *x = a, *y = b;

  return compare_u64 (x->start, y->start);
}

static int
by_area_start (const void *a, const void *b)
{
  const struct vd_area *x = a, *y = b;

  return compare_u64 (x->start, y->start);
}

/* ---- the partitions ---------------------------------------------------- */

/* The device of a partition: what the system says is the part of that number
 * of the device with this number.
 */
static bool
is_node_of (blkid_partlist list, const char *path, const struct stat *disk,
            unsigned number)
{
  blkid_partition part;
  struct stat sb;
  dev_t whole;

  if (stat (path, &sb) == -1 || !S_ISBLK (sb.st_mode))
    return false;
  if (blkid_devno_to_wholedisk (sb.st_rdev, NULL, 0, &whole) != 0 ||
      whole != disk->st_rdev)
    return false;
  /* By start and size, as the table may be newer than the system knows. */
  part = blkid_partlist_devno_to_partition (list, sb.st_rdev);
  return part && blkid_partition_get_partno (part) == (int) number;
}

/* /dev/sda1, /dev/loop0p1, /dev/disk/by-id/NAME-part1. */
static int
find_node (struct reader *r, blkid_partlist list, const char *device,
           struct vd_partition *part)
{
  CLEANUP_FREE char *real = realpath (device, NULL);
  const char *bases[] = { device, device, real };
  struct stat disk;
  size_t i;

  if (stat (device, &disk) == -1 || !S_ISBLK (disk.st_mode))
    return 0;
  for (i = 0; i < 3; ++i) {
    const char *base = bases[i], *joint;
    char *path;

    if (!base || !*base)
      continue;
    joint = i == 0 ? "-part"
      : isdigit ((unsigned char) base[strlen (base) - 1]) ? "p" : "";
    if (asprintf (&path, "%s%s%u", base, joint, part->number) == -1)
      return no_memory (r);
    if (is_node_of (list, path, &disk, part->number)) {
      part->node = path;
      return 0;
    }
    free (path);
  }
  return 0;
}

static int
add_partition (struct reader *r, blkid_partlist list, blkid_partition from,
               const char *device)
{
  blkid_loff_t start = blkid_partition_get_start (from);
  blkid_loff_t length = blkid_partition_get_size (from);
  struct vd_partition *part = &r->p.parts[r->p.nparts];

  /* One in a partition, with a table of its own (a BSD disklabel): it is not
   * the disk's.
   */
  if (blkid_parttable_get_parent (blkid_partition_get_table (from)))
    return 0;
  if (length == 0)
    return 0;
  if (length < 0)
    return vd_error (r->ctx, EIO, "%s: partition %d ends before it begins, at "
                     "sector %" PRId64 " of 512 bytes", r->name,
                     blkid_partition_get_partno (from), (int64_t) start);
  *part = (struct vd_partition) {
    .number = blkid_partition_get_partno (from),
    .extended = blkid_partition_is_extended (from),
  };
  if (start < 0 || (uint64_t) start > r->size / SECTOR ||
      (uint64_t) length > r->size / SECTOR - start)
    return vd_error (r->ctx, EIO, "%s: partition %u begins at sector %" PRId64
                     " and has %" PRId64 " of 512 bytes, but the disk has %"
                     PRIu64 ": is it smaller than the one that was "
                     "partitioned?", r->name, part->number, (int64_t) start,
                     (int64_t) length, r->size / SECTOR);
  part->start = start * (uint64_t) SECTOR;
  part->length = length * (uint64_t) SECTOR;
  r->p.nparts++;
  return device ? find_node (r, list, device, part) : 0;
}

static int
add_partitions (struct reader *r, blkid_partlist list, const char *device)
{
  int i, e, n = blkid_partlist_numof_partitions (list);

  r->p.parts = calloc (n > 0 ? n : 1, sizeof r->p.parts[0]);
  if (!r->p.parts)
    return no_memory (r);
  for (i = 0; i < n; ++i) {
    e = add_partition (r, list, blkid_partlist_get_partition (list, i),
                       device);
    if (e < 0)
      return e;
  }
  qsort (r->p.parts, r->p.nparts, sizeof r->p.parts[0], by_start);
  return 0;
}

/* ---- the tables -------------------------------------------------------- */

static int
add_table (struct reader *r, uint64_t start, uint64_t length)
{
  struct vd_area *tables;

  if (start > r->size || length > r->size - start)
    return vd_error (r->ctx, EIO, "%s: a part of the partition table is bytes "
                     "%" PRIu64 " to %" PRIu64 ", but the disk has %" PRIu64,
                     r->name, start, start + length - 1, r->size);
  tables = realloc (r->p.tables, (r->p.ntables + 1) * sizeof tables[0]);
  if (!tables)
    return no_memory (r);
  r->p.tables = tables;
  tables[r->p.ntables++] = (struct vd_area) { start, length };
  return 0;
}

/* libblkid counts sectors of 512 bytes in 32 bits, also where those of the MBR
 * are larger: what begins beyond 2 TiB it finds elsewhere, and what is larger
 * it finds smaller, or not at all.
 */
static int
check_countable (struct reader *r, uint64_t start, uint64_t length)
{
  if (start / SECTOR <= UINT32_MAX && length / SECTOR <= UINT32_MAX)
    return 0;
  return vd_error (r->ctx, ENOTSUP, "%s: in its MBR a partition begins at byte "
                   "%" PRIu64 " and has %" PRIu64 ": what is beyond 2 TiB can "
                   "only be found with a GPT", r->name, start, length);
}

/* Is it a partition of those that libblkid has found?  Where it cannot read, it
 * returns what it has found up to there, and what is in the others would be
 * taken for what is behind a table.  entry counts from the byte base.
 */
static int
check_entry (struct reader *r, const uint8_t *entry, uint64_t base)
{
  uint64_t start = base + (uint64_t) get_le32 (entry + 8) * r->sector;
  uint64_t length = (uint64_t) get_le32 (entry + 12) * r->sector;
  size_t i;
  int e;

  if (length == 0)
    return 0;
  e = check_countable (r, start, length);
  if (e < 0)
    return e;
  for (i = 0; i < r->p.nparts; ++i)
    if (r->p.parts[i].start == start)
      return 0;
  return vd_error (r->ctx, EIO, "%s: libblkid has not found the partition at "
                   "byte %" PRIu64 "; did the table change meanwhile, or can "
                   "some of it not be read?", r->name, start);
}

/* The tables in an extended partition are a chain: each describes one
 * partition, relative to itself, and says where the next table is, relative to
 * the extended partition.
 */
static int
add_extended_tables (struct reader *r, const struct vd_partition *extended)
{
  uint64_t at = extended->start, next = at;
  size_t left = r->p.nparts + EMPTY_TABLES_MAX;
  uint8_t sector[SECTOR];
  unsigned i;
  bool more;
  int e;

  do {
    if (left-- == 0)
      return vd_error (r->ctx, EIO, "%s: the tables in the extended partition "
                       "%u do not end", r->name, extended->number);
    if (at < extended->start ||
        at - extended->start >= extended->length ||
        r->sector > extended->length - (at - extended->start))
      return vd_error (r->ctx, EIO, "%s: a table of the extended partition %u "
                       "is at byte %" PRIu64 ", outside of it", r->name,
                       extended->number, at);
    e = check_countable (r, at, r->sector);
    if (e < 0)
      return e;
    e = vd_store_pread (r->ctx, r->disk, sector, sizeof sector, at);
    if (e < 0)
      return e;
    if (sector[510] != 0x55 || sector[511] != 0xaa)
      return 0;
    e = add_table (r, at, r->sector);
    if (e < 0)
      return e;

    for (more = false, i = 0; i < 4 && !more; ++i) {
      const uint8_t *entry = &sector[446 + 16 * i];

      more = get_le32 (entry + 12) != 0 &&
        (entry[4] == 0x05 || entry[4] == 0x0f || entry[4] == 0x85);
      if (more)
        next = extended->start + (uint64_t) get_le32 (entry + 8) * r->sector;
      /* What is further back is nonsense more often than not. */
      else if (i < 2) {
        e = check_entry (r, entry, at);
        if (e < 0)
          return e;
      }
    }
    at = next;
  } while (more);
  return 0;
}

static int
add_mbr_tables (struct reader *r)
{
  uint8_t sector[SECTOR];
  size_t i;
  int e;

  e = vd_store_pread (r->ctx, r->disk, sector, sizeof sector, 0);
  for (i = 0; e == 0 && i < 4; ++i)
    e = check_entry (r, &sector[446 + 16 * i], 0);
  if (e == 0)
    e = add_table (r, 0, r->sector);
  for (i = 0; e == 0 && i < r->p.nparts; ++i)
    if (r->p.parts[i].extended)
      e = add_extended_tables (r, &r->p.parts[i]);
  return e;
}

/* A GPT header and its entries (UEFI 5.3.2).  *ret_other is the sector of the
 * other header.  1: there is no header here, or the backup is not one.
 */
static int
add_gpt (struct reader *r, uint64_t at, uint64_t *ret_other)
{
  uint64_t sectors = r->size / r->sector, entries, length;
  uint8_t h[92];
  int e;

  if (at >= sectors)
    return 1;
  e = vd_store_pread (r->ctx, r->disk, h, sizeof h, at * r->sector);
  if (e < 0)
    return e;
  if (memcmp (h, "EFI PART", 8) != 0 || get_le64 (h + 24) != at)
    return 1;
  entries = get_le64 (h + 72);
  length = (uint64_t) get_le32 (h + 80) * get_le32 (h + 84);
  if (at != 1 && (length > GPT_ENTRIES_MAX || entries >= sectors))
    return 1;
  if (length > GPT_ENTRIES_MAX)
    return vd_error (r->ctx, ENOTSUP, "%s: the table of the GPT at sector %"
                     PRIu64 " has %" PRIu64 " bytes, at most %" PRIu64
                     " are possible", r->name, at, length, GPT_ENTRIES_MAX);
  if (entries >= sectors)
    return vd_error (r->ctx, EIO, "%s: the table of the GPT at sector %"
                     PRIu64 " is at sector %" PRIu64 ", but the disk has %"
                     PRIu64, r->name, at, entries, sectors);
  *ret_other = get_le64 (h + 32);
  e = add_table (r, at * r->sector, r->sector);
  if (e == 0 && length > 0)
    e = add_table (r, entries * r->sector, round_up (length, r->sector));
  return e;
}

/* at: the header that libblkid has found to be whole. */
static int
add_gpt_tables (struct reader *r, uint64_t at)
{
  uint64_t backup, ignored;
  int e;

  e = add_table (r, 0, r->sector);
  if (e == 0)
    e = at == r->sector ? add_gpt (r, 1, &backup) : 1;
  if (e == 1)
    return vd_error (r->ctx, EIO, "%s: the first GPT is damaged, only its "
                     "backup is whole; repair it (gdisk does)", r->name);
  if (e < 0)
    return e;
  e = add_gpt (r, backup, &ignored);
  if (e == 1) {
    vd_warning (r->ctx, "%s: there is no backup of the GPT at sector %" PRIu64
                ", where it should be", r->name, backup);
    e = 0;
  }
  return e;
}

/* Neighbours become one. */
static void
merge_tables (struct vd_partitions *p)
{
  size_t i, n = 0;

  qsort (p->tables, p->ntables, sizeof p->tables[0], by_area_start);
  for (i = 1; i < p->ntables; ++i) {
    struct vd_area *last = &p->tables[n];
    const struct vd_area *t = &p->tables[i];

    if (t->start <= last->start + last->length)
      last->length = max_u64 (last->start + last->length,
                              t->start + t->length) - last->start;
    else
      p->tables[++n] = *t;
  }
  p->ntables = n + 1;
}

/* What is in two partitions, or in one and in a table, could not be shown as
 * both.
 */
static int
check_overlaps (struct reader *r)
{
  const struct vd_partition *last = NULL;
  size_t i, t = 0;

  for (i = 0; i < r->p.nparts; ++i) {
    const struct vd_partition *part = &r->p.parts[i];

    if (part->extended)
      continue;
    if (last && last->start + last->length > part->start)
      return vd_error (r->ctx, EIO, "%s: partitions %u and %u overlap",
                       r->name, last->number, part->number);
    while (t < r->p.ntables &&
           r->p.tables[t].start + r->p.tables[t].length <= part->start)
      ++t;
    if (t < r->p.ntables &&
        r->p.tables[t].start < part->start + part->length)
      return vd_error (r->ctx, EIO, "%s: partition %u overlaps the partition "
                       "table at byte %" PRIu64, r->name, part->number,
                       r->p.tables[t].start);
    last = part;
  }
  return 0;
}

/* ---- the whole ---------------------------------------------------------- */

/* sector: to count in, 0: as libblkid knows.  1: there is no table. */
static int
read_with (struct reader *r, blkid_probe probe, int fd, unsigned sector,
           const char *device)
{
  blkid_partlist list;
  blkid_parttable table;
  const char *type;
  int e;

  errno = EIO;                  /* it does not always set it */
  if (blkid_probe_set_device (probe, fd, 0, 0) != 0 ||
      (sector && blkid_probe_set_sectorsize (probe, sector) != 0) ||
      blkid_probe_enable_superblocks (probe, 0) != 0 ||
      blkid_probe_enable_partitions (probe, 1) != 0 ||
      blkid_probe_set_partitions_flags (probe,
                                        BLKID_PARTS_ENTRY_DETAILS) != 0)
    return vd_error (r->ctx, errno, "%s: libblkid cannot look at it: %m",
                     r->name);
  list = blkid_probe_get_partitions (probe);
  table = list ? blkid_partlist_get_table (list) : NULL;
  if (!table)
    return 1;

  r->sector = blkid_probe_get_sectorsize (probe);
  type = blkid_parttable_get_type (table);
  if (type && strcmp (type, "dos") == 0) {
    /* An MBR is found with sectors of any size; it was not before, as it could
     * not be read.
     */
    if (sector)
      return 1;
    r->p.type = "MBR";
  }
  else if (type && strcmp (type, "gpt") == 0)
    r->p.type = "GPT";
  else
    return vd_error (r->ctx, ENOTSUP, "%s: its partition table is of the "
                     "type \"%s\", only MBR and GPT are possible", r->name,
                     type ? type : "unknown");
  if (r->sector < SECTOR || r->sector % SECTOR != 0)
    return vd_error (r->ctx, ENOTSUP, "%s: its sectors have %u bytes",
                     r->name, r->sector);
  e = add_partitions (r, list, device);
  if (e == 0)
    e = *r->p.type == 'M' ? add_mbr_tables (r)
      : add_gpt_tables (r, blkid_parttable_get_offset (table));
  if (e < 0)
    return e;
  merge_tables (&r->p);
  return check_overlaps (r);
}

int
vd_partitions_read (struct vd_ctx *ctx, struct vd_store *disk,
                    const char *name, const char *device,
                    struct vd_partitions *ret)
{
  struct reader r = { .ctx = ctx, .disk = disk, .name = name };
  int fd = vd_file_fd (disk), e;
  /* 0: as the device says, else 512.  A file does not say.  */
  unsigned sectors[] = { 0, 4096 }, i;
  uint8_t first[SECTOR];

  if (fd == -1)
    return vd_error (ctx, ENOTSUP, "%s: is no local file or device, its "
                     "partitions cannot be found", name);
  e = vd_store_get_size (ctx, disk, &r.size);
  /* libblkid takes what cannot be read for no table. */
  if (e == 0)
    e = vd_store_pread (ctx, disk, first, min_u64 (r.size, sizeof first), 0);
  if (e < 0)
    return e;

  for (e = 1, i = 0; e == 1 && i < (disk->fixed_size ? 1 : 2); ++i) {
    blkid_probe probe = blkid_new_probe ();

    if (!probe)
      return no_memory (&r);
    e = read_with (&r, probe, fd, sectors[i], device);
    blkid_free_probe (probe);
  }
  if (e == 1)
    e = vd_error (ctx, ENODATA, "%s: no partition table was found on it",
                  name);
  if (e < 0) {
    vd_partitions_free (&r.p);
    return e;
  }
  if (r.sector != SECTOR)
    vd_warning (ctx, "%s: its partition table counts in sectors of %u bytes; "
                "who sees a disk with sectors of another size will find the "
                "partitions elsewhere, or not at all", name, r.sector);
  *ret = r.p;
  return 0;
}

void
vd_partitions_free (struct vd_partitions *p)
{
  size_t i;

  for (i = 0; i < p->nparts; ++i)
    free (p->parts[i].node);
  free (p->parts);
  free (p->tables);
  *p = (struct vd_partitions) { 0 };
}
