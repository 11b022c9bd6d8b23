/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cleanup.h"
#include "escape.h"
#include "lun.h"
#include "rounding.h"
#include "session.h"

#define MiB (UINT64_C (1) << 20)
#define READ_SPLIT (1 * MiB)
#define UNMAP_MAX (1024 * MiB)  /* tgtd computes lengths in 32 bits */
#define SAME_MAX (32 * MiB)     /* without unmapping: it writes them */
#define WINDOW 16               /* commands of one request at a time */
#define BOUNCE (1 * MiB)
/* GET LBA STATUS: tgtd walks the rest of its file for each answer. */
#define DESCRIPTORS 1024

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
  _Atomic unsigned next_session;
  struct vd_iscsi_session *sessions[VD_LUN_MAX_SESSIONS];
};

static const struct vd_store_ops lun_ops;

static struct lun *
lun_of (const struct vd_store *st)
{
  assert (st->ops == &lun_ops);
  return (struct lun *) st;
}

const struct vd_lun_info *
vd_lun_info (const struct vd_store *st)
{
  return &lun_of (st)->info;
}

/* ---- commands ---------------------------------------------------------- */

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

static void
run (struct lun *lun, struct vd_scsi_cmd *cmds, unsigned n)
{
  unsigned i = 0;

  if (lun->n_sessions > 1)
    i = atomic_fetch_add_explicit (&lun->next_session, 1,
                                   memory_order_relaxed) % lun->n_sessions;
  vd_iscsi_run (lun->sessions[i], cmds, n);
}

/* Report how a command failed. */
static int
failed (struct vd_ctx *ctx, struct lun *lun, const struct vd_scsi_cmd *c)
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

/* One command; refusals are not reported. */
static int
run_one (struct vd_ctx *ctx, struct lun *lun, struct vd_scsi_cmd *c)
{
  run (lun, c, 1);
  if (c->error == 0)
    return 0;
  if (!c->no_answer && vd_scsi_refused (&c->result))
    return -EOPNOTSUPP;
  return failed (ctx, lun, c);
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
static int
transfer (struct vd_ctx *ctx, struct lun *lun, enum vd_scsi what,
          uint8_t *buf, uint64_t len, uint64_t offset, bool fua)
{
  const uint32_t bs = lun->info.block_size;
  const uint32_t max = what == VD_SCSI_READ ? lun->read_max : lun->write_max;
  struct vd_scsi_cmd cmds[WINDOW];

  while (len > 0) {
    unsigned n, i;
    bool again = false;

    for (n = 0; n < WINDOW && len > 0; n++) {
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
          return failed (ctx, lun, &cmds[i]);
        atomic_store (&lun->use_ten, true);
        cmds[i].ten = again = true;
      }
      /* Those that were done are done again, which changes nothing. */
    } while (again);
  }
  return 0;
}

/* ---- reading and writing ------------------------------------------------ */

static int
check_range (struct vd_ctx *ctx, struct lun *lun, const char *what,
             uint64_t offset, uint64_t len)
{
  uint64_t size = atomic_load_explicit (&lun->size, memory_order_relaxed);

  if (offset > size || len > size - offset)
    return vd_error (ctx, EIO, "%s: %s of %" PRIu64 " bytes at offset %" PRIu64
                     " is beyond the end of the LUN (%" PRIu64 ")",
                     lun->st.name, what, len, offset, size);
  return 0;
}

static bool
aligned (const struct lun *lun, uint64_t offset, uint64_t len)
{
  return ((offset | len) & (lun->info.block_size - 1)) == 0;
}

