/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "cleanup.h"
#include "rounding.h"
#include "table.h"

#define PAGE_ENTRIES 1024u      /* 4 KiB, of a table in one piece */
#define STRIPES 16u
#define STRIPE_PAGES_MIN 2u
#define WINDOW 4096u            /* of the file, for writing back */
#define SECTOR 512u
#define SCAN_ENTRIES 262144u    /* 1 MiB, a multiple of PAGE_ENTRIES */

/* Entries are read from the store as they are. */
_Static_assert (sizeof (_Atomic uint32_t) == 4, "entries are 4 bytes");

struct page {
  uint64_t number;
  uint32_t count;               /* entries */
  /* Only in windowed tables, under the stripe's lock. */
  uint32_t pins;
  uint64_t dirty;               /* sets that vd_table_write has not seen */
  struct page *chain;           /* same bucket */
  struct page *newer, *older;   /* idle list */
  _Atomic uint32_t entries[];   /* little-endian */
};

/* A part of the pages with a lock of its own, so that threads seldom meet.
 * Resident tables use the lock only, when they load a page.
 */
struct stripe {
  pthread_mutex_t lock;
  struct page **buckets;
  size_t pages;                 /* in memory */
  struct page *newest, *oldest; /* idle: neither pinned nor dirty */
  struct page *spare;           /* the last one evicted, for the next: without
                                   it the heaps of many threads fill with
                                   holes, to three times the memory */
};

/* Where a page is, if it is resident.  Images that were made by copying hold
 * their blocks in the order of the disk, and then all entries of a page follow
 * from the first: looking one up costs no access to the page, which with
 * random requests has left the processor's caches long ago.
 */
struct slot {
  _Atomic (struct page *) page;         /* NULL: not read yet */
  _Atomic uint64_t sequence;            /* first entry << 32 | step; 0: none, or
                                           all are 0.  Set before the page can
                                           be seen, cleared before an entry is
                                           set */
};

struct vd_table {
  /* A table that fits is resident: pages, once loaded, stay until the table
   * is freed, and are found without a lock.
   */
  struct slot *directory;       /* NULL: windowed */
  uint64_t n;
  unsigned page_shift;          /* log2 of the entries in a page */

  struct vd_store *st;
  uint64_t offset;              /* if it is in one piece */
  struct vd_table_pieces pieces;        /* where is NULL: one piece */
  uint64_t npages;

  /* Windowed: pages are hashed, as the number of pages is what an image
   * claims and not what it is worth.
   */
  unsigned nstripes;            /* in use, a power of two */
  size_t stripe_pages;          /* more only if they are pinned or dirty */
  size_t nbuckets;              /* per stripe, a power of two */
  struct stripe stripes[STRIPES];
};

static uint32_t
page_entries (const struct vd_table *t)
{
  return UINT32_C (1) << t->page_shift;
}

static struct stripe *
stripe_of (struct vd_table *t, uint64_t number)
{
  return &t->stripes[number & (t->nstripes - 1)];
}

static int
new_table (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
           uint64_t n, const struct vd_table_pieces *pieces, size_t memory,
           struct vd_table **ret)
{
  struct vd_table *t;
  unsigned i;

  t = calloc (1, sizeof *t);
  if (t == NULL)
    goto no_memory;
  t->st = st;
  t->offset = offset;
  t->page_shift = log_2 (pieces ? pieces->entries : PAGE_ENTRIES);
  if (pieces)
    t->pieces = *pieces;
  t->n = n;
  t->npages = div_round_up (n, page_entries (t));
  t->nstripes = STRIPES;
  for (i = 0; i < STRIPES; ++i)
    pthread_mutex_init (&t->stripes[i].lock, NULL);

