/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Files that are opened when they are read: the limit, which one is closed,
 * threads, and what may have happened to a file meanwhile.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "lazy.h"
#include "rounding.h"
#include "sim.h"

/* Counts what a folder opens; what is open is closed by its own stores. */
struct counting {
  struct vd_folder f;
  struct vd_folder *inner;
  _Atomic unsigned opens;
  char last[64];                /* only for one thread */
};

static struct counting *
counting_of (struct vd_folder *f)
{
  return (struct counting *) f;
}

static int
counting_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool write, bool device, bool *ret_writer,
               struct vd_store **ret)
{
  struct counting *c = counting_of (f);

  c->opens++;
  return vd_folder_open (ctx, c->inner, name, write, device, ret_writer, ret);
}

static int
counting_stat (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool device, struct stat *ret)
{
  return vd_folder_stat (ctx, counting_of (f)->inner, name, device, ret);
}

static int
counting_again (struct vd_ctx *ctx, struct vd_folder *f,
                struct vd_folder **ret)
{
  return vd_folder_again (ctx, counting_of (f)->inner, NULL, 0, ret);
}

static void
counting_close (struct vd_folder *f)
{
  vd_folder_close (counting_of (f)->inner);
  free (f);
}

static const struct vd_folder_ops counting_ops = {
  .open = counting_open,
  .stat = counting_stat,
  .again = counting_again,
  .close = counting_close,
};

static struct counting *
counting_folder (void)
{
  struct counting *c = calloc (1, sizeof *c);
  UNIT_CTX (ctx);

  assert_non_null (c);
  c->f.ops = &counting_ops;
  assert_ok (ctx, vd_folder_of (ctx, unit_path ("x"), NULL, VD_LOCK_AUTO,
                                &c->inner));
  return c;
}

/* A set with a limit of its own. */
static struct vd_lazy *
new_set (struct vd_folder *f, unsigned max)
{
  struct vd_open_limit *limit = vd_open_limit_new (max);
  struct vd_lazy *set;
  UNIT_CTX (ctx);

  assert_non_null (limit);
  assert_ok (ctx, vd_lazy_new (ctx, f, limit, &set));
  vd_open_limit_free (limit);
  return set;
}

/* Descriptors of this process on files of the test. */
static unsigned
open_files (void)
{
  unsigned n = 0;
  int fd;

  for (fd = 3; fd < 1024; ++fd) {
    char link[32], target[4200];
    ssize_t len;

    snprintf (link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink (link, target, sizeof target - 1);
    if (len <= 0)
      continue;
    target[len] = '\0';
    if (strncmp (target, unit_dir, strlen (unit_dir)) == 0 &&
        target[strlen (unit_dir)] == '/')
      n++;
  }
  return n;
}

static char
first_byte (struct vd_store *st)
{
  char c = 0;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_store_pread (ctx, st, &c, 1, 0));
  return c;
}

static void
test_limit (void **state)
{
  struct counting *c = counting_folder ();
  struct vd_store *st[4];
  struct vd_lazy *set;
  uint64_t size;
  int i;
  UNIT_CTX (ctx);

  (void) state;
  set = new_set (&c->f, 2);
  for (i = 0; i < 4; ++i) {
    char name[8] = { 'l', '0' + i, '\0' };

    unit_file (name, 10 + i, 'A' + i);
    assert_ok (ctx, vd_lazy_open (ctx, set, name, false, &st[i]));
    assert_false (st[i]->writable);
    assert_false (st[i]->fixed_size);
    assert_non_null (strstr (st[i]->name, name));
  }
  /* Those that came first have stayed open. */
  assert_int_equal (open_files (), 2);
  assert_int_equal (c->opens, 4);
  for (i = 0; i < 4; ++i) {
    assert_ok (ctx, vd_store_get_size (ctx, st[i], &size));
    assert_int_equal (size, 10 + i);
  }
  assert_int_equal (c->opens, 4);

  assert_int_equal (first_byte (st[0]), 'A');
  assert_int_equal (first_byte (st[1]), 'B');
  assert_int_equal (c->opens, 4);

  /* Both were used since one was opened last: the older one goes. */
  assert_int_equal (first_byte (st[2]), 'C');
  assert_int_equal (c->opens, 5);
  assert_int_equal (open_files (), 2);
  assert_int_equal (first_byte (st[1]), 'B');
  assert_int_equal (c->opens, 5);
  for (i = 0; i < 10; ++i) {
    int open_one = c->opens;
    char name[3] = { 0 };

    /* The one that is read all the time is never closed. */
    assert_int_equal (first_byte (st[2]), 'C');
    assert_int_equal (c->opens, open_one);
    name[0] = first_byte (st[i & 1 ? 3 : 0]);
    assert_int_equal (name[0], i & 1 ? 'D' : 'A');
    assert_int_equal (open_files (), 2);
  }

  /* The set may go before its stores. */
  vd_lazy_free (set);
  assert_int_equal (first_byte (st[1]), 'B');
  for (i = 0; i < 4; ++i)
    vd_store_close (st[i]);
  assert_int_equal (open_files (), 0);
  vd_folder_close (&c->f);
  vd_lazy_free (NULL);
}

