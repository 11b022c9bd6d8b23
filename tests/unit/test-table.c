/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <pthread.h>

#include "byteorder.h"
#include "memory.h"
#include "rounding.h"
#include "table.h"

/* A store of junk with a table in it whose entry i is value (i). */
static uint32_t
value (uint64_t i)
{
  return i * 2654435761u + 12345;
}

static struct vd_store *
make_store (uint64_t offset, uint64_t n, size_t tail)
{
  size_t size = offset + n * 4 + tail, i;
  uint8_t *data = malloc (size);
  struct vd_store *st;
  UNIT_CTX (ctx);

  assert_non_null (data);
  memset (data, 0xee, size);
  for (i = 0; i < n; ++i)
    put_le32 (data + offset + 4 * i, value (i));
  assert_ok (ctx, vd_memory_open (ctx, "image", data, size, true, &st));
  free (data);
  return st;
}

static uint32_t
on_disk (struct vd_store *st, uint64_t offset, uint64_t i)
{
  size_t size;

  return get_le32 (vd_memory_data (st, &size) + offset + 4 * i);
}

/* ---- a store that counts reads, over another one ----------------------- */

struct counting {
  struct vd_store st;
  struct vd_store *under;
  _Atomic unsigned reads;
  unsigned writes, fail_write;
  uint64_t longest_write;
};

static int
counting_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  return vd_store_get_size (ctx, ((struct counting *) st)->under, ret);
}

static int
counting_preadv (struct vd_ctx *ctx, struct vd_store *st,
                 struct iovec *iov, int niov, uint64_t offset)
{
  struct counting *c = (struct counting *) st;

  c->reads++;
  return vd_store_preadv (ctx, c->under, iov, niov, offset);
}

static int
counting_pwritev (struct vd_ctx *ctx, struct vd_store *st,
                  struct iovec *iov, int niov, uint64_t offset,
                  unsigned flags)
{
  struct counting *c = (struct counting *) st;

  assert_int_equal (niov, 1);
  if (++c->writes == c->fail_write)
    return vd_error (ctx, EIO, "told to fail");
  assert_int_equal (offset % 512, 0);
  c->longest_write = max_u64 (c->longest_write, iov[0].iov_len);
  return vd_store_pwritev (ctx, c->under, iov, niov, offset, flags);
}

static int
counting_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  return vd_error (ctx, EIO, "%s: a table does not sync", st->name);
}

static void
counting_close (struct vd_store *st)
{
  vd_store_close (((struct counting *) st)->under);
  free (st);
}

static const struct vd_store_ops counting_ops = {
  .kind = "counting",
  .get_size = counting_get_size,
  .preadv = counting_preadv,
  .pwritev = counting_pwritev,
  .sync = counting_sync,
  .close = counting_close,
};

static struct counting *
make_counting (uint64_t offset, uint64_t n, size_t tail)
{
  struct counting *c = calloc (1, sizeof *c);

  assert_non_null (c);
  assert_int_equal (vd_store_init (&c->st, &counting_ops, "image", true), 0);
  c->under = make_store (offset, n, tail);
  return c;
}

/* ---- tests ------------------------------------------------------------ */

#define N 300007u               /* pages are 1024 entries; not a multiple */
#define RESIDENT ((size_t) N * 4)
#define WINDOWED (32u * 4352)   /* 32 pages, 2 in each stripe */

static const size_t memories[] = { RESIDENT, WINDOWED };