static int
no_memory (struct vd_ctx *ctx, struct lun *lun)
{
  return vd_error (ctx, ENOMEM, "%s: no memory for a buffer", lun->st.name);
}

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
    return no_memory (ctx, lun);
  while (len > 0) {
    uint64_t start = round_down (offset, bs), skip = offset - start;
    uint64_t part = min_u64 (len, room - skip);
    int r = transfer (ctx, lun, VD_SCSI_READ, bounce,
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

static int
read_range (struct vd_ctx *ctx, struct lun *lun, uint8_t *buf, uint64_t len,
            uint64_t offset)
{
  int r = check_range (ctx, lun, "read", offset, len);

  if (r < 0)
    return r;
  if (aligned (lun, offset, len))
    return transfer (ctx, lun, VD_SCSI_READ, buf, len, offset, false);
  return read_unaligned (ctx, lun, buf, len, offset);
}

/* Part of a block.  The lock is held exclusively. */
static int
write_part (struct vd_ctx *ctx, struct lun *lun, uint8_t *block,
            const uint8_t *buf, uint64_t len, uint64_t offset, bool fua)
{
  const uint32_t bs = lun->info.block_size;
  uint64_t start = round_down (offset, bs);
  int r = transfer (ctx, lun, VD_SCSI_READ, block, bs, start, false);

  if (r < 0)
    return r;
  if (buf)
    memcpy (block + (offset - start), buf, len);
  else
    memset (block + (offset - start), 0, len);
  return transfer (ctx, lun, VD_SCSI_WRITE, block, bs, start, fua);
}

/* Write the incomplete blocks at the ends of a range, zeroes if buf is NULL.
 * What is left between, whole blocks, is returned.  No lock is held.
 */
static int
write_ends (struct vd_ctx *ctx, struct lun *lun, const uint8_t *buf,
            uint64_t *offset, uint64_t *len, bool fua)
{
  const uint32_t bs = lun->info.block_size;
  uint64_t end = *offset + *len, first = round_up (*offset, bs);
  uint64_t last = round_down (end, bs);
  CLEANUP_FREE uint8_t *block = malloc (bs);
  int r = 0;

  if (block == NULL)
    return no_memory (ctx, lun);
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

static int
write_range (struct vd_ctx *ctx, struct lun *lun, const uint8_t *buf,
             uint64_t len, uint64_t offset, bool fua)
{
  uint64_t begin = offset;
  int r = check_range (ctx, lun, "write", offset, len);

  if (r < 0)
    return r;
  if (!aligned (lun, offset, len)) {
    r = write_ends (ctx, lun, buf, &offset, &len, fua);
    if (r < 0 || len == 0)
      return r;
    buf += offset - begin;
  }
  pthread_rwlock_rdlock (&lun->blocks_lock);
  r = transfer (ctx, lun, VD_SCSI_WRITE, (uint8_t *) buf, len, offset, fua);
  pthread_rwlock_unlock (&lun->blocks_lock);
  return r;
}

int
vd_lun_flush (struct vd_ctx *ctx, struct vd_store *st)
{
  struct lun *lun = lun_of (st);
  struct vd_scsi_cmd c = { .what = VD_SCSI_FLUSH };
  int r = run_one (ctx, lun, &c);

  if (r == -EOPNOTSUPP) {
    c = (struct vd_scsi_cmd) { .what = VD_SCSI_FLUSH, .ten = true };
    r = run_one (ctx, lun, &c);
  }
  /* Without a cache there is no command for it. */
  if (r == -EOPNOTSUPP && c.result.ascq == 0x2000)
    r = 0;
  else if (r == -EOPNOTSUPP)
    r = failed (ctx, lun, &c);
  return r;
}

/* ---- trim and zero ------------------------------------------------------ */

/* Turn off what the target turned out not to do. */
static void
turn_off (struct vd_ctx *ctx, struct lun *lun, _Atomic bool *flag,
          const struct vd_scsi_cmd *c)
{
  char text[160];

  if (!atomic_exchange (flag, true))
    vd_debug (ctx, "%s: %s%s is not used any more: %s", lun->st.name,
              what_text (c->what), c->unmap ? " with unmap" : "",
              c->no_answer ? "no answer"
              : vd_scsi_text (&c->result, text, sizeof text));
}

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
    int r = run_one (ctx, lun, &c);

    if (r == -EOPNOTSUPP)
      turn_off (ctx, lun, flag, &c);
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
  struct lun *lun = lun_of (st);
  const uint32_t bs = lun->info.block_size;
  uint64_t start = round_up (offset, bs);
  uint64_t end = round_down (offset + len, bs);
  int r = check_range (ctx, lun, "trim", offset, len);

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
    return no_memory (ctx, lun);
  while (len > 0) {
    uint64_t part = min_u64 (len, room);
    int r = transfer (ctx, lun, VD_SCSI_WRITE, buf, part, offset, false);

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
  struct lun *lun = lun_of (st);
  int r = check_range (ctx, lun, "zero", offset, len);

  if (r < 0)
    return r;
  if (fast && (!may_unmap || !lun->unmap_same
               || atomic_load (&lun->no_same_unmap)))
    return -ENOTSUP;
  if (!aligned (lun, offset, len)) {
    r = write_ends (ctx, lun, NULL, &offset, &len, false);
    if (r < 0 || len == 0)
      return r;
  }
  pthread_rwlock_rdlock (&lun->blocks_lock);
  r = zero_blocks (ctx, lun, offset, len, may_unmap, fast);
  pthread_rwlock_unlock (&lun->blocks_lock);
  return r;
}

/* ---- what is allocated -------------------------------------------------- */

static uint64_t
get_be (const uint8_t *p, unsigned bytes)
{
  uint64_t v = 0;

  while (bytes-- > 0)
    v = v << 8 | *p++;
  return v;
}

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
  struct lun *lun = lun_of (st);
  const uint32_t size = 8 + 16 * DESCRIPTORS;
  CLEANUP_FREE uint8_t *answer = NULL;
  uint64_t pos = offset, end = offset + len;
  int r = check_range (ctx, lun, "block status", offset, len);

  if (r < 0)
    return r;
  answer = malloc (size);
  if (answer == NULL)
    return no_memory (ctx, lun);
  while (pos < end && lun->info.has_map && !atomic_load (&lun->no_map)) {
    struct vd_scsi_cmd c = {
      .what = VD_SCSI_LBA_STATUS, .lba = pos / lun->info.block_size,
      .in = answer, .in_size = one ? 8 + 16 * 2 : size, .once = true,
    };

    r = run_one (ctx, lun, &c);
    if (r == 0)
      r = extents_of_answer (lun, answer, c.in_len, &pos, end, one, fn,
                             opaque);
    else if (r != -EOPNOTSUPP && !c.stalled)
      return r;
    else
      r = -EOPNOTSUPP;
    if (r == -EOPNOTSUPP) {
      turn_off (ctx, lun, &lun->no_map, &c);
      break;
    }
    if (r != 0)
      return r < 0 ? r : 0;
  }
  if (pos >= end)
    return 0;
  return fn (opaque, pos, end - pos, false, false);
}

/* ---- the store ---------------------------------------------------------- */

static int
lun_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  (void) ctx;
  *ret = atomic_load (&lun_of (st)->size);
  return 0;
}

static int
lun_preadv (struct vd_ctx *ctx, struct vd_store *st, struct iovec *iov,
            int niov, uint64_t offset)
{
  int i;

  for (i = 0; i < niov; i++) {
    int r = iov[i].iov_len == 0 ? 0
      : read_range (ctx, lun_of (st), iov[i].iov_base, iov[i].iov_len, offset);

    if (r < 0)
      return r;
    offset += iov[i].iov_len;
  }
  return 0;
}

static int
lun_pwritev (struct vd_ctx *ctx, struct vd_store *st, struct iovec *iov,
             int niov, uint64_t offset, unsigned flags)
{
  struct lun *lun = lun_of (st);
  const bool fua = flags & VD_STORE_FUA;
  int i;

  for (i = 0; i < niov; i++) {
    int r = iov[i].iov_len == 0 ? 0
      : write_range (ctx, lun, iov[i].iov_base, iov[i].iov_len, offset,
                     fua && lun->info.fua);

    if (r < 0)
      return r;
    offset += iov[i].iov_len;
  }
  return fua && !lun->info.fua ? vd_lun_flush (ctx, st) : 0;
}

static int
lun_zero (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
          uint64_t len, bool punch)
{
  struct lun *lun = lun_of (st);

  if (!(punch ? lun->unmap_same && !atomic_load (&lun->no_same_unmap)
        : !atomic_load (&lun->no_same)))
    return -EOPNOTSUPP;
  return vd_lun_zero (ctx, st, offset, len, punch, false);
}

static int
lun_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct lun *lun = lun_of (st);

  if (size == atomic_load (&lun->size))
    return 0;
  return vd_error (ctx, ENOSPC, "%s: a LUN cannot change its size", st->name);
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

static int
lun_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
            bool *ret_hole, uint64_t *ret_end)
{
  uint64_t size = atomic_load (&lun_of (st)->size);
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

static void
lun_close (struct vd_store *st)
{
  struct lun *lun = lun_of (st);
  unsigned i;

  for (i = 0; i < lun->n_sessions; i++)
    vd_iscsi_session_close (lun->sessions[i]);
  pthread_rwlock_destroy (&lun->blocks_lock);
  vd_iscsi_address_free (&lun->settings.address);
  free (lun);
}

static const struct vd_store_ops lun_ops = {
  .kind = "iscsi",
  .get_size = lun_get_size,
  .preadv = lun_preadv,
  .pwritev = lun_pwritev,
  .zero = lun_zero,
  .truncate = lun_truncate,
  .sync = vd_lun_flush,
  .extent = lun_extent,
  .close = lun_close,
};

/* ---- asking ------------------------------------------------------------- */

struct capacity {
  uint64_t blocks;
  uint32_t block_size;
  uint32_t physical;            /* bytes */
  bool thin, zeroes;            /* LBPME, LBPRZ */
};

static int
read_capacity (struct vd_ctx *ctx, struct lun *lun, struct capacity *ret)
{
  uint8_t in[32];
  struct vd_scsi_cmd c = {
    .what = VD_SCSI_CAPACITY16, .in = in, .in_size = sizeof in,
  };
  struct capacity cap = { 0 };
  int r = run_one (ctx, lun, &c);

  if (r == 0 && c.in_len >= 12) {
    cap.blocks = get_be (in, 8) + 1;
    cap.block_size = get_be (in + 8, 4);
    cap.physical = cap.block_size;
    if (c.in_len >= 16) {
      cap.physical = min_u64 ((uint64_t) cap.block_size << (in[13] & 15),
                              UINT32_MAX);
      cap.thin = in[14] & 0x80;
      cap.zeroes = in[14] & 0x40;
    }
  }
  else if (r == 0 || r == -EOPNOTSUPP) {
    c = (struct vd_scsi_cmd) {
      .what = VD_SCSI_CAPACITY10, .in = in, .in_size = sizeof in,
    };
    r = run_one (ctx, lun, &c);
    if (r == -EOPNOTSUPP)
      return failed (ctx, lun, &c);
    if (r == 0 && c.in_len < 8)
      return vd_error (ctx, EIO, "%s: the target's answer about the capacity "
                       "is too short", lun->st.name);
    cap.blocks = get_be (in, 4) + 1;
    cap.block_size = cap.physical = get_be (in + 4, 4);
  }
  if (r < 0)
    return r;
  if (cap.block_size < 512 || cap.block_size > 65536
      || !is_power_of_2 (cap.block_size))
    return vd_error (ctx, ENOTSUP, "%s: blocks of %" PRIu32 " bytes are not "
                     "supported", lun->st.name, cap.block_size);
  if (cap.blocks == 0 || cap.blocks > INT64_MAX / cap.block_size)
    return vd_error (ctx, EIO, "%s: a capacity of %" PRIu64 " blocks cannot "
                     "be true", lun->st.name, cap.blocks);
  *ret = cap;
  return 0;
}

int
vd_lun_refresh_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  struct lun *lun = lun_of (st);
  struct capacity cap;
  uint64_t size, old;
  int r = read_capacity (ctx, lun, &cap);

  if (r < 0)
    return r;
  if (cap.block_size != lun->info.block_size)
    return vd_error (ctx, EIO, "%s: the LUN has blocks of %" PRIu32 " bytes "
                     "now, and had %" PRIu32, st->name, cap.block_size,
                     lun->info.block_size);
  size = cap.blocks * cap.block_size;
  old = atomic_exchange (&lun->size, size);
  if (old != size)
    vd_warning (ctx, "%s: the size has changed from %" PRIu64 " to %" PRIu64,
                st->name, old, size);
  *ret = size;
  return 0;
}

