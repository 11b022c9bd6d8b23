/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "limit.h"

struct limit {
  struct vd_store st;
  struct vd_store *under;
  uint64_t bytes;
  _Atomic uint64_t read;        /* so far */
};

static const struct vd_store_ops limit_ops;

static struct limit *
limit_of (struct vd_store *st)
{
  assert (st->ops == &limit_ops);
  return (struct limit *) st;
}

static int
limit_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  return vd_store_get_size (ctx, limit_of (st)->under, ret);
}

static int
limit_preadv (struct vd_ctx *ctx, struct vd_store *st,
              struct iovec *iov, int niov, uint64_t offset)
{
  struct limit *l = limit_of (st);
  uint64_t len = 0;
  int i;

  for (i = 0; i < niov; ++i)
    len += iov[i].iov_len;
  if (atomic_fetch_add (&l->read, len) + len > l->bytes)
    return vd_error (ctx, EFBIG, "%s: more than %" PRIu64 " bytes would have "
                     "to be read", st->name, l->bytes);
  return vd_store_preadv (ctx, l->under, iov, niov, offset);
}

static void
limit_close (struct vd_store *st)
{
  struct limit *l = limit_of (st);

  vd_store_close (l->under);
  free (l);
}

static const struct vd_store_ops limit_ops = {
  .kind = "limit",
  .get_size = limit_size,
  .preadv = limit_preadv,
  .close = limit_close,
};

int
vd_limit_new (struct vd_ctx *ctx, struct vd_store *under, uint64_t bytes,
              struct vd_store **ret)
{
  struct limit *l = calloc (1, sizeof *l);

  if (!l || vd_store_init (&l->st, &limit_ops, under->name, false) < 0) {
    free (l);
    vd_store_close (under);
    return vd_error (ctx, ENOMEM, "no memory to look into a file");
  }
  l->under = under;
  l->bytes = bytes;
  *ret = &l->st;
  return 0;
}
