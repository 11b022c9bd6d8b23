/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reading compressed extents (streamOptimized, vmdk-format 6): the footer,
 * and one grain at a time.
 *
 * Nothing is kept between calls, so any number of threads read at once; what
 * libdeflate needs is small and is allocated for each grain, which costs a
 * hundredth of the inflating.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libdeflate.h>

#include "byteorder.h"
#include "cleanup.h"
#include "rounding.h"
#include "vmdk-hosted.h"

/* At the very end: a footer's marker, the footer, the end of the stream. */
#define TAIL (3 * VMDK_SECTOR)

#define FLAGS_STREAM (HOSTED_FLAG_COMPRESSED | HOSTED_FLAG_MARKERS)

/* Signature and version; descriptorOffset and descriptorSize. */
#define STRICT_SAME_HEAD 8
#define STRICT_SAME_FROM 28
#define STRICT_SAME_LEN 16

int
stream_read_footer (struct vd_ctx *ctx, const char *name,
                    struct vd_store *store, uint64_t file_size,
                    uint64_t nominal, struct hosted_header *h)
{
  /* Transfers may have added some bytes (vmdk-format 6.1). */
  uint64_t end = round_down (file_size, VMDK_SECTOR);
  const char *incomplete = "the stream is incomplete or cut off";
  struct hosted_header footer;
  uint8_t tail[TAIL];
  const uint8_t *marker = tail, *eos = tail + 2 * VMDK_SECTOR;
  int r;

  if (end < HOSTED_HEADER + TAIL)
    return vd_error (ctx, EIO, "%s: %s: the file has %" PRIu64 " bytes, too "
                     "few for a footer", name, incomplete, file_size);
  r = vd_store_pread (ctx, store, tail, sizeof tail, end - TAIL);
  if (r < 0)
    return r;

  if (get_le32 (&marker[MARKER_SIZE]) != 0 ||
      get_le32 (&marker[MARKER_TYPE]) != MARKER_FOOTER)
    return vd_error (ctx, EIO, "%s: %s: no footer marker at offset %" PRIu64
                     " (size %" PRIu32 ", type %" PRIu32 ", must be 0 and "
                     "%d)", name, incomplete, end - TAIL,
                     get_le32 (&marker[MARKER_SIZE]),
                     get_le32 (&marker[MARKER_TYPE]), MARKER_FOOTER);
  if (get_le64 (&eos[MARKER_VALUE]) != 0 ||
      get_le32 (&eos[MARKER_SIZE]) != 0 ||
      get_le32 (&eos[MARKER_TYPE]) != MARKER_EOS)
    return vd_error (ctx, EIO, "%s: %s: no end-of-stream marker at offset %"
                     PRIu64 " (value %" PRIu64 ", size %" PRIu32 ", type %"
                     PRIu32 ", must all be 0)", name, incomplete,
                     end - VMDK_SECTOR, get_le64 (&eos[MARKER_VALUE]),
                     get_le32 (&eos[MARKER_SIZE]),
                     get_le32 (&eos[MARKER_TYPE]));

  r = hosted_header_parse (ctx, name, tail + VMDK_SECTOR, file_size, nominal,
                           &footer);
  if (r < 0)
    return r;
  if (footer.version != h->version ||
      (footer.flags & FLAGS_STREAM) != (h->flags & FLAGS_STREAM))
    return vd_error (ctx, EIO, "%s: the footer has version %" PRIu32
                     " and flags 0x%" PRIx32 ", the header %" PRIu32
                     " and 0x%" PRIx32, name, footer.version, footer.flags,
                     h->version, h->flags);
  if (footer.gd_offset == HOSTED_GD_AT_END)
    return vd_error (ctx, EIO, "%s: %s: gdOffset is missing in the footer "
                     "too", name, incomplete);

  /* The text was found through the header already. */
  footer.descriptor_offset = h->descriptor_offset;
  footer.descriptor_size = h->descriptor_size;
  *h = footer;
  return 0;
}

static bool
is_zero (const uint8_t *p, size_t n)
{
  while (n > 0 && *p == 0)
    ++p, --n;
  return n == 0;
}