/* Two images, of which one is read and then the other. */
static void
test_shared (void **state)
{
  struct vd_open_limit *limit = vd_open_limit_new (20);
  struct counting *c[2] = { counting_folder (), counting_folder () };
  struct vd_store *st[2][16];
  struct vd_lazy *set[2];
  int i, j;
  UNIT_CTX (ctx);

  (void) state;
  assert_non_null (limit);
  for (j = 0; j < 2; ++j) {
    assert_ok (ctx, vd_lazy_new (ctx, &c[j]->f, limit, &set[j]));
    for (i = 0; i < 16; ++i) {
      char name[8] = { 's', '0' + j, 'a' + i, '\0' };

      unit_file (name, 4, 'a' + 16 * j + i);
      assert_ok (ctx, vd_lazy_open (ctx, set[j], name, false, &st[j][i]));
    }
  }
  assert_int_equal (open_files (), 20);
  for (j = 1; j >= 0; --j) {
    for (i = 0; i < 16; ++i)
      assert_int_equal (first_byte (st[j][i]), (char) ('a' + 16 * j + i));
    assert_int_equal (open_files (), 20);
    /* The idle one's files made room for all of these. */
    c[j]->opens = 0;
    for (i = 0; i < 16; ++i)
      assert_int_equal (first_byte (st[j][i]), (char) ('a' + 16 * j + i));
    assert_int_equal (c[j]->opens, 0);
  }

  /* Files that stay open leave less. */
  assert_false (vd_open_limit_keep (limit, 11, false));
  assert_false (vd_open_limit_keep (limit, SIZE_MAX, false));
  assert_true (vd_open_limit_keep (limit, 10, false));
  assert_false (vd_open_limit_keep (limit, 1, false));
  assert_true (vd_open_limit_keep (limit, 0, false));
  for (i = 0; i < 16; ++i)
    assert_int_equal (first_byte (st[1][i]), (char) ('a' + 16 + i));
  assert_int_equal (open_files (), 10);
  /* But not too little. */
  assert_true (vd_open_limit_keep (limit, 1000, true));
  for (i = 0; i < 16; ++i)
    assert_int_equal (first_byte (st[0][i]), (char) ('a' + i));
  assert_int_equal (open_files (), 8);
  vd_open_limit_give (limit, 1010);
  for (i = 0; i < 16; ++i)
    assert_int_equal (first_byte (st[0][i]), (char) ('a' + i));
  assert_true (open_files () >= 16);

  vd_open_limit_free (limit);
  for (j = 0; j < 2; ++j) {
    for (i = 0; i < 16; ++i)
      vd_store_close (st[j][i]);
    vd_lazy_free (set[j]);
    vd_folder_close (&c[j]->f);
  }
  assert_int_equal (open_files (), 0);
  vd_open_limit_free (NULL);
}

