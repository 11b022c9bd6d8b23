/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "cleanup.h"
#include "owners.h"
#include "rounding.h"

#define UNKNOWN 255
#define MIN_UNIT 4096
#define MAX_UNIT (1024 * 1024)
#define NR_LOCKS 64

/* A page's place in the pool follows from the index and the page's number, and
 * who needs a place takes it from whoever has it.  So readers may look at a
 * page while it is taken away; sequence tells them, being odd meanwhile and
 * another one afterwards.
 */
struct page {
  _Atomic uint64_t sequence;
  _Atomic uint64_t tag;         /* whose, and which: tag_of */
  /* Counts vd_owners_forget and changes of hand: who was looking meanwhile
   * must not note what he found.
   */
  uint64_t changes;
  _Atomic uint8_t units[VD_OWNER_PAGE_UNITS];
};

struct vd_owner_pool {
  _Atomic uint32_t ids;         /* given to indexes so far */
  pthread_mutex_t locks[NR_LOCKS];      /* by place, for changes */
  size_t npages;
  struct page *_Atomic pages[];
};

struct vd_owners {
  struct vd_owner_pool *pool;
  uint32_t id;                  /* never given to another one */
  size_t start;                 /* place of its first page */
  uint64_t size;
  unsigned shift;               /* log2 of the unit */
};

struct vd_owner_pool *
vd_owner_pool_new (size_t pages)
{
  struct vd_owner_pool *pool =
    calloc (1, sizeof *pool + pages * sizeof pool->pages[0]);
  unsigned i;

  if (!pool)
    return NULL;
  pool->npages = pages;
  for (i = 0; i < NR_LOCKS; ++i)
    pthread_mutex_init (&pool->locks[i], NULL);
  return pool;
}

void
vd_owner_pool_free (struct vd_owner_pool *pool)
{
  size_t i;

  if (!pool)
    return;
  for (i = 0; i < pool->npages; ++i)
    free (atomic_load_explicit (&pool->pages[i], memory_order_relaxed));
  for (i = 0; i < NR_LOCKS; ++i)
    pthread_mutex_destroy (&pool->locks[i]);
  free (pool);
}

struct vd_owners *
vd_owners_new (struct vd_owner_pool *pool, uint64_t size, uint32_t block_size)
{
  struct vd_owners *o = malloc (sizeof *o);
  uint64_t unit = MIN_UNIT;

  if (!o)
    return NULL;
  while (unit < MAX_UNIT && unit < block_size)
    unit *= 2;
  /* One index alone does not take places from itself. */
  while (div_round_up (size, unit) > pool->npages * VD_OWNER_PAGE_UNITS)
    unit *= 2;
  o->pool = pool;
  o->id = atomic_fetch_add (&pool->ids, 1) + 1;
  /* Spread, so that the pages of a few indexes do not meet. */
  o->start = (o->id * UINT64_C (2654435769) >> 12) % pool->npages;
  o->size = size;
  o->shift = log_2 (unit);
  return o;
}

void
vd_owners_free (struct vd_owners *o)
{
  free (o);                     /* its pages are taken by others */
}

/* ---- pages ------------------------------------------------------------- */

static size_t
place_of (const struct vd_owners *o, uint64_t unit)
{
  return (o->start + unit / VD_OWNER_PAGE_UNITS) % o->pool->npages;
}

/* Pages never seen have tag 0. */
static uint64_t
tag_of (const struct vd_owners *o, uint64_t unit)
{
  return (uint64_t) o->id << 32 | unit / VD_OWNER_PAGE_UNITS;
}

static struct page *
page_at (const struct vd_owners *o, uint64_t unit)
{
  return atomic_load_explicit (&o->pool->pages[place_of (o, unit)],
                               memory_order_acquire);
}

static pthread_mutex_t *
lock_of (const struct vd_owners *o, uint64_t unit)
{
  return &o->pool->locks[place_of (o, unit) % NR_LOCKS];
}

static bool
is_mine (const struct vd_owners *o, const struct page *p, uint64_t unit)
{
  return atomic_load_explicit (&p->tag, memory_order_acquire) ==
    tag_of (o, unit);
}

static _Atomic uint8_t *
unit_in (struct page *p, uint64_t unit)
{
  return &p->units[unit % VD_OWNER_PAGE_UNITS];
}

/* Without a lock: what is noted, UNKNOWN if nothing is.  False: the page is
 * changing hands.
 */
