/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "iov.h"
#include "rounding.h"
#include "sim-private.h"

struct sim_store {
  struct vd_store st;
  struct vd_sim *sim;
  struct sim_file *file;
};

static const struct vd_store_ops sim_ops;

static int
fault (struct vd_ctx *ctx, struct sim_store *f, const char *what)
{
  return sim_fault (ctx, f->sim, f->st.name, what);
}

static struct sim_store *
sim_of (struct vd_store *st)
{
  assert (st->ops == &sim_ops);
  return (struct sim_store *) st;
}

static int
out_of_memory (struct vd_ctx *ctx, struct sim_store *f)
{
  return vd_error (ctx, ENOMEM, "%s: out of memory for a simulated disk",
                   f->st.name);
}

/* Log rec (whose data then belongs to the log, or is freed) and do it. */
static int
commit (struct vd_ctx *ctx, struct sim_store *f, const struct sim_record *rec)
{
  struct sim_file *file = f->file;
  uint64_t size = sim_size_after (rec, file->now.size);
  struct sim_record *logged;

  if (size > SIM_FILE_MAX) {
    free (rec->data);
    return vd_error (ctx, ENOSPC, "%s: %" PRIu64 " bytes are too many for a "
                     "simulated disk", f->st.name, size);
  }
  if (!file->changed) {
    if (!sim_copy_content (&file->base, &file->now))
      goto no_memory;
    file->changed = true;
  }
  if (!sim_reserve (&file->now, size))
    goto no_memory;
  logged = sim_add_record (f->sim);
  if (logged == NULL)
    goto no_memory;
  *logged = *rec;
  logged->file = file;
  sim_apply (&file->now, logged);
  return 0;

 no_memory:
  free (rec->data);
  return out_of_memory (ctx, f);
}

static int
check_end (struct vd_ctx *ctx, struct sim_store *f, const char *what,
           uint64_t offset, uint64_t len)
{
  uint64_t size = f->file->now.size;

  if (offset > size || len > size - offset)
    return vd_error (ctx, EIO, "%s: %s of %" PRIu64 " bytes at offset %"
                     PRIu64 ": the file ends at %" PRIu64,
                     f->st.name, what, len, offset, size);
  return 0;
}

static int
sim_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  struct sim_store *f = sim_of (st);
  int r;

  sim_lock (f->sim);
  r = fault (ctx, f, "get_size");
  if (r == 0)
    *ret = f->file->now.size;
  sim_unlock (f->sim);
  return r;
}

static int
sim_preadv (struct vd_ctx *ctx, struct vd_store *st,
            struct iovec *iov, int niov, uint64_t offset)
{
  struct sim_store *f = sim_of (st);
  int i, r;

  sim_lock (f->sim);
  r = fault (ctx, f, "read");
  if (r == 0)
    r = check_end (ctx, f, "read", offset, iov_total (iov, niov));
  if (r == 0)
    for (i = 0; i < niov; ++i)
      if (iov[i].iov_len) {
        memcpy (iov[i].iov_base, f->file->now.data + offset, iov[i].iov_len);
        offset += iov[i].iov_len;
      }
  sim_unlock (f->sim);
  return r;
}

static int
sim_pwritev (struct vd_ctx *ctx, struct vd_store *st,
             struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct sim_store *f = sim_of (st);
  struct sim_record rec = { .kind = SIM_WRITE, .offset = offset,
                        .len = iov_total (iov, niov),
                        .fua = (flags & VD_STORE_FUA) != 0 };
  size_t done = 0;
  int i, r;

  sim_lock (f->sim);
  r = fault (ctx, f, "write");
  if (r == 0) {
    rec.data = malloc (rec.len);
    if (rec.data == NULL)
      r = out_of_memory (ctx, f);
  }
  if (r == 0) {
    for (i = 0; i < niov; ++i)
      if (iov[i].iov_len) {
        memcpy (rec.data + done, iov[i].iov_base, iov[i].iov_len);
        done += iov[i].iov_len;
      }
    r = commit (ctx, f, &rec);
  }
  sim_unlock (f->sim);
  return r;
}

/* A call that leaves a record without data. */
static int
leave (struct vd_ctx *ctx, struct vd_store *st, const char *what,
       struct sim_record rec)
{
  struct sim_store *f = sim_of (st);
  int r;

