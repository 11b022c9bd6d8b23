/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Among the files lun*.c: lun.c opens a LUN and makes a store of it,
 * lun-ask.c asks what it is, lun-command.c runs commands, lun-data.c reads and
 * writes, lun-space.c trims and zeroes, lun-map.c says what is allocated.
 */

#ifndef VDKIT_LUN_INTERNAL_H
#define VDKIT_LUN_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lun.h"
#include "session.h"

#define MiB (UINT64_C (1) << 20)

struct lun {
  struct vd_store st;
  struct vd_iscsi_settings settings;
  struct vd_lun_info info;
  _Atomic uint64_t size;
  uint32_t read_max, write_max; /* multiples of the block size */
  uint64_t unmap_max, same_max, same_unmap_max;
  bool unmap_same;              /* WRITE SAME with UNMAP gives zeroes */
  bool zeroes_when_unmapped;    /* LBPRZ */

  /* Turned off by the first refusal. */
  _Atomic bool no_map, no_unmap, no_same, no_same_unmap, use_ten;

  /* Writes hold it shared; who reads a block to change a part of it holds it
   * exclusively.
   */
  pthread_rwlock_t blocks_lock;

  unsigned n_sessions;
  _Atomic unsigned busy[VD_LUN_MAX_SESSIONS];   /* requests under way */
  struct vd_iscsi_session *sessions[VD_LUN_MAX_SESSIONS];
};

/* Whose operations are those of lun.c. */
extern struct lun *vd_lun_of (const struct vd_store *st);

static inline bool
lun_aligned (const struct lun *lun, uint64_t offset, uint64_t len)
{
  return ((offset | len) & (lun->info.block_size - 1)) == 0;
}

/* A number of 1 to 8 bytes as targets send it. */
static inline uint64_t
get_be (const uint8_t *p, unsigned bytes)
{
  uint64_t v = 0;

  while (bytes-- > 0)
    v = v << 8 | *p++;
  return v;
}

/* ---- lun-command.c ------------------------------------------------------ */

/* One command: 0 or, after vd_error, a negative errno; but a refusal is
 * -EOPNOTSUPP and not reported.
 */
extern int vd_lun_run_one (struct vd_ctx *ctx, struct lun *lun,
                           struct vd_scsi_cmd *c);

/* Report how a command failed, and return that negative errno. */
extern int vd_lun_failed (struct vd_ctx *ctx, struct lun *lun,
                          const struct vd_scsi_cmd *c);

/* Log that c, refused or not answered, is not used any more; set flag. */
extern void vd_lun_turn_off (struct vd_ctx *ctx, struct lun *lun,
                             _Atomic bool *flag, const struct vd_scsi_cmd *c);

/* Read (what is VD_SCSI_READ) or write whole blocks inside the LUN, split as
 * the target wants it.
 */
extern int vd_lun_transfer (struct vd_ctx *ctx, struct lun *lun,
                            enum vd_scsi what, uint8_t *buf, uint64_t len,
                            uint64_t offset, bool fua);

/* -EIO after vd_error if the range is not inside the LUN. */
extern int vd_lun_check_range (struct vd_ctx *ctx, struct lun *lun,
                               const char *what, uint64_t offset,
                               uint64_t len);

/* -ENOMEM after vd_error. */
extern int vd_lun_no_memory (struct vd_ctx *ctx, struct lun *lun);

/* ---- lun-data.c --------------------------------------------------------- */

/* Any range. */
extern int vd_lun_read (struct vd_ctx *ctx, struct lun *lun, uint8_t *buf,
                        uint64_t len, uint64_t offset);
extern int vd_lun_write (struct vd_ctx *ctx, struct lun *lun,
                         const uint8_t *buf, uint64_t len, uint64_t offset,
                         bool fua);

/* Write the incomplete blocks at the ends of a range, zeroes if buf is NULL.
 * What is left between, whole blocks, is returned.  No lock is held.
 */
extern int vd_lun_write_ends (struct vd_ctx *ctx, struct lun *lun,
                              const uint8_t *buf, uint64_t *offset,
                              uint64_t *len, bool fua);

/* ---- lun-map.c and lun-ask.c -------------------------------------------- */

/* The store's question (store.h): holes are what reads as zeroes too. */
extern int vd_lun_extent (struct vd_ctx *ctx, struct vd_store *st,
                          uint64_t offset, bool *ret_hole, uint64_t *ret_end);

/* Find out what the LUN is and can do. */
extern int vd_lun_ask (struct vd_ctx *ctx, struct lun *lun,
                       const struct vd_lun_open *how);

#endif /* VDKIT_LUN_INTERNAL_H */
