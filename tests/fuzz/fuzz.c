/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The engine of the fuzz targets: see fuzz.h.
 */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "folder.h"
#include "image.h"
#include "iszero.h"
#include "rounding.h"

#include "fuzz.h"

#define FILE_MAX (2 * 1024 * 1024)      /* then the disk is full */
#define PIECE (64 * 1024)
#define SPOTS 6

#define check(c) do { if (!(c)) broken (__LINE__, #c); } while (0)

static unsigned long now;       /* number of the mutation, 0: a file */

static void __attribute__ ((__noreturn__))
broken (int line, const char *what)
{
  fprintf (stderr, "fuzz.c:%d: does not hold: %s (mutation %lu)\n",
           line, what, now);
  abort ();
}

/* ---- a small disk ------------------------------------------------------ */

/* The file outlives the store, so that it can be opened again. */
struct file {
  uint8_t *data;                /* FILE_MAX; zeroes behind size */
  size_t size;
  size_t used;                  /* zeroes from here on */
};

static struct file files[FUZZ_FILES];

struct small {
  struct vd_store st;
  struct file *file;
};

static struct file *
file_of (struct vd_store *st)
{
  return ((struct small *) st)->file;
}

static int
small_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  (void) ctx;
  *ret = file_of (st)->size;
  return 0;
}

static int
small_preadv (struct vd_ctx *ctx, struct vd_store *st,
              struct iovec *iov, int niov, uint64_t offset)
{
  struct file *f = file_of (st);
  int i;

  for (i = 0; i < niov; ++i) {
    if (offset > f->size || iov[i].iov_len > f->size - offset)
      return vd_error (ctx, EIO, "read beyond the end");
    memcpy (iov[i].iov_base, f->data + offset, iov[i].iov_len);
    offset += iov[i].iov_len;
  }
  return 0;
}

static int
small_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct file *f = file_of (st);

  if (size > FILE_MAX)
    return vd_error (ctx, ENOSPC, "disk full");
  if (size < f->size)
    memset (f->data + size, 0, f->size - size);
  f->size = size;
  f->used = max_u64 (f->used, size);
  return 0;
}

static int
small_pwritev (struct vd_ctx *ctx, struct vd_store *st,
               struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct file *f = file_of (st);
  int i;

  (void) flags;
  for (i = 0; i < niov; ++i) {
    /* The engine makes a file cover a place before it writes there. */
    check (offset <= f->size && iov[i].iov_len <= f->size - offset);
    if (iov[i].iov_len > 0)
      memcpy (f->data + offset, iov[i].iov_base, iov[i].iov_len);
    offset += iov[i].iov_len;
  }
  (void) ctx;
  return 0;
}

static int
small_zero (struct vd_ctx *ctx, struct vd_store *st,
            uint64_t offset, uint64_t len, bool punch)
{
  struct file *f = file_of (st);

  (void) ctx;
  check (offset <= f->size && len <= f->size - offset);
  if (!punch)
    return -EOPNOTSUPP;
  memset (f->data + offset, 0, len);
  return 0;
}

static int
small_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  (void) ctx;
  (void) st;
  return 0;
}

/* A page of zeroes is a hole. */
static int
small_extent (struct vd_ctx *ctx, struct vd_store *st, uint64_t offset,
              bool *ret_hole, uint64_t *ret_end)
{
  struct file *f = file_of (st);
  uint64_t end = round_down (offset, 4096) + 4096;

  (void) ctx;
  *ret_hole = offset < f->size &&
    is_zero (f->data + offset, min_u64 (end, f->size) - offset);
  *ret_end = end;
  return 0;
}

static void
small_close (struct vd_store *st)
{
  free (st);
}

static const struct vd_store_ops small_ops = {
  .kind = "small",
  .get_size = small_get_size,
  .preadv = small_preadv,
  .pwritev = small_pwritev,
  .zero = small_zero,
  .truncate = small_truncate,
  .sync = small_sync,
  .extent = small_extent,
  .close = small_close,
};

static struct vd_store *
small_open (struct file *f, bool writable)
{
  struct small *s = calloc (1, sizeof *s);

  if (s == NULL || vd_store_init (&s->st, &small_ops, "fuzz", writable) < 0)
    abort ();
  s->file = f;
  return &s->st;
}

