/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rounding.h"
#include "vdi.h"
#include "vdi-private.h"

/* A run ends after this many table pages: each may be a read of its own. */
#define MAX_PAGES 16

static void
vdi_close (struct vd_image *image)
{
  struct vdi *vdi = image->priv;

  if (vdi == NULL)
    return;
  vd_table_free (vdi->map);
  vdi_pool_free (vdi->pool);
  pthread_mutex_destroy (&vdi->header_lock);
  pthread_mutex_destroy (&vdi->grow_lock);
  pthread_mutex_destroy (&vdi->pool_lock);
  free (vdi);
  image->priv = NULL;
}

/* Returned by scan_entries to end the scan: no_write is set. */
#define SCAN_DAMAGE (-ECANCELED)

/* Look at some entries of an image that is to be written: mark their places
 * as taken, and find what makes writing dangerous (vdi-format 21, 4 and 5).
 * Entries behind the end of the disk count too: their places are taken.
 */
static int
scan_entries (struct vd_ctx *ctx, void *opaque,
              uint64_t index, const uint32_t *entries, size_t n)
{
  struct vd_image *image = opaque;
  struct vdi *vdi = image->priv;
  const struct vdi_header *h = &vdi->header;
  uint64_t file_size = atomic_load (&vdi->file_size);
  size_t i;
  int r;

  for (i = 0; i < n; ++i, ++index) {
    uint32_t e = entries[i];
    uint64_t start = index << vdi->shift;
    uint64_t needed = start < image->size
      ? min_u64 (h->block_size, image->size - start) : 0;

    if (e == VDI_ENTRY_FREE || e == VDI_ENTRY_ZERO)
      continue;
    if (e >= h->blocks) {
      snprintf (image->no_write, sizeof image->no_write,
                "block map entry %" PRIu64 " is %" PRIu32
                ", must be below cBlocks (%" PRIu32 ")", index, e, h->blocks);
      return SCAN_DAMAGE;
    }
    if (needed > 0 && vdi_position (vdi, e) + needed > file_size) {
      snprintf (image->no_write, sizeof image->no_write,
                "block map entry %" PRIu64 " is %" PRIu32
                ", its data would end at %" PRIu64
                ", beyond the end of the file (%" PRIu64 ")",
                index, e, vdi_position (vdi, e) + needed, file_size);
      return SCAN_DAMAGE;
    }
    r = vdi_pool_take (vdi->pool, e);
    if (r < 0)
      return vd_error (ctx, -r, "%s: not enough memory for the list of "
                       "used blocks", image->name);
    if (r == 0) {
      snprintf (image->no_write, sizeof image->no_write,
                "block map entry %" PRIu64 " is %" PRIu32
                ", as is an entry before it", index, e);
      return SCAN_DAMAGE;
    }
  }
  return 0;
}

static int
scan (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vdi *vdi = image->priv;
  const struct vdi_header *h = &vdi->header;
  uint32_t end;
  int r;

  vdi->pool = vdi_pool_new (h->blocks);
  if (vdi->pool == NULL)
    return vd_error (ctx, ENOMEM, "%s: not enough memory for the list of "
                     "used blocks", image->name);
  r = vd_table_scan (ctx, vdi->map, scan_entries, image);
  if (r == SCAN_DAMAGE && image->no_write[0]) {
    vdi_pool_free (vdi->pool);
    vdi->pool = NULL;
    return 0;
  }
  if (r < 0)
    return r;

  /* The count is never trusted (rules O8).  Too high is what a crash leaves
   * between two steps of a flush, so it is nothing to alarm anybody with.
   */
  end = vdi_pool_end (vdi->pool);
  if (h->allocated < end)
    vd_warning (ctx, "%s: cBlocksAllocated is %" PRIu32
                ", but block %" PRIu32 " is in use: the next write corrects it",
                image->name, h->allocated, end - 1);
  else if (h->allocated > end && h->allocated <= h->blocks)
    vd_debug (ctx, "%s: cBlocksAllocated is %" PRIu32 ", %" PRIu32
              " would do", image->name, h->allocated, end);
  return 0;
}

