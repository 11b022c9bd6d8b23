/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lun-internal.h"
#include "rounding.h"

static const struct vd_store_ops lun_ops;

struct lun *
vd_lun_of (const struct vd_store *st)
{
  assert (st->ops == &lun_ops);
  return (struct lun *) st;
}

const struct vd_lun_info *
vd_lun_info (const struct vd_store *st)
{
  return &vd_lun_of (st)->info;
}

/* ---- the store ---------------------------------------------------------- */

static int
lun_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  (void) ctx;
  *ret = atomic_load (&vd_lun_of (st)->size);
  return 0;
}

static int
lun_preadv (struct vd_ctx *ctx, struct vd_store *st, struct iovec *iov,
            int niov, uint64_t offset)
{
  int i;

  for (i = 0; i < niov; i++) {
    int r = iov[i].iov_len == 0 ? 0
      : vd_lun_read (ctx, vd_lun_of (st), iov[i].iov_base, iov[i].iov_len,
                     offset);

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
  struct lun *lun = vd_lun_of (st);
  const bool fua = flags & VD_STORE_FUA;
  int i;

  for (i = 0; i < niov; i++) {
    int r = iov[i].iov_len == 0 ? 0
      : vd_lun_write (ctx, lun, iov[i].iov_base, iov[i].iov_len, offset,
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
  struct lun *lun = vd_lun_of (st);

  if (!(punch ? lun->unmap_same && !atomic_load (&lun->no_same_unmap)
        : !atomic_load (&lun->no_same)))
    return -EOPNOTSUPP;
  return vd_lun_zero (ctx, st, offset, len, punch, false);
}

static int
lun_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct lun *lun = vd_lun_of (st);

  if (size == atomic_load (&lun->size))
    return 0;
  return vd_error (ctx, ENOSPC, "%s: a LUN cannot change its size", st->name);
}

static void
lun_close (struct vd_store *st)
{
  struct lun *lun = vd_lun_of (st);
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
  .extent = vd_lun_extent,
  .close = lun_close,
};

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
  lun->settings.gather = how->gather;
  lun->settings.coalesce = how->coalesce;
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
    r = vd_lun_ask (ctx, lun, how);
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
