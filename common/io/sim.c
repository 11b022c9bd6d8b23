/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "iszero.h"
#include "rounding.h"
#include "sim.h"

#define SECTOR 512u
#define PAGE 4096u              /* holes come in these */
#define FILE_MAX (UINT64_C (1) << 30)

/* A growing array of bytes that knows which pages were ever written.  Bytes
 * from size to capacity are zero, and capacity is a multiple of PAGE.
 */
struct content {
  uint8_t *data;
  bool *used;                   /* per page; false: a hole */
  size_t size, capacity;
};

struct sim_file {
  char *name;
  struct content now;
  /* Before the first record of the log that is about this file.  Not there
   * (no copy is made) as long as there is none.
   */
  struct content base;
  bool changed;
  bool removed;                 /* kept for the stores that have it open */
};

enum kind { WRITE, ZERO, PUNCH, TRUNCATE, ALLOCATE, SYNC, MARK };

struct record {
  enum kind kind;
  struct sim_file *file;        /* not for MARK */
  uint64_t offset;              /* TRUNCATE: the new size */
  uint64_t len;
  uint8_t *data;                /* WRITE */
  bool fua;
  uint64_t value;               /* MARK */
};

struct vd_sim {
  pthread_mutex_t lock;         /* covers everything */
  struct sim_file **files;
  size_t nfiles;
  struct record *log;
  size_t nlog, log_room;
  uint64_t fail_in;             /* calls until the fault, 0: none */
  int fail_err;
  bool fail_sticky, fail_hit;
};

struct sim_store {
  struct vd_store st;
  struct vd_sim *sim;
  struct sim_file *file;
};

static const struct vd_store_ops sim_ops;

/* What is const to callers still has a lock. */
static void
lock (const struct vd_sim *sim)
{
  pthread_mutex_lock (&((struct vd_sim *) sim)->lock);
}

static void
unlock (const struct vd_sim *sim)
{
  pthread_mutex_unlock (&((struct vd_sim *) sim)->lock);
}

/* ---- content ---------------------------------------------------------- */

static bool
reserve (struct content *c, uint64_t size)
{
  size_t capacity, i;
  uint8_t *data;
  bool *used;

  if (size <= c->capacity)
    return true;
  if (size > FILE_MAX)
    return false;
  capacity = round_up (max_u64 (size, c->capacity + c->capacity / 2), PAGE);
  data = realloc (c->data, capacity);
  if (data == NULL)
    return false;
  memset (data + c->capacity, 0, capacity - c->capacity);
  c->data = data;
  used = realloc (c->used, capacity / PAGE * sizeof *used);
  if (used == NULL)
    return false;
  for (i = c->capacity / PAGE; i < capacity / PAGE; ++i)
    used[i] = false;
  c->used = used;
  c->capacity = capacity;
  return true;
}

static void
free_content (struct content *c)
{
  free (c->data);
  free (c->used);
}

static bool
copy_content (struct content *to, const struct content *from)
{
  memset (to, 0, sizeof *to);
  if (!reserve (to, from->size)) {
    free_content (to);
    memset (to, 0, sizeof *to);
    return false;
  }
  to->size = from->size;
  if (from->size) {
    memcpy (to->data, from->data, from->size);
    memcpy (to->used, from->used, div_round_up (from->size, PAGE));
  }
  return true;
}

/* The range lies in the capacity.  data NULL: zeroes. */
static void
put (struct content *c, uint64_t offset, uint64_t len, const uint8_t *data)
{
  uint64_t p;

  if (len == 0)
    return;
  if (data)
    memcpy (c->data + offset, data, len);
  else
    memset (c->data + offset, 0, len);
  for (p = offset / PAGE; p <= (offset + len - 1) / PAGE; ++p)
    c->used[p] = true;
}

static void
punch (struct content *c, uint64_t offset, uint64_t len)
{
  uint64_t p, end = offset + len;

  if (len == 0)
    return;
  memset (c->data + offset, 0, len);
  /* The last page counts as whole if the rest of it is beyond the end. */
  if (end >= c->size)
    end = round_up (end, PAGE);
  for (p = div_round_up (offset, PAGE); p < end / PAGE; ++p)
    c->used[p] = false;
}

