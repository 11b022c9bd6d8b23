/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What vd_store_* add to an implementation, on stores in memory, on files
 * and on one that counts and refuses.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "file.h"
#include "iszero.h"
#include "memory.h"
#include "rounding.h"

/* ---- a store that counts ---------------------------------------------- */

struct fake {
  struct vd_store st;
  unsigned punches, zeroes, writes, syncs, truncates;
  bool can_punch, can_zero;
  int fail;                     /* errno of writes and syncs */
  uint64_t size, longest;
  struct fake **gone;
};

static int
fake_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  (void) ctx;
  *ret = ((struct fake *) st)->size;
  return 0;
}

static int
fake_preadv (struct vd_ctx *ctx, struct vd_store *st,
             struct iovec *iov, int niov, uint64_t offset)
{
  (void) ctx;
  (void) st;
  (void) iov;
  (void) niov;
  (void) offset;
  return 0;
}

static int
fake_pwritev (struct vd_ctx *ctx, struct vd_store *st,
              struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct fake *f = (struct fake *) st;
  uint64_t len = 0;
  int i;

  (void) offset;
  (void) flags;
  f->writes++;
  for (i = 0; i < niov; ++i) {
    assert_true (is_zero (iov[i].iov_base, iov[i].iov_len));
    len += iov[i].iov_len;
  }
  f->longest = max_u64 (f->longest, len);
  return f->fail ? vd_error (ctx, f->fail, "told to fail") : 0;
}

static int
fake_zero (struct vd_ctx *ctx, struct vd_store *st,
           uint64_t offset, uint64_t len, bool punch)
{
  struct fake *f = (struct fake *) st;

  (void) ctx;
  (void) offset;
  (void) len;
  if (punch)
    f->punches++;
  else
    f->zeroes++;
  return (punch ? f->can_punch : f->can_zero) ? 0 : -EOPNOTSUPP;
}

static int
fake_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct fake *f = (struct fake *) st;

  (void) ctx;
  f->truncates++;
  f->size = size;
  return 0;
}

static int
fake_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  struct fake *f = (struct fake *) st;

  f->syncs++;
  return f->fail ? vd_error (ctx, f->fail, "told to fail") : 0;
}

static void
fake_close (struct vd_store *st)
{
  struct fake *f = (struct fake *) st;

  assert_string_equal (st->name, "fake");
  if (f->gone)
    *f->gone = NULL;
  free (f);
}

static const struct vd_store_ops fake_ops = {
  .kind = "fake",
  .get_size = fake_get_size,
  .preadv = fake_preadv,
  .pwritev = fake_pwritev,
  .zero = fake_zero,
  .truncate = fake_truncate,
  .sync = fake_sync,
  .close = fake_close,
};

static struct fake *
fake_new (bool writable)
{
  struct fake *f = calloc (1, sizeof *f);

  assert_non_null (f);
  assert_int_equal (vd_store_init (&f->st, &fake_ops, "fake", writable), 0);
  return f;
}

static void
test_ranges (void **state)
{
  struct fake *f = fake_new (true);
  struct iovec iov[2] = { { NULL, SIZE_MAX }, { NULL, SIZE_MAX } };
  char b = 0;
  UNIT_CTX (ctx);

  (void) state;
  assert_fails (ctx, vd_store_pread (ctx, &f->st, &b, 1, INT64_MAX),
                EINVAL, "fake");
  assert_fails (ctx, vd_store_pwrite (ctx, &f->st, &b, 1, UINT64_MAX, 0),
                EINVAL, "fake");
  assert_fails (ctx, vd_store_preadv (ctx, &f->st, iov, 2, 0),
                EINVAL, "fake");
  assert_fails (ctx, vd_store_zero (ctx, &f->st, 1, INT64_MAX, true),
                EINVAL, "fake");
  assert_fails (ctx, vd_store_truncate (ctx, &f->st, UINT64_MAX),
                EINVAL, "fake");
  assert_fails (ctx, vd_store_allocate (ctx, &f->st, 5, UINT64_MAX - 3),
                EINVAL, "fake");
  assert_ok (ctx, vd_store_pwrite (ctx, &f->st, &b, 0, 5, 0));
  assert_int_equal (f->writes + f->punches + f->zeroes + f->truncates, 0);
  assert_false (f->st.touched);
  vd_store_close (&f->st);
  vd_store_close (NULL);
}