/* ---- a small folder ---------------------------------------------------- */

/* The file of that name, but for the first one, which is opened as the image
 * itself.
 */
static struct file *
find (const char *name)
{
  unsigned i;

  for (i = 1; i < FUZZ_FILES; ++i)
    if (fuzz_format.names[i] && strcmp (name, fuzz_format.names[i]) == 0)
      return &files[i];
  return NULL;
}

static int
folder_open (struct vd_ctx *ctx, struct vd_folder *folder, const char *name,
             bool write, bool device, bool *ret_writer, struct vd_store **ret)
{
  struct file *f = find (name);

  (void) folder;
  (void) device;
  (void) ret_writer;
  if (f == NULL)
    return vd_error (ctx, ENOENT, "no such file");
  *ret = small_open (f, write);
  return 0;
}

static int
folder_stat (struct vd_ctx *ctx, struct vd_folder *folder, const char *name,
             bool device, struct stat *ret)
{
  struct file *f = find (name);

  (void) folder;
  (void) device;
  if (f == NULL)
    return vd_error (ctx, ENOENT, "no such file");
  *ret = (struct stat) {
    .st_mode = S_IFREG | 0600, .st_ino = 1 + (f - files),
    .st_size = f->size,
  };
  return 0;
}

static int
folder_create (struct vd_ctx *ctx, struct vd_folder *folder,
               const char *name, struct vd_store **ret)
{
  (void) folder;
  (void) name;
  (void) ret;
  return vd_error (ctx, EACCES, "this folder takes no more files");
}

static int
folder_remove (struct vd_ctx *ctx, struct vd_folder *folder,
               const char *name)
{
  (void) folder;
  (void) name;
  return vd_error (ctx, EACCES, "this folder keeps its files");
}

static int
folder_sync (struct vd_ctx *ctx, struct vd_folder *folder)
{
  (void) ctx;
  (void) folder;
  return 0;
}

static void
folder_close (struct vd_folder *folder)
{
  free (folder);
}

static const struct vd_folder_ops folder_ops = {
  .open = folder_open,
  .stat = folder_stat,
  .create = folder_create,
  .remove = folder_remove,
  .sync = folder_sync,
  .close = folder_close,
};

static struct vd_folder *
new_folder (void)
{
  struct vd_folder *folder = calloc (1, sizeof *folder);

  if (folder == NULL)
    abort ();
  folder->ops = &folder_ops;
  return folder;
}

/* ---- the parent: a byte that depends on where it is -------------------- */

static int
parent_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
              uint64_t offset)
{
  uint8_t *p = buf;
  size_t i;

  (void) ctx;
  (void) opaque;
  for (i = 0; i < len; ++i)
    p[i] = (offset + i) >> 9 & 1 ? (offset + i) >> 10 : 0;
  return 0;
}

static int
parent_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
                uint64_t len, bool one,
                int (*fn) (void *, uint64_t, uint64_t, unsigned),
                void *fn_opaque)
{
  (void) ctx;
  (void) opaque;
  (void) one;
  return fn (fn_opaque, offset, len, 0);
}

static const struct vd_parent parent = {
  .size = 300 * 1024,
  .pread = parent_pread,
  .extents = parent_extents,
};

/* ---- one input --------------------------------------------------------- */

static void
swallow (enum vd_log_level level, const char *text)
{
  const unsigned char *p = (const unsigned char *) text;

  (void) level;
  /* No control characters of an image reach the log. */
  for (; *p; ++p)
    check (*p >= 0x20 && *p != 0x7f);
}

static struct vd_image *
open_image (enum vd_write write, bool honor, size_t memory)
{
  const struct vd_open how = {
    .write = write, .table_memory = memory, .parent = &parent,
    .honor_zeroes = honor, .honor_same = honor, .log = swallow,
  };
  struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, swallow);
  r = vd_image_open_folder (&ctx, small_open (&files[0],
                                              write != VD_WRITE_NO),
                            fuzz_format.names[1] ? new_folder () : NULL,
                            &how, &image);
  if (r == 0)
    return image;
  check (ctx.error == -r);
  swallow (VD_LOG_WARNING, ctx.message);
  check (r != -ENOMEM);
  return NULL;
}

