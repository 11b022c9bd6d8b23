/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writing streams (streamOptimized, vmdk-format 6.4), front to back, in
 * VirtualBox's form: grains in ascending order, each grain table after its
 * grains, then the directory, the footer and the end-of-stream marker.
 *
 * Grains are compressed by a pool of threads.  They come back in any order
 * and are written in the order in which they were put, by the thread that
 * puts: it takes what is ready, and waits only when all slots are in use.
 *
 * The header says that the directory is at the end of the file, and there is
 * no footer before everything else is durable: an image that was not finished
 * is refused by every reader.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <libdeflate.h>

#include "byteorder.h"
#include "cleanup.h"
#include "iszero.h"
#include "pool.h"
#include "rounding.h"
#include "vmdk-hosted.h"
#include "vmdk-private.h"

/* The lowest level whose result is smaller than that of zlib's level 6, which
 * qemu and VirtualBox use, on programs, texts and file systems alike.
 */
#define LEVEL 5

/* Room for the descriptor in a stream that we make; VirtualBox and VMware
 * give it one or two sectors.
 */
#define DESCRIPTOR_SECTORS 20

#define THREADS_MAX 32
#define SLOTS_PER_THREAD 4

/* A grain under way. */
struct slot {
  struct vd_job job;            /* first, for the cast */
  struct vd_sink *sink;
  uint64_t block;
  uint8_t *in;                  /* the grain */
  uint8_t *out;                 /* marker, data, zeroes up to a sector */
  size_t out_length;
  bool done;                    /* under the sink's lock */
};

struct vd_sink {
  struct vmdk_extent *x;
  struct vd_store *store;
  struct hosted_header h;
  uint64_t grain;               /* bytes */
  uint64_t position;            /* bytes: where the file ends */
  uint64_t next_block;          /* what may be put */
  bool failed, finished;

  uint8_t *gd;                  /* as on disk, whole sectors */
  uint8_t *gt;                  /* a marker's sector, then the table */
  uint64_t gt_number;
  bool gt_used;

  struct vd_pool *pool;
  struct libdeflate_compressor *compressors[THREADS_MAX];
  pthread_mutex_t lock;
  pthread_cond_t done;
  struct slot *slots;
  unsigned nslots, first, used; /* a ring; only the putting thread */
};

static uint64_t
gd_bytes (const struct hosted_header *h)
{
  return round_up (hosted_ngts (h) * 4, VMDK_SECTOR);
}

static void
put_marker (uint8_t *sector, uint64_t value, uint32_t type)
{
  memset (sector, 0, VMDK_SECTOR);
  put_le64 (&sector[MARKER_VALUE], value);
  put_le32 (&sector[MARKER_TYPE], type);
}

/* ---- the end of the file ----------------------------------------------- */

/* The directory (NULL: zeroes) at position, then what makes it complete. */
static int
write_end (struct vd_ctx *ctx, struct vd_store *store,
           const struct hosted_header *h, uint64_t position,
           const uint8_t *gd)
{
  struct hosted_header footer = *h;
  uint8_t tail[3 * VMDK_SECTOR];
  uint64_t end = position + VMDK_SECTOR + gd_bytes (h);
  int r;

  if ((end + sizeof tail) / VMDK_SECTOR > UINT32_MAX)
    return vd_error (ctx, ENOSPC, "%s: a stream cannot be larger than 2 TiB",
                     store->name);
  put_marker (tail, gd_bytes (h) / VMDK_SECTOR, MARKER_GD);
  r = vd_store_pwrite (ctx, store, tail, VMDK_SECTOR, position, 0);
  if (r == 0 && gd)
    r = vd_store_pwrite (ctx, store, gd, gd_bytes (h),
                         position + VMDK_SECTOR, 0);
  else if (r == 0)
    r = vd_store_truncate (ctx, store, end);
  if (r == 0)
    r = vd_store_sync (ctx, store);
  if (r < 0)
    return r;

  footer.gd_offset = position / VMDK_SECTOR + 1;
  put_marker (tail, 1, MARKER_FOOTER);
  hosted_header_encode (&footer, tail + VMDK_SECTOR);
  put_marker (tail + 2 * VMDK_SECTOR, 0, MARKER_EOS);
  r = vd_store_pwrite (ctx, store, tail, sizeof tail, end, 0);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}