/* Text of an inquiry: padded with blanks, and a stranger's. */
static void
inquiry_text (const uint8_t *p, size_t len, char *out, size_t size)
{
  while (len > 0 && (p[len - 1] == ' ' || p[len - 1] == '\0'))
    len--;
  vd_escape ((const char *) p, len, out, size);
}

static int
inquire (struct vd_ctx *ctx, struct lun *lun)
{
  uint8_t in[255] = { 0 };
  struct vd_scsi_cmd c = {
    .what = VD_SCSI_INQUIRY, .page = -1, .in = in, .in_size = sizeof in,
  };
  int r = run_one (ctx, lun, &c);

  if (r == -EOPNOTSUPP)
    return failed (ctx, lun, &c);
  if (r < 0)
    return r;
  if (c.in_len < 1 || (in[0] >> 5) != 0 || (in[0] & 31) == 31)
    return vd_error (ctx, ENXIO, "%s: the target has no such LUN",
                     lun->st.name);
  if ((in[0] & 31) != 0)
    return vd_error (ctx, ENOTSUP, "%s: this LUN is not a disk (device type "
                     "%d%s)", lun->st.name, in[0] & 31,
                     (in[0] & 31) == 12 ? ", a controller" : "");
  inquiry_text (in + 8, 8, lun->info.vendor, sizeof lun->info.vendor);
  inquiry_text (in + 16, 16, lun->info.product, sizeof lun->info.product);
  return 0;
}

