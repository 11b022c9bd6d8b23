/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Random chains: images of both formats, block sizes and disk sizes, on top of
 * a base image or of a layer given as callbacks; random operations on the top
 * one, against a plain buffer for each level.  And the owners index under
 * threads.
 *
 * VDKIT_MODEL_SEEDS: number of seeds; VDKIT_MODEL_FROM: the first (a failure
 * names the seed, VDKIT_MODEL_SEEDS=1 repeats it alone).
 */

#include <config.h>

#define complain(m, fmt, ...)                                           \
  fail_msg ("seed %" PRIu64 ", operation %u (%s), %zu levels: " fmt,    \
            (m)->seed, (m)->op, (m)->what, (m)->n, ##__VA_ARGS__)
#include "chance.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "chain.h"
#include "iszero.h"
#include "memory-parent.h"
#include "owners.h"
#include "rounding.h"

#define KIB UINT64_C (1024)
#define MAX_LEVELS 8
#define MAX_SIZE (640 * KIB)
#define OPERATIONS 24

struct model {
  uint64_t seed, state;
  unsigned op;
  const char *what;

  bool has_below;               /* memory under the lowest image */
  struct vd_below below;
  struct memory_parent memory;  /* its data; it may claim to have more */
  bool honor_zeroes, honor_same;
  size_t table_memory;

  size_t n;                     /* levels */
  char path[MAX_LEVELS][sizeof unit_dir + 32];
  uint64_t size[MAX_LEVELS];
  uint8_t *shadow[MAX_LEVELS];  /* the disk as of that image */
  uint64_t sum[MAX_LEVELS];     /* of the file, once it is below another */
  struct vd_chain *chain;
};

static uint8_t buffer[MAX_SIZE + 1];

/* ---- helpers ----------------------------------------------------------- */

/* FNV-1a of a file. */
static uint64_t
sum_file (const char *path)
{
  uint64_t h = UINT64_C (0xcbf29ce484222325);
  static uint8_t piece[65536];
  FILE *f = fopen (path, "r");
  size_t n, i;

  assert_non_null (f);
  while ((n = fread (piece, 1, sizeof piece, f)) > 0)
    for (i = 0; i < n; i += 8)
      h = (h ^ *(uint64_t *) &piece[i]) * UINT64_C (0x100000001b3);
  fclose (f);
  return h;
}

/* ---- chains -------------------------------------------------------------- */

static void
open_chain (struct model *m, enum vd_write write)
{
  const struct vd_chain_open how = {
    .how = {
      .write = write, .lock = VD_LOCK_OFF,
      .honor_zeroes = m->honor_zeroes, .honor_same = m->honor_same,
      .table_memory = m->table_memory, .log = quiet,
    },
    .below = m->has_below ? &m->below : NULL,
  };
  const char *paths[MAX_LEVELS];
  size_t i;
  CTX (ctx);

  for (i = 0; i < m->n; ++i)
    paths[i] = m->path[i];
  must (m, ctx, vd_chain_open (ctx, paths, m->n, &how, &m->chain));
  for (i = 0; i < m->n; ++i)
    if (vd_chain_size (m->chain, i) != m->size[i])
      complain (m, "size of level %zu is %" PRIu64 ", not %" PRIu64, i,
                vd_chain_size (m->chain, i), m->size[i]);
}

static void
close_chain (struct model *m)
{
  CTX (ctx);

  must (m, ctx, vd_chain_close (ctx, m->chain));
  m->chain = NULL;
}

static uint64_t
draw_size (struct model *m)
{
  return 512 * (1 + below (m, MAX_SIZE / 512));
}

/* A new image on top of what there is. */
static void
add_image (struct model *m)
{
  bool vdi = chance (m, 60);
  struct vd_create how = {
    .size = draw_size (m), .force = true,
    .differencing = m->n > 0 || m->has_below,
  };
  size_t i = m->n;
  uint64_t n = 0;
  CTX (ctx);

  if (i > 0 && chance (m, 60))
    how.size = m->size[i - 1];
  if (vdi) {
    how.block_size = 4 * KIB << below (m, 6);
    how.alignment = 512 << below (m, 4);
  }
  if (i > 0) {
    struct vd_link link;

    open_chain (m, VD_WRITE_NO);
    link = vd_chain_image (m->chain, i - 1)->link;
    close_chain (m);
    how.link.parent = link.uuid;
    how.link.parent_modification = link.modification;
    how.link.has_cid = link.has_cid;
    how.link.parent_cid = link.has_cid ? link.cid : VD_CID_NONE;
    m->sum[i - 1] = sum_file (m->path[i - 1]);
  }
  else if (m->has_below) {
    how.link.parent_cid = VD_CID_NONE;
    if (!vdi)                   /* which must be able to name it */
      vd_uuid_random (&how.link.parent);
  }
  snprintf (m->path[i], sizeof m->path[i], "%s/%" PRIu64 "-%zu.img",
            unit_dir, m->seed, i);
  must (m, ctx, vd_image_create (ctx, m->path[i],
                                 vd_format_by_name (vdi ? "vdi" : "vmdk"),
                                 VD_LOCK_OFF, &how));
  m->size[i] = how.size;
  m->shadow[i] = calloc (1, how.size);
  assert_non_null (m->shadow[i]);
  if (i > 0) {
    n = min_u64 (how.size, m->size[i - 1]);
    memcpy (m->shadow[i], m->shadow[i - 1], n);
  }
  else if (m->has_below) {
    n = min_u64 (how.size, m->memory.used);
    memcpy (m->shadow[i], m->memory.data, n);
  }
  m->n++;
}

/* ---- checks -------------------------------------------------------------- */

static void
check_range (struct model *m, size_t level, uint64_t offset, uint64_t len)
{
  uint64_t i;
  CTX (ctx);

  memset (buffer, 0xdb, len + 1);
  must (m, ctx, vd_chain_pread (ctx, m->chain, level, buffer, len, offset));
  if (memcmp (buffer, m->shadow[level] + offset, len) != 0) {
    for (i = 0; buffer[i] == m->shadow[level][offset + i]; ++i)
      ;
    complain (m, "level %zu, byte %" PRIu64 " is 0x%02x, not 0x%02x", level,
              offset + i, buffer[i], m->shadow[level][offset + i]);
  }
  if (buffer[len] != 0xdb)
    complain (m, "read too much");
}

struct extents {
  struct model *m;
  size_t level;
  uint64_t next, calls;
};

static int
check_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  struct extents *x = opaque;
  struct model *m = x->m;

  if (offset != x->next || len == 0)
    complain (m, "extent at %" PRIu64 "+%" PRIu64 ", expected one at %" PRIu64,
              offset, len, x->next);
  if (len > m->size[x->level] - offset)
    complain (m, "extent beyond the end of the disk");
  if (type & VD_EXTENT_ZERO &&
      !is_zero ((char *) m->shadow[x->level] + offset, len))
    complain (m, "level %zu: extent %" PRIu64 "+%" PRIu64 " is not zero",
              x->level, offset, len);
  x->next += len;
  x->calls++;
  return 0;
}