/* size lies in the capacity. */
static void
set_size (struct content *c, uint64_t size)
{
  if (size < c->size)
    punch (c, size, c->size - size);
  c->size = size;
}

/* Size after a record that found the file that big. */
static uint64_t
size_after (const struct record *rec, uint64_t size)
{
  switch (rec->kind) {
  case WRITE:
  case ALLOCATE:
    return max_u64 (size, rec->offset + rec->len);
  case TRUNCATE:
    return rec->offset;
  default:
    return size;
  }
}

static bool
apply (struct content *c, const struct record *rec)
{
  uint64_t size = size_after (rec, c->size);

  if (!reserve (c, size))
    return false;
  switch (rec->kind) {
  case WRITE: put (c, rec->offset, rec->len, rec->data); break;
  case ZERO: put (c, rec->offset, rec->len, NULL); break;
  case PUNCH: punch (c, rec->offset, rec->len); break;
  case TRUNCATE:
  case ALLOCATE:
  case SYNC:
  case MARK:
    break;
  }
  set_size (c, size);
  return true;
}

/* ---- the disk --------------------------------------------------------- */

struct vd_sim *
vd_sim_new (void)
{
  struct vd_sim *sim = calloc (1, sizeof *sim);

  if (sim)
    pthread_mutex_init (&sim->lock, NULL);
  return sim;
}

void
vd_sim_free (struct vd_sim *sim)
{
  size_t i;

  if (sim == NULL)
    return;
  for (i = 0; i < sim->nfiles; ++i) {
    free (sim->files[i]->name);
    free_content (&sim->files[i]->now);
    free_content (&sim->files[i]->base);
    free (sim->files[i]);
  }
  free (sim->files);
  for (i = 0; i < sim->nlog; ++i)
    free (sim->log[i].data);
  free (sim->log);
  pthread_mutex_destroy (&sim->lock);
  free (sim);
}

/* An empty file; NULL: out of memory. */
static struct sim_file *
add_file (struct vd_sim *sim, const char *name)
{
  struct sim_file *file = calloc (1, sizeof *file);
  struct sim_file **files = realloc (sim->files,
                                     (sim->nfiles + 1) * sizeof *files);

  if (files)
    sim->files = files;
  if (file)
    file->name = strdup (name);
  if (files == NULL || file == NULL || file->name == NULL) {
    if (file)
      free (file->name);
    free (file);
    return NULL;
  }
  sim->files[sim->nfiles++] = file;
  return file;
}

static struct sim_file *
find_file (const struct vd_sim *sim, const char *name)
{
  size_t i;

  for (i = 0; i < sim->nfiles; ++i)
    if (!sim->files[i]->removed && strcmp (sim->files[i]->name, name) == 0)
      return sim->files[i];
  return NULL;
}

static struct record *
add_record (struct vd_sim *sim)
{
  if (sim->nlog == sim->log_room) {
    size_t room = sim->log_room ? 2 * sim->log_room : 64;
    struct record *log = realloc (sim->log, room * sizeof *log);

    if (log == NULL)
      return NULL;
    sim->log = log;
    sim->log_room = room;
  }
  memset (&sim->log[sim->nlog], 0, sizeof sim->log[0]);
  return &sim->log[sim->nlog++];
}

/* ---- what a cut leaves ------------------------------------------------ */

static const struct content *
base_of (const struct sim_file *file)
{
  return file->changed ? &file->base : &file->now;
}

/* Apply the records first <= i < end that are about file. */
static bool
replay (const struct vd_sim *sim, const struct sim_file *file,
        size_t first, size_t end, struct content *c)
{
  size_t i;

  for (i = first; i < end; ++i)
    if (sim->log[i].file == file && !apply (c, &sim->log[i]))
      return false;
  return true;
}