  if (n * 4 <= memory) {
    t->directory = calloc (max_u64 (t->npages, 1), sizeof *t->directory);
    if (t->directory == NULL)
      goto no_memory;
  }
  else {
    size_t page_size = sizeof (struct page) + page_entries (t) * 4;

    /* An image can have thousands of small tables, and for each there is
     * less memory than for two pages: then they all have one stripe only.
     */
    if (memory < STRIPE_PAGES_MIN * page_size)
      t->nstripes = 1;
    t->stripe_pages = max_u64 (memory / t->nstripes / page_size,
                               STRIPE_PAGES_MIN);
    t->nbuckets = 1;
    while (t->nbuckets < t->stripe_pages)
      t->nbuckets *= 2;
    for (i = 0; i < t->nstripes; ++i) {
      t->stripes[i].buckets = calloc (t->nbuckets,
                                      sizeof *t->stripes[i].buckets);
      if (t->stripes[i].buckets == NULL)
        goto no_memory;
    }
  }

  *ret = t;
  return 0;

 no_memory:
  vd_table_free (t);
  return vd_error (ctx, ENOMEM, "%s: out of memory for a table of %" PRIu64
                   " entries", st->name, n);
}

int
vd_table_new (struct vd_ctx *ctx, struct vd_store *st,
              uint64_t offset, uint64_t n, size_t memory,
              struct vd_table **ret)
{
  if (offset > INT64_MAX || n > (INT64_MAX - offset) / 4)
    return vd_error (ctx, EINVAL, "%s: a table of %" PRIu64
                     " entries at offset %" PRIu64 ": out of range",
                     st->name, n, offset);
  return new_table (ctx, st, offset, n, NULL, memory, ret);
}

int
vd_table_new_pieces (struct vd_ctx *ctx, struct vd_store *st, uint64_t n,
                     const struct vd_table_pieces *pieces, size_t memory,
                     struct vd_table **ret)
{
  assert (is_power_of_2 (pieces->entries) && pieces->entries <= SCAN_ENTRIES);
  if (n > INT64_MAX / 4)
    return vd_error (ctx, EINVAL, "%s: a table of %" PRIu64 " entries: out "
                     "of range", st->name, n);
  return new_table (ctx, st, 0, n, pieces, memory, ret);
}

void
vd_table_free (struct vd_table *t)
{
  uint64_t number;
  unsigned i;

  if (t == NULL)
    return;
  if (t->directory) {
    for (number = 0; number < t->npages; ++number)
      free (atomic_load_explicit (&t->directory[number].page,
                                  memory_order_relaxed));
    free (t->directory);
  }
  for (i = 0; i < STRIPES; ++i) {
    struct stripe *s = &t->stripes[i];
    size_t b;

    free (s->spare);
    for (b = 0; s->buckets && b < t->nbuckets; ++b) {
      while (s->buckets[b]) {
        struct page *p = s->buckets[b];

        s->buckets[b] = p->chain;
        free (p);
      }
    }
    free (s->buckets);
    pthread_mutex_destroy (&s->lock);
  }
  free (t);
}

static int
check_index (struct vd_ctx *ctx, struct vd_table *t, uint64_t index)
{
  if (index >= t->n)
    return vd_error (ctx, EINVAL, "%s: entry %" PRIu64
                     " of a table of %" PRIu64, t->st->name, index, t->n);
  return 0;
}

static struct page *
page_new (struct vd_ctx *ctx, struct vd_table *t, uint64_t number)
{
  struct stripe *s = stripe_of (t, number);
  uint32_t count = min_u64 (t->n - (number << t->page_shift),
                            page_entries (t));
  struct page *p = s->spare;

  /* In a windowed table all have the same size. */
  s->spare = NULL;
  if (p == NULL)
    p = malloc (sizeof *p + (t->directory ? count : page_entries (t))
                * sizeof p->entries[0]);
  if (p == NULL) {
    vd_error (ctx, ENOMEM, "%s: out of memory for a table", t->st->name);
    return NULL;
  }
  memset (p, 0, sizeof *p);
  p->number = number;
  p->count = count;
  return p;
}

/* Where a page is in the store; 0: not there. */
static int
page_where (struct vd_ctx *ctx, struct vd_table *t, uint64_t number,
            uint64_t *ret)
{
  if (t->pieces.where)
    return t->pieces.where (ctx, t->pieces.opaque, number, ret);
  *ret = t->offset + number * PAGE_ENTRIES * 4;
  return 0;
}