/* The limit is one thing, what the process really can have another. */
static void
test_no_descriptors (void **state)
{
  struct counting *c = counting_folder ();
  struct vd_lazy *set = new_set (&c->f, 100);
  struct rlimit was, few;
  struct vd_store *st[12];
  int hogs[64], nhogs = 0, i, round;
  char byte;
  UNIT_CTX (ctx);

  (void) state;
  assert_int_equal (getrlimit (RLIMIT_NOFILE, &was), 0);
  /* Descriptors are given out from the lowest on. */
  few = was;
  i = dup (0);
  assert_true (i > 0);
  close (i);
  few.rlim_cur = i + 6;
  assert_int_equal (setrlimit (RLIMIT_NOFILE, &few), 0);
  for (i = 0; i < 12; ++i) {
    char name[8] = { 'n', 'a' + i, '\0' };

    unit_file (name, 4, 'a' + i);
    assert_ok (ctx, vd_lazy_open (ctx, set, name, false, &st[i]));
  }
  for (round = 0; round < 3; ++round)
    for (i = 0; i < 12; ++i)
      assert_int_equal (first_byte (st[i]), 'a' + i);
  assert_true (open_files () > 1);

  /* Others have all there are: ours go, and when that is not enough it is an
   * error, until there are some again.
   */
  while (nhogs < 64 && (hogs[nhogs] = dup (0)) != -1)
    nhogs++;
  assert_int_equal (first_byte (st[11]), 'l');
  for (i = 0; i < 12; ++i) {
    while (nhogs < 64 && (hogs[nhogs] = dup (0)) != -1)
      nhogs++;
    vd_ctx_init (ctx, NULL);
    if (vd_store_pread (ctx, st[i], &byte, 1, 0) == 0)
      continue;
    assert_int_equal (ctx->error, EMFILE);
    assert_non_null (strstr (ctx->message, "/n"));
  }
  assert_int_equal (ctx->error, EMFILE);
  while (nhogs > 0)
    close (hogs[--nhogs]);
  for (i = 0; i < 12; ++i)
    assert_int_equal (first_byte (st[i]), 'a' + i);
  assert_int_equal (setrlimit (RLIMIT_NOFILE, &was), 0);
  for (i = 0; i < 12; ++i)
    vd_store_close (st[i]);
  vd_lazy_free (set);
  vd_folder_close (&c->f);
}

static void
test_refused (void **state)
{
  struct counting *c = counting_folder ();
  struct vd_store *st;
  struct vd_lazy *set;
  UNIT_CTX (ctx);

  (void) state;
  set = new_set (&c->f, 1);
  assert_fails (ctx, vd_lazy_open (ctx, set, "missing", false, &st), ENOENT,
                "missing");
  assert_fails (ctx, vd_lazy_open (ctx, set, "../x", false, &st), EACCES,
                "allow-paths");
  assert_fails (ctx, vd_lazy_open (ctx, set, ".", false, &st), EISDIR,
                "directory");
  assert_int_equal (mkfifo (unit_path ("fifo"), 0600), 0);
  alarm (10);
  assert_fails (ctx, vd_lazy_open (ctx, set, "fifo", false, &st), EINVAL,
                "fifo");
  alarm (0);
  if (geteuid () != 0) {
    unit_file ("secret", 1, 's');
    assert_int_equal (chmod (unit_path ("secret"), 0), 0);
    assert_fails (ctx, vd_lazy_open (ctx, set, "secret", false, &st), EACCES,
                  "secret");
  }
  vd_lazy_free (set);
  vd_folder_close (&c->f);
}

