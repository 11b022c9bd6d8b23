/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cleanup.h"
#include "owners.h"
#include "rounding.h"

#define UNKNOWN 255
#define MAX_UNITS (16 * 1024 * 1024)
#define MIN_UNIT 4096
#define MAX_UNIT (1024 * 1024)
#define PAGE_UNITS 4096
#define NR_LOCKS 16

struct page {
  /* Counts vd_owners_forget: who was looking meanwhile must not note what he
   * found.
   */
  uint64_t changes;
  _Atomic uint8_t units[PAGE_UNITS];
};

struct vd_owners {
  uint64_t size;
  unsigned shift;               /* log2 of the unit */
  uint64_t npages;
  pthread_mutex_t locks[NR_LOCKS];      /* by page, for changes */
  struct page *_Atomic pages[];
};

struct vd_owners *
vd_owners_new (uint64_t size, uint32_t block_size)
{
  uint64_t unit = MIN_UNIT, units, i;
  struct vd_owners *o;

  while (unit < MAX_UNIT && unit < block_size)
    unit *= 2;
  while (div_round_up (size, unit) > MAX_UNITS)
    unit *= 2;
  units = div_round_up (size, unit);
  o = calloc (1, sizeof *o +
              div_round_up (units, PAGE_UNITS) * sizeof o->pages[0]);
  if (!o)
    return NULL;
  o->size = size;
  o->shift = log_2 (unit);
  o->npages = div_round_up (units, PAGE_UNITS);
  for (i = 0; i < NR_LOCKS; ++i)
    pthread_mutex_init (&o->locks[i], NULL);
  return o;
}

void
vd_owners_free (struct vd_owners *o)
{
  uint64_t i;

  if (!o)
    return;
  for (i = 0; i < o->npages; ++i)
    free (atomic_load_explicit (&o->pages[i], memory_order_relaxed));
  for (i = 0; i < NR_LOCKS; ++i)
    pthread_mutex_destroy (&o->locks[i]);
  free (o);
}

static struct page *
page_of (const struct vd_owners *o, uint64_t number)
{
  return atomic_load_explicit (&o->pages[number], memory_order_acquire);
}

static pthread_mutex_t *
lock_of (struct vd_owners *o, uint64_t number)
{
  return &o->locks[number % NR_LOCKS];
}

/* The page, made if it is not there; NULL: out of memory.  The lock is held.
 */
static struct page *
make_page (struct vd_owners *o, uint64_t number)
{
  struct page *p = page_of (o, number);
  unsigned i;

  if (p)
    return p;
  p = malloc (sizeof *p);
  if (!p)
    return NULL;
  p->changes = 0;
  for (i = 0; i < PAGE_UNITS; ++i)
    atomic_init (&p->units[i], UNKNOWN);
  atomic_store_explicit (&o->pages[number], p, memory_order_release);
  return p;
}

static int
look (struct vd_ctx *ctx, struct vd_owners *o, uint64_t unit,
      int (*find) (struct vd_ctx *, void *, uint64_t, uint64_t), void *opaque)
{
  uint64_t number = unit / PAGE_UNITS, start = unit << o->shift;
  uint64_t changes = 0;
  struct page *p;
  int r;

  {
    LOCK_SCOPE (lock_of (o, number));
    p = make_page (o, number);
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
    LOCK_SCOPE (lock_of (o, number));
    if (p->changes == changes)
      atomic_store_explicit (&p->units[unit % PAGE_UNITS], r,
                             memory_order_release);
  }
  return r;
}

static int
get_unit (struct vd_ctx *ctx, struct vd_owners *o, uint64_t unit,
          int (*find) (struct vd_ctx *, void *, uint64_t, uint64_t),
          void *opaque)
{
  struct page *p = page_of (o, unit / PAGE_UNITS);
  uint8_t owner = UNKNOWN;

  if (p)
    owner = atomic_load_explicit (&p->units[unit % PAGE_UNITS],
                                  memory_order_acquire);
  return owner != UNKNOWN ? owner : look (ctx, o, unit, find, opaque);
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

  atomic_thread_fence (memory_order_seq_cst);
  for (; unit <= last; ++unit) {
    p = page_of (o, unit / PAGE_UNITS);
    if (!p) {
      /* Nothing is noted in a page that is not there, and who makes it from
       * now on sees the write.
       */
      unit |= PAGE_UNITS - 1;
      continue;
    }
    if (atomic_load_explicit (&p->units[unit % PAGE_UNITS],
                              memory_order_acquire) == top)
      continue;
    LOCK_SCOPE (lock_of (o, unit / PAGE_UNITS));
    p->changes++;
    atomic_store_explicit (&p->units[unit % PAGE_UNITS], UNKNOWN,
                           memory_order_release);
  }
}