/* splitmix64 */
static uint64_t
draw (uint64_t *seed)
{
  uint64_t z = (*seed += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* How the states of sectors are drawn.  All of them are possible with ANY,
 * but losing all of a big write and keeping the small one after it is not
 * likely then.
 */
enum bias { ANY, OLD, NEW, FIRST_OR_LAST };

static uint32_t
draw_state (uint64_t *seed, enum bias bias, uint32_t low, uint32_t high)
{
  uint64_t v = draw (seed), coin = v >> 56;

  switch (bias) {
  case OLD:
    if (coin < 224)
      return low;
    break;
  case NEW:
    if (coin < 224)
      return high;
    break;
  case FIRST_OR_LAST:
    return coin & 1 ? low : high;
  case ANY:
    break;
  }
  return low + v % (high - low + 1);
}

/* The range in which a record changes bytes, given the size that it found.
 * A truncate that shrinks is a loss of what is beyond.
 */
static void
touched_range (const struct record *rec, uint64_t size,
               uint64_t *ret_offset, uint64_t *ret_end)
{
  *ret_offset = *ret_end = 0;
  switch (rec->kind) {
  case WRITE:
  case ZERO:
  case PUNCH:
    *ret_offset = rec->offset;
    *ret_end = rec->offset + rec->len;
    break;
  case TRUNCATE:
    if (rec->offset < size) {
      *ret_offset = rec->offset;
      *ret_end = size;
    }
    break;
  case ALLOCATE:
  case SYNC:
  case MARK:
    break;
  }
}

/* Per sector: how many records touch it, up to which one it is durable (FUA),
 * which state was drawn (0: as at the sync, k: after the k-th), and how many
 * have gone by.
 */
struct sector {
  uint32_t touching, durable, state, seen;
};

static bool
cut_file (const struct vd_sim *sim, const struct sim_file *file, size_t n,
          uint64_t *seed, struct content *c)
{
  CLEANUP_FREE struct sector *sectors = NULL;
  CLEANUP_FREE uint64_t *sizes = NULL;
  uint64_t size, size_max, chosen, s, page, offset, end;
  size_t i, j, nsizes, first = 0;
  enum bias bias = draw (seed) % 4;

  /* What the last sync covered is there. */
  for (i = 0; i < n; ++i)
    if (sim->log[i].file == file && sim->log[i].kind == SYNC)
      first = i + 1;
  if (!copy_content (c, base_of (file)) ||
      !replay (sim, file, 0, first, c))
    return false;

  /* Sizes since then, one of which is drawn.  What a FUA write wrote can be
   * read, so sizes before it that do not reach so far are out.
   */
  sizes = malloc ((n - first + 1) * sizeof *sizes);
  if (sizes == NULL)
    return false;
  size = size_max = sizes[0] = c->size;
  nsizes = 1;
  for (i = first; i < n; ++i) {
    const struct record *rec = &sim->log[i];
    uint64_t new_size = size_after (rec, size);

    if (rec->file != file)
      continue;
    if (new_size != size)
      sizes[nsizes++] = size = new_size;
    size_max = max_u64 (size_max, size);
    if (rec->fua) {
      size_t kept = 0;

      for (j = 0; j < nsizes; ++j)
        if (sizes[j] >= rec->offset + rec->len)
          sizes[kept++] = sizes[j];
      nsizes = kept;
    }
  }
  chosen = sizes[draw (seed) % nsizes];

  if (!reserve (c, size_max))
    return false;
  sectors = calloc (size_max / SECTOR + 1, sizeof *sectors);
  if (sectors == NULL)
    return false;

  size = c->size;
  for (i = first; i < n; ++i) {
    const struct record *rec = &sim->log[i];

    if (rec->file != file)
      continue;
    touched_range (rec, size, &offset, &end);
    size = size_after (rec, size);
    for (s = offset / SECTOR; s * SECTOR < end; ++s) {
      sectors[s].touching++;
      if (rec->fua)
        sectors[s].durable = sectors[s].touching;
    }
  }
  for (s = 0; s * SECTOR < size_max; ++s)
    if (sectors[s].touching)
      sectors[s].state = draw_state (seed, bias, sectors[s].durable,
                                     sectors[s].touching);

  size = c->size;
  for (i = first; i < n; ++i) {
    const struct record *rec = &sim->log[i];

    if (rec->file != file)
      continue;
    touched_range (rec, size, &offset, &end);
    size = size_after (rec, size);
    for (s = offset / SECTOR; s * SECTOR < end; ++s) {
      uint64_t from = max_u64 (s * SECTOR, offset);
      uint64_t to = min_u64 ((s + 1) * SECTOR, end);

      if (++sectors[s].seen <= sectors[s].state)
        put (c, from, to - from,
             rec->kind == WRITE ? rec->data + (from - offset) : NULL);
    }
  }

  c->size = max_u64 (c->size, size_max);
  set_size (c, chosen);
  for (page = 0; page * PAGE < c->size; ++page)
    c->used[page] = !is_zero (c->data + page * PAGE, PAGE);
  return true;
}

enum how { CLONE, PREFIX, CUT };

static struct vd_sim *
derive (const struct vd_sim *sim, enum how how, size_t n, uint64_t *seed)
{
  struct vd_sim *to = vd_sim_new ();
  bool ok = to != NULL;
  size_t i;

  lock (sim);
  if (n > sim->nlog)
    n = sim->nlog;
  for (i = 0; ok && i < sim->nfiles; ++i) {
    const struct sim_file *from = sim->files[i];
    struct sim_file *file;

    if (from->removed)
      continue;
    file = add_file (to, from->name);
    ok = file != NULL;
    if (ok)
      switch (how) {
      case CLONE:
        ok = copy_content (&file->now, &from->now);
        break;
      case PREFIX:
        ok = copy_content (&file->now, base_of (from)) &&
          replay (sim, from, 0, n, &file->now);
        break;
      case CUT:
        ok = cut_file (sim, from, n, seed, &file->now);
        break;
      }
  }
  unlock (sim);
  if (!ok) {
    vd_sim_free (to);
    return NULL;
  }
  return to;
}

struct vd_sim *
vd_sim_clone (const struct vd_sim *sim)
{
  return derive (sim, CLONE, 0, NULL);
}

struct vd_sim *
vd_sim_prefix (const struct vd_sim *sim, size_t n)
{
  return derive (sim, PREFIX, n, NULL);
}

struct vd_sim *
vd_sim_power_cut (const struct vd_sim *sim, size_t n, uint64_t *seed)
{
  return derive (sim, CUT, n, seed);
}

size_t
vd_sim_log_length (const struct vd_sim *sim)
{
  size_t n;

  lock (sim);
  n = sim->nlog;
  unlock (sim);
  return n;
}

/* ---- marks and faults ------------------------------------------------- */

void
vd_sim_mark (struct vd_sim *sim, uint64_t value)
{
  struct record *rec;

  lock (sim);
  rec = add_record (sim);
  /* Without it a test would pass that should not. */
  if (rec == NULL)
    abort ();
  rec->kind = MARK;
  rec->value = value;
  unlock (sim);
}

uint64_t
vd_sim_last_mark (const struct vd_sim *sim, size_t n)
{
  uint64_t value = 0;
  size_t i;

  lock (sim);
  for (i = 0; i < n && i < sim->nlog; ++i)
    if (sim->log[i].kind == MARK)
      value = max_u64 (value, sim->log[i].value);
  unlock (sim);
  return value;
}

void
vd_sim_fail_at (struct vd_sim *sim, uint64_t n, int err, bool sticky)
{
  lock (sim);
  sim->fail_in = err ? n : 0;
  sim->fail_err = err;
  sim->fail_sticky = sticky;
  sim->fail_hit = false;
  unlock (sim);
}

bool
vd_sim_fault_hit (const struct vd_sim *sim)
{
  bool hit;

  lock (sim);
  hit = sim->fail_hit;
  unlock (sim);
  return hit;
}

/* Every operation begins here, with the lock held. */
static int
fault_of (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
          const char *what)
{
  if (sim->fail_in == 0 || --sim->fail_in > 0)
    return 0;
  sim->fail_hit = true;
  if (sim->fail_sticky)
    sim->fail_in = 1;
  return vd_error (ctx, sim->fail_err, "%s: simulated fault in %s",
                   name, what);
}

static int
fault (struct vd_ctx *ctx, struct sim_store *f, const char *what)
{
  return fault_of (ctx, f->sim, f->st.name, what);
}

/* ---- the store -------------------------------------------------------- */

static struct sim_store *
sim_of (struct vd_store *st)
{
  assert (st->ops == &sim_ops);
  return (struct sim_store *) st;
}

static int
out_of_memory (struct vd_ctx *ctx, struct sim_store *f)
{
  return vd_error (ctx, ENOMEM, "%s: out of memory for a simulated disk",
                   f->st.name);
}

/* Log rec (whose data then belongs to the log, or is freed) and do it. */
static int
commit (struct vd_ctx *ctx, struct sim_store *f, const struct record *rec)
{
  struct sim_file *file = f->file;
  uint64_t size = size_after (rec, file->now.size);
  struct record *logged;

  if (size > FILE_MAX) {
    free (rec->data);
    return vd_error (ctx, ENOSPC, "%s: %" PRIu64 " bytes are too many for a "
                     "simulated disk", f->st.name, size);
  }
  if (!file->changed) {
    if (!copy_content (&file->base, &file->now))
      goto no_memory;
    file->changed = true;
  }
  if (!reserve (&file->now, size))
    goto no_memory;
  logged = add_record (f->sim);
  if (logged == NULL)
    goto no_memory;
  *logged = *rec;
  logged->file = file;
  apply (&file->now, logged);
  return 0;

 no_memory:
  free (rec->data);
  return out_of_memory (ctx, f);
}

static int
check_end (struct vd_ctx *ctx, struct sim_store *f, const char *what,
           uint64_t offset, uint64_t len)
{
  uint64_t size = f->file->now.size;

  if (offset > size || len > size - offset)
    return vd_error (ctx, EIO, "%s: %s of %" PRIu64 " bytes at offset %"
                     PRIu64 ": the file ends at %" PRIu64,
                     f->st.name, what, len, offset, size);
  return 0;
}

static uint64_t
iov_total (const struct iovec *iov, int niov)
{
  uint64_t total = 0;
  int i;

  for (i = 0; i < niov; ++i)
    total += iov[i].iov_len;
  return total;
}

static int
sim_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  struct sim_store *f = sim_of (st);
  int r;

  lock (f->sim);
  r = fault (ctx, f, "get_size");
  if (r == 0)
    *ret = f->file->now.size;
  unlock (f->sim);
  return r;
}

static int
sim_preadv (struct vd_ctx *ctx, struct vd_store *st,
            struct iovec *iov, int niov, uint64_t offset)
{
  struct sim_store *f = sim_of (st);
  int i, r;

  lock (f->sim);
  r = fault (ctx, f, "read");
  if (r == 0)
    r = check_end (ctx, f, "read", offset, iov_total (iov, niov));
  if (r == 0)
    for (i = 0; i < niov; ++i)
      if (iov[i].iov_len) {
        memcpy (iov[i].iov_base, f->file->now.data + offset, iov[i].iov_len);
        offset += iov[i].iov_len;
      }
  unlock (f->sim);
  return r;
}

static int
sim_pwritev (struct vd_ctx *ctx, struct vd_store *st,
             struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct sim_store *f = sim_of (st);
  struct record rec = { .kind = WRITE, .offset = offset,
                        .len = iov_total (iov, niov),
                        .fua = (flags & VD_STORE_FUA) != 0 };
  size_t done = 0;
  int i, r;

  lock (f->sim);
  r = fault (ctx, f, "write");
  if (r == 0) {
    rec.data = malloc (rec.len);
    if (rec.data == NULL)
      r = out_of_memory (ctx, f);
  }
  if (r == 0) {
    for (i = 0; i < niov; ++i)
      if (iov[i].iov_len) {
        memcpy (rec.data + done, iov[i].iov_base, iov[i].iov_len);
        done += iov[i].iov_len;
      }
    r = commit (ctx, f, &rec);
  }
  unlock (f->sim);
  return r;
}

static int
sim_zero (struct vd_ctx *ctx, struct vd_store *st,
          uint64_t offset, uint64_t len, bool with_punch)
{
  struct sim_store *f = sim_of (st);
  struct record rec = { .kind = with_punch ? PUNCH : ZERO,
                        .offset = offset, .len = len };
  int r;

  lock (f->sim);
  r = fault (ctx, f, "zero");
  /* A file would let this pass; here it shows a mistake of the caller. */
  if (r == 0)
    r = check_end (ctx, f, "zero", offset, len);
  if (r == 0)
    r = commit (ctx, f, &rec);
  unlock (f->sim);
  return r;
}

static int
sim_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct sim_store *f = sim_of (st);
  struct record rec = { .kind = TRUNCATE, .offset = size };
  int r;

  lock (f->sim);
  r = fault (ctx, f, "truncate");
  if (r == 0)
    r = commit (ctx, f, &rec);
  unlock (f->sim);
  return r;
}