int
stream_create_end (struct vd_ctx *ctx, struct vd_store *store,
                   const struct hosted_header *h)
{
  return write_end (ctx, store, h, h->overhead * VMDK_SECTOR, NULL);
}

int
stream_is_empty (struct vd_ctx *ctx, const char *name,
                 struct vd_store *store, uint64_t file_size,
                 const struct hosted_header *h, bool *ret)
{
  struct hosted_header footer = *h;
  CLEANUP_FREE uint8_t *gd = NULL;
  int r;

  *ret = false;
  if (h->gd_offset != HOSTED_GD_AT_END ||
      h->descriptor_size != DESCRIPTOR_SECTORS)
    return 0;
  r = stream_read_footer (ctx, name, store, file_size, 0, &footer);
  if (r < 0)
    return r;
  /* The directory where the first grain would be, and then the end. */
  if (footer.gd_offset != h->overhead + 1 ||
      hosted_ngts (&footer) != hosted_ngts (h) ||
      round_down (file_size, VMDK_SECTOR) !=
      (h->overhead + 4) * VMDK_SECTOR + gd_bytes (h))
    return 0;
  gd = malloc (gd_bytes (h));
  if (!gd)
    return vd_error (ctx, ENOMEM, "%s: no memory for the grain directory",
                     name);
  r = vd_store_pread (ctx, store, gd, gd_bytes (h),
                      footer.gd_offset * VMDK_SECTOR);
  if (r < 0)
    return r;
  *ret = is_zero (gd, gd_bytes (h));
  return 0;
}

/* ---- grains ------------------------------------------------------------ */

/* In a thread of the pool. */
static void
compress_grain (struct vd_job *job, unsigned thread)
{
  struct slot *slot = (struct slot *) job;
  struct vd_sink *sink = slot->sink;
  size_t room = libdeflate_zlib_compress_bound (NULL, sink->grain);
  size_t n;

  n = libdeflate_zlib_compress (sink->compressors[thread],
                                slot->in, sink->grain,
                                slot->out + MARKER_GRAIN_DATA, room);
  put_le64 (slot->out + MARKER_VALUE, slot->block / VMDK_SECTOR);
  put_le32 (slot->out + MARKER_SIZE, n);
  n += MARKER_GRAIN_DATA;
  slot->out_length = round_up (n, VMDK_SECTOR);
  memset (slot->out + n, 0, slot->out_length - n);

  LOCK_SCOPE (&sink->lock);
  slot->done = true;
  pthread_cond_signal (&sink->done);
}

static int
append (struct vd_ctx *ctx, struct vd_sink *sink, const void *buf, size_t len)
{
  int r;

  /* Entries are 32 bits. */
  if (sink->position / VMDK_SECTOR > UINT32_MAX)
    return vd_error (ctx, ENOSPC, "%s: a stream cannot be larger than 2 TiB",
                     sink->store->name);
  r = vd_store_pwrite (ctx, sink->store, buf, len, sink->position, 0);
  if (r < 0)
    return r;
  sink->position += len;
  return 0;
}

/* The grain table that is being filled; one without grains is left out. */
static int
end_table (struct vd_ctx *ctx, struct vd_sink *sink)
{
  uint32_t sectors = hosted_gt_sectors (&sink->h);
  uint64_t entry = sink->position / VMDK_SECTOR + 1;
  int r;

  if (!sink->gt_used)
    return 0;
  put_marker (sink->gt, sectors, MARKER_GT);
  r = append (ctx, sink, sink->gt, (1 + sectors) * VMDK_SECTOR);
  if (r < 0)
    return r;
  put_le32 (sink->gd + sink->gt_number * 4, entry);
  memset (sink->gt, 0, (1 + sectors) * VMDK_SECTOR);
  sink->gt_used = false;
  return 0;
}

