/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "cleanup.h"
#include "lun-internal.h"
#include "rounding.h"

/* GET LBA STATUS: tgtd walks the rest of its file for each answer. */
#define DESCRIPTORS 1024

/* One answer.  Calls fn for what it says from *pos on, which it advances; 1 if
 * fn wants no more.
 */
static int
extents_of_answer (struct lun *lun, const uint8_t *p, uint32_t len,
                   uint64_t *pos, uint64_t end, bool one, vd_lun_extent_fn fn,
                   void *opaque)
{
  const uint32_t bs = lun->info.block_size;
  const uint8_t *stop;
  bool any = false;

  if (len < 8)
    return -EOPNOTSUPP;
  stop = p + min_u64 (len, 4 + get_be (p, 4));
  for (p += 8; p + 16 <= stop && *pos < end; p += 16) {
    uint64_t lba = get_be (p, 8), blocks = get_be (p + 8, 4), upto;
    unsigned state = p[12] & 15;
    bool hole = state == 1 || state == 2;
    int r;

    if (__builtin_mul_overflow (lba + blocks, (uint64_t) bs, &upto)
        || lba > UINT64_MAX - blocks || blocks == 0 || upto <= *pos)
      break;
    if (lba * bs > *pos)        /* not where it should go on */
      break;
    upto = min_u64 (upto, atomic_load (&lun->size));
    if (upto <= *pos)
      break;
    r = fn (opaque, *pos, upto - *pos, hole,
            hole && lun->zeroes_when_unmapped);
    if (r < 0)
      return r;
    any = true;
    *pos = upto;
    if (one)
      return 1;
  }
  return any ? 0 : -EOPNOTSUPP;
}

int
vd_lun_extents (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
                uint64_t len, bool one, vd_lun_extent_fn fn, void *opaque)
{
  struct lun *lun = vd_lun_of (st);
  const uint32_t size = 8 + 16 * DESCRIPTORS;
  CLEANUP_FREE uint8_t *answer = NULL;
  uint64_t pos = offset, end = offset + len;
  int r = vd_lun_check_range (ctx, lun, "block status", offset, len);

  if (r < 0)
    return r;
  answer = malloc (size);
  if (answer == NULL)
    return vd_lun_no_memory (ctx, lun);
  while (pos < end && lun->info.has_map && !atomic_load (&lun->no_map)) {
    struct vd_scsi_cmd c = {
      .what = VD_SCSI_LBA_STATUS, .lba = pos / lun->info.block_size,
      .in = answer, .in_size = one ? 8 + 16 * 2 : size, .once = true,
    };

    r = vd_lun_run_one (ctx, lun, &c);
    if (r == 0)
      r = extents_of_answer (lun, answer, c.in_len, &pos, end, one, fn,
                             opaque);
    else if (r != -EOPNOTSUPP && !c.stalled)
      return r;
    else
      r = -EOPNOTSUPP;
    if (r == -EOPNOTSUPP) {
      vd_lun_turn_off (ctx, lun, &lun->no_map, &c);
      break;
    }
    if (r != 0)
      return r < 0 ? r : 0;
  }
  if (pos >= end)
    return 0;
  return fn (opaque, pos, end - pos, false, false);
}

struct first_run {
  bool hole;
  uint64_t end;
};

static int
note_first (void *opaque, uint64_t offset, uint64_t len, bool hole, bool zero)
{
  struct first_run *run_ = opaque;

  run_->hole = hole && zero;
  run_->end = offset + len;
  return 0;
}

int
vd_lun_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
            bool *ret_hole, uint64_t *ret_end)
{
  uint64_t size = atomic_load (&vd_lun_of (st)->size);
  struct first_run first = { .end = INT64_MAX };
  int r = 0;

  if (offset < size)
    r = vd_lun_extents (ctx, st, offset, size - offset, true, note_first,
                        &first);
  if (r < 0)
    return r;
  *ret_hole = first.hole;
  *ret_end = first.end;
  return 0;
}
