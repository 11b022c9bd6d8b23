/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The engine of the fault tests: see faults.h.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "faults.h"

#define BLOCK FAULTS_BLOCK
#define DISK FAULTS_DISK

static const struct faults_case *now;
static unsigned long checks, failures;

static void
fail (const char *scenario, const char *kind, uint64_t n, const char *why)
{
  if (failures++ < 10)
    printf ("# %s: %s, %s %" PRIu64 " fails: %s\n", now->name, scenario, kind,
            n, why);
}

/* ---- allocations that fail -------------------------------------------- */

extern void *__real_malloc (size_t);
extern void *__real_calloc (size_t, size_t);
extern void *__real_realloc (void *, size_t);
extern void *__real_aligned_alloc (size_t, size_t);
extern char *__real_strdup (const char *);
extern char *__real_strndup (const char *, size_t);
void *__wrap_malloc (size_t);
void *__wrap_calloc (size_t, size_t);
void *__wrap_realloc (void *, size_t);
void *__wrap_aligned_alloc (size_t, size_t);
char *__wrap_strdup (const char *);
char *__wrap_strndup (const char *, size_t);
int __wrap_asprintf (char **, const char *, ...)
  __attribute__ ((__format__ (__printf__, 2, 3)));

static _Atomic uint64_t alloc_left;     /* 0: none fails */
static _Atomic bool alloc_hit;

static bool
alloc_fails (void)
{
  if (atomic_load (&alloc_left) == 0 || atomic_fetch_sub (&alloc_left, 1) != 1)
    return false;
  atomic_store (&alloc_hit, true);
  errno = ENOMEM;
  return true;
}

void *
__wrap_malloc (size_t n)
{
  return alloc_fails () ? NULL : __real_malloc (n);
}

void *
__wrap_calloc (size_t n, size_t m)
{
  return alloc_fails () ? NULL : __real_calloc (n, m);
}

void *
__wrap_realloc (void *p, size_t n)
{
  return alloc_fails () ? NULL : __real_realloc (p, n);
}

void *
__wrap_aligned_alloc (size_t a, size_t n)
{
  return alloc_fails () ? NULL : __real_aligned_alloc (a, n);
}

char *
__wrap_strdup (const char *s)
{
  return alloc_fails () ? NULL : __real_strdup (s);
}

char *
__wrap_strndup (const char *s, size_t n)
{
  return alloc_fails () ? NULL : __real_strndup (s, n);
}

int
__wrap_asprintf (char **ret, const char *fmt, ...)
{
  va_list ap;
  int r;

  if (alloc_fails ())
    return -1;
  va_start (ap, fmt);
  r = vasprintf (ret, fmt, ap);
  va_end (ap);
  return r;
}

/* ---- scenarios -------------------------------------------------------- */

/* The disk before the fault: 64 blocks, of which the first 8 hold data that
 * was flushed, unless salt is 0.
 */
static void
fill (uint8_t *buf, uint8_t salt)
{
  size_t i;

  for (i = 0; i < DISK; ++i)
    buf[i] = salt && i < 8 * BLOCK ? (uint8_t) (i / 512 * 7 + salt) | 1 : 0;
}

static int
open_image (struct vd_ctx *ctx, struct vd_sim *sim, enum vd_write write,
            struct vd_image **ret)
{
  static const struct vd_policy policy = { .any_raw_disk = true };
  struct vd_open how = { .write = write };
  struct vd_folder *folder;
  struct vd_store *store;
  int r;

  r = vd_sim_folder (ctx, sim, &folder);
  if (r < 0)
    return r;
  folder->policy = &policy;
  r = vd_sim_open (ctx, sim, now->file, write != VD_WRITE_NO, &store);
  if (r < 0) {
    vd_folder_close (folder);
    return r;
  }
  return vd_image_open_folder (ctx, store, folder, &how, ret);
}

static int
scenario_open (struct vd_ctx *ctx, struct vd_sim *sim)
{
  struct vd_image *image;
  int r = open_image (ctx, sim, VD_WRITE_REQUIRE, &image);

  return r < 0 ? r : vd_image_close (ctx, image);
}

static int
scenario_read (struct vd_ctx *ctx, struct vd_sim *sim)
{
  static uint8_t got[DISK], want[DISK];
  struct vd_ctx ctx2;
  struct vd_image *image;
  int r = open_image (ctx, sim, VD_WRITE_REQUIRE, &image), r2;

  if (r < 0)
    return r;
  r = vd_image_pread (ctx, image, got, DISK, 0);
  fill (want, now->stream ? 0 : 1);
  if (r == 0 && memcmp (got, want, DISK) != 0)
    r = vd_error (ctx, EILSEQ, "a read succeeded with wrong data");
  vd_ctx_init (&ctx2, NULL);
  r2 = vd_image_close (&ctx2, image);
  return r < 0 ? r : r2;
}

