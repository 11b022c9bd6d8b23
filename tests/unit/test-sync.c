/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Syncs that fail, or that meet: nothing may be called durable that is not
 * (rules O3, O6, O11).  The kernel reports a lost write to one call only,
 * whichever asks first.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <time.h>

#include "file.h"
#include "image.h"
#include "memory.h"
#include "vdi.h"

#define MIB (1024 * 1024)

/* ---- a store that stops on request -------------------------------------- */

/* A call that arrives waits here, if told to, until it is let go. */
struct gate {
  bool closed;
  unsigned waiting;
  int error;                    /* what the call then returns */
};

struct gated {
  struct vd_store st;
  struct vd_store *below;
  pthread_mutex_t lock;
  pthread_cond_t change;
  struct gate sync, fua;
  unsigned syncs;               /* that were done */
};

static struct gated *
gated_of (struct vd_store *st)
{
  return (struct gated *) st;
}

static int
pass (struct vd_ctx *ctx, struct gated *g, struct gate *gate)
{
  int r = 0;

  pthread_mutex_lock (&g->lock);
  gate->waiting++;
  pthread_cond_broadcast (&g->change);
  while (gate->closed)
    pthread_cond_wait (&g->change, &g->lock);
  gate->waiting--;
  if (gate->error)
    r = vd_error (ctx, gate->error, "made to fail");
  gate->error = 0;              /* once, like the kernel */
  pthread_mutex_unlock (&g->lock);
  return r;
}

static void
set_gate (struct gated *g, struct gate *gate, bool closed, int error)
{
  pthread_mutex_lock (&g->lock);
  gate->closed = closed;
  gate->error = error;
  pthread_cond_broadcast (&g->change);
  pthread_mutex_unlock (&g->lock);
}

static void
wait_for (struct gated *g, struct gate *gate)
{
  pthread_mutex_lock (&g->lock);
  while (gate->waiting == 0)
    pthread_cond_wait (&g->change, &g->lock);
  pthread_mutex_unlock (&g->lock);
}

static int
gated_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  return vd_store_get_size (ctx, gated_of (st)->below, ret);
}

static int
gated_preadv (struct vd_ctx *ctx, struct vd_store *st,
              struct iovec *iov, int niov, uint64_t offset)
{
  return vd_store_preadv (ctx, gated_of (st)->below, iov, niov, offset);
}

static int
gated_pwritev (struct vd_ctx *ctx, struct vd_store *st,
               struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct gated *g = gated_of (st);

  if (flags & VD_STORE_FUA) {
    int r = pass (ctx, g, &g->fua);

    if (r < 0)
      return r;
  }
  return vd_store_pwritev (ctx, g->below, iov, niov, offset, flags);
}

static int
gated_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  return vd_store_truncate (ctx, gated_of (st)->below, size);
}

static int
gated_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  struct gated *g = gated_of (st);
  int r = pass (ctx, g, &g->sync);

  pthread_mutex_lock (&g->lock);
  g->syncs++;
  pthread_mutex_unlock (&g->lock);
  return r;
}

static void
gated_close (struct vd_store *st)
{
  struct gated *g = gated_of (st);

  vd_store_close (g->below);
  pthread_cond_destroy (&g->change);
  pthread_mutex_destroy (&g->lock);
  free (g);
}

static const struct vd_store_ops gated_ops = {
  .kind = "gated",
  .get_size = gated_get_size,
  .preadv = gated_preadv,
  .pwritev = gated_pwritev,
  .truncate = gated_truncate,
  .sync = gated_sync,
  .close = gated_close,
};

static struct gated *
new_gated (void)
{
  struct gated *g = calloc (1, sizeof *g);
  UNIT_CTX (ctx);

  assert_non_null (g);
  assert_ok (ctx, vd_memory_open (ctx, "below", NULL, 0, true, &g->below));
  assert_int_equal (vd_store_init (&g->st, &gated_ops, "gated", true), 0);
  pthread_mutex_init (&g->lock, NULL);
  pthread_cond_init (&g->change, NULL);
  return g;
}

static struct vd_image *
new_image (struct gated *g)
{
  const struct vd_create how = { .size = 8 * MIB };
  const struct vd_open open = { .write = VD_WRITE_REQUIRE };
  struct vd_image *image;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_format_vdi.create (ctx, &g->st, NULL, NULL, &how));
  assert_ok (ctx, vd_image_open_store (ctx, &g->st, &open, &image));
  return image;
}

/* ---- a call in a thread of its own -------------------------------------- */

struct call {
  struct vd_store *store;       /* sync this, or else ... */
  struct vd_image *image;       /* flush this, or write a byte to it */
  unsigned flags;
  bool write;

  pthread_t thread;
  _Atomic bool done;
  int result;
};

