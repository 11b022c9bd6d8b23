/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The partitions of a disk, as the system counts them, and the places of the
 * tables that say so.  libblkid reads the tables; where they lie, which it does
 * not tell, is read here.
 *
 * Units are bytes.
 */

#ifndef VDKIT_PARTITIONS_H
#define VDKIT_PARTITIONS_H

#include "store.h"

struct vd_partition {
  unsigned number;              /* MBR: 1 to 4, logical ones from 5 on */
  uint64_t start, length;       /* multiples of 512; inside the disk */
  bool extended;                /* only a frame around logical ones */
  char *node;                   /* path of its own device; NULL: none found */
};

struct vd_area {
  uint64_t start, length;
};

struct vd_partitions {
  const char *type;             /* "MBR" or "GPT" */
  struct vd_partition *parts;   /* by start; but for extended ones they and
                                   the tables do not overlap */
  size_t nparts;
  struct vd_area *tables;       /* by start, none touches another; the first
                                   one starts at 0 */
  size_t ntables;
};

/* Read the table of a disk, a local file or block device.  device is NULL, or
 * its path: then the partitions' own devices are looked for beside it, or
 * where it leads to, and taken if the system says that they are just these
 * partitions.
 *
 * -ENODATA: there is no table.  -ENOTSUP: none that we know, or no local file.
 * -EIO: the table contradicts itself or the disk.  Messages begin with name.
 * Thread-safe.
 */
extern int vd_partitions_read (struct vd_ctx *ctx, struct vd_store *disk,
                               const char *name, const char *device,
                               struct vd_partitions *ret);

/* Frees what is in it. */
extern void vd_partitions_free (struct vd_partitions *p);

#endif /* VDKIT_PARTITIONS_H */