static void
test_read (void **state)
{
  static const uint64_t offsets[] = { 0, 512, 1048576, 7, 514 };
  size_t o, m;
  UNIT_CTX (ctx);

  (void) state;
  for (o = 0; o < sizeof offsets / sizeof offsets[0]; ++o) {
    struct vd_store *st = make_store (offsets[o], N, 0);

    for (m = 0; m < 2; ++m) {
      struct vd_table_pin pin;
      struct vd_table *t;
      uint64_t i;
      uint32_t v, j;

      assert_ok (ctx, vd_table_new (ctx, st, offsets[o], N, memories[m],
                                    &t));
      assert_false (vd_table_peek (t, 0, &v));
      for (i = 0; i < N; i += 997) {
        assert_ok (ctx, vd_table_get (ctx, t, i, &v));
        assert_int_equal (v, value (i));
      }
      /* whole, by pins; the last page is short */
      for (i = 5; i < N; i += pin.count) {
        assert_ok (ctx, vd_table_pin (ctx, t, i, &pin));
        assert_true (pin.count >= 1 && i + pin.count <= N);
        for (j = 0; j < pin.count; ++j)
          assert_int_equal (vd_table_entry (&pin, j), value (i + j));
        vd_table_unpin (t, &pin);
      }
      assert_int_equal (i, N);
      /* without a lock, where no page ever goes */
      for (i = 0; i < N; i += 997) {
        v = 1;
        assert_int_equal (vd_table_peek (t, i, &v),
                          memories[m] == RESIDENT);
        assert_int_equal (v, memories[m] == RESIDENT ? value (i) : 1);
      }
      assert_false (vd_table_peek (t, N, &v));
      assert_false (vd_table_peek (t, UINT64_MAX, &v));

      assert_fails (ctx, vd_table_get (ctx, t, N, &v), EINVAL, "image");
      assert_fails (ctx, vd_table_set (ctx, t, UINT64_MAX, 0), EINVAL,
                    "image");
      vd_table_free (t);
    }
    vd_store_close (st);
  }
  vd_table_free (NULL);
}

/* Entries in a row are told without their page, others with it, and the two
 * agree, whatever stands in the table and is set later.
 */
static void
test_peek (void **state)
{
  static const struct {
    uint32_t first, step;
    uint64_t other;             /* an entry that is another; N: none */
  } tables[] = {
    { 128, 128, N }, { 0, 1, N }, { 0xfffffff0, 7, N }, { 5, 0xffffffff, N },
    { 0, 0, N }, { 77, 0, N },
    { 128, 128, 0 }, { 128, 128, 1 }, { 128, 128, 2 }, { 128, 128, 1023 },
    { 128, 128, 1024 }, { 128, 128, 2047 }, { 128, 128, N - 1 },
  };
  static const uint64_t set[] = { 0, 1023, 1500, 4096, N - 1 };
  size_t k, i;
  UNIT_CTX (ctx);

  (void) state;
  for (k = 0; k < sizeof tables / sizeof tables[0]; ++k) {
    uint32_t *data = malloc (N * 4), v;
    struct vd_store *st;
    struct vd_table *t;

    assert_non_null (data);
    for (i = 0; i < N; ++i)
      put_le32 ((uint8_t *) &data[i], tables[k].first + i * tables[k].step +
                (i == tables[k].other));
    assert_ok (ctx, vd_memory_open (ctx, "image", data, N * 4, true, &st));
    assert_ok (ctx, vd_table_new (ctx, st, 0, N, RESIDENT, &t));
    for (i = 0; i < N; ++i) {
      assert_ok (ctx, vd_table_get (ctx, t, i, &v));
      assert_int_equal (v, get_le32 ((uint8_t *) &data[i]));
      assert_true (vd_table_peek (t, i, &v));
      assert_int_equal (v, get_le32 ((uint8_t *) &data[i]));
    }
    for (i = 0; i < sizeof set / sizeof set[0]; ++i) {
      assert_ok (ctx, vd_table_set (ctx, t, set[i], 4711 + i));
      put_le32 ((uint8_t *) &data[set[i]], 4711 + i);
    }
    for (i = 0; i < N; ++i) {
      assert_true (vd_table_peek (t, i, &v));
      assert_int_equal (v, get_le32 ((uint8_t *) &data[i]));
    }
    vd_table_free (t);
    vd_store_close (st);
    free (data);
  }
}

static void
test_claims (void **state)
{
  struct vd_store *st = make_store (0, 10, 0);
  struct vd_table *t;
  uint32_t v;
  UNIT_CTX (ctx);

  (void) state;
  assert_fails (ctx, vd_table_new (ctx, st, 8, UINT64_MAX / 4, 1, &t),
                EINVAL, "image");
  assert_fails (ctx, vd_table_new (ctx, st, UINT64_MAX, 1, 1, &t),
                EINVAL, "image");
  /* What is claimed costs nothing, and a page beyond the end is an error
   * that can be had twice.
   */
  assert_ok (ctx, vd_table_new (ctx, st, 0, UINT64_C (1) << 50, 1 << 20, &t));
  assert_fails (ctx, vd_table_get (ctx, t, 5, &v), EIO, "the file ends at");
  assert_fails (ctx, vd_table_get (ctx, t, 5, &v), EIO, "the file ends at");
  assert_fails (ctx, vd_table_set (ctx, t, UINT64_C (1) << 49, 1), EIO,
                "the file ends at");
  vd_table_free (t);
  assert_ok (ctx, vd_table_new (ctx, st, 0, 0, 1, &t));
  assert_fails (ctx, vd_table_get (ctx, t, 0, &v), EINVAL, "image");
  vd_table_free (t);
  vd_store_close (st);
}