static void
test_replaced (void **state)
{
  struct counting *c = counting_folder ();
  struct vd_store *a, *b, *w;
  struct vd_lazy *set;
  uint64_t size;
  char byte;
  UNIT_CTX (ctx);

  (void) state;
  unit_file ("ra", 4, 'a');
  unit_file ("rb", 4, 'b');
  set = new_set (&c->f, 1);
  assert_ok (ctx, vd_lazy_open (ctx, set, "ra", false, &a));
  assert_ok (ctx, vd_lazy_open (ctx, set, "rb", false, &b));
  assert_int_equal (first_byte (b), 'b');

  /* a is closed now. */
  unit_file ("rc", 4, 'c');
  assert_int_equal (rename (unit_path ("ra"), unit_path ("old")), 0);
  assert_int_equal (rename (unit_path ("rc"), unit_path ("ra")), 0);
  assert_fails (ctx, vd_store_pread (ctx, a, &byte, 1, 0), ESTALE, "ra");
  assert_int_equal (first_byte (b), 'b');
  assert_int_equal (unlink (unit_path ("ra")), 0);
  assert_fails (ctx, vd_store_pread (ctx, a, &byte, 1, 0), ENOENT, "ra");
  assert_int_equal (symlink ("/etc/passwd", unit_path ("ra")), 0);
  assert_fails (ctx, vd_store_pread (ctx, a, &byte, 1, 0), EACCES, "ra");
  assert_int_equal (unlink (unit_path ("ra")), 0);
  assert_int_equal (mkfifo (unit_path ("ra"), 0600), 0);
  alarm (10);
  assert_fails (ctx, vd_store_pread (ctx, a, &byte, 1, 0), EINVAL, "ra");
  alarm (0);
  assert_int_equal (unlink (unit_path ("ra")), 0);

  /* The failures have not used the limit up. */
  assert_int_equal (first_byte (b), 'b');
  assert_int_equal (rename (unit_path ("old"), unit_path ("ra")), 0);
  assert_int_equal (first_byte (a), 'a');

  /* b is closed: another process writes it, then it has grown. */
  assert_ok (ctx, vd_file_open (ctx, unit_path ("rb"), true, VD_LOCK_AUTO,
                                NULL, &w));
  assert_fails (ctx, vd_store_pread (ctx, b, &byte, 1, 0), EBUSY, "rb");
  assert_ok (ctx, vd_store_truncate (ctx, w, 9));
  vd_store_close (w);
  assert_int_equal (first_byte (b), 'b');
  assert_ok (ctx, vd_store_get_size (ctx, b, &size));
  assert_int_equal (size, 9);
  assert_fails (ctx, vd_store_pread (ctx, b, &byte, 1, 9), EIO, "rb");

  /* While it is open, it is locked. */
  assert_fails (ctx, vd_file_open (ctx, unit_path ("rb"), true, VD_LOCK_AUTO,
                                   NULL, &w), EBUSY, "rb");
  assert_fails (ctx, vd_store_pwrite (ctx, b, "x", 1, 0, 0), EROFS, "rb");
  assert_ok (ctx, vd_store_sync_always (ctx, b));
  vd_store_close (a);
  vd_store_close (b);
  vd_lazy_free (set);
  vd_folder_close (&c->f);
}

static void
test_holes (void **state)
{
  struct counting *c = counting_folder ();
  struct vd_store *st, *real;
  struct vd_lazy *set;
  bool hole, real_hole;
  uint64_t end, real_end;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_file_create (ctx, unit_path ("holes"), VD_LOCK_OFF,
                                  &real));
  assert_ok (ctx, vd_store_truncate (ctx, real, 1 << 20));
  assert_ok (ctx, vd_store_pwrite (ctx, real, "x", 1, 512 << 10, 0));
  set = new_set (&c->f, 1);
  assert_ok (ctx, vd_lazy_open (ctx, set, "holes", false, &st));
  assert_ok (ctx, vd_store_extent (ctx, st, 0, &hole, &end));
  assert_ok (ctx, vd_store_extent (ctx, real, 0, &real_hole, &real_end));
  assert_int_equal (hole, real_hole);
  assert_int_equal (end, real_end);
  assert_ok (ctx, vd_store_extent (ctx, st, 512 << 10, &hole, &end));
  assert_false (hole);
  assert_ok (ctx, vd_store_cache (ctx, st, 0, 1 << 20));
  vd_store_close (st);
  vd_store_close (real);
  vd_lazy_free (set);
  vd_folder_close (&c->f);
}

/* An image that is open read-only is opened for writing: its lazy files must
 * not be in the way, and go on being read.
 */