static void
check_extents (struct model *m, size_t level, uint64_t offset, uint64_t len,
               bool one)
{
  struct extents x = { .m = m, .level = level, .next = offset };
  CTX (ctx);

  must (m, ctx, vd_chain_extents (ctx, m->chain, level, offset, len, one,
                                  check_extent, &x));
  if (one ? x.calls != 1 : x.next < offset + len)
    complain (m, "%" PRIu64 " extents of %" PRIu64 "+%" PRIu64 " end at %"
              PRIu64, x.calls, offset, len, x.next);
}

static void
check_all (struct model *m)
{
  size_t i;

  for (i = 0; i < m->n; ++i) {
    check_range (m, i, 0, m->size[i]);
    check_extents (m, i, 0, m->size[i], false);
  }
}

/* ---- operations ---------------------------------------------------------- */

static void
draw_range (struct model *m, uint64_t size, uint64_t *ret_offset,
            uint64_t *ret_len)
{
  uint64_t offset = below (m, size), len;

  switch (below (m, 4)) {
  case 0:
    offset = round_down (offset, 4 * KIB << below (m, 5));
    len = 4 * KIB << below (m, 7);
    break;
  case 1:
    offset = round_down (offset, 512);
    len = 512 * (1 + below (m, 16));
    break;
  default:
    len = 1 + below (m, chance (m, 50) ? 1000 : 200 * KIB);
  }
  *ret_offset = offset;
  *ret_len = min_u64 (len, size - offset);
}