/* What strict=true asks of the end of a stream, beyond what reading it needs:
 * OpenStack's gate looks at every byte of the two markers, and wants the
 * footer to lead to the descriptor that the header leads to.
 */
int
stream_check_strict (struct vd_ctx *ctx, const char *name,
                     struct vd_store *store, uint64_t file_size,
                     const struct hosted_header *h)
{
  uint8_t head[HOSTED_HEADER], tail[TAIL];
  const uint8_t *footer = tail + VMDK_SECTOR;
  const uint8_t *eos = footer + VMDK_SECTOR;
  const char *why = NULL;
  int r;

  if (h->gd_offset != HOSTED_GD_AT_END)
    return 0;
  if (file_size < HOSTED_HEADER + TAIL)
    return vd_error (ctx, EACCES, "%s: strict: the file has %" PRIu64
                     " bytes, too few for a footer", name, file_size);
  r = vd_store_pread (ctx, store, head, sizeof head, 0);
  if (r == 0)
    r = vd_store_pread (ctx, store, tail, sizeof tail, file_size - TAIL);
  if (r < 0)
    return r;
  if (file_size % VMDK_SECTOR != 0)
    why = "something follows the end-of-stream marker";
  else if (get_le32 (&tail[MARKER_TYPE]) != MARKER_FOOTER ||
           get_le32 (&tail[MARKER_SIZE]) != 0 ||
           !is_zero (&tail[MARKER_TYPE + 4],
                     VMDK_SECTOR - (MARKER_TYPE + 4)))
    why = "the footer marker is not in its usual form";
  else if (!is_zero (eos, VMDK_SECTOR))
    why = "the last sector is not an end-of-stream marker of zeroes";
  else if (memcmp (head, footer, STRICT_SAME_HEAD) != 0 ||
           memcmp (&head[STRICT_SAME_FROM], &footer[STRICT_SAME_FROM],
                   STRICT_SAME_LEN) != 0)
    why = "signature, version or place of the descriptor differ between "
      "header and footer";
  if (why)
    return vd_error (ctx, EACCES, "%s: strict: %s", name, why);
  return 0;
}

/* ---- one grain --------------------------------------------------------- */

/* Where to find it; for messages too. */
struct packed {
  struct vmdk_extent *x;
  const struct hosted *hs;
  uint64_t block;               /* bytes from the start of the extent */
  uint64_t position;            /* of the marker, in the file */
  uint64_t guess;               /* bytes that it probably takes */
};

static int __attribute__ ((__format__ (__printf__, 3, 4)))
bad_grain (struct vd_ctx *ctx, const struct packed *p, const char *fmt, ...)
{
  char text[300];
  va_list args;

  va_start (args, fmt);
  vsnprintf (text, sizeof text, fmt, args);
  va_end (args);
  return vd_error (ctx, EIO, "%s: grain %" PRIu64 " (at sector %" PRIu64
                   "): %s", p->x->store->name, p->block / p->hs->grain_bytes,
                   p->position / VMDK_SECTOR, text);
}

static int
find_grain (struct vd_ctx *ctx, struct packed *p)
{
  const struct hosted *hs = p->hs;
  uint64_t file_size = atomic_load_explicit (&hs->file_size,
                                             memory_order_relaxed);
  struct vd_table_pin pin;
  uint32_t entry, next;
  int r;

  r = vd_table_pin (ctx, hs->gt, p->block / hs->grain_bytes, &pin);
  if (r < 0)
    return r;
  entry = vd_table_entry (&pin, 0);
  next = pin.count > 1 ? vd_table_entry (&pin, 1) : 0;
  vd_table_unpin (hs->gt, &pin);

  p->position = (uint64_t) entry * VMDK_SECTOR;
  if (entry < 2 || p->position + MARKER_GRAIN_DATA > file_size)
    return bad_grain (ctx, p, "the table's entry is %" PRIu32 ", which is no "
                      "place for a grain in a file of %" PRIu64 " bytes",
                      entry, file_size);

  /* Mostly the next grain begins where this one ends. */
  p->guess = hs->grain_bytes + VMDK_SECTOR;
  if (next > entry)
    p->guess = min_u64 (p->guess, (uint64_t) (next - entry) * VMDK_SECTOR);
  p->guess = min_u64 (p->guess, file_size - p->position);
  return 0;
}

