/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "unit.h"

#include <errno.h>

#include "iszero.h"
#include "sim.h"

#define CUTS 2000               /* draws until everything has been seen */

static struct vd_store *
open_it (struct vd_sim *sim, const char *name)
{
  struct vd_store *st;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_sim_open (ctx, sim, name, true, &st));
  return st;
}

static void
fill (struct vd_store *st, uint64_t offset, size_t len, int c, unsigned flags)
{
  uint8_t buf[65536];
  UNIT_CTX (ctx);

  assert_true (len <= sizeof buf);
  memset (buf, c, len);
  assert_ok (ctx, vd_store_pwrite (ctx, st, buf, len, offset, flags));
}

static uint64_t
size_of (struct vd_sim *sim, const char *name)
{
  struct vd_store *st = open_it (sim, name);
  uint64_t size;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  vd_store_close (st);
  return size;
}

/* One byte, or -1 beyond the end. */
static int
byte_at (struct vd_sim *sim, const char *name, uint64_t offset)
{
  struct vd_store *st = open_it (sim, name);
  uint64_t size;
  uint8_t b = 0;
  bool inside;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  inside = offset < size;
  if (inside)
    assert_ok (ctx, vd_store_pread (ctx, st, &b, 1, offset));
  vd_store_close (st);
  return inside ? b : -1;
}

/* All len bytes at offset have one value, which is returned. */
static int
one_value (struct vd_sim *sim, const char *name, uint64_t offset, size_t len)
{
  struct vd_store *st = open_it (sim, name);
  uint8_t buf[65536];
  size_t i;
  UNIT_CTX (ctx);

  assert_true (len <= sizeof buf);
  assert_ok (ctx, vd_store_pread (ctx, st, buf, len, offset));
  vd_store_close (st);
  for (i = 1; i < len; ++i)
    assert_int_equal (buf[i], buf[0]);
  return buf[0];
}

static void
test_files (void **state)
{
  struct vd_sim *sim = vd_sim_new (), *clone;
  struct vd_store *a, *b, *a2;
  struct vd_store *ro;
  UNIT_CTX (ctx);

  (void) state;
  a = open_it (sim, "a");
  b = open_it (sim, "b");
  a2 = open_it (sim, "a");
  fill (a, 0, 100, 1, 0);
  fill (b, 0, 50, 2, 0);
  fill (a2, 100, 100, 3, 0);
  assert_int_equal (vd_sim_log_length (sim), 3);
  assert_int_equal (size_of (sim, "a"), 200);
  assert_int_equal (size_of (sim, "b"), 50);
  assert_int_equal (one_value (sim, "a", 0, 100), 1);
  assert_int_equal (one_value (sim, "a", 100, 100), 3);

  assert_ok (ctx, vd_sim_open (ctx, sim, "a", false, &ro));
  assert_fails (ctx, vd_store_pwrite (ctx, ro, "", 1, 0, 0), EROFS, "a: ");
  vd_store_close (ro);
  assert_fails (ctx, vd_store_zero (ctx, b, 49, 2, true), EIO, "ends at 50");
  assert_fails (ctx, vd_store_truncate (ctx, b, UINT64_C (1) << 40),
                ENOSPC, "b: ");
  assert_int_equal (vd_sim_log_length (sim), 3);

  clone = vd_sim_clone (sim);
  fill (a, 0, 100, 9, 0);
  assert_int_equal (vd_sim_log_length (clone), 0);
  assert_int_equal (one_value (clone, "a", 0, 100), 1);
  assert_int_equal (one_value (clone, "b", 0, 50), 2);
  vd_store_close (a);
  vd_store_close (a2);
  vd_store_close (b);
  vd_sim_free (sim);

  /* A clone has a log of its own, over what it began with. */
  a = open_it (clone, "a");
  fill (a, 0, 100, 8, 0);
  vd_store_close (a);
  sim = vd_sim_prefix (clone, 0);
  assert_int_equal (one_value (sim, "a", 0, 100), 1);
  assert_int_equal (one_value (sim, "b", 0, 50), 2);
  vd_sim_free (sim);
  sim = vd_sim_prefix (clone, 1);
  assert_int_equal (one_value (sim, "a", 0, 100), 8);
  vd_sim_free (sim);
  vd_sim_free (clone);
  vd_sim_free (NULL);
}