static int
write_slot (struct vd_ctx *ctx, struct vd_sink *sink, const struct slot *slot)
{
  uint64_t number = slot->block / sink->grain;
  uint64_t sector;
  int r;

  if (number / sink->h.gtes != sink->gt_number) {
    r = end_table (ctx, sink);
    if (r < 0)
      return r;
    sink->gt_number = number / sink->h.gtes;
  }
  sector = sink->position / VMDK_SECTOR;
  r = append (ctx, sink, slot->out, slot->out_length);
  if (r < 0)
    return r;
  put_le32 (sink->gt + VMDK_SECTOR + number % sink->h.gtes * 4, sector);
  sink->gt_used = true;
  return 0;
}

/* Write what is ready, and wait for so much that not more than left grains
 * remain under way.
 */
static int
collect (struct vd_ctx *ctx, struct vd_sink *sink, unsigned left)
{
  int r;

  while (sink->used > 0) {
    struct slot *slot = &sink->slots[sink->first];
    bool done;

    pthread_mutex_lock (&sink->lock);
    while (!slot->done && sink->used > left)
      pthread_cond_wait (&sink->done, &sink->lock);
    done = slot->done;
    pthread_mutex_unlock (&sink->lock);
    if (!done)
      return 0;
    r = write_slot (ctx, sink, slot);
    if (r < 0) {
      sink->failed = true;
      return r;
    }
    sink->first = (sink->first + 1) % sink->nslots;
    sink->used--;
  }
  return 0;
}

static int
check (struct vd_ctx *ctx, const struct vd_sink *sink)
{
  if (sink->failed)
    return vd_error (ctx, EIO, "%s: an earlier write failed; the stream is "
                     "incomplete", sink->store->name);
  if (sink->finished)
    return vd_error (ctx, EROFS, "%s: the stream is complete",
                     sink->store->name);
  return 0;
}

int
vmdk_sink_put (struct vd_ctx *ctx, struct vd_sink *sink,
               uint64_t block, const void *buf, size_t len)
{
  struct slot *slot;
  int r;

  r = check (ctx, sink);
  if (r < 0)
    return r;
  if (block % sink->grain || block < sink->next_block ||
      block >= sink->h.capacity * VMDK_SECTOR || len > sink->grain)
    return vd_error (ctx, EINVAL, "%s: %zu bytes at %" PRIu64 " are not the "
                     "next grain of the stream", sink->store->name, len,
                     block);
  r = collect (ctx, sink, sink->nslots - 1);
  if (r < 0)
    return r;

  slot = &sink->slots[(sink->first + sink->used++) % sink->nslots];
  slot->block = block;
  slot->done = false;
  memcpy (slot->in, buf, len);
  /* A short last grain is one that VirtualBox cannot read. */
  memset (slot->in + len, 0, sink->grain - len);
  sink->next_block = block + sink->grain;
  vd_pool_submit (sink->pool, &slot->job);
  return 0;
}

/* The image is complete: let readers see it. */
static int
reopen_extent (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  x->ops->close (x);
  x->ops = NULL;
  x->priv = NULL;
  x->write = false;
  return vmdk_hosted_open (ctx, x);
}

int
vmdk_sink_finish (struct vd_ctx *ctx, struct vd_sink *sink)
{
  int r;

  if (sink->finished)
    return 0;
  r = check (ctx, sink);
  if (r == 0)
    r = collect (ctx, sink, 0);
  if (r == 0)
    r = end_table (ctx, sink);
  if (r == 0)
    r = write_end (ctx, sink->store, &sink->h, sink->position, sink->gd);
  if (r == 0)
    r = reopen_extent (ctx, sink->x);
  if (r < 0)
    sink->failed = true;
  else
    sink->finished = true;
  return r;
}

/* ---- opening and closing ----------------------------------------------- */

/* Take the end of an empty stream away.  Durable: what comes in its place
 * must not look like a complete image after a crash.
 */