static int
sim_allocate (struct vd_ctx *ctx, struct vd_store *st,
              uint64_t offset, uint64_t len)
{
  struct sim_store *f = sim_of (st);
  struct record rec = { .kind = ALLOCATE, .offset = offset, .len = len };
  int r;

  lock (f->sim);
  r = fault (ctx, f, "allocate");
  if (r == 0)
    r = commit (ctx, f, &rec);
  unlock (f->sim);
  return r;
}

static int
sim_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  struct sim_store *f = sim_of (st);
  struct record rec = { .kind = SYNC };
  int r;

  lock (f->sim);
  r = fault (ctx, f, "sync");
  if (r == 0)
    r = commit (ctx, f, &rec);
  unlock (f->sim);
  return r;
}

static int
sim_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
            bool *ret_hole, uint64_t *ret_end)
{
  struct sim_store *f = sim_of (st);
  const struct content *c = &f->file->now;
  uint64_t page = offset / PAGE;
  int r;

  lock (f->sim);
  r = fault (ctx, f, "extent");
  if (r == 0) {
    uint64_t npages = div_round_up (c->size, PAGE);

    if (offset >= c->size)
      *ret_hole = true;
    else {
      *ret_hole = !c->used[page];
      while (page < npages && c->used[page] != *ret_hole)
        page++;
    }
    /* As with a file, what is beyond the end is a hole. */
    if (offset < c->size && page < npages)
      *ret_end = page * PAGE;
    else
      *ret_end = *ret_hole ? INT64_MAX : c->size;
  }
  unlock (f->sim);
  return r;
}

