/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "escape.h"
#include "lun-internal.h"
#include "rounding.h"

#define UNMAP_MAX (1024 * MiB)  /* tgtd computes lengths in 32 bits */
#define SAME_MAX (32 * MiB)     /* without unmapping: it writes them */

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
  int r = vd_lun_run_one (ctx, lun, &c);

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
    r = vd_lun_run_one (ctx, lun, &c);
    if (r == -EOPNOTSUPP)
      return vd_lun_failed (ctx, lun, &c);
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
  struct lun *lun = vd_lun_of (st);
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
  int r = vd_lun_run_one (ctx, lun, &c);

  if (r == -EOPNOTSUPP)
    return vd_lun_failed (ctx, lun, &c);
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
  if (vd_lun_run_one (&quiet, lun, &c) < 0 || c.in_len < 4 || in[1] != page)
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
  if (vd_lun_run_one (&quiet, lun, &c) < 0 || c.in_len < 4) {
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
              const struct vd_lun_open *how)
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
  lun->read_max = limit_bytes (lun, max_transfer, how->read_split);
  lun->write_max = limit_bytes (lun, max_transfer, how->write_split);
  lun->unmap_max = limit_bytes (lun, max_unmap, UNMAP_MAX);
  lun->same_max = limit_bytes (lun, max_same, SAME_MAX);
  lun->same_unmap_max = limit_bytes (lun, max_same, UNMAP_MAX);

  lun->info.preferred = max_u64 (4096, cap->physical);
  if (is_power_of_2 (optimal) && optimal > lun->info.preferred)
    lun->info.preferred = optimal;
  lun->info.preferred = min_u64 (lun->info.preferred, 32 * MiB);
}

int
vd_lun_ask (struct vd_ctx *ctx, struct lun *lun, const struct vd_lun_open *how)
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
  product_data (ctx, lun, &cap, how);
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