static void
op_write (struct model *m)
{
  size_t top = m->n - 1, lower;
  uint64_t offset, len, i, n;
  CTX (ctx);

  m->what = "write";
  draw_range (m, m->size[top], &offset, &len);
  switch (below (m, 6)) {
  case 0:
    memset (buffer, 0, len);
    break;
  case 1:                       /* what an older state has */
    lower = below (m, m->n);
    memset (buffer, 0, len);
    if (offset < m->size[lower]) {
      n = min_u64 (len, m->size[lower] - offset);
      memcpy (buffer, m->shadow[lower] + offset, n);
    }
    break;
  case 2:
    memcpy (buffer, m->shadow[top] + offset, len);
    break;
  default:
    for (i = 0; i < len; ++i)
      buffer[i] = (i * 7 + m->op + 16 * top) % 251 + 1;
  }
  must (m, ctx, vd_chain_pwrite (ctx, m->chain, buffer, len, offset,
                                 chance (m, 10) ? VD_FUA : 0));
  memcpy (m->shadow[top] + offset, buffer, len);
}

static void
op_zero (struct model *m)
{
  unsigned flags = below (m, 8);        /* FUA, MAY_TRIM, FAST */
  size_t top = m->n - 1;
  uint64_t offset, len;
  int r;
  CTX (ctx);

  m->what = "zero";
  draw_range (m, m->size[top], &offset, &len);
  r = vd_chain_zero (ctx, m->chain, len, offset, flags);
  if (r == -ENOTSUP && flags & VD_FAST) {
    check_range (m, top, offset, len);
    return;
  }
  must (m, ctx, r);
  memset (m->shadow[top] + offset, 0, len);
}

/* What was trimmed reads as before or as zeroes, never as older data. */
static void
op_trim (struct model *m)
{
  size_t top = m->n - 1;
  uint64_t offset, len, i;
  CTX (ctx);

  m->what = "trim";
  draw_range (m, m->size[top], &offset, &len);
  must (m, ctx, vd_chain_trim (ctx, m->chain, len, offset, 0));
  must (m, ctx, vd_chain_pread (ctx, m->chain, top, buffer, len, offset));
  for (i = 0; i < len; ++i) {
    if (buffer[i] != 0 && buffer[i] != m->shadow[top][offset + i])
      complain (m, "byte %" PRIu64 " is 0x%02x after trim, was 0x%02x",
                offset + i, buffer[i], m->shadow[top][offset + i]);
    m->shadow[top][offset + i] = buffer[i];
  }
}

static void
reopen (struct model *m)
{
  CTX (ctx);

  if (chance (m, 50))
    must (m, ctx, vd_chain_flush (ctx, m->chain));
  close_chain (m);
  if (chance (m, 50)) {
    open_chain (m, VD_WRITE_REQUIRE);
    return;
  }
  /* As the doors do it; the index of the read-only time stays in use. */
  open_chain (m, VD_WRITE_NO);
  if (vd_chain_writable (m->chain))
    complain (m, "writable without being asked to");
  check_all (m);
  must (m, ctx, vd_chain_reopen_write (ctx, m->chain));
  if (!vd_chain_writable (m->chain))
    complain (m, "not writable");
}

static void
operation (struct model *m)
{
  unsigned kind = below (m, 100);
  size_t level = below (m, m->n);
  uint64_t offset, len;
  CTX (ctx);

  if (kind < 30)
    op_write (m);
  else if (kind < 42)
    op_zero (m);
  else if (kind < 50)
    op_trim (m);
  else if (kind < 65) {
    m->what = "read";
    draw_range (m, m->size[level], &offset, &len);
    check_range (m, level, offset, len);
  }
  else if (kind < 72) {
    m->what = "extents";
    draw_range (m, m->size[level], &offset, &len);
    check_extents (m, level, offset, len, chance (m, 40));
  }
  else if (kind < 75) {
    m->what = "cache";
    draw_range (m, m->size[level], &offset, &len);
    must (m, ctx, vd_chain_cache (ctx, m->chain, level, len, offset));
  }
  else if (kind < 78) {
    m->what = "end of session";
    must (m, ctx, vd_chain_end_session (ctx, m->chain));
  }
  else if (kind < 88) {
    m->what = "reopen";
    reopen (m);
    check_all (m);
  }
  else if (m->n < MAX_LEVELS) {
    m->what = "snapshot";
    close_chain (m);
    add_image (m);
    open_chain (m, VD_WRITE_REQUIRE);
    if (chance (m, 50))
      check_all (m);
  }
}