static void
test_prefix (void **state)
{
  struct vd_sim *sim = vd_sim_new (), *p;
  struct vd_store *a = open_it (sim, "a");
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 1000, 1, 0);                                      /* 1 */
  vd_sim_mark (sim, 7);                                         /* 2 */
  fill (a, 500, 1000, 2, 0);                                    /* 3 */
  assert_ok (ctx, vd_store_sync (ctx, a));                      /* 4 */
  vd_sim_mark (sim, 5);                                         /* 5 */
  assert_ok (ctx, vd_store_truncate (ctx, a, 100));             /* 6 */
  assert_ok (ctx, vd_store_allocate (ctx, a, 0, 800));          /* 7 */
  assert_ok (ctx, vd_store_zero (ctx, a, 10, 20, false));       /* 8 */
  assert_ok (ctx, vd_store_zero (ctx, a, 50, 20, true));        /* 9 */
  assert_int_equal (vd_sim_log_length (sim), 9);

  p = vd_sim_prefix (sim, 0);
  assert_int_equal (size_of (p, "a"), 0);
  vd_sim_free (p);
  p = vd_sim_prefix (sim, 2);
  assert_int_equal (size_of (p, "a"), 1000);
  assert_int_equal (one_value (p, "a", 0, 1000), 1);
  vd_sim_free (p);
  p = vd_sim_prefix (sim, 5);
  assert_int_equal (size_of (p, "a"), 1500);
  assert_int_equal (one_value (p, "a", 0, 500), 1);
  assert_int_equal (one_value (p, "a", 500, 1000), 2);
  vd_sim_free (p);
  p = vd_sim_prefix (sim, 6);
  assert_int_equal (size_of (p, "a"), 100);
  vd_sim_free (p);
  p = vd_sim_prefix (sim, 9);
  assert_int_equal (size_of (p, "a"), 800);
  assert_int_equal (one_value (p, "a", 0, 10), 1);
  assert_int_equal (one_value (p, "a", 10, 20), 0);
  assert_int_equal (one_value (p, "a", 30, 20), 1);
  assert_int_equal (one_value (p, "a", 50, 20), 0);
  assert_int_equal (one_value (p, "a", 70, 30), 1);
  assert_int_equal (one_value (p, "a", 100, 700), 0);
  vd_sim_free (p);

  assert_int_equal (vd_sim_last_mark (sim, 1), 0);
  assert_int_equal (vd_sim_last_mark (sim, 2), 7);
  assert_int_equal (vd_sim_last_mark (sim, 9), 7);
  vd_store_close (a);
  vd_sim_free (sim);
}

/* Synced data is there whatever the draw; sectors of the rest are there or
 * not, each for itself, and an old version may outlive a newer one.
 */
static void
test_cut_sectors (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a");
  unsigned seen[3][3] = { { 0 } };
  uint64_t seed = 1;
  size_t i;
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 1536, 1, 0);
  assert_ok (ctx, vd_store_sync (ctx, a));                      /* 2 */
  fill (a, 0, 1024, 2, 0);                                      /* 3 */
  fill (a, 512, 1024, 3, 0);                                    /* 4 */

  /* Nothing was issued after the sync. */
  for (i = 0; i < 50; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 2, &seed);

    assert_int_equal (one_value (p, "a", 0, 1536), 1);
    vd_sim_free (p);
  }

  for (i = 0; i < CUTS; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 4, &seed);
    int s;

    assert_int_equal (size_of (p, "a"), 1536);
    assert_int_equal (vd_sim_log_length (p), 0);
    for (s = 0; s < 3; ++s)
      seen[s][one_value (p, "a", s * 512, 512) - 1]++;
    vd_sim_free (p);
  }
  assert_true (seen[0][0] && seen[0][1] && !seen[0][2]);
  assert_true (seen[1][0] && seen[1][1] && seen[1][2]);
  assert_true (seen[2][0] && !seen[2][1] && seen[2][2]);
  vd_store_close (a);
  vd_sim_free (sim);
}