/* What is read once from a resident table, and from a windowed one as long
 * as its memory allows.
 */
static void
test_eviction (void **state)
{
  struct counting *c = make_counting (512, N, 0);
  unsigned npages = (N + 1023) / 1024, i, again;
  struct vd_table_pin pins[200];
  struct vd_table *t;
  uint32_t v;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_table_new (ctx, &c->st, 512, N, RESIDENT, &t));
  assert_int_equal (c->reads, 0);
  for (again = 0; again < 3; ++again)
    for (i = 0; i < npages; ++i)
      assert_ok (ctx, vd_table_get (ctx, t, i * 1024, &v));
  assert_int_equal (c->reads, npages);
  vd_table_free (t);

  c->reads = 0;
  assert_ok (ctx, vd_table_new (ctx, &c->st, 512, N, WINDOWED, &t));
  for (again = 0; again < 3; ++again)
    for (i = 0; i < npages; ++i)
      assert_ok (ctx, vd_table_get (ctx, t, i * 1024, &v));
  assert_int_equal (c->reads, 3 * npages);
  /* the last 32 stay */
  for (i = npages - 32; i < npages; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024 + 7, &v));
  assert_int_equal (c->reads, 3 * npages);
  /* one more in each stripe: the oldest goes, the newest stays */
  for (i = 0; i < 16; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024, &v));
  assert_int_equal (c->reads, 3 * npages + 16);
  for (i = npages - 16; i < npages; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024, &v));
  assert_int_equal (c->reads, 3 * npages + 16);
  for (i = npages - 32; i < npages - 16; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024, &v));
  assert_int_equal (c->reads, 3 * npages + 32);

  /* pins beyond the memory are honoured */
  c->reads = 0;
  for (i = 0; i < 200; ++i)
    assert_ok (ctx, vd_table_pin (ctx, t, i * 1024 + 3, &pins[i]));
  for (i = 0; i < npages; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024, &v));
  for (i = 0; i < 200; ++i)
    assert_int_equal (vd_table_entry (&pins[i], 0), value (i * 1024 + 3));
  c->reads = 0;
  for (i = 0; i < 200; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024 + 3, &v));
  assert_int_equal (c->reads, 0);
  /* and then given up */
  for (i = 0; i < 200; ++i)
    vd_table_unpin (t, &pins[i]);
  for (i = 0; i < 200; ++i)
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024 + 3, &v));
  assert_true (c->reads >= 168);
  vd_table_free (t);
  vd_store_close (&c->st);
}