static void
run_seed (uint64_t seed)
{
  struct model *m = calloc (1, sizeof *m);
  uint64_t i, n;
  size_t level, want;

  assert_non_null (m);
  m->seed = m->state = seed;
  m->what = "set-up";
  m->honor_zeroes = chance (m, 25);
  m->honor_same = chance (m, 25);
  m->table_memory = chance (m, 30) ? 1 : 0;
  m->has_below = chance (m, 30);
  if (m->has_below) {
    m->memory.used = 1 + below (m, MAX_SIZE);
    m->memory.data = calloc (1, m->memory.used);
    assert_non_null (m->memory.data);
    for (i = 0; i < m->memory.used; i += n) {
      n = min_u64 (m->memory.used - i, 1 + below (m, 100 * KIB));
      if (chance (m, 60))
        memset (m->memory.data + i, 1 + below (m, 255), n);
    }
    m->memory.size = chance (m, 50) ? m->memory.used : INT64_MAX;
    m->below = (struct vd_below) {
      .disk = {
        .size = m->memory.size, .opaque = &m->memory,
        .pread = memory_parent_pread, .extents = memory_parent_extents,
      },
      .name = "below",
    };
  }
  add_image (m);
  open_chain (m, VD_WRITE_REQUIRE);
  want = 1 + below (m, MAX_LEVELS);
  for (i = 0; i < OPERATIONS || m->n < want; ++i) {
    m->op = i + 1;
    operation (m);
  }
  m->what = "end";
  check_all (m);
  close_chain (m);
  open_chain (m, VD_WRITE_NO);
  check_all (m);
  close_chain (m);
  for (level = 0; level < m->n; ++level) {
    if (level + 1 < m->n && sum_file (m->path[level]) != m->sum[level])
      complain (m, "level %zu was written", level);
    unlink (m->path[level]);
    free (m->shadow[level]);
  }
  free (m->memory.data);
  free (m);
}

static void
test_model (void **state)
{
  uint64_t i, end;

  (void) state;
  for (draw_seeds (1000, 1000, &i, &end); i < end; ++i)
    run_seed (i);
}

/* ---- threads ------------------------------------------------------------- */

#define UNITS 9000              /* more than a page of the index */
#define UNIT 4096
#define TOP 3
#define NR_THREADS 4

#define MAX_VIEWS 3

static struct {
  unsigned views;
  struct vd_owners *owners[MAX_VIEWS];
  _Atomic uint8_t truth[UNITS];
  _Atomic bool done[UNITS];     /* the write was reported */
  _Atomic unsigned wrong;
} race;

static int
find_truth (struct vd_ctx *ctx, void *opaque, uint64_t offset, uint64_t len)
{
  (void) ctx;
  (void) opaque;
  (void) len;
  return atomic_load_explicit (&race.truth[offset / UNIT],
                               memory_order_acquire);
}

static void *
race_write (void *arg)
{
  uintptr_t me = (uintptr_t) arg;
  unsigned i, v;

  for (i = me; i < UNITS; i += NR_THREADS) {
    unsigned unit = i * 7919u % UNITS;

    atomic_store_explicit (&race.truth[unit], TOP, memory_order_release);
    for (v = 0; v < race.views; ++v)
      vd_owners_forget (race.owners[v], (uint64_t) unit * UNIT + 100, 1, TOP);
    atomic_store (&race.done[unit], true);
  }
  return NULL;
}

static void *
race_read (void *arg)
{
  uint64_t unit = (uintptr_t) arg, n, i;
  CTX (ctx);

  for (i = 0; i < 30000; ++i) {
    int owner, before;
    bool done;

    unit = (unit * 6364136223846793005u + 1442695040888963407u) >> 3;
    before = unit % UNITS % TOP;
    done = atomic_load (&race.done[unit % UNITS]);
    owner = vd_owners_get (ctx, race.owners[i % race.views],
                           unit % UNITS * UNIT, UNIT, find_truth, NULL, &n);
    if ((owner != TOP && (done || owner != before)) || n != UNIT)
      race.wrong++;
  }
  return NULL;
}