/* Every combination of sectors of one write, and the same again for the same
 * seed.
 */
static void
test_cut_torn (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a");
  unsigned seen[16] = { 0 }, i;
  uint64_t seed = 99, copy;
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 2048, 1, 0);
  assert_ok (ctx, vd_store_sync (ctx, a));
  fill (a, 0, 2048, 2, 0);
  for (i = 0; i < CUTS; ++i) {
    struct vd_sim *p, *q;
    unsigned s, bits = 0, bits_again = 0;

    copy = seed;
    p = vd_sim_power_cut (sim, 3, &seed);
    q = vd_sim_power_cut (sim, 3, &copy);
    assert_true (copy == seed);
    for (s = 0; s < 4; ++s) {
      bits |= (one_value (p, "a", s * 512, 512) - 1) << s;
      bits_again |= (one_value (q, "a", s * 512, 512) - 1) << s;
    }
    assert_int_equal (bits, bits_again);
    seen[bits]++;
    vd_sim_free (p);
    vd_sim_free (q);
  }
  for (i = 0; i < 16; ++i)
    assert_true (seen[i] > 0);
  vd_store_close (a);
  vd_sim_free (sim);
}

/* A sync covers its own file only. */
static void
test_cut_files (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a"), *b = open_it (sim, "b");
  unsigned lost_a = 0, kept_a = 0, i;
  uint64_t seed = 5;
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 512, 1, 0);
  fill (b, 0, 512, 2, 0);
  assert_ok (ctx, vd_store_sync (ctx, b));
  for (i = 0; i < CUTS; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 3, &seed);

    assert_int_equal (one_value (p, "b", 0, 512), 2);
    if (byte_at (p, "a", 0) == 1)
      kept_a++;
    else
      lost_a++;
    vd_sim_free (p);
  }
  assert_true (lost_a && kept_a);
  vd_store_close (a);
  vd_store_close (b);
  vd_sim_free (sim);
}

static void
test_cut_size (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a");
  unsigned seen[5] = { 0 }, old_tail = 0, zero_tail = 0, i;
  uint64_t seed = 17;
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 700, 1, 0);
  assert_ok (ctx, vd_store_sync (ctx, a));              /* 2: 700 */
  fill (a, 700, 500, 2, 0);                             /* 3: 1200 */
  assert_ok (ctx, vd_store_truncate (ctx, a, 100));     /* 4: 100 */
  assert_ok (ctx, vd_store_truncate (ctx, a, 3000));    /* 5: 3000 */
  assert_ok (ctx, vd_store_allocate (ctx, a, 3000, 96)); /* 6: 3096 */

  for (i = 0; i < CUTS; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 6, &seed);
    uint64_t size = size_of (p, "a");

    switch (size) {
    case 700: seen[0]++; break;
    case 1200: seen[1]++; break;
    case 100: seen[2]++; break;
    case 3000: seen[3]++; break;
    case 3096: seen[4]++; break;
    default: fail_msg ("size %llu", (unsigned long long) size);
    }
    assert_int_equal (one_value (p, "a", 0, 100), 1);
    if (size > 1200) {
      assert_int_equal (one_value (p, "a", 1200, 3000 - 1200), 0);
      /* bytes 600 on: old, cut off, and never in halves of a sector */
      if (one_value (p, "a", 600, 100) == 1)
        old_tail++;
      else {
        assert_int_equal (one_value (p, "a", 512, 512), 0);
        zero_tail++;
      }
    }
    vd_sim_free (p);
  }
  for (i = 0; i < 5; ++i)
    assert_true (seen[i] > 0);
  assert_true (old_tail && zero_tail);

  /* After the growth has been synced it stays. */
  assert_ok (ctx, vd_store_sync (ctx, a));
  for (i = 0; i < 50; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 7, &seed);

    assert_int_equal (size_of (p, "a"), 3096);
    assert_int_equal (one_value (p, "a", 0, 100), 1);
    assert_int_equal (one_value (p, "a", 100, 2996), 0);
    vd_sim_free (p);
  }
  vd_store_close (a);
  vd_sim_free (sim);
}