/* A set page stays, whatever else is read, until all its sets are written. */
static void
test_dirty (void **state)
{
  struct counting *c = make_counting (512, N, 0);
  struct vd_table_change changes[3];
  unsigned i;
  struct vd_table *t;
  uint32_t v;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_table_new (ctx, &c->st, 512, N, WINDOWED, &t));
  for (i = 0; i < 100; ++i)
    assert_ok (ctx, vd_table_set (ctx, t, i * 1024 + i, 1000 + i));
  assert_ok (ctx, vd_table_set (ctx, t, 5 * 1024, 77));
  assert_ok (ctx, vd_table_set (ctx, t, 5 * 1024, 78));
  for (i = 0; i < N; i += 1024)
    assert_ok (ctx, vd_table_get (ctx, t, i, &v));
  c->reads = 0;
  for (i = 0; i < 100; ++i) {
    assert_ok (ctx, vd_table_get (ctx, t, i * 1024 + i, &v));
    assert_int_equal (v, 1000 + i);
  }
  assert_int_equal (c->reads, 0);

  /* Page 5 has three sets.  Written are two of them, so it stays. */
  changes[0] = (struct vd_table_change) { 5 * 1024, 77 };
  changes[1] = (struct vd_table_change) { 5 * 1024 + 5, 1005 };
  assert_ok (ctx, vd_table_write (ctx, t, changes, 2));
  assert_int_equal (on_disk (c->under, 512, 5 * 1024), 77);
  for (i = 0; i < N; i += 1024)
    assert_ok (ctx, vd_table_get (ctx, t, i, &v));
  assert_ok (ctx, vd_table_get (ctx, t, 5 * 1024, &v));
  assert_int_equal (v, 78);

  /* A failed write leaves it dirty. */
  c->fail_write = c->writes + 1;
  changes[0] = (struct vd_table_change) { 5 * 1024, 78 };
  assert_fails (ctx, vd_table_write (ctx, t, changes, 1), EIO, "told");
  for (i = 0; i < N; i += 1024)
    assert_ok (ctx, vd_table_get (ctx, t, i, &v));
  assert_ok (ctx, vd_table_get (ctx, t, 5 * 1024, &v));
  assert_int_equal (v, 78);
  assert_int_equal (on_disk (c->under, 512, 5 * 1024), 77);

  assert_ok (ctx, vd_table_write (ctx, t, changes, 1));
  for (i = 0; i < N; i += 1024)
    assert_ok (ctx, vd_table_get (ctx, t, i, &v));
  c->reads = 0;
  assert_ok (ctx, vd_table_get (ctx, t, 5 * 1024, &v));
  assert_int_equal (v, 78);
  assert_int_equal (c->reads, 1);
  vd_table_free (t);
  vd_store_close (&c->st);
}

static void
test_write (void **state)
{
  /* In the second one the end of the table, which is the end of the file,
   * lies inside a sector.
   */
  static const uint64_t offsets[] = { 512, 472, 4096 };
  static const size_t tails[] = { 100, 0, 5000 };
  size_t o, m;
  UNIT_CTX (ctx);

  (void) state;
  for (o = 0; o < 3; ++o)
    for (m = 0; m < 2; ++m) {
      const uint64_t offset = offsets[o];
      struct counting *c = make_counting (offset, N, tails[o]);
      static const struct vd_table_change changes[] = {
        { 0, 1 }, { 0, 2 }, { 1, 3 }, { 127, 4 }, { 128, 5 }, { 1023, 6 },
        { 1024, 7 }, { 1024, 8 }, { 1024, 9 }, { 200000, 10 },
        { N - 1, 11 }, { N - 1, 12 },
      };
      static const size_t n = sizeof changes / sizeof changes[0];
      struct vd_table *t;
      uint8_t *want;
      const uint8_t *got;
      size_t size, i;
      uint32_t v;

      got = vd_memory_data (c->under, &size);
      want = malloc (size);
      assert_non_null (want);
      memcpy (want, got, size);

      assert_ok (ctx, vd_table_new (ctx, &c->st, offset, N, memories[m],
                                    &t));
      for (i = 0; i < n; ++i) {
        assert_ok (ctx, vd_table_set (ctx, t, changes[i].index,
                                      changes[i].value));
        put_le32 (want + offset + changes[i].index * 4, changes[i].value);
      }
      /* Newer in memory, in sectors and pages that are written: must not
       * get out.
       */
      assert_ok (ctx, vd_table_set (ctx, t, 0, 99));
      assert_ok (ctx, vd_table_set (ctx, t, 2, 98));
      assert_ok (ctx, vd_table_set (ctx, t, 700, 97));
      assert_ok (ctx, vd_table_set (ctx, t, 200001, 96));
      assert_ok (ctx, vd_table_set (ctx, t, N - 2, 95));

      assert_ok (ctx, vd_table_write (ctx, t, changes, n));
      got = vd_memory_data (c->under, &size);
      assert_memory_equal (got, want, size);
      assert_true (c->writes <= 5);
      assert_true (c->longest_write <= 4096);
      free (want);

      assert_ok (ctx, vd_table_get (ctx, t, 0, &v));
      assert_int_equal (v, 99);
      assert_ok (ctx, vd_table_get (ctx, t, 1, &v));
      assert_int_equal (v, 3);
      assert_ok (ctx, vd_table_get (ctx, t, 200001, &v));
      assert_int_equal (v, 96);
      assert_ok (ctx, vd_table_write (ctx, t, NULL, 0));
      vd_table_free (t);
      vd_store_close (&c->st);
    }
}

