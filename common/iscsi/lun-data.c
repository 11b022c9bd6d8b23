/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "lun-internal.h"
#include "rounding.h"

#define BOUNCE (1 * MiB)

/* The whole blocks around the range, piece by piece. */
static int
read_unaligned (struct vd_ctx *ctx, struct lun *lun, uint8_t *buf,
                uint64_t len, uint64_t offset)
{
  const uint32_t bs = lun->info.block_size;
  CLEANUP_FREE uint8_t *bounce = NULL;
  uint64_t room = min_u64 (BOUNCE, round_up (len, bs) + bs);

  bounce = malloc (room);
  if (bounce == NULL)
    return vd_lun_no_memory (ctx, lun);
  while (len > 0) {
    uint64_t start = round_down (offset, bs), skip = offset - start;
    uint64_t part = min_u64 (len, room - skip);
    int r = vd_lun_transfer (ctx, lun, VD_SCSI_READ, bounce,
                             round_up (skip + part, bs), start, false);

    if (r < 0)
      return r;
    memcpy (buf, bounce + skip, part);
    buf += part;
    offset += part;
    len -= part;
  }
  return 0;
}

int
vd_lun_read (struct vd_ctx *ctx, struct lun *lun, uint8_t *buf, uint64_t len,
             uint64_t offset)
{
  int r = vd_lun_check_range (ctx, lun, "read", offset, len);

  if (r < 0)
    return r;
  if (lun_aligned (lun, offset, len))
    return vd_lun_transfer (ctx, lun, VD_SCSI_READ, buf, len, offset, false);
  return read_unaligned (ctx, lun, buf, len, offset);
}

/* Part of a block.  The lock is held exclusively. */
static int
write_part (struct vd_ctx *ctx, struct lun *lun, uint8_t *block,
            const uint8_t *buf, uint64_t len, uint64_t offset, bool fua)
{
  const uint32_t bs = lun->info.block_size;
  uint64_t start = round_down (offset, bs);
  int r = vd_lun_transfer (ctx, lun, VD_SCSI_READ, block, bs, start, false);

  if (r < 0)
    return r;
  if (buf)
    memcpy (block + (offset - start), buf, len);
  else
    memset (block + (offset - start), 0, len);
  return vd_lun_transfer (ctx, lun, VD_SCSI_WRITE, block, bs, start, fua);
}

int
vd_lun_write_ends (struct vd_ctx *ctx, struct lun *lun, const uint8_t *buf,
                   uint64_t *offset, uint64_t *len, bool fua)
{
  const uint32_t bs = lun->info.block_size;
  uint64_t end = *offset + *len, first = round_up (*offset, bs);
  uint64_t last = round_down (end, bs);
  CLEANUP_FREE uint8_t *block = malloc (bs);
  int r = 0;

  if (block == NULL)
    return vd_lun_no_memory (ctx, lun);
  pthread_rwlock_wrlock (&lun->blocks_lock);
  if (first > last)             /* inside one block */
    r = write_part (ctx, lun, block, buf, *len, *offset, fua);
  else {
    if (*offset < first)
      r = write_part (ctx, lun, block, buf, first - *offset, *offset, fua);
    if (r == 0 && last < end)
      r = write_part (ctx, lun, block, buf ? buf + (last - *offset) : NULL,
                      end - last, last, fua);
  }
  pthread_rwlock_unlock (&lun->blocks_lock);
  *len = first > last ? 0 : last - first;
  *offset = first;
  return r;
}

int
vd_lun_write (struct vd_ctx *ctx, struct lun *lun, const uint8_t *buf,
              uint64_t len, uint64_t offset, bool fua)
{
  uint64_t begin = offset;
  int r = vd_lun_check_range (ctx, lun, "write", offset, len);

  if (r < 0)
    return r;
  if (!lun_aligned (lun, offset, len)) {
    r = vd_lun_write_ends (ctx, lun, buf, &offset, &len, fua);
    if (r < 0 || len == 0)
      return r;
    buf += offset - begin;
  }
  pthread_rwlock_rdlock (&lun->blocks_lock);
  r = vd_lun_transfer (ctx, lun, VD_SCSI_WRITE, (uint8_t *) buf, len, offset,
                       fua);
  pthread_rwlock_unlock (&lun->blocks_lock);
  return r;
}

int
vd_lun_flush (struct vd_ctx *ctx, struct vd_store *st)
{
  struct lun *lun = vd_lun_of (st);
  struct vd_scsi_cmd c = { .what = VD_SCSI_FLUSH };
  int r = vd_lun_run_one (ctx, lun, &c);

  if (r == -EOPNOTSUPP) {
    c = (struct vd_scsi_cmd) { .what = VD_SCSI_FLUSH, .ten = true };
    r = vd_lun_run_one (ctx, lun, &c);
  }
  /* Without a cache there is no command for it. */
  if (r == -EOPNOTSUPP && c.result.ascq == 0x2000)
    r = 0;
  else if (r == -EOPNOTSUPP)
    r = vd_lun_failed (ctx, lun, &c);
  return r;
}
