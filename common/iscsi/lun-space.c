/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "cleanup.h"
#include "lun-internal.h"
#include "rounding.h"

/* Whole blocks, in commands of at most max bytes.  -EOPNOTSUPP, without
 * vd_error, when the target refuses; flag is set then.
 */
static int
run_range (struct vd_ctx *ctx, struct lun *lun, enum vd_scsi what, bool unmap,
           uint64_t max, _Atomic bool *flag, uint64_t offset, uint64_t len)
{
  const uint32_t bs = lun->info.block_size;

  while (len > 0) {
    uint64_t part = min_u64 (len, max);
    struct vd_scsi_cmd c = {
      .what = what, .lba = offset / bs, .blocks = part / bs,
      .block_size = bs, .unmap = unmap,
    };
    int r = vd_lun_run_one (ctx, lun, &c);

    if (r == -EOPNOTSUPP)
      vd_lun_turn_off (ctx, lun, flag, &c);
    if (r < 0)
      return r;
    offset += part;
    len -= part;
  }
  return 0;
}

int
vd_lun_trim (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
             uint64_t len)
{
  struct lun *lun = vd_lun_of (st);
  const uint32_t bs = lun->info.block_size;
  uint64_t start = round_up (offset, bs);
  uint64_t end = round_down (offset + len, bs);
  int r = vd_lun_check_range (ctx, lun, "trim", offset, len);

  if (r < 0 || start >= end || !lun->info.can_trim
      || atomic_load (&lun->no_unmap))
    return r;
  pthread_rwlock_rdlock (&lun->blocks_lock);
  r = run_range (ctx, lun, VD_SCSI_UNMAP, false, lun->unmap_max,
                 &lun->no_unmap, start, end - start);
  pthread_rwlock_unlock (&lun->blocks_lock);
  return r == -EOPNOTSUPP ? 0 : r;
}

static int
write_zeroes (struct vd_ctx *ctx, struct lun *lun, uint64_t offset,
              uint64_t len)
{
  uint64_t room = min_u64 (len, lun->write_max);
  CLEANUP_FREE uint8_t *buf = calloc (1, room);

  if (buf == NULL)
    return vd_lun_no_memory (ctx, lun);
  while (len > 0) {
    uint64_t part = min_u64 (len, room);
    int r = vd_lun_transfer (ctx, lun, VD_SCSI_WRITE, buf, part, offset, false);

    if (r < 0)
      return r;
    offset += part;
    len -= part;
  }
  return 0;
}

/* Whole blocks; the lock is held shared. */
static int
zero_blocks (struct vd_ctx *ctx, struct lun *lun, uint64_t offset,
             uint64_t len, bool may_unmap, bool fast)
{
  int r = -EOPNOTSUPP;

  if (may_unmap && lun->unmap_same && !atomic_load (&lun->no_same_unmap))
    r = run_range (ctx, lun, VD_SCSI_WRITE_SAME, true, lun->same_unmap_max,
                   &lun->no_same_unmap, offset, len);
  if (r == -EOPNOTSUPP && fast)
    return -ENOTSUP;
  if (r == -EOPNOTSUPP && !atomic_load (&lun->no_same))
    r = run_range (ctx, lun, VD_SCSI_WRITE_SAME, false, lun->same_max,
                   &lun->no_same, offset, len);
  if (r == -EOPNOTSUPP)
    r = write_zeroes (ctx, lun, offset, len);
  return r;
}

int
vd_lun_zero (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
             uint64_t len, bool may_unmap, bool fast)
{
  struct lun *lun = vd_lun_of (st);
  int r = vd_lun_check_range (ctx, lun, "zero", offset, len);

  if (r < 0)
    return r;
  if (fast && (!may_unmap || !lun->unmap_same
               || atomic_load (&lun->no_same_unmap)))
    return -ENOTSUP;
  if (!lun_aligned (lun, offset, len)) {
    r = vd_lun_write_ends (ctx, lun, NULL, &offset, &len, false);
    if (r < 0 || len == 0)
      return r;
  }
  pthread_rwlock_rdlock (&lun->blocks_lock);
  r = zero_blocks (ctx, lun, offset, len, may_unmap, fast);
  pthread_rwlock_unlock (&lun->blocks_lock);
  return r;
}
