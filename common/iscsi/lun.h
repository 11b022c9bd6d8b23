/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A LUN of an iSCSI target as a store (store.h), and what else it can do.
 *
 * Units are bytes; offsets and lengths need not be multiples of the LUN's
 * blocks.  All calls may be made from several threads at once.  They return 0
 * or a negative errno after vd_error, within the timeout: EIO if the target
 * could not be reached in that time, EPERM write protected or reserved by
 * somebody else, ENOSPC no room (thin provisioning).
 */

#ifndef VDKIT_LUN_H
#define VDKIT_LUN_H

#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "store.h"

struct vd_lun_open {
  struct vd_iscsi_address address; /* copied; passes vd_iscsi_check_address */
  unsigned timeout_ms;          /* of a request, reconnections included */
  unsigned keepalive_ms;        /* ping an idle target; 0: never */
  unsigned sessions;            /* >= 1 */
  uint32_t read_split, write_split;     /* largest commands, in bytes */
  bool read_only;
  bool gather;                  /* the threads may be moved, see gather.h */
  bool coalesce;                /* answers may be, see coalesce.h */
  vd_log_fn log;
  int log_level;                /* libiscsi's own messages, 0 (none) to 10 */
  void (*lib_log) (int level, const char *text);
};

#define VD_LUN_TIMEOUT_MS 10000
#define VD_LUN_KEEPALIVE_MS 5000
/* Pieces of a read are under way together; the target's threads then share
 * them, and the first data comes sooner.
 */
#define VD_LUN_READ_SPLIT (64 * 1024)
#define VD_LUN_WRITE_SPLIT (1024 * 1024)
#define VD_LUN_MAX_SESSIONS 16

/* What the LUN said about itself when it was opened. */
struct vd_lun_info {
  uint32_t block_size;          /* power of two, 512 to 65536 */
  uint32_t preferred;           /* good multiple for requests, power of two */
  bool write_protected;
  bool fua;                     /* durable single writes */
  bool can_trim;                /* UNMAP */
  bool fast_zero;               /* WRITE SAME that unmaps, and reads zeroes */
  bool has_map;                 /* knows what is allocated */
  bool rotational;
  char vendor[9], product[17];  /* escaped text, no padding */
};

/* Log in and ask.  Threads run until vd_store_close, so a process that forks
 * must do so before.  The store is writable unless read_only or the LUN is
 * write protected.
 */
extern int vd_lun_open (struct vd_ctx *ctx, const struct vd_lun_open *how,
                        struct vd_store **ret);

extern const struct vd_lun_info *vd_lun_info (const struct vd_store *st);

/* Ask for the size again.  What is returned is what reads and writes of the
 * store are limited to from now on.
 */
extern int vd_lun_refresh_size (struct vd_ctx *ctx, struct vd_store *st,
                                uint64_t *ret);

/* In place of vd_store_sync, which never recovers from a failure: here the
 * target still has the data, and says itself whether the next one works.
 */
extern int vd_lun_flush (struct vd_ctx *ctx, struct vd_store *st);

/* Give space back; what cannot be is skipped. */
extern int vd_lun_trim (struct vd_ctx *ctx, struct vd_store *st,
                        uint64_t offset, uint64_t len);

/* Make the range read as zeroes.  may_unmap: its space may be given back.
 * fast: -ENOTSUP, without vd_error, if that means writing.
 */
extern int vd_lun_zero (struct vd_ctx *ctx, struct vd_store *st,
                        uint64_t offset, uint64_t len, bool may_unmap,
                        bool fast);

/* Call fn for runs from offset on, in order, until the range is covered, or
 * once if one.  The last run may reach beyond the range.  hole: no space;
 * zero: reads as zeroes.  A negative return value of fn ends it.
 */
typedef int (*vd_lun_extent_fn) (void *opaque, uint64_t offset, uint64_t len,
                                 bool hole, bool zero);
extern int vd_lun_extents (struct vd_ctx *ctx, struct vd_store *st,
                           uint64_t offset, uint64_t len, bool one,
                           vd_lun_extent_fn fn, void *opaque);

#endif /* VDKIT_LUN_H */