static void
close_image (struct vd_image *image)
{
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, swallow);
  check (vd_image_close (&ctx, image) == 0);
}

struct extents {
  struct vd_image *image;
  uint64_t next;
  unsigned count, type;
};

static int
check_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  static uint8_t buf[PIECE];
  struct extents *x = opaque;
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, swallow);
  check (offset == x->next && len > 0);
  check (x->count == 0 || type != x->type);
  check (offset + len <= x->image->size);
  if (type & VD_EXTENT_ZERO) {
    size_t n = min_u64 (len, PIECE);

    check (vd_image_pread (&ctx, x->image, buf, n, offset) == 0);
    check (is_zero (buf, n));
  }
  x->next += len;
  x->count++;
  x->type = type;
  return x->count < 100 ? 0 : -ECANCELED;
}

/* Where to look: the ends, and spots that the input chooses. */
static uint64_t
spot (const struct vd_image *image, uint32_t seed, unsigned i, size_t *ret_len)
{
  uint64_t r = (seed + i) * UINT64_C (0x9e3779b97f4a7c15);
  uint64_t offset;

  switch (i) {
  case 0: offset = 0; break;
  case 1: offset = image->size - min_u64 (image->size, PIECE); break;
  case 2: offset = (r >> 20) % min_u64 (image->size, 1 << 20); break;
  default: offset = (r >> 10) % image->size;
  }
  if (i % 2 == 0)
    offset = round_down (offset, 512);
  *ret_len = min_u64 (image->size - offset, 1 + (r >> 40) % PIECE);
  return offset;
}

static void
look (struct vd_image *image, uint32_t seed)
{
  static uint8_t one[PIECE], two[PIECE];
  struct extents x;
  struct vd_ctx ctx;
  char text[256];
  unsigned i;
  int r, r1, r2;

  for (i = 0; i < SPOTS && image->size > 0; ++i) {
    size_t len, half;
    uint64_t offset = spot (image, seed, i, &len);

    vd_ctx_init (&ctx, swallow);
    r = vd_image_pread (&ctx, image, one, len, offset);
    if (r < 0)
      swallow (VD_LOG_WARNING, ctx.message);
    half = len / 2;
    r1 = half ? vd_image_pread (&ctx, image, two, half, offset) : 0;
    r2 = vd_image_pread (&ctx, image, two + half, len - half, offset + half);
    check ((r < 0) == (r1 < 0 || r2 < 0));
    if (r == 0)
      check (memcmp (one, two, len) == 0);
    x = (struct extents) { .image = image, .next = offset };
    r = vd_image_extents (&ctx, image, offset,
                          min_u64 (image->size - offset, 1 << 20), i % 3 == 0,
                          check_extent, &x);
    check (r == 0 || r == -ECANCELED);
    check (x.count > 0);
    check (vd_image_cache (&ctx, image, len, offset) == 0);
  }
  vd_image_description (image, text, sizeof text);
  swallow (VD_LOG_WARNING, text);
}

/* A full disk may have taken a part of it; so may a damaged range, or one that
 * must not be written.
 */
static bool
may_fail (int r)
{
  return r == -ENOSPC || r == -EIO || r == -EPERM || r == -EROFS;
}

