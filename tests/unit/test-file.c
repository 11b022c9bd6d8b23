/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opening files, and the locks.  Locks belong to the open file description,
 * so two stores of one process keep each other out like two processes.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "file.h"

static void
test_kinds (void **state)
{
  struct vd_store *st;
  const char *path;
  UNIT_CTX (ctx);

  (void) state;
  assert_fails (ctx, vd_file_open (ctx, unit_path ("missing"), false,
                                   VD_LOCK_AUTO, NULL, &st),
                ENOENT, "missing");
  assert_fails (ctx, vd_file_open (ctx, unit_dir, false, VD_LOCK_AUTO,
                                   NULL, &st), EISDIR, unit_dir);
  assert_fails (ctx, vd_file_open (ctx, unit_dir, true, VD_LOCK_AUTO,
                                   NULL, &st), EISDIR, unit_dir);

  path = unit_path ("fifo");
  assert_int_equal (mkfifo (path, 0600), 0);
  alarm (10);
  assert_fails (ctx, vd_file_open (ctx, path, false, VD_LOCK_AUTO,
                                   NULL, &st), EINVAL, "fifo");
  assert_fails (ctx, vd_file_open (ctx, path, true, VD_LOCK_AUTO,
                                   NULL, &st), EINVAL, "fifo");
  alarm (0);
  assert_fails (ctx, vd_file_open (ctx, "/dev/null", false, VD_LOCK_AUTO,
                                   NULL, &st), EINVAL, "/dev/null");

  path = unit_file ("f", 10, 1);
  assert_int_equal (symlink (path, unit_path ("link")), 0);
  assert_ok (ctx, vd_file_open (ctx, unit_path ("link"), true, VD_LOCK_AUTO,
                                NULL, &st));
  assert_true (st->writable);
  assert_false (st->fixed_size);
  vd_store_close (st);

  assert_int_equal (chmod (path, 0400), 0);
  if (geteuid () != 0)
    assert_fails (ctx, vd_file_open (ctx, path, true, VD_LOCK_AUTO,
                                     NULL, &st), EACCES, path);
  assert_ok (ctx, vd_file_open (ctx, path, false, VD_LOCK_AUTO, NULL, &st));
  assert_false (st->writable);
  vd_store_close (st);
}

static void
test_create (void **state)
{
  const char *path = unit_path ("new");
  struct vd_store *st, *other;
  struct stat sb;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_create (ctx, path, VD_LOCK_AUTO, &st));
  assert_ok (ctx, vd_file_sync_folder (ctx, path));
  assert_int_equal (stat (path, &sb), 0);
  assert_int_equal (sb.st_mode & 0177, 0);
  assert_fails (ctx, vd_file_create (ctx, path, VD_LOCK_AUTO, &other),
                EEXIST, path);
  assert_fails (ctx, vd_file_open (ctx, path, false, VD_LOCK_AUTO,
                                   NULL, &other), EBUSY, path);
  vd_store_close (st);

  assert_fails (ctx, vd_file_create (ctx, unit_path ("no/where"),
                                     VD_LOCK_AUTO, &st), ENOENT, "no/where");
  assert_fails (ctx, vd_file_sync_folder (ctx, unit_path ("no/where")),
                ENOENT, "no");
  assert_ok (ctx, vd_file_sync_folder (ctx, "here"));
  assert_ok (ctx, vd_file_sync_folder (ctx, "/there"));
}

static void
test_past_end (void **state)
{
  const char *path = unit_file ("short", 1000, 1);
  struct vd_store *st;
  char buf[600], want[4400];
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_open (ctx, path, false, VD_LOCK_AUTO, NULL, &st));
  assert_ok (ctx, vd_store_pread (ctx, st, buf, 600, 400));
  snprintf (want, sizeof want,
            "%s: read of 600 bytes at offset 512: the file ends at 1000",
            path);
  assert_fails (ctx, vd_store_pread (ctx, st, buf, 600, 512), EIO, want);
  vd_store_close (st);
}

/* ---- locks ------------------------------------------------------------ */

/* Which of the bytes 100 to 103 and 200 to 203 somebody holds, as 8 bits. */
static unsigned
held (const char *path)
{
  int fd = open (path, O_RDWR | O_CLOEXEC);
  unsigned i, bits = 0;

  assert_true (fd >= 0);
  for (i = 0; i < 8; ++i) {
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET,
                        .l_start = (i < 4 ? 100 : 196) + i, .l_len = 1 };

    assert_int_equal (fcntl (fd, F_OFD_GETLK, &fl), 0);
    if (fl.l_type != F_UNLCK) {
      assert_int_equal (fl.l_type, F_RDLCK);
      bits |= 1u << i;
    }
  }
  close (fd);
  return bits;
}

#define USE(p) (1u << (p))
#define KEEP(p) (1u << (4 + (p)))
#define READER_BITS (USE (0) | KEEP (1) | KEEP (3))
#define WRITER_BITS (READER_BITS | USE (1) | USE (3))

static bool
have_locks (const char *path)
{
  struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET,
                      .l_start = 0, .l_len = 1 };
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  bool ok = fcntl (fd, F_OFD_SETLK, &fl) == 0;

  close (fd);
  return ok;
}

static struct vd_store *
open_it (const char *path, bool write, enum vd_lock lock)
{
  struct vd_store *st;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_file_open (ctx, path, write, lock, NULL, &st));
  return st;
}

static void
refuse_it (const char *path, bool write, bool writer)
{
  struct vd_store *st;
  bool by_writer = !writer;
  UNIT_CTX (ctx);

  assert_fails (ctx, vd_file_open (ctx, path, write, VD_LOCK_AUTO,
                                   &by_writer, &st),
                EBUSY, writer ? "is open for writing in another process" :
                "is open for reading in another process");
  assert_int_equal (by_writer, writer);
  assert_non_null (strstr (ctx->message, path));
  assert_non_null (strstr (ctx->message, "lock=off"));
}