static void
test_cut_fua (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a");
  unsigned seen1 = 0, lost1 = 0, newer = 0, i;
  uint64_t seed = 3;

  (void) state;
  fill (a, 0, 4096, 1, 0);                              /* 1 */
  fill (a, 1024, 512, 2, VD_STORE_FUA);                 /* 2 */
  fill (a, 1024, 512, 3, 0);                            /* 3 */
  for (i = 0; i < CUTS; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 3, &seed);
    int v;

    assert_true (size_of (p, "a") >= 1536);
    v = one_value (p, "a", 1024, 512);
    assert_in_range (v, 2, 3);
    newer += v == 3;
    if (one_value (p, "a", 0, 512) == 1)
      seen1++;
    else
      lost1++;
    vd_sim_free (p);

    p = vd_sim_power_cut (sim, 2, &seed);
    assert_int_equal (one_value (p, "a", 1024, 512), 2);
    vd_sim_free (p);
  }
  assert_true (seen1 && lost1 && newer && newer < CUTS);
  vd_store_close (a);
  vd_sim_free (sim);
}

/* Zeroes are records like writes, at any offset. */
static void
test_cut_zero (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a");
  unsigned seen[4] = { 0 }, i;
  uint64_t seed = 4;
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 1024, 1, 0);
  assert_ok (ctx, vd_store_sync (ctx, a));
  assert_ok (ctx, vd_store_zero (ctx, a, 500, 100, true));
  for (i = 0; i < CUTS; ++i) {
    struct vd_sim *p = vd_sim_power_cut (sim, 3, &seed);
    int first = one_value (p, "a", 500, 12);
    int second = one_value (p, "a", 512, 88);

    assert_int_equal (one_value (p, "a", 0, 500), 1);
    assert_int_equal (one_value (p, "a", 600, 424), 1);
    seen[first + 2 * second]++;
    vd_sim_free (p);
  }
  for (i = 0; i < 4; ++i)
    assert_true (seen[i] > 0);
  vd_store_close (a);
  vd_sim_free (sim);
}