/* Read a page.  Nobody else sees it yet. */
static int
page_read (struct vd_ctx *ctx, struct vd_table *t, uint64_t number,
           struct page **ret)
{
  struct page *p = page_new (ctx, t, number);
  uint64_t offset;
  int r;

  if (p == NULL)
    return -ENOMEM;
  r = page_where (ctx, t, number, &offset);
  if (r == 0 && t->pieces.where && offset == 0)
    memset ((void *) p->entries, 0, p->count * 4);
  else if (r == 0) {
    r = vd_store_pread (ctx, t->st, (void *) p->entries, p->count * 4,
                        offset);
    if (r == 0 && t->pieces.loaded)
      r = t->pieces.loaded (ctx, t->pieces.opaque, number,
                            (void *) p->entries);
  }
  if (r < 0) {
    free (p);
    return r;
  }
  *ret = p;
  return 0;
}

/* ---- resident --------------------------------------------------------- */

static uint64_t
find_sequence (const struct page *p)
{
  const uint32_t *e = (const void *) p->entries;        /* nobody else's yet */
  uint32_t first = le32toh (e[0]), step, i;

  if (p->count < 2)
    return 0;
  step = le32toh (e[1]) - first;
  for (i = 2; i < p->count; ++i)
    if (le32toh (e[i]) != first + i * step)
      return 0;
  return (uint64_t) first << 32 | step;
}

/* Under the stripe's lock. */
static void
install (struct slot *slot, struct page *p)
{
  atomic_store_explicit (&slot->sequence, find_sequence (p),
                         memory_order_relaxed);
  atomic_store_explicit (&slot->page, p, memory_order_release);
}

static int
resident_page (struct vd_ctx *ctx, struct vd_table *t, uint64_t number,
               struct page **ret)
{
  struct slot *slot = &t->directory[number];
  struct page *p = atomic_load_explicit (&slot->page, memory_order_acquire);
  int r;

  if (p == NULL) {
    LOCK_SCOPE (&stripe_of (t, number)->lock);
    p = atomic_load_explicit (&slot->page, memory_order_acquire);
    if (p == NULL) {
      r = page_read (ctx, t, number, &p);
      if (r < 0)
        return r;
      install (slot, p);
    }
  }
  *ret = p;
  return 0;
}

/* ---- windowed: all under the stripe's lock ----------------------------- */

static struct page **
bucket_of (struct vd_table *t, struct stripe *s, uint64_t number)
{
  return &s->buckets[number / t->nstripes & (t->nbuckets - 1)];
}

static struct page *
find_page (struct vd_table *t, struct stripe *s, uint64_t number)
{
  struct page *p;

  for (p = *bucket_of (t, s, number); p; p = p->chain)
    if (p->number == number)
      return p;
  return NULL;
}

static bool
is_idle (const struct page *p)
{
  return p->pins == 0 && p->dirty == 0;
}

static void
idle_add (struct stripe *s, struct page *p)
{
  p->newer = NULL;
  p->older = s->newest;
  *(s->newest ? &s->newest->newer : &s->oldest) = p;
  s->newest = p;
}

static void
idle_remove (struct stripe *s, struct page *p)
{
  *(p->newer ? &p->newer->older : &s->newest) = p->older;
  *(p->older ? &p->older->newer : &s->oldest) = p->newer;
}

/* Make room until at most limit pages are left, or none is idle. */
static void
evict (struct vd_table *t, struct stripe *s, size_t limit)
{
  while (s->pages > limit && s->oldest) {
    struct page *p = s->oldest;
    struct page **link = bucket_of (t, s, p->number);

    idle_remove (s, p);
    while (*link != p)
      link = &(*link)->chain;
    *link = p->chain;
    free (s->spare);
    s->spare = p;
    s->pages--;
  }
}