static void
test_read_only (void **state)
{
  struct fake *f = fake_new (false), *gone = f;
  UNIT_CTX (ctx);

  (void) state;
  assert_fails (ctx, vd_store_pwrite (ctx, &f->st, "", 1, 0, 0),
                EROFS, "fake");
  assert_fails (ctx, vd_store_zero (ctx, &f->st, 0, 1, false), EROFS, "fake");
  assert_fails (ctx, vd_store_zero_or_write (ctx, &f->st, 0, 1, true),
                EROFS, "fake");
  assert_fails (ctx, vd_store_truncate (ctx, &f->st, 0), EROFS, "fake");
  assert_fails (ctx, vd_store_allocate (ctx, &f->st, 0, 1), EROFS, "fake");
  assert_ok (ctx, vd_store_sync (ctx, &f->st));
  assert_int_equal (f->syncs, 0);
  assert_ok (ctx, vd_store_sync_always (ctx, &f->st));
  assert_int_equal (f->syncs, 1);
  f->gone = &gone;
  vd_store_close (&f->st);
  assert_null (gone);
}

static void
test_touched (void **state)
{
  struct fake *f = fake_new (true);
  struct vd_store *st = &f->st;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_store_sync (ctx, st));
  assert_int_equal (f->syncs, 0);

  assert_ok (ctx, vd_store_pwrite (ctx, st, "", 1, 0, 0));
  assert_ok (ctx, vd_store_sync (ctx, st));
  assert_ok (ctx, vd_store_sync (ctx, st));
  assert_int_equal (f->syncs, 1);

  /* Durable by itself, unless it failed. */
  assert_ok (ctx, vd_store_pwrite (ctx, st, "", 1, 0, VD_STORE_FUA));
  assert_false (st->touched);
  f->fail = ENOSPC;
  assert_fails (ctx, vd_store_pwrite (ctx, st, "", 1, 0, VD_STORE_FUA),
                ENOSPC, "told");
  assert_true (st->touched);
  f->fail = 0;
  assert_ok (ctx, vd_store_sync (ctx, st));
  assert_false (st->touched);

  assert_ok (ctx, vd_store_truncate (ctx, st, 10));
  assert_true (st->touched);
  assert_ok (ctx, vd_store_sync (ctx, st));
  f->can_zero = true;
  assert_ok (ctx, vd_store_zero (ctx, st, 0, 5, false));
  assert_true (st->touched);
  assert_ok (ctx, vd_store_sync_always (ctx, st));
  assert_false (st->touched);
  assert_int_equal (vd_store_zero (ctx, st, 0, 5, true), -EOPNOTSUPP);
  assert_false (st->touched);

  /* A FUA write does not hide an earlier one. */
  assert_ok (ctx, vd_store_pwrite (ctx, st, "", 1, 0, 0));
  assert_ok (ctx, vd_store_pwrite (ctx, st, "", 1, 0, VD_STORE_FUA));
  assert_true (st->touched);

  /* A failed sync leaves it as it was, and no later one mends it. */
  f->fail = EIO;
  assert_fails (ctx, vd_store_sync (ctx, st), EIO, "told");
  assert_true (st->touched);
  f->fail = 0;
  assert_fails (ctx, vd_store_sync (ctx, st), EIO, "an earlier sync failed");
  assert_true (st->touched);
  vd_store_close (st);
}