static int
count_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  (void) offset;
  (void) type;
  *(uint64_t *) opaque += len;
  return 0;
}

/* New blocks, old blocks, zeroes, trims, flush: all that is written goes to
 * blocks 8 and up, so that what was flushed before must never change.
 */
static int
write_all (struct vd_ctx *ctx, struct vd_image *image)
{
  static uint8_t data[3 * BLOCK];
  uint64_t total = 0;
  int r;

  memset (data, 0xa5, sizeof data);
  r = vd_image_pwrite (ctx, image, data, sizeof data, 9 * BLOCK + 512, 0);
  if (r == 0)
    r = vd_image_pwrite (ctx, image, data, 512, 9 * BLOCK, VD_FUA);
  if (r == 0)
    r = vd_image_zero (ctx, image, 4 * BLOCK, 20 * BLOCK, VD_MAY_TRIM);
  if (r == 0)
    r = vd_image_zero (ctx, image, 700, 10 * BLOCK + 3, 0);
  if (r == 0)
    r = vd_image_flush (ctx, image);
  if (r == 0)
    r = vd_image_pwrite (ctx, image, data, BLOCK, 21 * BLOCK, 0);
  if (r == 0)
    r = vd_image_trim (ctx, image, 2 * BLOCK, 10 * BLOCK, 0);
  if (r == 0)
    r = vd_image_extents (ctx, image, 0, DISK, false, count_extent, &total);
  if (r == 0)
    r = vd_image_flush (ctx, image);
  return r;
}

/* Once and in order.  Success means that it is all there. */
static int
write_stream (struct vd_ctx *ctx, struct vd_image *image)
{
  static uint8_t data[DISK];
  unsigned i;
  int r = 0;

  memset (data, 0xa5, sizeof data);
  for (i = 0; r == 0 && i < 4; ++i)
    r = vd_image_pwrite (ctx, image, data, DISK / 4, i * (DISK / 4), 0);
  if (r == 0)
    r = vd_image_flush (ctx, image);
  return r;
}

static int
scenario_write (struct vd_ctx *ctx, struct vd_sim *sim)
{
  struct vd_ctx ctx2;
  struct vd_image *image;
  int r = open_image (ctx, sim, VD_WRITE_REQUIRE, &image), r2;

  if (r < 0)
    return r;
  r = now->stream ? write_stream (ctx, image) : write_all (ctx, image);
  vd_ctx_init (&ctx2, NULL);
  r2 = vd_image_close (&ctx2, image);
  if (r == 0 && r2 < 0) {
    *ctx = ctx2;
    r = r2;
  }
  return r;
}

static int
scenario_create (struct vd_ctx *ctx, struct vd_sim *sim)
{
  return now->create (ctx, sim, "new.img");
}

/* ---- the loop --------------------------------------------------------- */

static const struct scenario {
  const char *name;
  int (*run) (struct vd_ctx *ctx, struct vd_sim *sim);
} scenarios[] = {
  { "open", scenario_open },
  { "read", scenario_read },
  { "write and flush", scenario_write },
  { "create", scenario_create },
};

static struct vd_sim *
prepare (void)
{
  struct vd_sim *sim = vd_sim_new (), *clean;
  static uint8_t data[DISK];
  struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, NULL);
  fill (data, 1);
  r = (now->prepare ? now->prepare : now->create) (&ctx, sim, now->file);
  if (r == 0 && !now->stream) {
    r = open_image (&ctx, sim, VD_WRITE_REQUIRE, &image);
    if (r == 0)
      r = vd_image_pwrite (&ctx, image, data, 8 * BLOCK, 0, 0);
    if (r == 0)
      r = vd_image_close (&ctx, image);
  }
  if (r < 0) {
    fprintf (stderr, "prepare: %s\n", ctx.message);
    exit (2);
  }
  clean = vd_sim_clone (sim);
  vd_sim_free (sim);
  return clean;
}

/* A stream is complete, or refused as incomplete. */
static void
check_stream (const struct scenario *s, const char *kind, uint64_t n,
              struct vd_sim *sim, bool done)
{
  static uint8_t got[DISK];
  struct vd_image *image;
  struct vd_ctx ctx;
  size_t i, written = 0;