/* Write at some spots and compare, at once and after opening it again. */
static void
change (struct vd_image *image, uint32_t seed, bool honor)
{
  static uint8_t want[SPOTS][PIECE], is[PIECE];
  uint64_t offsets[SPOTS];
  size_t lens[SPOTS];
  bool valid[SPOTS];
  unsigned i, j;
  struct vd_ctx ctx;
  size_t k;
  int r;

  vd_ctx_init (&ctx, swallow);
  for (i = 0; i < SPOTS; ++i) {
    offsets[i] = spot (image, seed * 3 + 1, i, &lens[i]);
    valid[i] = vd_image_pread (&ctx, image, want[i], lens[i],
                               offsets[i]) == 0;
  }
  for (i = 0; i < SPOTS; ++i) {
    uint64_t offset = offsets[i] + lens[i] / 4;
    size_t len = lens[i] - lens[i] / 4;

    vd_ctx_init (&ctx, swallow);
    memset (is, 0, sizeof is);
    switch ((seed >> i) % 4) {
    case 0:
      r = vd_image_zero (&ctx, image, len, offset, seed >> 8 & 7);
      if (r == -ENOTSUP && seed >> 8 & VD_FAST)
        continue;
      break;
    case 1:
      if (!valid[i])
        continue;
      r = vd_image_trim (&ctx, image, len, offset, 0);
      check (r == 0 || may_fail (r));
      if (vd_image_pread (&ctx, image, is, len, offset) < 0)
        abort ();
      for (k = 0; k < len; ++k)
        check (is[k] == 0 || is[k] == want[i][lens[i] / 4 + k]);
      break;
    default:
      memset (is, seed >> 16 | 1, len);
      r = vd_image_pwrite (&ctx, image, is, len, offset, seed >> 8 & VD_FUA);
    }
    check (r == 0 || ctx.error == -r);
    check (r == 0 || may_fail (r));
    for (j = 0; j < SPOTS; ++j) {
      uint64_t from = max_u64 (offset, offsets[j]);
      uint64_t to = min_u64 (offset + len, offsets[j] + lens[j]);

      if (from < to && r == 0)
        memcpy (want[j] + (from - offsets[j]), is + (from - offset),
                to - from);
      else if (from < to)
        valid[j] = false;
    }
  }
  for (j = 0; j < 2; ++j) {
    for (i = 0; i < SPOTS; ++i) {
      if (!valid[i])
        continue;
      check (vd_image_pread (&ctx, image, is, lens[i], offsets[i]) == 0);
      check (memcmp (is, want[i], lens[i]) == 0);
    }
    if (j == 1)
      break;
    close_image (image);
    image = open_image (VD_WRITE_REQUIRE, honor, 0);
    check (image != NULL);
  }
  look (image, seed);
  close_image (image);
}

static bool
unchanged (const struct fuzz_piece *pieces)
{
  unsigned i;

  for (i = 0; i < FUZZ_FILES; ++i)
    if (files[i].size != pieces[i].size ||
        (pieces[i].size > 0 &&
         memcmp (files[i].data, pieces[i].data, pieces[i].size) != 0))
      return false;
  return true;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static uint8_t bytes[FUZZ_FILES][FILE_MAX];
  struct fuzz_piece pieces[FUZZ_FILES] = { { 0 } };
  struct vd_image *image;
  uint32_t seed = 0;
  size_t i;

  if (size > FUZZ_INPUT_MAX)
    return 0;
  for (i = 0; i < size; i += 1 + i / 16)
    seed = seed * 31 + data[i];
  fuzz_format.cut (data, size, pieces);
  for (i = 0; i < FUZZ_FILES; ++i) {
    struct file *f = &files[i];

    f->data = bytes[i];
    if (f->used > 0)
      memset (f->data, 0, f->used);
    f->size = f->used = pieces[i].size;
    if (f->size > 0)
      memcpy (f->data, pieces[i].data, f->size);
  }

  image = open_image (VD_WRITE_NO, false, seed % 3 ? 0 : 1);
  if (!image) {
    check (open_image (VD_WRITE_REQUIRE, false, 0) == NULL);
    return 0;
  }
  look (image, seed);
  close_image (image);
  check (unchanged (pieces));

  image = open_image (VD_WRITE_TRY, seed >> 4 & 1, seed % 2);
  check (image != NULL);
  if (image->front_to_back || image->size == 0)
    close_image (image);        /* cannot be written just anywhere */
  else if (vd_image_writable (image))
    change (image, seed, seed >> 4 & 1);
  else {
    look (image, seed);
    close_image (image);
    check (unchanged (pieces));
  }
  return 0;
}

/* ---- without libFuzzer -------------------------------------------------- */

#ifndef FUZZER

static uint64_t state = 1;

static uint32_t
draw (uint32_t n)
{
  state = state * UINT64_C (6364136223846793005) + 1442695040888963407;
  return (state >> 33) % n;
}

