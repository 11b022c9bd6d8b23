/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who reads an open file takes a reference with one atomic operation and no
 * lock.  Opening and closing is rare: the limit's lock covers which files are
 * open, never across a system call, and a file that is being opened has a
 * lock of its own, so that others wait for that file only.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "cleanup.h"
#include "lazy.h"
#include "rounding.h"

/* Of what the process may have open, the files of images get a quarter: there
 * are also the images themselves, their folders, clients, and a second module
 * of this collection with a limit of its own.  More than MAX_OPEN are of no
 * use.  Reading goes with one, but opening costs several times what reading
 * does.
 */
#define MIN_OPEN 8
#define MAX_OPEN 2048

/* With no descriptor left for a file: so often and so long others may go on
 * reading theirs before it is an error.
 */
#define PATIENCE 200
#define PATIENCE_NS 5000000

struct lazy {
  struct vd_store st;
  struct vd_store *inner;       /* valid for who has a reference */
  struct vd_lazy *set;
  _Atomic uint64_t used;        /* when it was last: twice the limit's round,
                                   and 1 more if not only when opened */
  _Atomic int refs;             /* readers; -1: not open */

  char *file;                   /* as the image has it */
  bool device;
  struct stat first;            /* what was found under the name at first */
  _Atomic uint64_t size;        /* when it was opened last */

  pthread_mutex_t opening;      /* while it is opened; covers unlocked */
  bool unlocked;                /* reopened for writing: take no lock */

  struct lazy *prev, *next;     /* open files; the limit's lock */
};

struct vd_open_limit {
  unsigned max;
  _Atomic uint64_t round;       /* files opened so far */

  pthread_mutex_t lock;         /* covers all below, and refs of files from and
                                   to -1 */
  size_t users;                 /* sets, and who made the limit */
  size_t kept;                  /* files that stay open */
  unsigned taken;               /* others that are open or about to be */
  struct lazy *first;           /* those that are open */
};

struct vd_lazy {
  struct vd_folder *folder;
  struct vd_open_limit *limit;

  pthread_mutex_t lock;         /* covers all below */
  size_t users;                 /* stores, and who made the set */
  struct vd_folder *unlocked;   /* the folder, but without locks on files */
};

static const struct vd_store_ops lazy_ops;

static struct lazy *
lazy_of (struct vd_store *st)
{
  assert (st->ops == &lazy_ops);
  return (struct lazy *) st;
}

/* ---- the limit --------------------------------------------------------- */

struct vd_open_limit *
vd_open_limit_new (unsigned max)
{
  struct vd_open_limit *limit = calloc (1, sizeof *limit);
  struct rlimit r;

  if (!limit)
    return NULL;
  if (max == 0) {
    max = MIN_OPEN;
    if (getrlimit (RLIMIT_NOFILE, &r) == 0)
      max = min_u64 (max_u64 (r.rlim_cur / 4, MIN_OPEN), MAX_OPEN);
  }
  limit->max = max;
  limit->users = 1;
  pthread_mutex_init (&limit->lock, NULL);
  return limit;
}

static void
limit_add_user (struct vd_open_limit *limit)
{
  LOCK_SCOPE (&limit->lock);
  limit->users++;
}

void
vd_open_limit_free (struct vd_open_limit *limit)
{
  bool last;

  if (!limit)
    return;
  pthread_mutex_lock (&limit->lock);
  last = --limit->users == 0;
  pthread_mutex_unlock (&limit->lock);
  if (!last)
    return;
  pthread_mutex_destroy (&limit->lock);
  free (limit);
}

bool
vd_open_limit_keep (struct vd_open_limit *limit, size_t n, bool must)
{
  LOCK_SCOPE (&limit->lock);

  /* The other half is for files that come and go. */
  if (!must && (n > limit->max / 2 || limit->kept > limit->max / 2 - n))
    return false;
  limit->kept += n;
  return true;
}

void
vd_open_limit_give (struct vd_open_limit *limit, size_t n)
{
  LOCK_SCOPE (&limit->lock);
  assert (limit->kept >= n);
  limit->kept -= n;
}

/* With the lock: is there room for one file more that comes and goes? */
static bool
has_room (const struct vd_open_limit *limit)
{
  unsigned room = limit->max > limit->kept ? limit->max - limit->kept : 0;

  return limit->taken < max_u64 (room, min_u64 (limit->max, MIN_OPEN));
}

