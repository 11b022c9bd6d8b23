/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An open VDI image, and the functions of struct vd_format that fill it.
 */

#ifndef VDKIT_VDI_PRIVATE_H
#define VDKIT_VDI_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "format.h"
#include "table.h"
#include "vdi-header.h"
#include "vdi-pool.h"

struct vdi {
  /* Constant after open, but for link, lchs, comment and allocated (the count
   * on disk), which header_lock protects.
   */
  struct vdi_header header;
  bool writable;
  unsigned shift;               /* log2 of cbBlock */
  uint64_t stride;              /* from one physical block to the next */
  struct vd_table *map;

  /* The size of the file.  Only ours to change if the image is writable. */
  _Atomic uint64_t file_size;

  /* Only if writable.  pool_lock may be taken under either of the others. */
  pthread_mutex_t header_lock;
  pthread_mutex_t grow_lock;    /* changes of the file's size */
  pthread_mutex_t pool_lock;    /* the rest; no I/O is done under it */
  struct vdi_pool *pool;        /* named by an entry, or reserved */
  uint32_t used_end;            /* places from here on were never handed out
                                   since the file was cut */
  _Atomic uint64_t grown_from;  /* from here on the file was made by growing */
};

/* Where the data of physical block n begins (vdi-format 7).  Below 2^61. */
static inline uint64_t
vdi_position (const struct vdi *vdi, uint32_t n)
{
  return vdi->header.off_data + n * vdi->stride + vdi->header.block_extra;
}

/* Where the first n physical blocks end. */
static inline uint64_t
vdi_data_end (const struct vdi *vdi, uint32_t n)
{
  return vdi->header.off_data + n * vdi->stride;
}

extern int vdi_begin_session (struct vd_ctx *ctx, struct vd_image *image);
extern int vdi_reserve (struct vd_ctx *ctx, struct vd_image *image,
                        uint64_t block, struct vd_place *ret);
extern void vdi_abandon (struct vd_image *image, uint64_t block,
                         const struct vd_place *place);
extern int vdi_commit (struct vd_ctx *ctx, struct vd_image *image,
                       uint64_t block, enum vd_state state,
                       const struct vd_place *place, uint64_t *ret_value);
extern int vdi_write_tables (struct vd_ctx *ctx, struct vd_image *image);
extern int vdi_write_map (struct vd_ctx *ctx, struct vd_image *image,
                          const struct vd_change *changes, size_t n);
extern int vdi_end_session (struct vd_ctx *ctx, struct vd_image *image);
extern int vdi_set_meta (struct vd_ctx *ctx, struct vd_image *image,
                         const struct vd_meta_change *change);

extern int vdi_check_create (struct vd_ctx *ctx, const struct vd_create *how);
extern int vdi_create (struct vd_ctx *ctx, struct vd_store *store,
                       const struct vd_create *how);

#endif /* VDKIT_VDI_PRIVATE_H */