/* As the engine has them, and more than are turned at once: table and copy. */
static void
test_write_changes (void **state)
{
  enum { MANY = 1500, SHIFT = 16 };
  struct vd_change changes[MANY];
  struct vd_store *st = make_store (512, N, 0);
  struct vd_store *st2 = make_store (1024, N, 100);
  struct vd_table *t, *copy;
  uint32_t want[MANY];
  size_t i;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_table_new (ctx, st, 512, N, 0, &t));
  assert_ok (ctx, vd_table_new (ctx, st2, 1024, N, 0, &copy));
  assert_ok (ctx, vd_table_write_changes (ctx, t, copy, SHIFT, NULL, 0));
  /* Each block two or three times, the last one counts; also where a piece
   * of 512 ends between them.  The offset need not be the block's first.
   */
  for (i = 0; i < MANY; ++i) {
    uint64_t index = i / 3 * 7 + (i / 3 % 2);

    changes[i] = (struct vd_change) { (index << SHIFT) + i % 3, i + 1 };
    assert_ok (ctx, vd_table_set (ctx, t, index, i + 1));
    want[i] = i / 3 * 3 + 3;
  }
  assert_ok (ctx, vd_table_write_changes (ctx, t, copy, SHIFT, changes,
                                          MANY));
  for (i = 0; i < MANY; ++i) {
    assert_int_equal (on_disk (st, 512, changes[i].block >> SHIFT), want[i]);
    assert_int_equal (on_disk (st2, 1024, changes[i].block >> SHIFT),
                      want[i]);
  }
  assert_int_equal (on_disk (st, 512, 2), value (2));
  assert_int_equal (on_disk (st2, 1024, 2), value (2));
  vd_table_free (t);
  vd_table_free (copy);
  vd_store_close (st);
  vd_store_close (st2);
}

static void
test_write_refused (void **state)
{
  struct vd_store *st = make_store (514, 5000, 0);
  struct vd_table_change change = { 0, 1 };
  struct vd_table *t;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_table_new (ctx, st, 514, 5000, 1 << 20, &t));
  assert_fails (ctx, vd_table_write (ctx, t, &change, 1), EINVAL, "aligned");
  vd_table_free (t);
  /* The file was cut under us. */
  assert_ok (ctx, vd_table_new (ctx, st, 512, 5000, 1 << 20, &t));
  assert_ok (ctx, vd_table_set (ctx, t, 0, 1));
  assert_ok (ctx, vd_store_truncate (ctx, st, 400));
  assert_fails (ctx, vd_table_write (ctx, t, &change, 1), EIO,
                "the file ends at 400");
  change.index = 5000;
  assert_fails (ctx, vd_table_write (ctx, t, &change, 1), EINVAL, "5000");
  vd_table_free (t);
  vd_store_close (st);
}

struct scan {
  uint64_t next, stop;
};

static int
scan_fn (struct vd_ctx *ctx, void *opaque, uint64_t index,
         const uint32_t *entries, size_t n)
{
  struct scan *s = opaque;
  size_t i;

  assert_int_equal (index, s->next);
  for (i = 0; i < n; ++i)
    if (entries[i] != value (index + i))
      fail_msg ("entry %llu", (unsigned long long) (index + i));
  s->next += n;
  if (s->next >= s->stop)
    return vd_error (ctx, EDOM, "stop here");
  return 0;
}

static void
test_scan (void **state)
{
  static const uint64_t offsets[] = { 512, 7 };
  size_t o, m;
  UNIT_CTX (ctx);

  (void) state;
  for (o = 0; o < 2; ++o)
    for (m = 0; m < 2; ++m) {
      struct counting *c = make_counting (offsets[o], N, 0);
      struct scan s = { 0, UINT64_MAX };
      struct vd_table *t;
      uint32_t v;
      uint64_t i;

      assert_ok (ctx, vd_table_new (ctx, &c->st, offsets[o], N, memories[m],
                                    &t));
      assert_ok (ctx, vd_table_scan (ctx, t, scan_fn, &s));
      assert_int_equal (s.next, N);
      assert_int_equal (c->reads, 2);
      /* A resident table has been filled with it. */
      for (i = 0; i < N; i += 1000) {
        assert_ok (ctx, vd_table_get (ctx, t, i, &v));
        assert_int_equal (v, value (i));
      }
      assert_ok (ctx, vd_table_get (ctx, t, N - 1, &v));
      assert_int_equal (v, value (N - 1));
      if (m == 0)
        assert_int_equal (c->reads, 2);

      s = (struct scan) { 0, 1 };
      assert_fails (ctx, vd_table_scan (ctx, t, scan_fn, &s), EDOM, "stop");
      assert_true (s.next < N);
      vd_table_free (t);
      vd_store_close (&c->st);
    }
}

