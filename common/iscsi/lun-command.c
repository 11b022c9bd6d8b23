/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "lun-internal.h"
#include "rounding.h"

/* Of one request at a time. */
#define WINDOW 64               /* commands */
#define WINDOW_BYTES (16 * MiB)

static const char *
what_text (enum vd_scsi what)
{
  switch (what) {
  case VD_SCSI_READ: return "read";
  case VD_SCSI_WRITE: return "write";
  case VD_SCSI_FLUSH: return "flush";
  case VD_SCSI_UNMAP: return "unmap";
  case VD_SCSI_WRITE_SAME: return "write same";
  case VD_SCSI_LBA_STATUS: return "get LBA status";
  case VD_SCSI_CAPACITY16:
  case VD_SCSI_CAPACITY10: return "read capacity";
  case VD_SCSI_INQUIRY: return "inquiry";
  case VD_SCSI_MODE_SENSE: return "mode sense";
  }
  return "command";
}

/* The session that has least to do, and of these the first.  With as many as
 * there are threads each has one to itself, and reads its own answers: to wake
 * the thread that waits for an answer costs more than the answer.
 */
static unsigned
idlest (struct lun *lun)
{
  unsigned i, n, best = 0, least = UINT_MAX;

  for (i = 0; i < lun->n_sessions; i++) {
    n = atomic_load_explicit (&lun->busy[i], memory_order_relaxed);
    /* If somebody has just come n is what there is now. */
    if (n == 0 && atomic_compare_exchange_strong (&lun->busy[i], &n, 1))
      return i;
    if (n < least) {
      least = n;
      best = i;
    }
  }
  atomic_fetch_add_explicit (&lun->busy[best], 1, memory_order_relaxed);
  return best;
}

static void
run (struct lun *lun, struct vd_scsi_cmd *cmds, unsigned n)
{
  unsigned i;

  if (lun->n_sessions == 1) {
    vd_iscsi_run (lun->sessions[0], cmds, n);
    return;
  }
  i = idlest (lun);
  vd_iscsi_run (lun->sessions[i], cmds, n);
  atomic_fetch_sub_explicit (&lun->busy[i], 1, memory_order_relaxed);
}

int
vd_lun_failed (struct vd_ctx *ctx, struct lun *lun, const struct vd_scsi_cmd *c)
{
  char where[80] = "", text[160], why[512] = "";

  if (c->what == VD_SCSI_READ || c->what == VD_SCSI_WRITE
      || c->what == VD_SCSI_UNMAP || c->what == VD_SCSI_WRITE_SAME
      || c->what == VD_SCSI_LBA_STATUS)
    snprintf (where, sizeof where, " at block %" PRIu64 " (%" PRIu32
              " blocks)", c->lba, c->blocks);
  if (!c->no_answer)
    return vd_error (ctx, c->error, "%s: %s%s: %s", lun->st.name,
                     what_text (c->what), where,
                     vd_scsi_text (&c->result, text, sizeof text));
  vd_iscsi_last_error (lun->sessions[0], why, sizeof why);
  return vd_error (ctx, c->error, "%s: %s%s: no answer from the target within "
                   "%u ms%s%s", lun->st.name, what_text (c->what), where,
                   lun->settings.timeout_ms, why[0] ? "; " : "", why);
}

int
vd_lun_run_one (struct vd_ctx *ctx, struct lun *lun, struct vd_scsi_cmd *c)
{
  run (lun, c, 1);
  if (c->error == 0)
    return 0;
  if (!c->no_answer && vd_scsi_refused (&c->result))
    return -EOPNOTSUPP;
  return vd_lun_failed (ctx, lun, c);
}

/* Reads and writes of the 16 byte form can be unknown to old targets. */
static bool
can_use_ten (struct lun *lun, const struct vd_scsi_cmd *c)
{
  return !c->ten && !c->no_answer && vd_scsi_refused (&c->result)
    && c->result.ascq == 0x2000
    && atomic_load (&lun->size) / lun->info.block_size <= UINT32_MAX;
}

/* Read or write whole blocks. */
int
vd_lun_transfer (struct vd_ctx *ctx, struct lun *lun, enum vd_scsi what,
                 uint8_t *buf, uint64_t len, uint64_t offset, bool fua)
{
  const uint32_t bs = lun->info.block_size;
  const uint32_t max = what == VD_SCSI_READ ? lun->read_max : lun->write_max;
  struct vd_scsi_cmd cmds[WINDOW];

  while (len > 0) {
    uint64_t bytes = 0;
    unsigned n, i;
    bool again = false;

    for (n = 0; n < WINDOW && bytes < WINDOW_BYTES && len > 0; n++) {
      uint32_t part = min_u64 (len, max);

      cmds[n] = (struct vd_scsi_cmd) {
        .what = what,
        .lba = offset / bs,
        .blocks = part / bs,
        .block_size = bs,
        .data = { .iov_base = buf, .iov_len = part },
        .fua = fua,
        .ten = atomic_load_explicit (&lun->use_ten, memory_order_relaxed),
      };
      bytes += part;
      buf += part;
      offset += part;
      len -= part;
    }
    do {
      run (lun, cmds, n);
      again = false;
      for (i = 0; i < n; i++) {
        if (cmds[i].error == 0)
          continue;
        if (!can_use_ten (lun, &cmds[i]))
          return vd_lun_failed (ctx, lun, &cmds[i]);
        atomic_store (&lun->use_ten, true);
        cmds[i].ten = again = true;
      }
      /* Those that were done are done again, which changes nothing. */
    } while (again);
  }
  return 0;
}

/* Turn off what the target turned out not to do. */
void
vd_lun_turn_off (struct vd_ctx *ctx, struct lun *lun, _Atomic bool *flag,
                 const struct vd_scsi_cmd *c)
{
  char text[160];

  if (!atomic_exchange (flag, true))
    vd_debug (ctx, "%s: %s%s is not used any more: %s", lun->st.name,
              what_text (c->what), c->unmap ? " with unmap" : "",
              c->no_answer ? "no answer"
              : vd_scsi_text (&c->result, text, sizeof text));
}

int
vd_lun_check_range (struct vd_ctx *ctx, struct lun *lun, const char *what,
                    uint64_t offset, uint64_t len)
{
  uint64_t size = atomic_load_explicit (&lun->size, memory_order_relaxed);

  if (offset > size || len > size - offset)
    return vd_error (ctx, EIO, "%s: %s of %" PRIu64 " bytes at offset %" PRIu64
                     " is beyond the end of the LUN (%" PRIu64 ")",
                     lun->st.name, what, len, offset, size);
  return 0;
}

int
vd_lun_no_memory (struct vd_ctx *ctx, struct lun *lun)
{
  return vd_error (ctx, ENOMEM, "%s: no memory for a buffer", lun->st.name);
}