static void *
do_call (void *opaque)
{
  struct call *c = opaque;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, NULL);
  if (c->store)
    c->result = vd_store_sync (&ctx, c->store);
  else if (c->write)
    c->result = vd_image_pwrite (&ctx, c->image, "x", 1, 0, c->flags);
  else
    c->result = vd_image_flush (&ctx, c->image);
  c->done = true;
  return NULL;
}

static void
start (struct call *c)
{
  assert_int_equal (pthread_create (&c->thread, NULL, do_call, c), 0);
}

static int
finish (struct call *c)
{
  assert_int_equal (pthread_join (c->thread, NULL), 0);
  return c->result;
}

static void
a_moment (void)
{
  nanosleep (&(struct timespec) { .tv_nsec = 50 * 1000 * 1000 }, NULL);
}

/* ---- tests --------------------------------------------------------------- */

/* Somebody else's sync that is not done yet is no reason to say "done". */
static void
test_sync_waits (void **state)
{
  struct gated *g = new_gated ();
  struct call first = { .store = &g->st }, second = { .store = &g->st };
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_store_pwrite (ctx, &g->st, "x", 1, 0, 0));
  set_gate (g, &g->sync, true, 0);
  start (&first);
  wait_for (g, &g->sync);
  start (&second);
  a_moment ();
  assert_false (second.done);
  set_gate (g, &g->sync, false, 0);
  assert_int_equal (finish (&first), 0);
  assert_int_equal (finish (&second), 0);
  vd_store_close (&g->st);
}

/* ... and if it fails, a second try means nothing. */
static void
test_sync_fails_for_both (void **state)
{
  struct gated *g = new_gated ();
  struct call first = { .store = &g->st }, second = { .store = &g->st };
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_store_pwrite (ctx, &g->st, "x", 1, 0, 0));
  set_gate (g, &g->sync, true, 0);
  start (&first);
  wait_for (g, &g->sync);
  start (&second);
  set_gate (g, &g->sync, false, ENOSPC);
  assert_int_equal (finish (&first), -ENOSPC);
  assert_int_equal (finish (&second), -EIO);
  assert_fails (ctx, vd_store_sync (ctx, &g->st), EIO, "an earlier sync");
  vd_store_close (&g->st);
}

/* A durable write was told that data are lost.  A flush that ran meanwhile
 * saw nothing of it, but must not call those data durable, or write the
 * entries of their blocks.
 */
static void
test_flush_meets_fua (void **state)
{
  struct gated *g = new_gated ();
  struct vd_image *image = new_image (g);
  struct call write = { .image = image, .write = true, .flags = VD_FUA };
  struct call flush = { .image = image };
  uint8_t entry[4];
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_image_pwrite (ctx, image, "x", 1, 0, VD_FUA));
  set_gate (g, &g->fua, true, 0);
  start (&write);               /* in place */
  wait_for (g, &g->fua);
  assert_ok (ctx, vd_image_pwrite (ctx, image, "x", 1, 3 * MIB, 0));
  start (&flush);
  a_moment ();
  assert_false (flush.done);
  set_gate (g, &g->fua, false, EIO);
  assert_int_equal (finish (&write), -EIO);
  assert_int_equal (finish (&flush), -EIO);
  assert_ok (ctx, vd_store_pread (ctx, g->below, entry, 4, MIB + 3 * 4));
  assert_memory_equal (entry, "\xff\xff\xff\xff", 4);
  assert_fails (ctx, vd_image_pwrite (ctx, image, "x", 1, 0, 0), EIO,
                "an earlier flush failed");
  assert_fails (ctx, vd_image_close (ctx, image), EIO, "");
}

static void
test_set_meta_fails (void **state)
{
  struct gated *g = new_gated ();
  struct vd_image *image = new_image (g);
  const struct vd_meta_change change = { .comment = "hello" };
  UNIT_CTX (ctx);

  (void) state;
  set_gate (g, &g->sync, false, EIO);
  assert_fails (ctx, vd_image_set_meta (ctx, image, &change), EIO,
                "made to fail");
  assert_fails (ctx, vd_image_set_meta (ctx, image, &change), EIO,
                "an earlier flush failed");
  assert_fails (ctx, vd_image_pwrite (ctx, image, "x", 1, 0, 0), EIO,
                "an earlier flush failed");
  assert_ok (ctx, vd_image_close (ctx, image));
}

/* ---- the kernel's calls --------------------------------------------------- */

/* pwritev2 as the libraries see it: it writes, and then the sync that
 * RWF_DSYNC asks for fails with sync_error, or it fails at once with
 * write_error, as pwritev does.
 */
static int write_error, sync_error;

extern ssize_t pwritev2 (int fd, const struct iovec *iov, int n, off_t offset,
                         int flags);