static const char *
variant (const struct vdi_header *h)
{
  switch (h->type) {
  case VDI_TYPE_NORMAL: return "dynamic";
  case VDI_TYPE_FIXED: return "fixed";
  case VDI_TYPE_UNDO: return "undo";
  default: return "diff";
  }
}

static int
vdi_open (struct vd_ctx *ctx, struct vd_image *image)
{
  uint8_t head[VDI_SECTOR];
  struct vdi_header h;
  struct vdi *vdi;
  uint64_t file_size;
  size_t n;
  int r;

  r = vd_store_get_size (ctx, image->store, &file_size);
  if (r < 0)
    return r;
  n = min_u64 (file_size, sizeof head);
  r = vd_store_pread (ctx, image->store, head, n, 0);
  if (r < 0)
    return r;
  r = vdi_header_parse (ctx, image->name, head, n, file_size, &h);
  if (r < 0)
    return r;

  /* VirtualBox rounds down, qemu up (vdi-format 8, step 5). */
  if (h.disk_size % VDI_SECTOR != 0)
    vd_warning (ctx, "%s: cbDisk is %" PRIu64
                ", not a multiple of 512: rounded down", image->name,
                h.disk_size);
  if (h.allocated > h.blocks)
    vd_warning (ctx, "%s: cBlocksAllocated is %" PRIu32
                ", more than cBlocks (%" PRIu32 "): ignored", image->name,
                h.allocated, h.blocks);
  if (h.flags & ~VDI_FLAGS_KNOWN)
    vd_warning (ctx, "%s: fFlags is 0x%" PRIx32
                ", the meaning of 0x%" PRIx32 " is unknown", image->name,
                h.flags, h.flags & ~VDI_FLAGS_KNOWN);

  vdi = calloc (1, sizeof *vdi);
  if (vdi == NULL)
    return vd_error (ctx, ENOMEM, "%s: %s", image->name, strerror (ENOMEM));
  vdi->header = h;
  vdi->shift = log_2 (h.block_size);
  vdi->stride = (uint64_t) h.block_size + h.block_extra;
  atomic_init (&vdi->file_size, file_size);
  atomic_init (&vdi->grown_from, file_size);
  pthread_mutex_init (&vdi->header_lock, NULL);
  pthread_mutex_init (&vdi->grow_lock, NULL);
  pthread_mutex_init (&vdi->pool_lock, NULL);

  image->priv = vdi;
  image->size = round_down (h.disk_size, VDI_SECTOR);
  image->block_size = h.block_size;
  image->has_zero = true;
  /* Type 4 always is one, even if its parent has no UUID; any other type if
   * it names a parent (vdi-format 4).
   */
  image->differencing = h.type == VDI_TYPE_DIFF ||
    !vd_uuid_is_null (&h.link.parent);
  image->link = h.link;
  image->lchs = h.lchs;
  memcpy (image->comment, h.comment, sizeof image->comment);
  image->variant = variant (&h);
  vdi_header_no_write (&h, image->no_write, sizeof image->no_write);

  r = vd_table_new (ctx, image->store, h.off_blocks, h.blocks,
                    image->table_memory, &vdi->map);
  if (r == 0 && image->write && image->no_write[0] == '\0')
    r = scan (ctx, image);
  if (r < 0) {
    vdi_close (image);
    return r;
  }
  vdi->writable = image->write && image->no_write[0] == '\0';
  return 0;
}

static void
vdi_block_at (const struct vd_image *image, uint64_t offset,
              uint64_t *ret_start, uint64_t *ret_length)
{
  const struct vdi *vdi = image->priv;

  *ret_start = round_down (offset, vdi->header.block_size);
  *ret_length = vdi->header.block_size;
}

