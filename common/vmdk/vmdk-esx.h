/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the sparse extents of ESX, COWD and SEsparse, have in common: grains
 * found through a directory and tables, in a file that is only read.
 */

#ifndef VDKIT_VMDK_ESX_H
#define VDKIT_VMDK_ESX_H

#include "table.h"
#include "vmdk-extent.h"

struct esx_map;

struct esx_kind {
  unsigned width;               /* 32-bit words of an entry: 1 or 2 */
  const char *read_only;        /* why it cannot be written */

  /* Where the table is that a directory entry (not 0) means, in bytes of the
   * file; that it lies in the file is checked by the caller.  A damaged entry:
   * the reason.
   */
  const char *(*table_at) (const struct esx_map *m, uint64_t entry,
                           uint64_t *ret);

  /* PARENT, ZERO, or DATA and its position; that it lies in the file is
   * checked by the caller.  A damaged entry: the reason.
   */
  const char *(*grain_at) (const struct esx_map *m, uint64_t entry,
                           enum vd_run_kind *ret_kind, uint64_t *ret);
};

struct esx_map {
  const struct esx_kind *kind;
  struct vd_store *store;
  uint64_t file_size;
  uint64_t grain;               /* bytes */
  uint64_t ngrains;             /* of the extent */
  struct vd_table *gd, *gt;

  /* For the kind's functions, in bytes of the file: where tables and grains
   * begin, or may begin.
   */
  uint64_t tables, tables_end;
  uint64_t grains;
};

#define ESX_GTES 4096u          /* entries of a table, of both kinds */

/* How many directory entries an extent needs. */
extern uint64_t esx_ngdes (const struct vmdk_extent *x, uint64_t grain);

/* Make x the extent that m (copied) describes, but for ngrains and the
 * tables, with the directory at gd in the file: the caller has checked that
 * it is all there.
 */
extern int esx_open (struct vd_ctx *ctx, struct vmdk_extent *x,
                     const struct vmdk_extent_ops *ops,
                     const struct esx_map *m, uint64_t gd);

/* For the ops of both kinds. */
extern int esx_locate (struct vd_ctx *ctx, struct vmdk_extent *x,
                       uint64_t offset, uint64_t len, enum vd_locate what,
                       struct vd_run *ret);
extern void esx_close (struct vmdk_extent *x);

#endif /* VDKIT_VMDK_ESX_H */