/* A page of vital product data, or a shorter one or nothing: returns the
 * length.  What a target does not know about itself is no reason to refuse it.
 */
static uint32_t
product_page (struct vd_ctx *ctx, struct lun *lun, int page, uint8_t *in,
              uint32_t size)
{
  struct vd_ctx quiet;
  struct vd_scsi_cmd c = {
    .what = VD_SCSI_INQUIRY, .page = page, .in = in, .in_size = size,
    .once = true,
  };

  memset (in, 0, size);
  vd_ctx_init (&quiet, ctx->log);
  if (run_one (&quiet, lun, &c) < 0 || c.in_len < 4 || in[1] != page)
    return 0;
  return min_u64 (c.in_len, 4 + get_be (in + 2, 2));
}

static void
mode_sense (struct vd_ctx *ctx, struct lun *lun)
{
  uint8_t in[255] = { 0 };
  struct vd_ctx quiet;
  struct vd_scsi_cmd c = {
    .what = VD_SCSI_MODE_SENSE, .in = in, .in_size = sizeof in,
  };

  vd_ctx_init (&quiet, ctx->log);
  if (run_one (&quiet, lun, &c) < 0 || c.in_len < 4) {
    vd_debug (ctx, "%s: mode sense fails; taken for writable", lun->st.name);
    return;
  }
  lun->info.write_protected = in[2] & 0x80;
  lun->info.fua = in[2] & 0x10;
}