/* How many of the n bytes from position on are in the file? */
static uint64_t
bytes_in_file (struct vd_ctx *ctx, const struct vd_image *image,
               uint64_t position, uint64_t n)
{
  const struct vdi *vdi = image->priv;
  uint64_t size = atomic_load_explicit (&vdi->file_size, memory_order_acquire);

  /* An image that we read may have been opened for writing since (by
   * vd_image_reopen_write), and have grown.
   */
  if (position + n > size && !vdi->writable) {
    if (vd_store_get_size (ctx, image->store, &size) < 0) {
      ctx->error = 0;
      return 0;
    }
  }
  return position >= size ? 0 : min_u64 (n, size - position);
}

static int
vdi_locate (struct vd_ctx *ctx, struct vd_image *image,
            uint64_t offset, uint64_t len, enum vd_locate what,
            struct vd_run *ret)
{
  struct vdi *vdi = image->priv;
  const uint64_t block_size = vdi->header.block_size;
  uint64_t index = offset >> vdi->shift;
  uint64_t in = offset & (block_size - 1);
  struct vd_table_pin pin;
  struct vd_run run = { 0 };
  unsigned pages = 1;
  uint32_t i = 0, first, e;
  int r;

  (void) what;                  /* there is nothing else to ask */

  r = vd_table_pin (ctx, vdi->map, index, &pin);
  if (r < 0)
    return r;

  first = e = vd_table_entry (&pin, 0);
  run.length = min_u64 (block_size - in, len);
  if (e == VDI_ENTRY_FREE || e == VDI_ENTRY_ZERO) {
    run.kind = e == VDI_ENTRY_FREE ? VD_RUN_PARENT : VD_RUN_ZERO;
    run.mode = VD_MODE_ALLOC;
  }
  else {
    uint64_t n;

    run.position = vdi_position (vdi, e) + in;
    n = bytes_in_file (ctx, image, run.position, run.length);
    if (n == 0) {
      run.kind = VD_RUN_BAD;
      run.mode = VD_MODE_DENY;
      run.position = 0;
      run.error = EIO;
      run.reason = "block map entry points beyond the end of the file";
      run.value = e;
      goto out;
    }
    run.kind = VD_RUN_DATA;
    run.mode = VD_MODE_IN_PLACE;
    run.store = image->store;
    if (n < run.length || vdi->header.block_extra != 0) {
      run.length = n;
      goto out;
    }
  }

  /* Go on for as long as there is more of the same. */
  while (run.length < len) {
    uint64_t n = min_u64 (block_size, len - run.length);

    index++;
    if (++i == pin.count) {
      vd_table_unpin (vdi->map, &pin);
      if (pages++ == MAX_PAGES)
        goto unpinned;
      if (vd_table_pin (ctx, vdi->map, index, &pin) < 0) {
        /* What is known so far is an answer; the next call will fail. */
        ctx->error = 0;
        goto unpinned;
      }
      i = 0;
    }
    e = vd_table_entry (&pin, i);
    if (run.kind != VD_RUN_DATA) {
      if (e != first)
        break;
    }
    else {
      if (e != ++first || e == VDI_ENTRY_ZERO ||
          bytes_in_file (ctx, image, vdi_position (vdi, e), n) < n)
        break;
    }
    run.length += n;
  }

 out:
  vd_table_unpin (vdi->map, &pin);
 unpinned:
  *ret = run;
  return 0;
}

static const struct vd_format_key vdi_keys[] = {
  { "AllocationBlockSize", "1048576" },
  { "DataAlignment", "1048576" },
  { NULL, NULL },
};

const struct vd_format vd_format_vdi = {
  .name = "vdi",
  .capabilities = "uuid,create-fixed,create-dynamic,diff,async,file,discard",
  .extensions = "vdi",
  .keys = vdi_keys,
  .probe = vdi_probe,
  .open = vdi_open,
  .close = vdi_close,
  .create = vdi_create,
  .check_create = vdi_check_create,
  .block_at = vdi_block_at,
  .locate = vdi_locate,
  .begin_session = vdi_begin_session,
  .reserve = vdi_reserve,
  .abandon = vdi_abandon,
  .commit = vdi_commit,
  .write_tables = vdi_write_tables,
  .write_map = vdi_write_map,
  .end_session = vdi_end_session,
  .set_meta = vdi_set_meta,
};