/* Mostly where it matters, mostly numbers that mean something. */
static size_t
mutate (uint8_t *data, size_t size)
{
  static const uint32_t values[] = {
    0, 1, 2, 3, 255, 456, 472, 511, 512, 4095, 4096, 65536, 0x100000,
    0x7fffffff, 0x80000000, 0xfffffffd, 0xfffffffe, 0xffffffff, 0x40000000,
  };
  unsigned n;

  for (n = 1 + draw (4); n > 0 && size > 4; --n) {
    uint32_t at = fuzz_format.spot (draw, data, size);

    if (at > size - 4)
      at = size - 4;
    switch (draw (6)) {
    case 0: data[at] ^= 1 << draw (8); break;
    case 1: data[at] = draw (256); break;
    case 2: put_le32 (data + at, get_le32 (data + at) + draw (5) - 2); break;
    case 3: put_le32 (data + at, draw (16)); break;
    case 4:
      put_le32 (data + at, values[draw (sizeof values / sizeof values[0])]);
      break;
    default:
      if (draw (8) == 0)
        size = draw (size);
    }
  }
  return size;
}

#define SEEDS_MAX 256

static struct { uint8_t *data; size_t size; } seeds[SEEDS_MAX];
static unsigned nseeds;

static void
run_file (const char *path)
{
  static uint8_t buf[FUZZ_INPUT_MAX];
  FILE *f = fopen (path, "rb");
  size_t n;

  if (f == NULL) {
    perror (path);
    exit (EXIT_FAILURE);
  }
  n = fread (buf, 1, sizeof buf, f);
  fclose (f);
  printf ("# %s\n", path);
  fflush (stdout);              /* to be seen if this is the last one */
  LLVMFuzzerTestOneInput (buf, n);
  if (nseeds < SEEDS_MAX) {
    seeds[nseeds].data = malloc (n + 1);
    if (seeds[nseeds].data == NULL)
      abort ();
    memcpy (seeds[nseeds].data, buf, n);
    seeds[nseeds++].size = n;
  }
}

static int
not_hidden (const struct dirent *e)
{
  return e->d_name[0] != '.';
}

static void
run_folder (const char *name)
{
  struct dirent **entries;
  char path[4096];
  int i, n;

  snprintf (path, sizeof path, "%s/%s", FUZZ_FOLDER, name);
  n = scandir (path, &entries, not_hidden, alphasort);
  for (i = 0; i < n; ++i) {
    snprintf (path, sizeof path, "%s/%s/%s", FUZZ_FOLDER, name,
              entries[i]->d_name);
    run_file (path);
    free (entries[i]);
  }
  if (n >= 0)
    free (entries);
}

int
main (int argc, char *argv[])
{
  static uint8_t buf[FUZZ_INPUT_MAX];
  unsigned long mutations = 0, first = 1, i;
  int a;

  for (a = 1; a < argc; ++a) {
    if (strcmp (argv[a], "-n") == 0 && a + 1 < argc)
      mutations = strtoul (argv[++a], NULL, 10);
    else if (strcmp (argv[a], "-f") == 0 && a + 1 < argc)
      first = strtoul (argv[++a], NULL, 10);
    else
      run_file (argv[a]);
  }
  if (nseeds == 0) {
    run_folder (fuzz_format.seeds);
    run_folder (fuzz_format.regressions);
    if (argc == 1)
      mutations = fuzz_format.mutations;
  }
  printf ("1..2\n%s 1 - %u files\n", nseeds > 0 ? "ok" : "not ok", nseeds);
  for (i = first; i < first + mutations && nseeds > 0; ++i) {
    unsigned k;
    size_t size;

    state = i;                  /* so that one can be repeated alone */
    k = draw (nseeds);
    memcpy (buf, seeds[k].data, seeds[k].size);
    size = mutate (buf, seeds[k].size);
    now = i;
    LLVMFuzzerTestOneInput (buf, size);
  }
  printf ("ok 2 - %lu mutations\n", mutations);
  a = nseeds > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
  while (nseeds > 0)
    free (seeds[--nseeds].data);
  return a;
}

#endif /* !FUZZER */