static int
sim_cache (struct vd_ctx *ctx, struct vd_store *st,
           uint64_t offset, uint64_t len)
{
  struct sim_store *f = sim_of (st);
  int r;

  (void) offset;
  (void) len;
  lock (f->sim);
  r = fault (ctx, f, "cache");
  unlock (f->sim);
  return r;
}

/* An inode number is as good as a pointer. */
static bool
sim_is (const struct vd_store *st, const struct stat *sb)
{
  const struct sim_store *f = (const struct sim_store *) st;

  return sb->st_dev == 0 && sb->st_ino == (uintptr_t) f->file;
}

static void
sim_close (struct vd_store *st)
{
  free (sim_of (st));
}

static const struct vd_store_ops sim_ops = {
  .kind = "sim",
  .get_size = sim_get_size,
  .preadv = sim_preadv,
  .pwritev = sim_pwritev,
  .zero = sim_zero,
  .truncate = sim_truncate,
  .allocate = sim_allocate,
  .sync = sim_sync,
  .extent = sim_extent,
  .cache = sim_cache,
  .is = sim_is,
  .close = sim_close,
};

static int
open_file (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
           bool writable, struct sim_file *file, struct vd_store **ret)
{
  struct sim_store *f = calloc (1, sizeof *f);

  if (f == NULL || vd_store_init (&f->st, &sim_ops, name, writable) < 0) {
    free (f);
    return vd_error (ctx, ENOMEM, "%s: out of memory", name);
  }
  f->sim = sim;
  f->file = file;
  *ret = &f->st;
  return 0;
}