static bool
read_unit (const struct vd_owners *o, uint64_t unit, uint8_t *ret)
{
  struct page *p = page_at (o, unit);
  uint64_t sequence;

  *ret = UNKNOWN;
  if (!p)
    return true;
  sequence = atomic_load_explicit (&p->sequence, memory_order_acquire);
  if (sequence & 1)
    return false;
  if (!is_mine (o, p, unit))
    return atomic_load_explicit (&p->sequence, memory_order_relaxed) ==
      sequence;
  *ret = atomic_load_explicit (unit_in (p, unit), memory_order_acquire);
  return atomic_load_explicit (&p->sequence, memory_order_relaxed) ==
    sequence;
}

/* The page for this unit, made or taken if it is another's; NULL: out of
 * memory.  The lock is held.
 */
static struct page *
take_page (struct vd_owners *o, uint64_t unit)
{
  struct page *p = page_at (o, unit);
  uint64_t sequence;
  unsigned i;

  if (p && is_mine (o, p, unit))
    return p;
  if (!p) {
    p = calloc (1, sizeof *p);
    if (!p)
      return NULL;
    atomic_store_explicit (&o->pool->pages[place_of (o, unit)], p,
                           memory_order_release);
  }
  /* Each store is seen after the first one: see read_unit. */
  sequence = atomic_load_explicit (&p->sequence, memory_order_relaxed);
  atomic_store_explicit (&p->sequence, sequence + 1, memory_order_relaxed);
  atomic_store_explicit (&p->tag, tag_of (o, unit), memory_order_release);
  for (i = 0; i < VD_OWNER_PAGE_UNITS; ++i)
    atomic_store_explicit (&p->units[i], UNKNOWN, memory_order_release);
  p->changes++;
  atomic_store_explicit (&p->sequence, sequence + 2, memory_order_release);
  return p;
}

/* ---- looking and forgetting -------------------------------------------- */

static int
look (struct vd_ctx *ctx, struct vd_owners *o, uint64_t unit,
      int (*find) (struct vd_ctx *, void *, uint64_t, uint64_t), void *opaque)
{
  uint64_t start = unit << o->shift, changes = 0;
  struct page *p;
  int r;

  {
    LOCK_SCOPE (lock_of (o, unit));
    p = take_page (o, unit);
    if (p)
      changes = p->changes;
  }
  /* Against the one in vd_owners_forget: either we see the write, or the
   * writer sees the page.
   */
  atomic_thread_fence (memory_order_seq_cst);
  r = find (ctx, opaque, start,
            min_u64 (UINT64_C (1) << o->shift, o->size - start));
  if (r < 0 || !p)
    return r;
  {
    LOCK_SCOPE (lock_of (o, unit));
    if (is_mine (o, p, unit) && p->changes == changes)
      atomic_store_explicit (unit_in (p, unit), r, memory_order_release);
  }
  return r;
}

static int
get_unit (struct vd_ctx *ctx, struct vd_owners *o, uint64_t unit,
          int (*find) (struct vd_ctx *, void *, uint64_t, uint64_t),
          void *opaque)
{
  uint8_t owner;

  if (read_unit (o, unit, &owner) && owner != UNKNOWN)
    return owner;
  return look (ctx, o, unit, find, opaque);
}

int
vd_owners_get (struct vd_ctx *ctx, struct vd_owners *o,
               uint64_t offset, uint64_t len,
               int (*find) (struct vd_ctx *, void *, uint64_t, uint64_t),
               void *opaque, uint64_t *ret_len)
{
  uint64_t unit = offset >> o->shift, end = offset + len, next;
  int owner = get_unit (ctx, o, unit, find, opaque);

  if (owner < 0)
    return owner;
  for (;;) {
    next = ++unit << o->shift;
    if (next >= end)
      break;
    /* An error is for who asks for that part. */
    if (get_unit (ctx, o, unit, find, opaque) != owner)
      break;
  }
  *ret_len = min_u64 (next, end) - offset;
  return owner;
}

void
vd_owners_forget (struct vd_owners *o, uint64_t offset, uint64_t len,
                  unsigned top)
{
  uint64_t unit = offset >> o->shift;
  uint64_t last = (offset + len - 1) >> o->shift;
  struct page *p;
  uint8_t owner;

  atomic_thread_fence (memory_order_seq_cst);
  for (; unit <= last; ++unit) {
    p = page_at (o, unit);
    if (p && read_unit (o, unit, &owner)) {
      if (owner == top)
        continue;
      if (!is_mine (o, p, unit))
        p = NULL;
    }
    if (!p) {
      /* Nothing is noted in a page that is not there, and who makes it from
       * now on sees the write.
       */
      unit |= VD_OWNER_PAGE_UNITS - 1;
      continue;
    }
    LOCK_SCOPE (lock_of (o, unit));
    if (!is_mine (o, p, unit))
      continue;
    p->changes++;
    atomic_store_explicit (unit_in (p, unit), UNKNOWN, memory_order_release);
  }
}