static void
test_zero_fallback (void **state)
{
  struct fake *f = fake_new (true);
  struct vd_store *st = &f->st;
  UNIT_CTX (ctx);

  (void) state;
  /* punch, else in place; what is not there is tried once only */
  f->can_zero = true;
  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 0, 100, true));
  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 0, 100, true));
  assert_int_equal (f->punches, 1);
  assert_int_equal (f->zeroes, 2);
  assert_int_equal (f->writes, 0);
  assert_true (st->no_punch);
  assert_false (st->no_zero);

  /* else written, 1 MiB at a time */
  f->can_zero = false;
  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 0, 100, true));
  assert_int_equal (f->writes, 1);
  assert_int_equal (f->longest, 100);
  assert_int_equal (vd_store_zero (ctx, st, 0, 100, false), -EOPNOTSUPP);
  assert_int_equal (ctx->error, 0);
  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 7, (5 << 20) / 2, false));
  assert_int_equal (f->zeroes, 3);
  assert_int_equal (f->writes, 4);
  assert_int_equal (f->longest, 1 << 20);

  f->fail = ENOSPC;
  assert_fails (ctx, vd_store_zero_or_write (ctx, st, 0, 3 << 20, false),
                ENOSPC, "told");
  assert_int_equal (f->writes, 5);
  vd_store_close (st);

  /* zeroing in place is not replaced by punching */
  f = fake_new (true);
  f->can_punch = true;
  assert_ok (ctx, vd_store_zero_or_write (ctx, &f->st, 0, 100, false));
  assert_int_equal (f->punches, 0);
  assert_int_equal (f->writes, 1);
  assert_ok (ctx, vd_store_zero_or_write (ctx, &f->st, 0, 100, true));
  assert_int_equal (f->punches, 1);
  assert_int_equal (f->writes, 1);
  vd_store_close (&f->st);
}

static void
test_left_out (void **state)
{
  struct fake *f = fake_new (true);
  uint64_t end;
  bool hole;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_store_allocate (ctx, &f->st, 100, 50));
  assert_int_equal (f->size, 150);
  assert_ok (ctx, vd_store_allocate (ctx, &f->st, 0, 50));
  assert_int_equal (f->size, 150);
  assert_int_equal (f->truncates, 1);
  assert_ok (ctx, vd_store_extent (ctx, &f->st, 20, &hole, &end));
  assert_false (hole);
  assert_true (end > 150);
  assert_ok (ctx, vd_store_cache (ctx, &f->st, 0, 100));
  vd_store_close (&f->st);
}

/* ---- the same on memory and on a file ---------------------------------- */

static void
check_store (struct vd_store *st)
{
  uint8_t a[300], b[300];
  struct iovec iov[4];
  uint64_t size, end;
  size_t i;
  bool hole;
  UNIT_CTX (ctx);

  for (i = 0; i < sizeof a; ++i)
    a[i] = i + 1;

  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 0);
  assert_ok (ctx, vd_store_pwrite (ctx, st, a, 300, 100, 0));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 400);
  assert_ok (ctx, vd_store_pread (ctx, st, b, 300, 0));
  assert_true (is_zero (b, 100));
  assert_memory_equal (b + 100, a, 200);

  /* vectors, with an empty one inside */
  memset (b, 0, sizeof b);
  iov[0] = (struct iovec) { b, 10 };
  iov[1] = (struct iovec) { NULL, 0 };
  iov[2] = (struct iovec) { b + 20, 1 };
  iov[3] = (struct iovec) { b + 30, 50 };
  assert_ok (ctx, vd_store_preadv (ctx, st, iov, 4, 100));
  assert_memory_equal (b, a, 10);
  assert_true (is_zero (b + 10, 10));
  assert_int_equal (b[20], a[10]);
  assert_memory_equal (b + 30, a + 11, 50);

  iov[0] = (struct iovec) { a + 100, 100 };
  iov[1] = (struct iovec) { NULL, 0 };
  iov[2] = (struct iovec) { a, 100 };
  assert_ok (ctx, vd_store_pwritev (ctx, st, iov, 3, 0, VD_STORE_FUA));
  assert_ok (ctx, vd_store_pread (ctx, st, b, 200, 0));
  assert_memory_equal (b, a + 100, 100);
  assert_memory_equal (b + 100, a, 100);

  /* the end */
  assert_fails (ctx, vd_store_pread (ctx, st, b, 300, 101), EIO,
                st->name);
  assert_non_null (strstr (ctx->message, "the file ends at 400"));
  assert_fails (ctx, vd_store_pread (ctx, st, b, 1, 1000000), EIO,
                "read of 1 bytes at offset 1000000: the file ends at 400");
  assert_ok (ctx, vd_store_pread (ctx, st, b, 0, 1000000));
  assert_ok (ctx, vd_store_pread (ctx, st, b, 300, 100));

  /* shrink and grow: zeroes */
  assert_ok (ctx, vd_store_truncate (ctx, st, 150));
  assert_ok (ctx, vd_store_truncate (ctx, st, 200));
  assert_ok (ctx, vd_store_pread (ctx, st, b, 100, 100));
  assert_memory_equal (b, a, 50);
  assert_true (is_zero (b + 50, 50));

  assert_ok (ctx, vd_store_allocate (ctx, st, 200, 100));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 300);
  assert_ok (ctx, vd_store_pread (ctx, st, b, 100, 200));
  assert_true (is_zero (b, 100));
  assert_ok (ctx, vd_store_allocate (ctx, st, 0, 10));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 300);

  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 10, 20, true));
  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 50, 20, false));
  assert_ok (ctx, vd_store_pread (ctx, st, b, 100, 0));
  assert_memory_equal (b, a + 100, 10);
  assert_true (is_zero (b + 10, 20));
  assert_memory_equal (b + 30, a + 130, 20);
  assert_true (is_zero (b + 50, 20));
  assert_memory_equal (b + 70, a + 170, 30);
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 300);

  assert_ok (ctx, vd_store_extent (ctx, st, 0, &hole, &end));
  assert_false (hole);
  assert_true (end > 0);
  assert_ok (ctx, vd_store_cache (ctx, st, 0, 300));
  assert_true (st->touched);
  assert_ok (ctx, vd_store_sync (ctx, st));
  assert_false (st->touched);
}