static void
test_reopen (void **state)
{
  struct counting *c = counting_folder ();
  struct vd_store *a, *b, *w, *other, *list[2];
  struct vd_folder *again;
  struct vd_lazy *set;
  bool writer;
  UNIT_CTX (ctx);

  (void) state;
  unit_file ("wa", 4, 'a');
  unit_file ("wb", 4, 'b');
  set = new_set (&c->f, 1);
  assert_ok (ctx, vd_lazy_open (ctx, set, "wa", false, &a));
  assert_ok (ctx, vd_lazy_open (ctx, set, "wb", false, &b));
  list[0] = b;
  list[1] = a;
  assert_ok (ctx, vd_folder_again (ctx, c->inner, list, 2, &again));

  /* Open or not. */
  for (int i = 0; i < 2; ++i) {
    assert_int_equal (first_byte (i ? a : b), i ? 'a' : 'b');
    assert_ok (ctx, vd_folder_open (ctx, again, "wa", true, false, NULL, &w));
    assert_ok (ctx, vd_store_pwrite (ctx, w, "A", 1, 0, 0));
    assert_int_equal (first_byte (a), 'A');
    assert_int_equal (first_byte (b), 'b');     /* a is closed now */
    assert_int_equal (first_byte (a), 'A');
    assert_fails (ctx, vd_file_open (ctx, unit_path ("wa"), false,
                                     VD_LOCK_AUTO, &writer, &other),
                  EBUSY, "wa");
    assert_true (writer);
    assert_ok (ctx, vd_store_pwrite (ctx, w, "a", 1, 0, 0));

    /* The rest of the reopening failed: back to where we were. */
    if (i)
      assert_int_equal (first_byte (b), 'b');
    assert_ok (ctx, vd_file_relock (ctx, a, VD_LOCK_AUTO));
    assert_ok (ctx, vd_file_relock (ctx, b, VD_LOCK_AUTO));
    vd_store_close (w);
    assert_int_equal (first_byte (a), 'a');
    assert_fails (ctx, vd_file_open (ctx, unit_path ("wa"), true,
                                     VD_LOCK_AUTO, &writer, &other),
                  EBUSY, "wa");
    assert_false (writer);
    assert_int_equal (first_byte (b), 'b');
    assert_ok (ctx, vd_file_open (ctx, unit_path ("wa"), true, VD_LOCK_AUTO,
                                  &writer, &other));
    vd_store_close (other);
  }

  /* Others who read are in the way. */
  assert_ok (ctx, vd_file_open (ctx, unit_path ("wa"), false, VD_LOCK_AUTO,
                                NULL, &other));
  assert_fails (ctx, vd_folder_open (ctx, again, "wa", true, false, &writer,
                                     &w), EBUSY, "wa");
  assert_false (writer);
  assert_int_equal (first_byte (a), 'a');
  vd_store_close (other);

  vd_folder_close (again);
  vd_store_close (a);
  vd_store_close (b);
  vd_lazy_free (set);
  vd_folder_close (&c->f);
}

/* ---- threads ------------------------------------------------------------ */

#define FILES 24
#define THREADS 8
#define READS 2000

struct crowd {
  struct vd_store *st[FILES];
  unsigned limit;
  _Atomic unsigned most;        /* descriptors seen at once */
  _Atomic bool failed;
};

struct reader {
  pthread_t thread;
  struct crowd *crowd;
  unsigned seed;
};

static void *
read_many (void *opaque)
{
  struct reader *me = opaque;
  struct crowd *crowd = me->crowd;
  struct vd_ctx ctx;
  int i;

  vd_ctx_init (&ctx, NULL);
  for (i = 0; i < READS; ++i) {
    unsigned k = rand_r (&me->seed) % FILES;
    uint8_t buf[3000];
    bool hole;
    uint64_t end;
    size_t j;

    memset (buf, 0, sizeof buf);
    if (vd_store_pread (&ctx, crowd->st[k], buf, sizeof buf, i % 1000) < 0 ||
        vd_store_extent (&ctx, crowd->st[k], 0, &hole, &end) < 0)
      crowd->failed = true;
    for (j = 0; j < sizeof buf; ++j)
      if (buf[j] != 'a' + k)
        crowd->failed = true;
    if (i % 64 == 0) {
      unsigned n = open_files ();

      if (n > crowd->most)
        crowd->most = n;
    }
  }
  return NULL;
}