/* Check the marker that is at *ret, and read what is missing of the data. */
static int
read_grain (struct vd_ctx *ctx, const struct packed *p, uint8_t **ret,
            uint32_t *ret_size)
{
  uint64_t sector = p->block / VMDK_SECTOR, lba;
  uint64_t file_size = atomic_load_explicit (&p->hs->file_size,
                                             memory_order_relaxed);
  uint8_t *more;
  uint32_t size;
  int r;

  r = vd_store_pread (ctx, p->x->store, *ret, p->guess, p->position);
  if (r < 0)
    return r;
  lba = get_le64 (*ret + MARKER_VALUE);
  size = get_le32 (*ret + MARKER_SIZE);
  if (lba != sector)
    return bad_grain (ctx, p, "the marker says that it belongs to sector %"
                      PRIu64 ", not %" PRIu64, lba, sector);
  if (size == 0 || size > 2 * p->hs->grain_bytes)
    return bad_grain (ctx, p, "the marker's size is %" PRIu32 ", must be "
                      "from 1 to %" PRIu64, size, 2 * p->hs->grain_bytes);
  if (size > file_size - p->position - MARKER_GRAIN_DATA)
    return bad_grain (ctx, p, "its %" PRIu32 " bytes reach beyond the end of "
                      "the file at %" PRIu64, size, file_size);

  *ret_size = size;
  if (MARKER_GRAIN_DATA + (uint64_t) size <= p->guess)
    return 0;
  more = realloc (*ret, MARKER_GRAIN_DATA + size);
  if (!more)
    return vd_error (ctx, ENOMEM, "%s: no memory for a grain",
                     p->x->store->name);
  *ret = more;
  return vd_store_pread (ctx, p->x->store, more + p->guess,
                         MARKER_GRAIN_DATA + size - p->guess,
                         p->position + p->guess);
}

int
stream_unpack (struct vd_ctx *ctx, struct vmdk_extent *x,
               uint64_t block, void *buf)
{
  const struct hosted *hs = x->priv;
  struct packed p = { .x = x, .hs = hs, .block = block };
  CLEANUP_FREE uint8_t *data = NULL;
  uint64_t grain = hs->grain_bytes, disk;
  struct libdeflate_decompressor *d;
  enum libdeflate_result result;
  size_t length = 0;
  uint32_t size = 0;
  int r;

  r = find_grain (ctx, &p);
  if (r < 0)
    return r;
  data = malloc (p.guess);
  if (!data)
    return vd_error (ctx, ENOMEM, "%s: no memory for a grain",
                     x->store->name);
  r = read_grain (ctx, &p, &data, &size);
  if (r < 0)
    return r;

  d = libdeflate_alloc_decompressor ();
  if (!d)
    return vd_error (ctx, ENOMEM, "%s: no memory to inflate a grain",
                     x->store->name);
  result = libdeflate_zlib_decompress (d, data + MARKER_GRAIN_DATA, size,
                                       buf, grain, &length);
  libdeflate_free_decompressor (d);
  if (result == LIBDEFLATE_INSUFFICIENT_SPACE)
    return bad_grain (ctx, &p, "its %" PRIu32 " bytes inflate to more than "
                      "%" PRIu64, size, grain);
  if (result != LIBDEFLATE_SUCCESS)
    return bad_grain (ctx, &p, "its %" PRIu32 " bytes do not inflate: they "
                      "are damaged", size);
  if (length == grain)
    return 0;

  /* Only the last grain may be short, if it has all that the disk has. */
  disk = min_u64 (x->size, hs->h.capacity * VMDK_SECTOR);
  if (block + length < disk)
    return bad_grain (ctx, &p, "its %" PRIu32 " bytes inflate to %zu, must "
                      "be %" PRIu64, size, length,
                      min_u64 (grain, disk - block));
  memset ((uint8_t *) buf + length, 0, grain - length);
  return 0;
}