static uint64_t
limit_bytes (const struct lun *lun, uint64_t blocks, uint64_t max)
{
  const uint32_t bs = lun->info.block_size;

  if (blocks > 0 && blocks < max / bs)
    max = blocks * bs;
  return max_u64 (round_down (max, bs), bs);
}

static void
product_data (struct vd_ctx *ctx, struct lun *lun, struct capacity *cap,
              uint32_t write_split)
{
  uint8_t in[255], list[255];
  uint32_t n = product_page (ctx, lun, 0x00, list, sizeof list), len, i;
  uint64_t max_transfer = 0, max_unmap = 0, max_same = 0, optimal = 0;
  bool limits = false, thin = false, turns = false;
  bool lbpu = false, lbpws = false;

  for (i = 4; i < n; i++) {
    limits |= list[i] == 0xb0;
    turns |= list[i] == 0xb1;
    thin |= list[i] == 0xb2;
  }
  if (limits && (len = product_page (ctx, lun, 0xb0, in, sizeof in)) >= 16) {
    optimal = get_be (in + 6, 2) * lun->info.block_size;
    max_transfer = get_be (in + 8, 4);
    if (len >= 44) {
      max_unmap = get_be (in + 20, 4);
      max_same = get_be (in + 36, 8);
    }
  }
  if (turns && product_page (ctx, lun, 0xb1, in, sizeof in) >= 6)
    lun->info.rotational = get_be (in + 4, 2) > 1;
  if (thin && product_page (ctx, lun, 0xb2, in, sizeof in) >= 6) {
    lbpu = in[5] & 0x80;
    lbpws = in[5] & 0x40;
    cap->zeroes |= (in[5] >> 2 & 7) != 0;
  }

  lun->zeroes_when_unmapped = cap->thin && cap->zeroes;
  lun->unmap_same = lbpws && lun->zeroes_when_unmapped;
  lun->info.can_trim = cap->thin && lbpu;
  lun->info.fast_zero = lun->unmap_same;
  lun->info.has_map = cap->thin;
  lun->read_max = limit_bytes (lun, max_transfer, READ_SPLIT);
  lun->write_max = limit_bytes (lun, max_transfer, write_split);
  lun->unmap_max = limit_bytes (lun, max_unmap, UNMAP_MAX);
  lun->same_max = limit_bytes (lun, max_same, SAME_MAX);
  lun->same_unmap_max = limit_bytes (lun, max_same, UNMAP_MAX);

  lun->info.preferred = max_u64 (4096, cap->physical);
  if (is_power_of_2 (optimal) && optimal > lun->info.preferred)
    lun->info.preferred = optimal;
  lun->info.preferred = min_u64 (lun->info.preferred, 32 * MiB);
}