/* Several views in a pool of 3 pages, which is what one of them needs. */
static void
run_race (unsigned views)
{
  struct vd_owner_pool *pool = vd_owner_pool_new (3);
  pthread_t t[2 * NR_THREADS];
  uintptr_t i;
  uint64_t n;
  CTX (ctx);

  assert_non_null (pool);
  race.views = views;
  for (i = 0; i < views; ++i) {
    race.owners[i] = vd_owners_new (pool, (uint64_t) UNITS * UNIT, UNIT);
    assert_non_null (race.owners[i]);
  }
  for (i = 0; i < UNITS; ++i) {
    atomic_store (&race.truth[i], i % TOP);
    atomic_store (&race.done[i], false);
  }
  for (i = 0; i < NR_THREADS; ++i) {
    assert_int_equal (pthread_create (&t[2 * i], NULL, race_read,
                                      (void *) (i + 1)), 0);
    assert_int_equal (pthread_create (&t[2 * i + 1], NULL, race_write,
                                      (void *) i), 0);
  }
  for (i = 0; i < 2 * NR_THREADS; ++i)
    pthread_join (t[i], NULL);
  assert_int_equal (race.wrong, 0);
  for (i = 0; i < views; ++i) {
    assert_int_equal (vd_owners_get (ctx, race.owners[i], 0,
                                     (uint64_t) UNITS * UNIT, find_truth,
                                     NULL, &n), TOP);
    assert_int_equal (n, (uint64_t) UNITS * UNIT);
    vd_owners_free (race.owners[i]);
  }
  vd_owner_pool_free (pool);
}

static void
test_owners_threads (void **state)
{
  (void) state;
  run_race (1);
}

static void
test_owners_take (void **state)
{
  (void) state;
  run_race (MAX_VIEWS);
}

static unsigned found;          /* calls of find_own */

static int
find_own (struct vd_ctx *ctx, void *opaque, uint64_t offset, uint64_t len)
{
  (void) ctx;
  (void) len;
  found++;
  return (offset / UNIT + (uintptr_t) opaque) % 100;
}

/* However many views of however large disks there are, they share the pool's
 * memory; and what one of them alone knows it keeps.
 */
static void
test_owners_memory (void **state)
{
  const size_t pages = 16, views = 100;
  const uint64_t units = pages * VD_OWNER_PAGE_UNITS;
  struct vd_owner_pool *pool = vd_owner_pool_new (pages);
  struct vd_owners *owners[100];
  size_t before = mallinfo2 ().uordblks, used, v;
  uint64_t i, n;
  CTX (ctx);

  (void) state;
  assert_non_null (pool);
  for (v = 0; v < views; ++v) {
    owners[v] = vd_owners_new (pool, units * UNIT, UNIT);
    assert_non_null (owners[v]);
    for (i = 0; i < units; i += 97)
      assert_int_equal (vd_owners_get (ctx, owners[v], i * UNIT, UNIT,
                                       find_own, (void *) v, &n),
                        (i + v) % 100);
  }
  used = mallinfo2 ().uordblks - before;
  if (used > pages * 4400 + views * 200)
    fail_msg ("%zu views take %zu bytes", views, used);
  /* The last one has all of the pool, and so has the first if it looks. */
  for (v = views - 1;; v = 0) {
    for (i = 0; i < units; i += 97)
      vd_owners_get (ctx, owners[v], i * UNIT, UNIT, find_own, (void *) v,
                     &n);
    found = 0;
    for (i = 0; i < units; i += 97)
      assert_int_equal (vd_owners_get (ctx, owners[v], i * UNIT, UNIT,
                                       find_own, (void *) v, &n),
                        (i + v) % 100);
    assert_int_equal (found, 0);
    if (v == 0)
      break;
  }
  for (v = 0; v < views; ++v)
    vd_owners_free (owners[v]);
  vd_owner_pool_free (pool);
}

/* Each thread writes ranges of its own and must read what it wrote; another
 * reads all levels meanwhile, of which the lower ones stand still.
 */
#define AREA (64 * KIB)

static struct {
  struct vd_chain *chain;
  _Atomic bool stop;
  _Atomic unsigned wrong;
} busy;

