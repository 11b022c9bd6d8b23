/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One extent of a VMDK.  Every kind (flat, hosted sparse, stream, COWD,
 * SEsparse, zero) fills struct vmdk_extent_ops; vmdk-open.c puts the extents
 * end to end and is all that the core sees.
 *
 * Offsets and blocks in here are bytes from the start of the extent, except
 * where a comment says otherwise.
 */

#ifndef VDKIT_VMDK_EXTENT_H
#define VDKIT_VMDK_EXTENT_H

#include "format.h"
#include "vmdk-descriptor.h"

#define VMDK_SECTOR 512

struct vmdk_extent;

struct vmdk_extent_ops {
  const char *kind;

  /* As vd_format.locate.  run.block (PACKED) is the start of the grain in the
   * extent.  The access word (RDONLY, NOACCESS) is applied by the caller.
   */
  int (*locate) (struct vd_ctx *ctx, struct vmdk_extent *x,
                 uint64_t offset, uint64_t len, enum vd_locate what,
                 struct vd_run *ret);

  /* As the verbs of vd_format of the same names; NULL where the kind has
   * none.  unpack fills the whole grain, also where it reaches beyond the
   * end of the extent.
   */
  int (*unpack) (struct vd_ctx *ctx, struct vmdk_extent *x,
                 uint64_t block, void *buf);
  int (*begin_session) (struct vd_ctx *ctx, struct vmdk_extent *x);
  int (*reserve) (struct vd_ctx *ctx, struct vmdk_extent *x,
                  uint64_t block, struct vd_place *ret);
  void (*abandon) (struct vmdk_extent *x, uint64_t block,
                   const struct vd_place *place);
  int (*commit) (struct vd_ctx *ctx, struct vmdk_extent *x,
                 uint64_t block, enum vd_state state,
                 const struct vd_place *place, uint64_t *ret_value);
  int (*write_tables) (struct vd_ctx *ctx, struct vmdk_extent *x);
  int (*write_map) (struct vd_ctx *ctx, struct vmdk_extent *x,
                    const struct vd_change *changes, size_t n);
  int (*end_session) (struct vd_ctx *ctx, struct vmdk_extent *x);
  void (*close) (struct vmdk_extent *x);        /* frees priv */
};

/* What locate needs comes first, in one cache line: requests to thousands of
 * extents find none of it in the cache.
 */
struct vmdk_extent {
  /* Set by vmdk-open.c. */
  _Alignas (64) uint64_t start; /* bytes from the start of the disk */
  uint64_t size;                /* bytes, nominal */
  struct vd_store *store;       /* NULL: ZERO */
  uint64_t file_offset;         /* flat: bytes into store */
  unsigned number;              /* from 0, for messages */
  enum vmdk_access access;

  /* Set by the kind's open function. */
  const struct vmdk_extent_ops *ops;
  void *priv;
  uint32_t grain;               /* bytes; 0: nothing to allocate */

  /* Set by vmdk-open.c. */
  bool write;                   /* this extent is open for writing */
  bool drop;                    /* ZERO: writes succeed and are forgotten */
  bool embedded;                /* the descriptor is in this file */
  struct vd_image *image;
  size_t table_memory;

  /* Set by the kind's open function. */
  bool has_zero;                /* can store ZERO (GTE 1) */
  bool differing;               /* (COWD child header) names a parent */
  char no_write[200];           /* why it must not be written; "": it may;
                                   what is here before stays or is replaced */
};

/* Open functions, one for each kind.  They set what is above; on failure
 * everything is freed.  x->store belongs to the image.
 */
extern int vmdk_flat_open (struct vd_ctx *ctx, struct vmdk_extent *x);
extern int vmdk_zero_open (struct vd_ctx *ctx, struct vmdk_extent *x);
extern int vmdk_hosted_open (struct vd_ctx *ctx, struct vmdk_extent *x);
extern int vmdk_cowd_open (struct vd_ctx *ctx, struct vmdk_extent *x);
extern int vmdk_sesparse_open (struct vd_ctx *ctx, struct vmdk_extent *x);

#endif /* VDKIT_VMDK_EXTENT_H */