/* A page that is about to be pinned or to become dirty, hence not idle. */
static int
windowed_page (struct vd_ctx *ctx, struct vd_table *t, struct stripe *s,
               uint64_t number, struct page **ret)
{
  struct page *p = find_page (t, s, number);
  struct page **bucket;
  int r;

  if (p) {
    if (is_idle (p))
      idle_remove (s, p);
    *ret = p;
    return 0;
  }

  evict (t, s, t->stripe_pages - 1);
  r = page_read (ctx, t, number, &p);
  if (r < 0)
    return r;
  bucket = bucket_of (t, s, number);
  p->chain = *bucket;
  *bucket = p;
  s->pages++;
  *ret = p;
  return 0;
}

/* After pins or dirty went down. */
static void
settle (struct vd_table *t, struct stripe *s, struct page *p)
{
  if (is_idle (p)) {
    idle_add (s, p);
    evict (t, s, t->stripe_pages);
  }
}

int
vd_table_write_changes (struct vd_ctx *ctx, struct vd_table *t,
                        struct vd_table *copy, unsigned shift,
                        const struct vd_change *changes, size_t n)
{
  struct vd_table_change part[512];
  size_t i, count;
  int r;

  for (; n > 0; changes += count, n -= count) {
    count = min_u64 (n, sizeof part / sizeof part[0]);
    for (i = 0; i < count; ++i) {
      part[i].index = changes[i].block >> shift;
      part[i].value = (uint32_t) changes[i].value;
    }
    r = vd_table_write (ctx, t, part, count);
    if (r == 0 && copy)
      r = vd_table_write_copy (ctx, copy, part, count);
    if (r < 0)
      return r;
  }
  return 0;
}

/* ---- reading ---------------------------------------------------------- */

int
vd_table_pin (struct vd_ctx *ctx, struct vd_table *t,
              uint64_t index, struct vd_table_pin *pin)
{
  uint64_t number = index >> t->page_shift;
  uint32_t i = index & (page_entries (t) - 1);
  struct page *p;
  int r;

  r = check_index (ctx, t, index);
  if (r < 0)
    return r;

  if (t->directory) {
    r = resident_page (ctx, t, number, &p);
    if (r < 0)
      return r;
    pin->page = NULL;
  }
  else {
    struct stripe *s = stripe_of (t, number);
    LOCK_SCOPE (&s->lock);

    r = windowed_page (ctx, t, s, number, &p);
    if (r < 0)
      return r;
    p->pins++;
    pin->page = p;
  }
  pin->entries = &p->entries[i];
  pin->count = p->count - i;
  return 0;
}

void
vd_table_unpin (struct vd_table *t, struct vd_table_pin *pin)
{
  struct page *p = pin->page;
  struct stripe *s;

  if (p == NULL)
    return;
  s = stripe_of (t, p->number);
  {
    LOCK_SCOPE (&s->lock);
    assert (p->pins > 0);
    p->pins--;
    settle (t, s, p);
  }
  pin->page = NULL;
}

bool
vd_table_peek (const struct vd_table *t, uint64_t index, uint32_t *ret)
{
  uint32_t i = index & (page_entries (t) - 1);
  const struct slot *slot;
  const struct page *p;
  uint64_t sequence;

  if (!t->directory || index >= t->n)
    return false;
  slot = &t->directory[index >> t->page_shift];
  sequence = atomic_load_explicit (&slot->sequence, memory_order_acquire);
  if (sequence != 0) {
    *ret = (sequence >> 32) + i * (uint32_t) sequence;
    return true;
  }
  p = atomic_load_explicit (&slot->page, memory_order_acquire);
  if (!p)
    return false;
  *ret = le32toh (atomic_load_explicit (&p->entries[i],
                                        memory_order_acquire));
  return true;
}

uint32_t
vd_table_entry (const struct vd_table_pin *pin, uint32_t i)
{
  return le32toh (atomic_load_explicit (&pin->entries[i],
                                        memory_order_acquire));
}

int
vd_table_get (struct vd_ctx *ctx, struct vd_table *t,
              uint64_t index, uint32_t *ret)
{
  struct vd_table_pin pin;
  int r;

  r = vd_table_pin (ctx, t, index, &pin);
  if (r < 0)
    return r;
  *ret = vd_table_entry (&pin, 0);
  vd_table_unpin (t, &pin);
  return 0;
}