static void
test_memory (void **state)
{
  static const uint8_t data[5] = { 1, 2, 3, 4, 5 };
  const uint8_t *now;
  struct vd_store *st;
  size_t size;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_memory_open (ctx, "m", NULL, 0, true, &st));
  check_store (st);
  assert_fails (ctx, vd_store_zero (ctx, st, 299, 2, false), EIO, "ends at");
  assert_fails (ctx, vd_store_truncate (ctx, st, UINT64_C (1) << 50),
                ENOSPC, "m: ");
  vd_store_close (st);

  assert_ok (ctx, vd_memory_open (ctx, "m", data, 5, true, &st));
  assert_ok (ctx, vd_store_pwrite (ctx, st, "x", 1, 4, 0));
  now = vd_memory_data (st, &size);
  assert_int_equal (size, 5);
  assert_memory_equal (now, "\1\2\3\4x", 5);
  vd_store_close (st);

  assert_ok (ctx, vd_memory_open (ctx, "m", NULL, 5, false, &st));
  now = vd_memory_data (st, &size);
  assert_true (is_zero (now, size) && size == 5);
  assert_fails (ctx, vd_store_pwrite (ctx, st, "x", 1, 4, 0), EROFS, "m: ");
  vd_store_close (st);
}

static void
test_file (void **state)
{
  struct vd_store *st;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_create (ctx, unit_path ("f"), VD_LOCK_AUTO, &st));
  check_store (st);
  vd_store_close (st);
  /* as on a file system that can neither punch nor zero */
  assert_ok (ctx, vd_file_create (ctx, unit_path ("g"), VD_LOCK_AUTO, &st));
  st->no_punch = st->no_zero = true;
  check_store (st);
  vd_store_close (st);
}