/* ---- the set ----------------------------------------------------------- */

int
vd_lazy_new (struct vd_ctx *ctx, struct vd_folder *folder,
             struct vd_open_limit *limit, struct vd_lazy **ret)
{
  struct vd_lazy *set = calloc (1, sizeof *set);

  if (!set)
    return vd_error (ctx, ENOMEM, "no memory for a set of files");
  set->folder = folder;
  set->limit = limit;
  limit_add_user (limit);
  set->users = 1;
  pthread_mutex_init (&set->lock, NULL);
  *ret = set;
  return 0;
}

static void
user_gone (struct vd_lazy *set)
{
  bool last;

  pthread_mutex_lock (&set->lock);
  last = --set->users == 0;
  pthread_mutex_unlock (&set->lock);
  if (!last)
    return;
  vd_folder_close (set->unlocked);
  vd_open_limit_free (set->limit);
  pthread_mutex_destroy (&set->lock);
  free (set);
}

void
vd_lazy_free (struct vd_lazy *set)
{
  if (set)
    user_gone (set);
}

/* With the limit's lock: x is closed from now on.  The caller closes what is
 * returned, without the lock.
 */
static struct vd_store *
forget (struct vd_open_limit *limit, struct lazy *x)
{
  struct vd_store *inner = x->inner;

  *(x->prev ? &x->prev->next : &limit->first) = x->next;
  if (x->next)
    x->next->prev = x->prev;
  x->prev = x->next = NULL;
  x->inner = NULL;
  limit->taken--;
  return inner;
}

/* With the limit's lock: make the file that was not used for longest, and that
 * nobody is reading, a closed one.  NULL: there is none.
 */
static struct vd_store *
evict (struct vd_open_limit *limit)
{
  for (;;) {
    struct lazy *x, *oldest = NULL;
    uint64_t used, oldest_used = 0;
    int idle = 0;

    for (x = limit->first; x; x = x->next) {
      if (atomic_load_explicit (&x->refs, memory_order_relaxed) != 0)
        continue;
      used = atomic_load_explicit (&x->used, memory_order_relaxed);
      if (!oldest || used <= oldest_used) {
        oldest = x;
        oldest_used = used;
      }
    }
    if (!oldest)
      return NULL;
    if (atomic_compare_exchange_strong (&oldest->refs, &idle, -1))
      return forget (limit, oldest);
    /* Somebody has begun to read it. */
  }
}

/* The right to open one file more.  When all files are being read there is
 * one more than the limit: threads read one file at a time, so there are
 * never many of these, and waiting would stall who has nothing to do with it.
 */
static void
take_slot (struct vd_open_limit *limit)
{
  struct vd_store *old;

  do {
    old = NULL;
    pthread_mutex_lock (&limit->lock);
    if (!has_room (limit))
      old = evict (limit);
    if (!old)
      limit->taken++;
    pthread_mutex_unlock (&limit->lock);
    vd_store_close (old);
  } while (old);
}

static void
give_slot (struct vd_open_limit *limit)
{
  LOCK_SCOPE (&limit->lock);
  limit->taken--;
}

/* ---- one file ---------------------------------------------------------- */

static bool
try_reference (struct lazy *x)
{
  int n = atomic_load_explicit (&x->refs, memory_order_relaxed);

  while (n >= 0)
    if (atomic_compare_exchange_weak_explicit (&x->refs, &n, n + 1,
                                               memory_order_acquire,
                                               memory_order_relaxed))
      return true;
  return false;
}

static void
release (struct lazy *x)
{
  atomic_fetch_sub_explicit (&x->refs, 1, memory_order_release);
}

/* Open the file and compare it with what was seen first. */
static int
try_open (struct vd_ctx *ctx, struct lazy *x, struct vd_store **ret)
{
  struct vd_lazy *set = x->set;
  struct vd_store *inner;
  uint64_t size;
  int r;

  r = vd_folder_open (ctx, x->unlocked ? set->unlocked : set->folder, x->file,
                      false, x->device, NULL, &inner);
  if (r < 0)
    return r;
  if (!vd_file_is (inner, &x->first))
    r = vd_error (ctx, ESTALE, "%s: was replaced by another file since the "
                  "image was opened", inner->name);
  else
    r = vd_store_get_size (ctx, inner, &size);
  if (r < 0) {
    vd_store_close (inner);
    return r;
  }
  atomic_store_explicit (&x->size, size, memory_order_relaxed);
  *ret = inner;
  return 0;
}