  vd_ctx_init (&ctx, NULL);
  if (open_image (&ctx, sim, VD_WRITE_NO, &image) < 0) {
    if (done)
      fail (s->name, kind, n, ctx.message);
    else if (!strstr (ctx.message, "incomplete"))
      fail (s->name, kind, n, ctx.message);
    return;
  }
  if (vd_image_pread (&ctx, image, got, DISK, 0) < 0)
    fail (s->name, kind, n, ctx.message);
  /* What a write that failed left out is zeroes. */
  for (i = 0; i < DISK && (got[i] == 0xa5 || got[i] == 0); ++i)
    written += got[i] != 0;
  if (i < DISK || (done && written < DISK))
    fail (s->name, kind, n, "the stream holds something else");
  if (vd_image_close (&ctx, image) < 0)
    fail (s->name, kind, n, ctx.message);
}

/* After the fault: the image opens for writing, old data is there. */
static void
check_after (const struct scenario *s, const char *kind, uint64_t n,
             struct vd_sim *sim)
{
  static uint8_t got[DISK], want[DISK];
  struct vd_image *image;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, NULL);
  if (open_image (&ctx, sim, VD_WRITE_REQUIRE, &image) < 0) {
    fail (s->name, kind, n, ctx.message);
    return;
  }
  fill (want, 1);
  if (vd_image_pread (&ctx, image, got, 8 * BLOCK, 0) < 0)
    fail (s->name, kind, n, ctx.message);
  else if (memcmp (got, want, 8 * BLOCK) != 0)
    fail (s->name, kind, n, "data that was flushed before has changed");
  if (write_all (&ctx, image) < 0)
    fail (s->name, kind, n, ctx.message);
  if (vd_image_close (&ctx, image) < 0)
    fail (s->name, kind, n, ctx.message);
}

static void
one (const struct scenario *s, bool alloc, uint64_t n, int err, bool sticky,
     bool *ret_hit)
{
  const char *kind = alloc ? "allocation" : "call";
  struct vd_sim *sim = prepare (), *after;
  struct vd_ctx ctx;
  int r;

  checks++;
  vd_ctx_init (&ctx, NULL);
  if (alloc) {
    atomic_store (&alloc_hit, false);
    atomic_store (&alloc_left, n);
  }
  else
    vd_sim_fail_at (sim, n, err, sticky);
  r = s->run (&ctx, sim);
  if (alloc) {
    *ret_hit = atomic_load (&alloc_hit);
    atomic_store (&alloc_left, 0);
  }
  else {
    *ret_hit = vd_sim_fault_hit (sim);
    vd_sim_fail_at (sim, 0, 0, false);
  }

  if (r < 0 && (!ctx.error || !ctx.message[0]))
    fail (s->name, kind, n, "the error has no message");
  if (r == -EILSEQ)
    fail (s->name, kind, n, ctx.message);
  if (!*ret_hit && r < 0) {
    fail (s->name, kind, n, "failed without a fault");
    fail (s->name, kind, n, ctx.message);
  }
  if (s->run == scenario_create && r < 0 && !sticky && now->beside &&
      vd_sim_exists (sim, now->beside))
    fail (s->name, kind, n, "a file is left behind");
  after = vd_sim_clone (sim);
  if (now->stream)
    check_stream (s, kind, n, after, s->run == scenario_write && r == 0);
  else
    check_after (s, kind, n, after);
  vd_sim_free (after);
  vd_sim_free (sim);
}

static void
run_case (void)
{
  static const int errors[] = { EIO, ENOSPC };
  size_t i, e;
  uint64_t n, calls = 0;
  bool hit;

  for (i = 0; i < sizeof scenarios / sizeof scenarios[0]; ++i) {
    const struct scenario *s = &scenarios[i];

    for (e = 0; e < 4; ++e) {
      for (n = 1, hit = true; hit; ++n)
        one (s, false, n, errors[e / 2], e % 2, &hit);
      calls = n - 2;
    }
    for (n = 1, hit = true; hit; ++n)
      one (s, true, n, 0, false, &hit);
    printf ("# %s: %s: up to %" PRIu64 " calls, %" PRIu64
            " allocations failed\n", now->name, s->name, calls, n - 2);
  }
}

int
faults_main (const struct faults_case *cases, size_t ncases)
{
  size_t i;

  for (i = 0; i < ncases; ++i) {
    now = &cases[i];
    run_case ();
  }
  printf ("# %lu runs, %lu failures\n", checks, failures);
  printf ("%s - a fault at any call is reported and damages nothing\n",
          failures ? "not ok" : "ok");
  return failures != 0;
}