/* Holes, as far as the file system under TMPDIR has them. */
static void
test_file_holes (void **state)
{
  struct vd_store *st;
  uint8_t buf[4096];
  uint64_t end, size;
  bool hole;
  UNIT_CTX (ctx);

  (void) state;
  memset (buf, 1, sizeof buf);
  assert_ok (ctx, vd_file_create (ctx, unit_path ("h"), VD_LOCK_AUTO, &st));
  assert_ok (ctx, vd_store_truncate (ctx, st, 4 << 20));
  assert_ok (ctx, vd_store_pwrite (ctx, st, buf, 4096, 1 << 20, 0));
  assert_ok (ctx, vd_store_extent (ctx, st, 1000, &hole, &end));
  if (hole) {
    assert_true (end > 1000 && end <= 1 << 20);
    assert_ok (ctx, vd_store_extent (ctx, st, (1 << 20) + 5, &hole, &end));
    assert_false (hole);
    assert_true (end >= (1 << 20) + 4096 && end <= 4 << 20);
    assert_ok (ctx, vd_store_extent (ctx, st, 3 << 20, &hole, &end));
    assert_true (hole);
    assert_true (end >= 4 << 20);
    /* Nothing is there: that is no zeroes. */
    assert_ok (ctx, vd_store_extent (ctx, st, 40 << 20, &hole, &end));
    assert_false (hole);
  }
  else
    print_message ("no holes on this file system\n");

  if (vd_store_zero (ctx, st, 1 << 20, 4096, true) == 0) {
    assert_ok (ctx, vd_store_pread (ctx, st, buf, 4096, 1 << 20));
    assert_true (is_zero (buf, 4096));
    assert_ok (ctx, vd_store_extent (ctx, st, (1 << 20) + 5, &hole, &end));
    assert_true (hole);
  }
  /* zeroing keeps the size */
  assert_ok (ctx, vd_store_zero_or_write (ctx, st, 0, 4 << 20, false));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_int_equal (size, 4 << 20);
  vd_store_close (st);
}

/* More vectors than a system call takes. */
static void
test_file_vectors (void **state)
{
  enum { N = 3000 };
  static struct iovec iov[N];
  static uint8_t a[N * 3], b[N * 3];
  struct vd_store *st;
  unsigned flags;
  size_t i;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < sizeof a; ++i)
    a[i] = i * 7;
  for (flags = 0; flags <= VD_STORE_FUA; flags += VD_STORE_FUA) {
    assert_ok (ctx, vd_file_create (ctx, unit_path (flags ? "v" : "w"),
                                    VD_LOCK_AUTO, &st));
    for (i = 0; i < N; ++i)
      iov[i] = (struct iovec) { a + 3 * i, 3 };
    assert_ok (ctx, vd_store_pwritev (ctx, st, iov, N, 11, flags));
    for (i = 0; i < N; ++i)
      iov[i] = (struct iovec) { b + 3 * i, 3 };
    assert_ok (ctx, vd_store_preadv (ctx, st, iov, N, 11));
    assert_memory_equal (a, b, sizeof a);
    memset (b, 0, sizeof b);
    vd_store_close (st);
  }
}

/* A write that does not fit says what to do; what fits is written first, so
 * this also is a short write.
 */
static void
test_file_limit (void **state)
{
  static uint8_t buf[8192];
  struct rlimit old, limit;
  struct vd_store *st;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_create (ctx, unit_path ("l"), VD_LOCK_AUTO, &st));
  assert_int_equal (getrlimit (RLIMIT_FSIZE, &old), 0);
  limit = old;
  limit.rlim_cur = 4096;
  signal (SIGXFSZ, SIG_IGN);
  assert_int_equal (setrlimit (RLIMIT_FSIZE, &limit), 0);
  assert_ok (ctx, vd_store_pwrite (ctx, st, buf, 4096, 0, 0));
  assert_ok (ctx, vd_store_sync (ctx, st));
  assert_fails (ctx, vd_store_pwrite (ctx, st, buf, 8192, 0, 0),
                EFBIG, "ulimit");
  assert_true (st->touched);
  assert_fails (ctx, vd_store_truncate (ctx, st, 5000), EFBIG, "ulimit");
  assert_int_equal (setrlimit (RLIMIT_FSIZE, &old), 0);
  vd_store_close (st);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_ranges),
    cmocka_unit_test (test_read_only),
    cmocka_unit_test (test_touched),
    cmocka_unit_test (test_zero_fallback),
    cmocka_unit_test (test_left_out),
    cmocka_unit_test (test_memory),
    cmocka_unit_test (test_file),
    cmocka_unit_test (test_file_holes),
    cmocka_unit_test (test_file_vectors),
    cmocka_unit_test (test_file_limit),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