/* The same, but where the process has no descriptor left others of our files
 * are closed for it, once nobody reads them.
 */
static int
open_inner (struct vd_ctx *ctx, struct lazy *x, struct vd_store **ret)
{
  const struct timespec nap = { .tv_nsec = PATIENCE_NS };
  struct vd_open_limit *limit = x->set->limit;
  unsigned tries = 0;
  int r;

  while ((r = try_open (ctx, x, ret)) == -EMFILE) {
    struct vd_store *old;
    bool any;

    pthread_mutex_lock (&limit->lock);
    old = evict (limit);
    any = limit->first != NULL;
    pthread_mutex_unlock (&limit->lock);
    vd_store_close (old);
    if (old)
      continue;
    if (!any || ++tries > PATIENCE)
      return r;
    nanosleep (&nap, NULL);
  }
  if (r == 0)
    ctx->error = 0;
  return r;
}

/* The caller has a slot, and x->opening (or nobody else knows x). */
static void
set_open (struct lazy *x, struct vd_store *inner, int refs)
{
  struct vd_open_limit *limit = x->set->limit;
  LOCK_SCOPE (&limit->lock);

  x->inner = inner;
  x->next = limit->first;
  if (x->next)
    x->next->prev = x;
  limit->first = x;
  atomic_store_explicit (&x->used,
                         2 * (atomic_fetch_add (&limit->round, 1) + 1),
                         memory_order_relaxed);
  atomic_store_explicit (&x->refs, refs, memory_order_release);
}

static int
open_and_reference (struct vd_ctx *ctx, struct lazy *x)
{
  struct vd_store *inner;
  int r;
  LOCK_SCOPE (&x->opening);

  if (try_reference (x))
    return 0;
  take_slot (x->set->limit);
  r = open_inner (ctx, x, &inner);
  if (r < 0) {
    give_slot (x->set->limit);
    return r;
  }
  set_open (x, inner, 1);
  return 0;
}

/* The file is open until release. */
static int
reference (struct vd_ctx *ctx, struct lazy *x)
{
  uint64_t now;

  if (!try_reference (x))
    return open_and_reference (ctx, x);
  /* Seldom a new value, so the cache line stays shared. */
  now = 2 * atomic_load_explicit (&x->set->limit->round,
                                  memory_order_relaxed) + 1;
  if (atomic_load_explicit (&x->used, memory_order_relaxed) != now)
    atomic_store_explicit (&x->used, now, memory_order_relaxed);
  return 0;
}

/* ---- the store --------------------------------------------------------- */

/* Nothing here grows or shrinks as long as it is not opened again. */
static int
lazy_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  (void) ctx;
  *ret = atomic_load_explicit (&lazy_of (st)->size, memory_order_relaxed);
  return 0;
}

static int
lazy_preadv (struct vd_ctx *ctx, struct vd_store *st,
             struct iovec *iov, int niov, uint64_t offset)
{
  struct lazy *x = lazy_of (st);
  int r;

  r = reference (ctx, x);
  if (r < 0)
    return r;
  r = vd_store_preadv (ctx, x->inner, iov, niov, offset);
  release (x);
  return r;
}

static int
lazy_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
             bool *ret_hole, uint64_t *ret_end)
{
  struct lazy *x = lazy_of (st);
  int r;

  r = reference (ctx, x);
  if (r < 0)
    return r;
  r = vd_store_extent (ctx, x->inner, offset, ret_hole, ret_end);
  release (x);
  return r;
}

static int
lazy_cache (struct vd_ctx *ctx, struct vd_store *st,
            uint64_t offset, uint64_t len)
{
  struct lazy *x = lazy_of (st);
  int r;

  r = reference (ctx, x);
  if (r < 0)
    return r;
  r = vd_store_cache (ctx, x->inner, offset, len);
  release (x);
  return r;
}

static int
lazy_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  (void) ctx;
  (void) st;
  return 0;
}

static bool
lazy_is (const struct vd_store *st, const struct stat *sb)
{
  const struct lazy *x = (const struct lazy *) st;

  return vd_same_inode (&x->first, sb);
}