/* ---- threads ---------------------------------------------------------- */

/* Readers walk the table while one writer sets entries and another thread
 * writes them out.  A value is either the first one or the index plus a
 * round; it never goes back.  The plain array shows to a thread sanitizer
 * that who sees an entry sees what was done before.
 */
#define MT_N 65536u
#define MT_STEP 509u
#define MT_ROUNDS 20u

struct mt {
  struct vd_table *t;
  _Atomic bool done;
  uint32_t before[MT_ROUNDS + 1];
};

static void *
mt_reader (void *opaque)
{
  struct mt *mt = opaque;
  uint32_t *seen = calloc (MT_N / MT_STEP + 1, sizeof *seen);
  bool last;
  UNIT_CTX (ctx);

  assert_non_null (seen);
  do {
    uint64_t i;

    last = mt->done;
    for (i = 0; i < MT_N; i += MT_STEP) {
      struct vd_table_pin pin;
      uint32_t v, round;

      if (i % 2 == 0 || !vd_table_peek (mt->t, i, &v)) {
        if (vd_table_pin (ctx, mt->t, i, &pin) < 0)
          abort ();
        v = vd_table_entry (&pin, 0);
        vd_table_unpin (mt->t, &pin);
      }
      round = v == value (i) ? 0 : v - (uint32_t) i;
      if (round > MT_ROUNDS || round < seen[i / MT_STEP] ||
          (round && mt->before[round] != round) ||
          (last && round != MT_ROUNDS))
        abort ();
      seen[i / MT_STEP] = round;
    }
  } while (!last);
  free (seen);
  return NULL;
}

static void *
mt_writer (void *opaque)
{
  static struct vd_table_change changes[MT_N / MT_STEP + 1];
  struct mt *mt = opaque;
  uint32_t round;
  UNIT_CTX (ctx);

  for (round = 1; round <= MT_ROUNDS; ++round) {
    uint64_t i;
    size_t n = 0;

    mt->before[round] = round;
    for (i = 0; i < MT_N; i += MT_STEP) {
      if (vd_table_set (ctx, mt->t, i, i + round) < 0)
        abort ();
      changes[n++] = (struct vd_table_change) { i, i + round };
    }
    if (vd_table_write (ctx, mt->t, changes, n) < 0)
      abort ();
  }
  mt->done = true;
  return NULL;
}

static void
test_threads (void **state)
{
  size_t m;
  UNIT_CTX (ctx);

  (void) state;
  for (m = 0; m < 2; ++m) {
    struct vd_store *st = make_store (512, MT_N, 0);
    struct mt mt = { .done = false };
    pthread_t threads[4];
    uint64_t i;

    assert_ok (ctx, vd_table_new (ctx, st, 512, MT_N, m ? 1 : MT_N * 4,
                                  &mt.t));
    for (i = 0; i < 4; ++i)
      assert_int_equal (pthread_create (&threads[i], NULL,
                                        i ? mt_reader : mt_writer, &mt), 0);
    for (i = 0; i < 4; ++i)
      pthread_join (threads[i], NULL);
    for (i = 0; i < MT_N; ++i)
      if (on_disk (st, 512, i) !=
          (i % MT_STEP ? value (i) : (uint32_t) i + MT_ROUNDS))
        fail_msg ("entry %llu", (unsigned long long) i);
    vd_table_free (mt.t);
    vd_store_close (st);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_read),
    cmocka_unit_test (test_peek),
    cmocka_unit_test (test_claims),
    cmocka_unit_test (test_eviction),
    cmocka_unit_test (test_dirty),
    cmocka_unit_test (test_write),
    cmocka_unit_test (test_write_changes),
    cmocka_unit_test (test_write_refused),
    cmocka_unit_test (test_scan),
    cmocka_unit_test (test_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