  sim_lock (f->sim);
  r = fault (ctx, f, what);
  /* A file would let this pass; here it shows a mistake of the caller. */
  if (r == 0 && (rec.kind == SIM_ZERO || rec.kind == SIM_PUNCH))
    r = check_end (ctx, f, what, rec.offset, rec.len);
  if (r == 0)
    r = commit (ctx, f, &rec);
  sim_unlock (f->sim);
  return r;
}

static int
sim_zero (struct vd_ctx *ctx, struct vd_store *st,
          uint64_t offset, uint64_t len, bool with_punch)
{
  return leave (ctx, st, "zero", (struct sim_record) {
      .kind = with_punch ? SIM_PUNCH : SIM_ZERO,
      .offset = offset, .len = len });
}

static int
sim_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  return leave (ctx, st, "truncate", (struct sim_record) {
      .kind = SIM_TRUNCATE, .offset = size });
}

static int
sim_allocate (struct vd_ctx *ctx, struct vd_store *st,
              uint64_t offset, uint64_t len)
{
  return leave (ctx, st, "allocate", (struct sim_record) {
      .kind = SIM_ALLOCATE, .offset = offset, .len = len });
}

static int
sim_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  return leave (ctx, st, "sync", (struct sim_record) { .kind = SIM_SYNC });
}

static int
sim_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
            bool *ret_hole, uint64_t *ret_end)
{
  struct sim_store *f = sim_of (st);
  const struct sim_content *c = &f->file->now;
  uint64_t page = offset / SIM_PAGE;
  int r;

  sim_lock (f->sim);
  r = fault (ctx, f, "extent");
  if (r == 0) {
    uint64_t npages = div_round_up (c->size, SIM_PAGE);

    if (offset >= c->size)
      *ret_hole = true;
    else {
      *ret_hole = !c->used[page];
      while (page < npages && c->used[page] != *ret_hole)
        page++;
    }
    /* As with a file, what is beyond the end is a hole. */
    if (offset < c->size && page < npages)
      *ret_end = page * SIM_PAGE;
    else
      *ret_end = *ret_hole ? INT64_MAX : c->size;
  }
  sim_unlock (f->sim);
  return r;
}

static int
sim_cache (struct vd_ctx *ctx, struct vd_store *st,
           uint64_t offset, uint64_t len)
{
  struct sim_store *f = sim_of (st);
  int r;

  (void) offset;
  (void) len;
  sim_lock (f->sim);
  r = fault (ctx, f, "cache");
  sim_unlock (f->sim);
  return r;
}

/* An inode number is as good as a pointer. */
static bool
sim_is (const struct vd_store *st, const struct stat *sb)
{
  const struct sim_store *f = (const struct sim_store *) st;

  return sb->st_dev == 0 && sb->st_ino == (uintptr_t) f->file;
}

static void
sim_close (struct vd_store *st)
{
  free (sim_of (st));
}

static const struct vd_store_ops sim_ops = {
  .kind = "sim",
  .get_size = sim_get_size,
  .preadv = sim_preadv,
  .pwritev = sim_pwritev,
  .zero = sim_zero,
  .truncate = sim_truncate,
  .allocate = sim_allocate,
  .sync = sim_sync,
  .extent = sim_extent,
  .cache = sim_cache,
  .is = sim_is,
  .close = sim_close,
};

int
sim_open_file (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
               bool writable, struct sim_file *file, struct vd_store **ret)
{
  struct sim_store *f = calloc (1, sizeof *f);

  if (f == NULL || vd_store_init (&f->st, &sim_ops, name, writable) < 0) {
    free (f);
    return vd_error (ctx, ENOMEM, "%s: out of memory", name);
  }
  f->sim = sim;
  f->file = file;
  *ret = &f->st;
  return 0;
}

int
vd_sim_open (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
             bool writable, struct vd_store **ret)
{
  struct sim_file *file;

  sim_lock (sim);
  file = sim_find_file (sim, name);
  if (file == NULL)
    file = sim_add_file (sim, name);
  sim_unlock (sim);
  if (file == NULL)
    return vd_error (ctx, ENOMEM, "%s: out of memory", name);
  return sim_open_file (ctx, sim, name, writable, file, ret);
}