int
vd_sim_open (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
             bool writable, struct vd_store **ret)
{
  struct sim_file *file;

  lock (sim);
  file = find_file (sim, name);
  if (file == NULL)
    file = add_file (sim, name);
  unlock (sim);
  if (file == NULL)
    return vd_error (ctx, ENOMEM, "%s: out of memory", name);
  return open_file (ctx, sim, name, writable, file, ret);
}

bool
vd_sim_exists (const struct vd_sim *sim, const char *name)
{
  bool found;

  lock (sim);
  found = find_file (sim, name) != NULL;
  unlock (sim);
  return found;
}

/* ---- the folder -------------------------------------------------------- */

struct sim_folder {
  struct vd_folder f;
  struct vd_sim *sim;
};

static const struct vd_folder_ops sim_folder_ops;

static struct vd_sim *
sim_of_folder (struct vd_folder *f)
{
  assert (f->ops == &sim_folder_ops);
  return ((struct sim_folder *) f)->sim;
}

static int
find_or_fail (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
              const char *what, struct sim_file **ret)
{
  int r;

  lock (sim);
  r = fault_of (ctx, sim, name, what);
  if (r == 0) {
    *ret = find_file (sim, name);
    if (*ret == NULL)
      r = vd_error (ctx, ENOENT, "%s: %s", name, strerror (ENOENT));
  }
  unlock (sim);
  return r;
}