/* Pieces are read one by one, and kept as memory allows. */
static int
scan_pieces (struct vd_ctx *ctx, struct vd_table *t,
             int (*fn) (struct vd_ctx *ctx, void *opaque,
                        uint64_t index, const uint32_t *entries,
                        size_t n),
             void *opaque)
{
  CLEANUP_FREE uint32_t *buf = malloc (page_entries (t) * 4);
  uint64_t index;
  uint32_t i, n;

  if (buf == NULL)
    return vd_error (ctx, ENOMEM, "%s: out of memory for a table",
                     t->st->name);
  for (index = 0; index < t->n; index += n) {
    struct vd_table_pin pin;
    int r;

    r = vd_table_pin (ctx, t, index, &pin);
    if (r < 0)
      return r;
    n = pin.count;
    for (i = 0; i < n; ++i)
      buf[i] = vd_table_entry (&pin, i);
    vd_table_unpin (t, &pin);
    r = fn (ctx, opaque, index, buf, n);
    if (r < 0)
      return r;
  }
  return 0;
}

int
vd_table_scan (struct vd_ctx *ctx, struct vd_table *t,
               int (*fn) (struct vd_ctx *ctx, void *opaque,
                          uint64_t index, const uint32_t *entries,
                          size_t n),
               void *opaque)
{
  size_t size = min_u64 (t->n, SCAN_ENTRIES);
  CLEANUP_FREE uint32_t *buf = NULL;
  uint64_t index;

  if (t->pieces.where)
    return scan_pieces (ctx, t, fn, opaque);
  buf = malloc (max_u64 (size, 1) * 4);
  if (buf == NULL)
    return vd_error (ctx, ENOMEM, "%s: out of memory for a table",
                     t->st->name);

  for (index = 0; index < t->n; index += size) {
    size_t i, n = min_u64 (t->n - index, size);
    int r;

    r = vd_store_pread (ctx, t->st, buf, n * 4, t->offset + index * 4);
    if (r < 0)
      return r;

    for (i = 0; t->directory && i < n; i += PAGE_ENTRIES) {
      uint64_t number = (index + i) / PAGE_ENTRIES;
      struct slot *slot = &t->directory[number];
      LOCK_SCOPE (&stripe_of (t, number)->lock);

      if (atomic_load_explicit (&slot->page, memory_order_acquire) == NULL) {
        struct page *p = page_new (ctx, t, number);

        if (p == NULL)
          return -ENOMEM;
        memcpy ((void *) p->entries, &buf[i], p->count * 4);
        install (slot, p);
      }
    }

    for (i = 0; i < n; ++i)
      buf[i] = le32toh (buf[i]);
    r = fn (ctx, opaque, index, buf, n);
    if (r < 0)
      return r;
  }
  return 0;
}

/* ---- writing ---------------------------------------------------------- */

int
vd_table_set (struct vd_ctx *ctx, struct vd_table *t,
              uint64_t index, uint32_t value)
{
  uint64_t number = index >> t->page_shift;
  struct page *p;
  int r;

  r = check_index (ctx, t, index);
  if (r < 0)
    return r;

  if (t->directory) {
    r = resident_page (ctx, t, number, &p);
    if (r < 0)
      return r;
    /* Who may expect the new value is ordered after this call as a whole. */
    if (atomic_load_explicit (&t->directory[number].sequence,
                              memory_order_relaxed) != 0)
      atomic_store_explicit (&t->directory[number].sequence, 0,
                             memory_order_release);
    atomic_store_explicit (&p->entries[index & (page_entries (t) - 1)],
                           htole32 (value), memory_order_release);
  }
  else {
    struct stripe *s = stripe_of (t, number);
    LOCK_SCOPE (&s->lock);

    r = windowed_page (ctx, t, s, number, &p);
    if (r < 0)
      return r;
    p->dirty++;
    atomic_store_explicit (&p->entries[index & (page_entries (t) - 1)],
                           htole32 (value), memory_order_release);
  }
  return 0;
}