static int
begin_file (struct vd_ctx *ctx, struct vd_sink *sink)
{
  struct vd_store *store = sink->store;
  uint8_t sector[HOSTED_HEADER];
  uint64_t size;
  bool empty;
  int r;

  r = vd_store_get_size (ctx, store, &size);
  if (r == 0)
    r = vd_store_pread (ctx, store, sector, sizeof sector, 0);
  if (r == 0)
    r = hosted_header_parse (ctx, store->name, sector, size,
                             sink->x->size / VMDK_SECTOR, &sink->h);
  if (r < 0)
    return r;
  if (!(sink->h.flags & HOSTED_FLAG_COMPRESSED) ||
      sink->h.gd_offset != HOSTED_GD_AT_END || store->fixed_size)
    return vd_error (ctx, ENOTSUP, "%s: is not a file with a stream of our "
                     "form", store->name);

  r = stream_is_empty (ctx, store->name, store, size, &sink->h, &empty);
  if (r < 0)
    return r;
  if (!empty)
    return vd_error (ctx, EROFS, "%s: the stream holds data already and "
                     "cannot be changed", store->name);
  sink->position = sink->h.overhead * VMDK_SECTOR;
  r = vd_store_truncate (ctx, store, sink->position);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}

static int
start_threads (struct vd_ctx *ctx, struct vd_sink *sink)
{
  unsigned i;
  int r;

  r = vd_pool_new (ctx, min_u64 (vd_pool_processors (), THREADS_MAX),
                   &sink->pool);
  if (r < 0)
    return r;
  for (i = 0; i < vd_pool_threads (sink->pool); ++i) {
    sink->compressors[i] = libdeflate_alloc_compressor (LEVEL);
    if (!sink->compressors[i])
      return -ENOMEM;
  }

  sink->slots = calloc (SLOTS_PER_THREAD * i, sizeof sink->slots[0]);
  if (!sink->slots)
    return -ENOMEM;
  sink->nslots = SLOTS_PER_THREAD * i;
  for (i = 0; i < sink->nslots; ++i) {
    struct slot *slot = &sink->slots[i];

    slot->job.run = compress_grain;
    slot->sink = sink;
    slot->in = malloc (sink->grain);
    slot->out = malloc (MARKER_GRAIN_DATA + VMDK_SECTOR +
                        libdeflate_zlib_compress_bound (NULL, sink->grain));
    if (!slot->in || !slot->out)
      return -ENOMEM;
  }
  return 0;
}

struct vd_sink *
vmdk_sink_open (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  struct vmdk_extent *x = &vmdk->extents[0];
  struct vd_sink *sink = calloc (1, sizeof *sink);
  int r;

  if (!sink) {
    vd_error (ctx, ENOMEM, "%s: no memory for writing", image->name);
    return NULL;
  }
  sink->x = x;
  sink->store = x->store;
  pthread_mutex_init (&sink->lock, NULL);
  pthread_cond_init (&sink->done, NULL);

  r = begin_file (ctx, sink);
  if (r == 0) {
    sink->grain = sink->h.grain * VMDK_SECTOR;
    sink->gd = calloc (gd_bytes (&sink->h), 1);
    sink->gt = calloc (1 + hosted_gt_sectors (&sink->h), VMDK_SECTOR);
    r = sink->gd && sink->gt ? start_threads (ctx, sink) : -ENOMEM;
    if (r == -ENOMEM)
      vd_error (ctx, ENOMEM, "%s: no memory for compressing", image->name);
  }
  if (r < 0) {
    vmdk_sink_close (sink);
    return NULL;
  }
  return sink;
}

void
vmdk_sink_close (struct vd_sink *sink)
{
  unsigned i;

  /* First, as its threads use the rest. */
  vd_pool_free (sink->pool);
  for (i = 0; i < THREADS_MAX; ++i)
    libdeflate_free_compressor (sink->compressors[i]);
  for (i = 0; i < sink->nslots; ++i) {
    free (sink->slots[i].in);
    free (sink->slots[i].out);
  }
  free (sink->slots);
  free (sink->gd);
  free (sink->gt);
  pthread_cond_destroy (&sink->done);
  pthread_mutex_destroy (&sink->lock);
  free (sink);
}