static void *
busy_write (void *arg)
{
  uint8_t area[AREA], got[AREA];
  uintptr_t me = (uintptr_t) arg;
  struct model m = { .state = me };
  uint64_t at, len, start = me * AREA;
  unsigned i;
  CTX (ctx);

  memset (area, 0x11, sizeof area);
  for (i = 0; i < 300; ++i) {
    at = below (&m, AREA);
    len = 1 + below (&m, chance (&m, 50) ? 600 : AREA);
    len = min_u64 (len, AREA - at);
    if (chance (&m, 70)) {
      memset (area + at, 2 + below (&m, 200), len);
      if (vd_chain_pwrite (ctx, busy.chain, area + at, len, start + at, 0) < 0)
        busy.wrong++;
    }
    else {
      memset (area + at, 0, len);
      if (vd_chain_zero (ctx, busy.chain, len, start + at, VD_MAY_TRIM) < 0)
        busy.wrong++;
    }
    if (vd_chain_pread (ctx, busy.chain, 2, got, AREA, start) < 0 ||
        memcmp (got, area, AREA) != 0)
      busy.wrong++;
  }
  return NULL;
}

static void *
busy_read (void *arg)
{
  static uint8_t all[NR_THREADS * AREA];
  size_t level = 0, i;
  CTX (ctx);

  (void) arg;
  while (!busy.stop) {
    if (vd_chain_pread (ctx, busy.chain, level, all, sizeof all, 0) < 0)
      busy.wrong++;
    for (i = 0; level < 2 && i < sizeof all; ++i)
      if (all[i] != 0x11)
        busy.wrong++;
    level = (level + 1) % 3;
  }
  return NULL;
}

static void
test_chain_threads (void **state)
{
  static const char *const formats[] = { "vdi", "vmdk", "vdi" };
  const struct vd_chain_open how = {
    .how = { .write = VD_WRITE_REQUIRE, .lock = VD_LOCK_OFF, .log = quiet },
  };
  struct vd_create create = { .size = NR_THREADS * AREA, .force = true };
  pthread_t t[NR_THREADS], reader;
  char names[3][sizeof unit_dir + 32];
  const char *paths[3];
  uintptr_t i;
  CTX (ctx);

  (void) state;
  for (i = 0; i < 3; ++i) {
    snprintf (names[i], sizeof names[i], "%s/busy-%d", unit_dir, (int) i);
    paths[i] = names[i];
    create.block_size = i == 1 ? 0 : 16 * KIB;
    assert_ok (ctx, vd_image_create (ctx, paths[i],
                                     vd_format_by_name (formats[i]),
                                     VD_LOCK_OFF, &create));
    assert_ok (ctx, vd_chain_open (ctx, paths, i + 1, &how, &busy.chain));
    if (i == 0) {
      static uint8_t fill[NR_THREADS * AREA];

      memset (fill, 0x11, sizeof fill);
      assert_ok (ctx, vd_chain_pwrite (ctx, busy.chain, fill, sizeof fill, 0,
                                       0));
    }
    create.differencing = true;
    create.link.parent = vd_chain_image (busy.chain, i)->link.uuid;
    create.link.parent_cid = VD_CID_NONE;
    if (i < 2)
      assert_ok (ctx, vd_chain_close (ctx, busy.chain));
  }
  assert_int_equal (pthread_create (&reader, NULL, busy_read, NULL), 0);
  for (i = 0; i < NR_THREADS; ++i)
    assert_int_equal (pthread_create (&t[i], NULL, busy_write, (void *) i), 0);
  for (i = 0; i < NR_THREADS; ++i)
    pthread_join (t[i], NULL);
  busy.stop = true;
  pthread_join (reader, NULL);
  assert_int_equal (busy.wrong, 0);
  assert_ok (ctx, vd_chain_close (ctx, busy.chain));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_owners_threads),
    cmocka_unit_test (test_owners_take),
    cmocka_unit_test (test_owners_memory),
    cmocka_unit_test (test_chain_threads),
    cmocka_unit_test (test_model),
  };

  /* Thousands of syncs, which are not what is tested. */
  if (access ("/dev/shm", W_OK) == 0)
    setenv ("TMPDIR", "/dev/shm", 0);
  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