extern ssize_t pwritev64v2 (int fd, const struct iovec *iov, int n,
                            off64_t offset, int flags);
extern ssize_t pwritev (int fd, const struct iovec *iov, int n, off_t offset);
extern ssize_t pwritev64 (int fd, const struct iovec *iov, int n,
                          off64_t offset);

static ssize_t
do_pwritev (int fd, const struct iovec *iov, int n, off64_t offset,
            int flags)
{
  ssize_t total = 0, r;
  int i;

  if (write_error) {
    errno = write_error;
    return -1;
  }
  for (i = 0; i < n; ++i) {
    r = pwrite64 (fd, iov[i].iov_base, iov[i].iov_len, offset + total);
    if (r == -1)
      return -1;
    total += r;
  }
  if (flags && sync_error) {
    errno = sync_error;
    sync_error = 0;
    return -1;
  }
  return total;
}

ssize_t
pwritev2 (int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
  return do_pwritev (fd, iov, n, offset, flags);
}

ssize_t
pwritev64v2 (int fd, const struct iovec *iov, int n, off64_t offset,
             int flags)
{
  return do_pwritev (fd, iov, n, offset, flags);
}

ssize_t
pwritev (int fd, const struct iovec *iov, int n, off_t offset)
{
  return do_pwritev (fd, iov, n, offset, 0);
}

ssize_t
pwritev64 (int fd, const struct iovec *iov, int n, off64_t offset)
{
  return do_pwritev (fd, iov, n, offset, 0);
}

/* A full disk is told to the client, who may go on when there is room. */
static void
test_fua_no_space (void **state)
{
  struct vd_store *st;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_open (ctx, unit_file ("a", 4096, 1), true,
                                VD_LOCK_OFF, NULL, &st));
  write_error = ENOSPC;
  assert_fails (ctx, vd_store_pwrite (ctx, st, "x", 1, 0, VD_STORE_FUA),
                ENOSPC, "make room");
  write_error = 0;
  assert_ok (ctx, vd_store_pwrite (ctx, st, "x", 1, 0, VD_STORE_FUA));
  assert_ok (ctx, vd_store_sync (ctx, st));
  vd_store_close (st);
}

/* The same errno from the sync: it may be about a write before this one (a
 * network file system, a thin volume), and is not told again.
 */
static void
test_fua_lost_write (void **state)
{
  struct vd_store *st;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_open (ctx, unit_file ("b", 4096, 1), true,
                                VD_LOCK_OFF, NULL, &st));
  assert_ok (ctx, vd_store_pwrite (ctx, st, "x", 1, 0, 0));
  sync_error = ENOSPC;
  assert_fails (ctx, vd_store_pwrite (ctx, st, "x", 1, 1000, VD_STORE_FUA),
                EIO, "durable write");
  assert_fails (ctx, vd_store_sync (ctx, st), EIO, "an earlier sync");
  vd_store_close (st);
}

/* ---- block status ---------------------------------------------------------- */

/* A file that became shorter has no zeroes behind its end. */
static void
test_extent_beyond_end (void **state)
{
  const char *path = unit_file ("c", 65536, 1);
  struct vd_store *st;
  uint64_t end;
  bool hole;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_open (ctx, path, false, VD_LOCK_OFF, NULL, &st));
  assert_int_equal (truncate (path, 4096), 0);
  assert_ok (ctx, vd_store_extent (ctx, st, 8192, &hole, &end));
  assert_false (hole);
  assert_int_equal (truncate (path, 65536), 0);
  assert_ok (ctx, vd_store_extent (ctx, st, 8192, &hole, &end));
  assert_true (hole || end > 8192);     /* where holes are known */
  assert_true (!hole || end == 65536);
  vd_store_close (st);
}

static int
stop_at_once (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  (void) offset;
  (void) len;
  (void) type;
  ++*(unsigned *) opaque;
  return 1;
}

static void
test_extents_stop (void **state)
{
  struct vd_image *image = new_image (new_gated ());
  unsigned calls = 0;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_image_pwrite (ctx, image, "x", 1, 2 * MIB, 0));
  assert_int_equal (vd_image_extents (ctx, image, 0, 8 * MIB, false,
                                      stop_at_once, &calls), 1);
  assert_int_equal (calls, 1);
  assert_ok (ctx, vd_image_close (ctx, image));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_sync_waits),
    cmocka_unit_test (test_sync_fails_for_both),
    cmocka_unit_test (test_flush_meets_fua),
    cmocka_unit_test (test_set_meta_fails),
    cmocka_unit_test (test_fua_no_space),
    cmocka_unit_test (test_fua_lost_write),
    cmocka_unit_test (test_extent_beyond_end),
    cmocka_unit_test (test_extents_stop),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