static int
ask (struct vd_ctx *ctx, struct lun *lun, const struct vd_lun_open *how)
{
  struct capacity cap;
  int r = inquire (ctx, lun);

  if (r == 0)
    r = read_capacity (ctx, lun, &cap);
  if (r < 0)
    return r;
  lun->info.block_size = cap.block_size;
  atomic_store (&lun->size, cap.blocks * cap.block_size);
  mode_sense (ctx, lun);
  product_data (ctx, lun, &cap, how->write_split);
  lun->st.writable = !how->read_only && !lun->info.write_protected;
  lun->st.fixed_size = true;
  vd_debug (ctx, "%s: %s %s, %" PRIu64 " bytes in blocks of %" PRIu32
            "%s%s%s%s%s", lun->st.name, lun->info.vendor, lun->info.product,
            atomic_load (&lun->size), lun->info.block_size,
            lun->info.write_protected ? ", write protected" : "",
            lun->info.fua ? ", FUA" : "",
            lun->info.can_trim ? ", unmap" : "",
            lun->info.fast_zero ? ", write same with unmap" : "",
            lun->info.has_map ? ", thin" : "");
  return 0;
}

/* ---- opening ------------------------------------------------------------ */

static int
open_sessions (struct vd_ctx *ctx, struct lun *lun, unsigned n)
{
  uint32_t isid;

  if (getrandom (&isid, sizeof isid, 0) != sizeof isid)
    return vd_error (ctx, EIO, "getrandom: %s", strerror (errno));
  isid &= 0xffffff;
  while (lun->n_sessions < n) {
    int r = vd_iscsi_session_open (ctx, &lun->settings, lun->st.name, isid,
                                   lun->n_sessions,
                                   &lun->sessions[lun->n_sessions]);

    if (r < 0)
      return r;
    lun->n_sessions++;
  }
  return 0;
}

int
vd_lun_open (struct vd_ctx *ctx, const struct vd_lun_open *how,
             struct vd_store **ret)
{
  struct lun *lun;
  char *name;
  unsigned i;
  int r;

  r = vd_iscsi_check_address (ctx, &how->address);
  if (r < 0)
    return r;
  lun = calloc (1, sizeof *lun);
  name = vd_iscsi_address_name (&how->address);
  if (lun == NULL || name == NULL
      || vd_store_init (&lun->st, &lun_ops, name, false) < 0) {
    free (lun);
    free (name);
    return vd_error (ctx, ENOMEM, "no memory for a LUN");
  }
  free (name);
  pthread_rwlock_init (&lun->blocks_lock, NULL);
  lun->settings.timeout_ms = how->timeout_ms;
  lun->settings.keepalive_ms = how->keepalive_ms;
  lun->settings.log_level = how->log_level;
  lun->settings.lib_log = how->lib_log;
  r = vd_iscsi_address_copy (&how->address, &lun->settings.address);
  if (r == 0 && lun->settings.address.initiator == NULL) {
    lun->settings.address.initiator = vd_iscsi_default_initiator ();
    if (lun->settings.address.initiator == NULL)
      r = -ENOMEM;
  }
  if (r < 0)
    vd_error (ctx, ENOMEM, "no memory for a LUN");
  if (r == 0)
    r = open_sessions (ctx, lun, 1);
  if (r == 0)
    r = ask (ctx, lun, how);
  if (r == 0)
    r = open_sessions (ctx, lun, min_u64 (how->sessions, VD_LUN_MAX_SESSIONS));
  if (r < 0) {
    vd_store_close (&lun->st);
    return r;
  }
  for (i = 0; i < lun->n_sessions; i++)
    vd_iscsi_session_expect (lun->sessions[i], lun->info.block_size);
  *ret = &lun->st;
  return 0;
}