static void
test_extent (void **state)
{
  struct vd_sim *sim = vd_sim_new (), *p;
  struct vd_store *a = open_it (sim, "a"), *b;
  uint64_t end;
  bool hole;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_store_extent (ctx, a, 0, &hole, &end));
  assert_true (hole && end > 0);
  assert_ok (ctx, vd_store_truncate (ctx, a, 65000));
  fill (a, 9000, 4096, 1, 0);
  assert_ok (ctx, vd_store_extent (ctx, a, 100, &hole, &end));
  assert_true (hole);
  assert_int_equal (end, 8192);
  assert_ok (ctx, vd_store_extent (ctx, a, 8192, &hole, &end));
  assert_false (hole);
  assert_int_equal (end, 16384);
  assert_ok (ctx, vd_store_extent (ctx, a, 16384, &hole, &end));
  assert_true (hole);
  assert_true (end >= 65000);

  /* punching gives back whole pages, and the piece at the end */
  fill (a, 0, 65000, 1, 0);
  assert_ok (ctx, vd_store_extent (ctx, a, 5, &hole, &end));
  assert_false (hole);
  assert_int_equal (end, 65000);
  assert_ok (ctx, vd_store_zero (ctx, a, 100, 8192, true));
  assert_ok (ctx, vd_store_zero (ctx, a, 20000, 4096 * 2, false));
  assert_ok (ctx, vd_store_zero (ctx, a, 60000, 5000, true));
  assert_ok (ctx, vd_store_extent (ctx, a, 5, &hole, &end));
  assert_false (hole);
  assert_int_equal (end, 4096);
  assert_ok (ctx, vd_store_extent (ctx, a, 4100, &hole, &end));
  assert_true (hole);
  assert_int_equal (end, 8192);
  assert_ok (ctx, vd_store_extent (ctx, a, 8192, &hole, &end));
  assert_false (hole);
  assert_int_equal (end, 61440);
  assert_ok (ctx, vd_store_extent (ctx, a, 61440, &hole, &end));
  assert_true (hole && end >= 65000);

  /* holes are part of what is copied */
  p = vd_sim_clone (sim);
  b = open_it (p, "a");
  assert_ok (ctx, vd_store_extent (ctx, b, 4100, &hole, &end));
  assert_true (hole);
  assert_int_equal (end, 8192);
  vd_store_close (b);
  vd_sim_free (p);
  vd_store_close (a);
  vd_sim_free (sim);
}

static void
test_fault (void **state)
{
  struct vd_sim *sim = vd_sim_new ();
  struct vd_store *a = open_it (sim, "a"), *b = open_it (sim, "b");
  uint64_t size;
  char x;
  UNIT_CTX (ctx);

  (void) state;
  fill (a, 0, 100, 1, 0);
  fill (b, 0, 100, 1, 0);

  /* Calls on all files count together. */
  vd_sim_fail_at (sim, 3, ENOSPC, false);
  fill (a, 0, 1, 2, 0);
  assert_ok (ctx, vd_store_pread (ctx, b, &x, 1, 0));
  assert_false (vd_sim_fault_hit (sim));
  assert_fails (ctx, vd_store_pwrite (ctx, b, "x", 1, 0, 0), ENOSPC, "b: ");
  assert_true (vd_sim_fault_hit (sim));
  assert_int_equal (one_value (sim, "b", 0, 100), 1);
  assert_int_equal (vd_sim_log_length (sim), 3);
  fill (b, 0, 1, 2, 0);

  vd_sim_fail_at (sim, 2, EIO, true);
  assert_false (vd_sim_fault_hit (sim));
  assert_ok (ctx, vd_store_sync_always (ctx, a));
  assert_fails (ctx, vd_store_sync_always (ctx, b), EIO, "sync");
  assert_true (b->touched);
  assert_fails (ctx, vd_store_get_size (ctx, a, &size), EIO, "a: ");
  assert_fails (ctx, vd_store_truncate (ctx, a, 1), EIO, "a: ");
  assert_fails (ctx, vd_store_allocate (ctx, a, 0, 1), EIO, "a: ");
  assert_fails (ctx, vd_store_zero_or_write (ctx, a, 0, 1, true), EIO, "a: ");

  vd_sim_fail_at (sim, 1, 0, false);
  assert_ok (ctx, vd_store_get_size (ctx, a, &size));
  assert_int_equal (size, 100);
  assert_false (vd_sim_fault_hit (sim));
  vd_store_close (a);
  vd_store_close (b);
  vd_sim_free (sim);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_files),
    cmocka_unit_test (test_prefix),
    cmocka_unit_test (test_cut_sectors),
    cmocka_unit_test (test_cut_torn),
    cmocka_unit_test (test_cut_files),
    cmocka_unit_test (test_cut_size),
    cmocka_unit_test (test_cut_fua),
    cmocka_unit_test (test_cut_zero),
    cmocka_unit_test (test_extent),
    cmocka_unit_test (test_fault),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