static void
test_threads (void **state)
{
  static const unsigned limits[] = { 1, 4, FILES };
  struct counting *c = counting_folder ();
  struct crowd crowd = { .failed = false };
  struct reader readers[THREADS];
  struct vd_lazy *set;
  size_t l;
  int i;
  UNIT_CTX (ctx);

  (void) state;
  for (l = 0; l < sizeof limits / sizeof limits[0]; ++l) {
    set = new_set (&c->f, limits[l]);
    crowd.most = 0;
    c->opens = 0;
    for (i = 0; i < FILES; ++i) {
      char name[8] = { 't', 'a' + i, '\0' };

      unit_file (name, 4000, 'a' + i);
      assert_ok (ctx, vd_lazy_open (ctx, set, name, false, &crowd.st[i]));
    }
    for (i = 0; i < THREADS; ++i) {
      readers[i].crowd = &crowd;
      readers[i].seed = i;
      assert_int_equal (pthread_create (&readers[i].thread, NULL, read_many,
                                        &readers[i]), 0);
    }
    for (i = 0; i < THREADS; ++i)
      pthread_join (readers[i].thread, NULL);
    assert_false (crowd.failed);
    /* A thread that opens a file has up to two descriptors on it. */
    assert_true (crowd.most <= limits[l] + 2 * THREADS);
    if (limits[l] == FILES)
      assert_int_equal (c->opens, FILES);
    for (i = 0; i < FILES; ++i)
      assert_int_equal (first_byte (crowd.st[i]), 'a' + i);
    assert_true (open_files () <= max_u64 (limits[l], 1));
    for (i = 0; i < FILES; ++i)
      vd_store_close (crowd.st[i]);
    vd_lazy_free (set);
    assert_int_equal (open_files (), 0);
  }
  vd_folder_close (&c->f);
}

/* Over a simulated disk, with faults. */
static void
test_sim (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_folder *f;
  struct vd_lazy *set;
  struct vd_store *a, *b;
  char byte;
  UNIT_CTX (ctx);

  (void) state;
  assert_non_null (sim);
  assert_ok (ctx, vd_sim_folder (ctx, sim, &f));
  assert_ok (ctx, vd_folder_create (ctx, f, "a", &a));
  assert_ok (ctx, vd_store_pwrite (ctx, a, "a", 1, 0, 0));
  vd_store_close (a);
  assert_ok (ctx, vd_folder_create (ctx, f, "b", &b));
  assert_ok (ctx, vd_store_pwrite (ctx, b, "b", 1, 0, 0));
  vd_store_close (b);

  set = new_set (f, 1);
  for (int n = 1; n <= 3; ++n) {
    vd_sim_fail_at (sim, n, EIO, false);
    assert_fails (ctx, vd_lazy_open (ctx, set, "a", false, &a), EIO,
                  "simulated");
  }
  assert_ok (ctx, vd_lazy_open (ctx, set, "a", false, &a));
  assert_ok (ctx, vd_lazy_open (ctx, set, "b", false, &b));
  vd_sim_fail_at (sim, 1, EIO, false);
  assert_fails (ctx, vd_store_pread (ctx, b, &byte, 1, 0), EIO, "open");
  assert_int_equal (first_byte (b), 'b');
  assert_int_equal (first_byte (a), 'a');
  assert_fails (ctx, vd_file_reopen_write (ctx, a, VD_LOCK_AUTO, NULL, &b),
                ENOTSUP, "a");
  vd_store_close (a);
  vd_store_close (b);
  vd_lazy_free (set);
  vd_folder_close (f);
  vd_sim_free (sim);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_limit),
    cmocka_unit_test (test_shared),
    cmocka_unit_test (test_no_descriptors),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_replaced),
    cmocka_unit_test (test_holes),
    cmocka_unit_test (test_reopen),
    cmocka_unit_test (test_threads),
    cmocka_unit_test (test_sim),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