static int
folder_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
             bool write, bool device, bool *ret_writer, struct vd_store **ret)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file;
  int r;

  (void) device;
  (void) ret_writer;
  r = find_or_fail (ctx, sim, name, "open", &file);
  if (r < 0)
    return r;
  return open_file (ctx, sim, name, write, file, ret);
}

static int
folder_stat (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
             bool device, struct stat *ret)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file;
  int r;

  (void) device;
  r = find_or_fail (ctx, sim, name, "stat", &file);
  if (r < 0)
    return r;
  memset (ret, 0, sizeof *ret);
  ret->st_mode = S_IFREG | 0600;
  ret->st_nlink = 1;
  ret->st_ino = (uintptr_t) file;
  lock (sim);
  ret->st_size = file->now.size;
  unlock (sim);
  return 0;
}

static int
folder_create (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               struct vd_store **ret)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file = NULL;
  int r;

  lock (sim);
  r = fault_of (ctx, sim, name, "create");
  if (r == 0 && find_file (sim, name))
    r = vd_error (ctx, EEXIST, "%s: create: %s", name, strerror (EEXIST));
  if (r == 0) {
    file = add_file (sim, name);
    if (file == NULL)
      r = vd_error (ctx, ENOMEM, "%s: out of memory", name);
  }
  unlock (sim);
  if (r < 0)
    return r;
  r = open_file (ctx, sim, name, true, file, ret);
  if (r < 0) {
    lock (sim);
    file->removed = true;
    unlock (sim);
  }
  return r;
}

static int
folder_remove (struct vd_ctx *ctx, struct vd_folder *f, const char *name)
{
  struct vd_sim *sim = sim_of_folder (f);
  struct sim_file *file;
  int r;

  r = find_or_fail (ctx, sim, name, "remove", &file);
  if (r < 0)
    return r;
  lock (sim);
  file->removed = true;
  unlock (sim);
  return 0;
}

static int
folder_again (struct vd_ctx *ctx, struct vd_folder *f, struct vd_folder **ret)
{
  return vd_sim_folder (ctx, sim_of_folder (f), ret);
}

static int
folder_sync (struct vd_ctx *ctx, struct vd_folder *f)
{
  struct vd_sim *sim = sim_of_folder (f);
  int r;

  lock (sim);
  r = fault_of (ctx, sim, "folder", "sync");
  unlock (sim);
  return r;
}

static void
folder_close (struct vd_folder *f)
{
  free (f);
}

static const struct vd_folder_ops sim_folder_ops = {
  .open = folder_open,
  .stat = folder_stat,
  .create = folder_create,
  .remove = folder_remove,
  .again = folder_again,
  .sync = folder_sync,
  .close = folder_close,
};

int
vd_sim_folder (struct vd_ctx *ctx, struct vd_sim *sim,
               struct vd_folder **ret)
{
  struct sim_folder *folder = calloc (1, sizeof *folder);

  if (folder == NULL)
    return vd_error (ctx, ENOMEM, "out of memory for a simulated folder");
  folder->f.ops = &sim_folder_ops;
  folder->sim = sim;
  *ret = &folder->f;
  return 0;
}