/* These changes lie in one window, the first at offset.  What is rewritten
 * with them (whole sectors, which a power cut leaves whole) is as it is on
 * disk: the pages in memory may hold entries whose data is not durable yet.
 */
static int
write_window (struct vd_ctx *ctx, struct vd_table *t, uint64_t file_size,
              uint64_t offset, const struct vd_table_change *changes,
              size_t n)
{
  uint64_t last = offset + (changes[n - 1].index - changes[0].index) * 4;
  uint64_t start = round_down (offset, SECTOR);
  uint64_t end = min_u64 (round_down (last, SECTOR) + SECTOR, file_size);
  uint8_t buf[WINDOW];
  size_t i;
  int r;

  if (last + 4 > file_size)
    return vd_error (ctx, EIO, "%s: the file ends at %" PRIu64
                     ", inside a table: entry %" PRIu64 " is at %" PRIu64,
                     t->st->name, file_size, changes[n - 1].index, last);
  r = vd_store_pread (ctx, t->st, buf, end - start, start);
  if (r < 0)
    return r;
  for (i = 0; i < n; ++i)
    put_le32 (&buf[offset + (changes[i].index - changes[0].index) * 4
                   - start], changes[i].value);
  return vd_store_pwrite (ctx, t->st, buf, end - start, start, 0);
}

/* Every change ends one set, also where a later one of the list superseded
 * it.
 */
static void
drop_dirty (struct vd_table *t, const struct vd_table_change *changes,
            size_t n)
{
  size_t i, j;

  for (i = 0; i < n; i = j) {
    uint64_t number = changes[i].index >> t->page_shift;
    struct stripe *s = stripe_of (t, number);
    struct page *p;
    LOCK_SCOPE (&s->lock);

    for (j = i; j < n && changes[j].index >> t->page_shift == number; ++j)
      ;
    p = find_page (t, s, number);
    assert (p && p->dirty >= j - i);
    p->dirty -= j - i;
    settle (t, s, p);
  }
}

int
vd_table_write_copy (struct vd_ctx *ctx, struct vd_table *t,
                     const struct vd_table_change *changes, size_t n)
{
  uint64_t file_size;
  size_t i, j;
  int r;

  if (n == 0)
    return 0;
  for (i = 0; i < n; ++i) {
    r = check_index (ctx, t, changes[i].index);
    if (r < 0)
      return r;
    assert (i == 0 || changes[i].index >= changes[i - 1].index);
  }
  r = vd_store_get_size (ctx, t->st, &file_size);
  if (r < 0)
    return r;
  if (!t->pieces.where && file_size < t->offset + t->n * 4)
    return vd_error (ctx, EIO, "%s: the file ends at %" PRIu64
                     ", inside the table of %" PRIu64 " entries at offset %"
                     PRIu64, t->st->name, file_size, t->n, t->offset);

  for (i = 0; i < n; i = j) {
    uint64_t first = changes[i].index, page = first >> t->page_shift;
    uint64_t offset;

    r = page_where (ctx, t, page, &offset);
    if (r < 0)
      return r;
    offset += (first & (page_entries (t) - 1)) * 4;
    if (offset % 4 != 0)
      return vd_error (ctx, EINVAL, "%s: the table at offset %" PRIu64
                       " is not aligned and cannot be written",
                       t->st->name, offset);
    for (j = i + 1; j < n; ++j)
      if (changes[j].index >> t->page_shift != page ||
          (offset + (changes[j].index - first) * 4) / WINDOW !=
          offset / WINDOW)
        break;
    r = write_window (ctx, t, file_size, offset, &changes[i], j - i);
    /* The pages stay dirty: memory knows what the disk does not. */
    if (r < 0)
      return r;
  }
  return 0;
}

int
vd_table_write (struct vd_ctx *ctx, struct vd_table *t,
                const struct vd_table_change *changes, size_t n)
{
  int r;

  r = vd_table_write_copy (ctx, t, changes, n);
  if (r == 0 && t->directory == NULL)
    drop_dirty (t, changes, n);
  return r;
}