static void
test_locks (void **state)
{
  const char *path = unit_file ("lock", 10, 1);
  struct vd_store *a, *b;

  (void) state;
  if (!have_locks (path))
    skip ();

  /* a writer keeps everybody out */
  a = open_it (path, true, VD_LOCK_AUTO);
  assert_int_equal (held (path), WRITER_BITS);
  refuse_it (path, true, true);
  refuse_it (path, false, true);
  assert_int_equal (held (path), WRITER_BITS);
  b = open_it (path, true, VD_LOCK_OFF);
  vd_store_close (b);
  b = open_it (path, false, VD_LOCK_OFF);
  vd_store_close (b);
  assert_int_equal (held (path), WRITER_BITS);
  vd_store_close (a);
  assert_int_equal (held (path), 0);

  /* readers share, and keep writers out until the last has gone */
  a = open_it (path, false, VD_LOCK_AUTO);
  assert_int_equal (held (path), READER_BITS);
  b = open_it (path, false, VD_LOCK_AUTO);
  refuse_it (path, true, false);
  vd_store_close (a);
  refuse_it (path, true, false);
  assert_int_equal (held (path), READER_BITS);
  vd_store_close (b);
  a = open_it (path, true, VD_LOCK_AUTO);
  vd_store_close (a);

  a = open_it (path, true, VD_LOCK_OFF);
  assert_int_equal (held (path), 0);
  vd_store_close (a);
}

/* A program that locks the whole file in its own way is respected. */
static void
test_foreign_lock (void **state)
{
  const char *path = unit_file ("foreign", 10, 1);
  struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  int fd;

  (void) state;
  if (!have_locks (path))
    skip ();
  fd = open (path, O_RDWR | O_CLOEXEC);
  assert_int_equal (fcntl (fd, F_OFD_SETLK, &fl), 0);
  refuse_it (path, false, true);
  refuse_it (path, true, true);
  close (fd);
  vd_store_close (open_it (path, true, VD_LOCK_AUTO));
}

static void
test_reopen (void **state)
{
  const char *path = unit_file ("reopen", 10, 1);
  struct vd_store *a, *b, *c;
  bool writer;
  char x;
  UNIT_CTX (ctx);

  (void) state;
  if (!have_locks (path))
    skip ();

  /* another reader is in the way */
  a = open_it (path, false, VD_LOCK_AUTO);
  b = open_it (path, false, VD_LOCK_AUTO);
  writer = true;
  assert_fails (ctx, vd_file_reopen_write (ctx, a, VD_LOCK_AUTO, &writer, &c),
                EBUSY, "is open for reading in another process");
  assert_false (writer);
  vd_store_close (b);
  /* ... and a has its lock back */
  assert_int_equal (held (path), READER_BITS);
  refuse_it (path, true, false);

  /* the lock moves to the new one */
  assert_ok (ctx, vd_file_reopen_write (ctx, a, VD_LOCK_AUTO, NULL, &b));
  assert_true (b->writable);
  assert_string_equal (b->name, path);
  assert_int_equal (held (path), WRITER_BITS);
  assert_ok (ctx, vd_store_pwrite (ctx, b, "x", 1, 0, 0));
  assert_ok (ctx, vd_store_pread (ctx, a, &x, 1, 0));
  assert_int_equal (x, 'x');
  refuse_it (path, false, true);
  vd_store_close (a);
  assert_int_equal (held (path), WRITER_BITS);
  vd_store_close (b);
  assert_int_equal (held (path), 0);

  /* one that had no lock meets a writer */
  a = open_it (path, false, VD_LOCK_OFF);
  b = open_it (path, true, VD_LOCK_AUTO);
  writer = false;
  assert_fails (ctx, vd_file_reopen_write (ctx, a, VD_LOCK_AUTO, &writer, &c),
                EBUSY, "is open for writing in another process");
  assert_true (writer);
  vd_store_close (b);
  assert_int_equal (held (path), 0);

  /* without locks */
  assert_ok (ctx, vd_file_reopen_write (ctx, a, VD_LOCK_OFF, NULL, &b));
  assert_int_equal (held (path), 0);
  vd_store_close (b);
  vd_store_close (a);
}

/* The inode counts, not the name. */
static void
test_reopen_renamed (void **state)
{
  const char *path = unit_file ("before", 10, 'a'), *moved;
  struct vd_store *a, *b;
  struct stat sb;
  char x;
  UNIT_CTX (ctx);

  (void) state;
  a = open_it (path, false, VD_LOCK_AUTO);
  moved = unit_path ("after");
  assert_int_equal (rename (path, moved), 0);
  unit_file ("before", 20, 'b');
  assert_ok (ctx, vd_file_reopen_write (ctx, a, VD_LOCK_AUTO, NULL, &b));
  assert_ok (ctx, vd_store_pread (ctx, b, &x, 1, 0));
  assert_int_equal (x, 'a');
  assert_ok (ctx, vd_store_truncate (ctx, b, 5));
  assert_int_equal (stat (moved, &sb), 0);
  assert_int_equal (sb.st_size, 5);
  vd_store_close (a);
  vd_store_close (b);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_kinds),
    cmocka_unit_test (test_create),
    cmocka_unit_test (test_past_end),
    cmocka_unit_test (test_locks),
    cmocka_unit_test (test_foreign_lock),
    cmocka_unit_test (test_reopen),
    cmocka_unit_test (test_reopen_renamed),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