/* A folder in which opening a file does not lock it. */
static int
need_unlocked (struct vd_ctx *ctx, struct vd_lazy *set)
{
  struct vd_folder *folder;
  int r;
  LOCK_SCOPE (&set->lock);

  if (set->unlocked)
    return 0;
  r = vd_folder_again (ctx, set->folder, NULL, 0, &folder);
  if (r < 0)
    return r;
  folder->lock = VD_LOCK_OFF;
  set->unlocked = folder;
  return 0;
}

/* From now on the file is read without a lock, also when it has been closed
 * and is opened again: the writing store has one.
 */
static int
lazy_reopen_write (struct vd_ctx *ctx, struct vd_store *st, bool locks,
                   bool *ret_writer, struct vd_store **ret)
{
  struct lazy *x = lazy_of (st);
  int r;

  r = need_unlocked (ctx, x->set);
  if (r < 0)
    return r;
  r = reference (ctx, x);
  if (r < 0)
    return r;
  {
    LOCK_SCOPE (&x->opening);

    r = vd_file_reopen_write (ctx, x->inner,
                              locks ? VD_LOCK_AUTO : VD_LOCK_OFF,
                              ret_writer, ret);
    if (r == 0)
      x->unlocked = true;
  }
  release (x);
  return r;
}

static int
lazy_relock (struct vd_ctx *ctx, struct vd_store *st)
{
  struct lazy *x = lazy_of (st);
  int r = 0;
  LOCK_SCOPE (&x->opening);

  x->unlocked = false;
  if (try_reference (x)) {
    r = vd_file_relock (ctx, x->inner, VD_LOCK_AUTO);
    release (x);
  }
  return r;
}

static void
lazy_free (struct lazy *x)
{
  pthread_mutex_destroy (&x->opening);
  free (x->file);
  free (x);
}

static void
lazy_close (struct vd_store *st)
{
  struct lazy *x = lazy_of (st);
  struct vd_lazy *set = x->set;
  struct vd_store *inner = NULL;

  pthread_mutex_lock (&set->limit->lock);
  if (x->inner)
    inner = forget (set->limit, x);
  pthread_mutex_unlock (&set->limit->lock);
  vd_store_close (inner);
  lazy_free (x);
  user_gone (set);
}

static const struct vd_store_ops lazy_ops = {
  .kind = "lazy",
  .get_size = lazy_get_size,
  .preadv = lazy_preadv,
  .sync = lazy_sync,
  .extent = lazy_extent,
  .cache = lazy_cache,
  .is = lazy_is,
  .reopen_write = lazy_reopen_write,
  .relock = lazy_relock,
  .close = lazy_close,
};

int
vd_lazy_open (struct vd_ctx *ctx, struct vd_lazy *set, const char *name,
              bool device, struct vd_store **ret)
{
  struct vd_store *inner;
  struct lazy *x;
  struct stat sb;
  bool keep;
  int r;

  r = vd_folder_stat (ctx, set->folder, name, device, &sb);
  if (r < 0)
    return r;
  x = calloc (1, sizeof *x);
  if (x)
    x->file = strdup (name);
  if (!x || !x->file) {
    free (x);
    return vd_error (ctx, ENOMEM, "no memory for a file of the image");
  }
  x->set = set;
  x->device = device;
  x->first = sb;
  atomic_init (&x->refs, -1);
  pthread_mutex_init (&x->opening, NULL);

  r = open_inner (ctx, x, &inner);
  if (r == 0) {
    if (vd_store_init (&x->st, &lazy_ops, inner->name, false) < 0) {
      vd_store_close (inner);
      r = vd_error (ctx, ENOMEM, "no memory for a file of the image");
    }
  }
  if (r < 0) {
    lazy_free (x);
    return r;
  }
  x->st.fixed_size = inner->fixed_size;

  pthread_mutex_lock (&set->lock);
  set->users++;
  pthread_mutex_unlock (&set->lock);
  pthread_mutex_lock (&set->limit->lock);
  keep = has_room (set->limit);
  if (keep)
    set->limit->taken++;
  pthread_mutex_unlock (&set->limit->lock);
  if (keep)
    set_open (x, inner, 0);
  else
    vd_store_close (inner);
  *ret = &x->st;
  return 0;
}
