/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A VMDK image: find the descriptor, open what it names, and put the extents
 * end to end.
 *
 * supported: monolithicSparse, monolithicFlat, twoGbMaxExtentSparse and Flat,
 * vmfs and its aliases, custom, fullDevice, partitionedDevice (all of them
 * read and write), streamOptimized (read; written once when it is created),
 * vmfsSparse (COWD) and seSparse (read).
 * not supported: raw device mappings of ESX, encrypted disks.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "byteorder.h"
#include "cleanup.h"
#include "lazy.h"
#include "rounding.h"
#include "vmdk.h"
#include "vmdk-hosted.h"
#include "vmdk-private.h"

/* The unit of writing where an extent has no grains. */
#define FLAT_BLOCK (1024 * 1024)

/* ---- finding the descriptor ------------------------------------------- */

static bool
vmdk_probe (const uint8_t *head, size_t n)
{
  if (n >= 4 && (memcmp (head, "KDMV", 4) == 0 ||
                 memcmp (head, "kdmv", 4) == 0 ||
                 memcmp (head, "COWD", 4) == 0))
    return true;
  if (n >= 8 && get_le64 (head) == 0xcafebabe)
    return true;
  return vmdk_descriptor_probe (head, n);
}

/* Read up to *len bytes.  A descriptor ends at the first NUL, and VirtualBox
 * reserves 100 KiB for 500 bytes: who looks into many files does not want all
 * of that.
 */
static int
read_text (struct vd_ctx *ctx, struct vd_image *image, char *text,
           uint64_t offset, uint64_t *len)
{
  uint64_t piece = image->info ? 4096 : *len, done, n;
  int r;

  for (done = 0; done < *len; done += n) {
    n = min_u64 (piece, *len - done);
    r = vd_store_pread (ctx, image->store, text + done, n, offset + done);
    if (r < 0)
      return r;
    if (memchr (text + done, '\0', n))
      *len = done + n;
  }
  return 0;
}

static int
parse_text (struct vd_ctx *ctx, struct vd_image *image, uint64_t offset,
            uint64_t len)
{
  struct vmdk *vmdk = image->priv;
  CLEANUP_FREE char *text = malloc (len + 1);
  int r;

  if (!text)
    return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor",
                     image->name);
  r = read_text (ctx, image, text, offset, &len);
  if (r < 0)
    return r;
  vmdk->descriptor_offset = offset;
  return vmdk_descriptor_parse (ctx, image->name, text, len, image->strict,
                                &vmdk->descriptor);
}

/* The descriptor in a hosted sparse file. */
static int
parse_embedded (struct vd_ctx *ctx, struct vd_image *image,
                const uint8_t *head, uint64_t file_size)
{
  struct vmdk *vmdk = image->priv;
  struct hosted_header h;
  uint64_t room;
  int r;

  r = hosted_header_parse (ctx, image->name, head, file_size, 0, &h);
  if (r < 0)
    return r;
  if (h.descriptor_offset == 0)
    return vd_error (ctx, ENOTSUP, "%s: is one extent of a VMDK without a "
                     "descriptor in it; open the small text file that names "
                     "it (for NAME-s001.vmdk this is NAME.vmdk)",
                     image->name);
  if (image->strict && h.descriptor_offset != 1)
    return vd_error (ctx, EACCES, "%s: descriptorOffset is %" PRIu64
                     ", which strict=true does not allow (1 only)",
                     image->name, h.descriptor_offset);
  if (image->strict) {
    r = stream_check_strict (ctx, image->name, image->store, file_size, &h);
    if (r < 0)
      return r;
  }

  /* A stream that was created, and nobody has written to. */
  if (h.flags & HOSTED_FLAG_COMPRESSED) {
    r = stream_is_empty (ctx, image->name, image->store, file_size, &h,
                         &image->front_to_back);
    if (r < 0)
      return r;
  }
  vmdk->grain = h.grain * VMDK_SECTOR;
  room = h.descriptor_size * VMDK_SECTOR;
  vmdk->descriptor_room = room;
  r = parse_text (ctx, image, h.descriptor_offset * VMDK_SECTOR, room);
  if (r < 0)
    return r;

  /* qemu's split extents reserve the room and leave it empty; what it names
   * is never followed (vmdk-format 13.2).
   */
  if (vmdk_descriptor_nextents (vmdk->descriptor) != 1)
    return vd_error (ctx, ENOTSUP, "%s: the descriptor inside names %zu "
                     "extents, must be this one only; if this is NAME-s001."
                     "vmdk open NAME.vmdk", image->name,
                     vmdk_descriptor_nextents (vmdk->descriptor));
  if (vmdk_descriptor_extent (vmdk->descriptor, 0)->type != VMDK_SPARSE)
    return vd_error (ctx, EIO, "%s: the descriptor inside must name one "
                     "SPARSE extent, and names another kind (line %u)",
                     image->name,
                     vmdk_descriptor_extent (vmdk->descriptor, 0)->line);
  return 0;
}

static int
find_descriptor (struct vd_ctx *ctx, struct vd_image *image)
{
  uint8_t head[HOSTED_HEADER] = { 0 };
  uint64_t size;
  int r;

  r = vd_store_get_size (ctx, image->store, &size);
  if (r < 0)
    return r;
  r = vd_store_pread (ctx, image->store, head, min_u64 (size, sizeof head),
                      0);
  if (r < 0)
    return r;

  if (memcmp (head, "kdmv", 4) == 0)
    return vd_error (ctx, EIO, "%s: is an incomplete stream (its magic is "
                     "\"kdmv\"): the program that made it did not finish",
                     image->name);
  if (memcmp (head, "COWD", 4) == 0 || get_le64 (head) == 0xcafebabe)
    return vd_error (ctx, ENOTSUP, "%s: is one extent (%s) of a VMDK; open "
                     "the small text file that names it", image->name,
                     head[0] == 'C' ? "COWD" : "seSparse");
  if (memcmp (head, "KDMV", 4) == 0)
    return parse_embedded (ctx, image, head, size);

  if (image->strict)
    return vd_error (ctx, EACCES, "%s: is a text descriptor, which "
                     "strict=true does not allow", image->name);
  if (size > VMDK_DESCRIPTOR_MAX)
    return vd_error (ctx, EIO, "%s: the descriptor is %" PRIu64
                     " bytes long, at most %d are allowed", image->name,
                     size, VMDK_DESCRIPTOR_MAX);
  return parse_text (ctx, image, 0, size);
}

/* ---- the extents ------------------------------------------------------- */

static bool
is_type (const struct vmdk *vmdk, const char *type)
{
  const char *t = vmdk_descriptor_fields (vmdk->descriptor)->create_type;

  return t && strcasecmp (t, type) == 0;
}

bool
vmdk_is_device_type (const struct vmdk *vmdk)
{
  return is_type (vmdk, "fullDevice") || is_type (vmdk, "partitionedDevice");
}

static int
open_kind (struct vd_ctx *ctx, struct vmdk_extent *x,
           const struct vmdk_extent_line *line)
{
  switch (line->type) {
  case VMDK_FLAT:
  case VMDK_VMFS:
    return vmdk_flat_open (ctx, x);
  case VMDK_ZERO:
    return vmdk_zero_open (ctx, x);
  case VMDK_SPARSE:
    return vmdk_hosted_open (ctx, x);
  case VMDK_VMFSSPARSE:
    return vmdk_cowd_open (ctx, x);
  case VMDK_SESPARSE:
    return vmdk_sesparse_open (ctx, x);
  case VMDK_VMFSRDM:
  case VMDK_VMFSRAW:
    break;
  }
  return vd_error (ctx, ENOTSUP, "%s: line %u is a raw device mapping, whose "
                   "data only an ESX host can reach", x->image->name,
                   line->line);
}

/* A stream that is being made: nothing is there yet, and what the sink has
 * stored cannot be read (the engine sees to that).
 */
static int
new_stream_locate (struct vd_ctx *ctx, struct vmdk_extent *x,
                   uint64_t offset, uint64_t len, enum vd_locate what,
                   struct vd_run *ret)
{
  (void) ctx;
  (void) x;
  (void) offset;
  (void) what;
  *ret = (struct vd_run) {
    .kind = VD_RUN_PARENT, .mode = VD_MODE_ALLOC, .length = len,
  };
  return 0;
}

static void
new_stream_close (struct vmdk_extent *x)
{
  (void) x;
}

static const struct vmdk_extent_ops new_stream_ops = {
  .kind = "stream",
  .locate = new_stream_locate,
  .close = new_stream_close,
};

/* What the descriptor says of each extent. */
static int
describe_extents (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  size_t i, nsparse = 0;
  uint64_t start = 0;

  for (i = 0; i < vmdk->nextents; ++i)
    nsparse += vmdk_descriptor_extent (vmdk->descriptor, i)->type !=
      VMDK_FLAT;
  for (i = 0; i < vmdk->nextents; ++i) {
    const struct vmdk_extent_line *line =
      vmdk_descriptor_extent (vmdk->descriptor, i);
    struct vmdk_extent *x = &vmdk->extents[i];

    x->image = image;
    x->number = i;
    x->access = line->access;
    x->write = image->write && line->access == VMDK_RW;
    x->start = start;
    if (line->sectors > (INT64_MAX - start) / VMDK_SECTOR)
      return vd_error (ctx, EIO, "%s: line %u: the disk would be larger than "
                       "2^63 bytes (%" PRIu64 " sectors more)", image->name,
                       line->line, line->sectors);
    x->size = line->sectors * VMDK_SECTOR;
    start += x->size;
    if (line->offset > INT64_MAX / VMDK_SECTOR)
      return vd_error (ctx, EIO, "%s: line %u: offset is %" PRIu64,
                       image->name, line->line, line->offset);
    x->file_offset = line->offset * VMDK_SECTOR;
    x->embedded = vmdk->descriptor_room > 0;
    x->drop = image->drop_gaps && is_type (vmdk, "partitionedDevice");
    x->table_memory = image->table_memory / max_u64 (nsparse, 1);
  }
  image->size = start;
  return 0;
}

static int
open_extents (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  size_t i, n = vmdk_descriptor_nextents (vmdk->descriptor);
  int r;

  if (n == 0)
    return vd_error (ctx, EIO, "%s: the descriptor names no extents",
                     image->name);
  if (vmdk_is_device_type (vmdk) &&
      !vd_policy_has_raw_disks (image->folder ? image->folder->policy : NULL))
    return vd_error (ctx, EACCES, "%s: its createType is %s, a description "
                     "of a disk of the host; allow it with raw-disk=DEVICE "
                     "or raw-disk=allow", image->name,
                     vmdk_descriptor_fields (vmdk->descriptor)->create_type);

  vmdk->extents = aligned_alloc (_Alignof (struct vmdk_extent),
                                 n * sizeof vmdk->extents[0]);
  if (!vmdk->extents)
    return vd_error (ctx, ENOMEM, "%s: no memory for %zu extents",
                     image->name, n);
  memset (vmdk->extents, 0, n * sizeof vmdk->extents[0]);
  vmdk->nextents = n;
  r = describe_extents (ctx, image);
  if (r < 0)
    return r;
  if (vmdk->descriptor_room)
    vmdk->extents[0].store = image->store;
  else {
    r = vmdk_open_files (ctx, image);
    if (r < 0)
      return r;
  }

  for (i = 0; i < n; ++i) {
    struct vmdk_extent *x = &vmdk->extents[i];

    if (image->front_to_back) {
      x->grain = vmdk->grain;
      x->ops = &new_stream_ops;
      continue;
    }
    r = open_kind (ctx, x, vmdk_descriptor_extent (vmdk->descriptor, i));
    if (r < 0)
      return r;
  }
  return 0;
}

/* What is known of the size without the extents. */
static int
described_size (struct vd_ctx *ctx, struct vd_image *image)
{
  const struct vmdk *vmdk = image->priv;
  uint64_t sectors = 0;
  size_t i;

  /* The parser has seen to the sum. */
  for (i = 0; i < vmdk_descriptor_nextents (vmdk->descriptor); ++i)
    sectors += vmdk_descriptor_extent (vmdk->descriptor, i)->sectors;
  if (sectors > INT64_MAX / VMDK_SECTOR)
    return vd_error (ctx, EIO, "%s: the disk would be larger than 2^63 bytes "
                     "(%" PRIu64 " sectors)", image->name, sectors);
  image->size = sectors * VMDK_SECTOR;
  return 0;
}

/* ---- may it be written? ------------------------------------------------ */

static bool
overlap (const struct vmdk_extent *a, const struct vmdk_extent *b)
{
  return a->store == b->store && a->store &&
    a->file_offset < b->file_offset + b->size &&
    b->file_offset < a->file_offset + a->size;
}

static int
by_file (const void *a, const void *b)
{
  const struct vmdk_extent *x = *(struct vmdk_extent *const *) a;
  const struct vmdk_extent *y = *(struct vmdk_extent *const *) b;

  if (x->store != y->store)
    return (uintptr_t) x->store < (uintptr_t) y->store ? -1 : 1;
  return x->file_offset < y->file_offset ? -1 : x->file_offset >
    y->file_offset;
}

/* Two extents over the same bytes of a file: a write to one would change the
 * other.
 */
static int
check_overlaps (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  CLEANUP_FREE struct vmdk_extent **sorted =
    malloc (vmdk->nextents * sizeof sorted[0]);
  size_t i, n = 0;

  if (!sorted)
    return vd_error (ctx, ENOMEM, "%s: no memory for %zu extents",
                     image->name, vmdk->nextents);
  /* An empty one overlaps nothing, and would hide its neighbours from each
   * other.
   */
  for (i = 0; i < vmdk->nextents; ++i)
    if (vmdk->extents[i].size > 0 || vmdk->extents[i].grain)
      sorted[n++] = &vmdk->extents[i];
  qsort (sorted, n, sizeof sorted[0], by_file);
  for (i = 1; i < n; ++i)
    if (sorted[i]->store == sorted[i - 1]->store && sorted[i]->store &&
        (sorted[i]->grain || sorted[i - 1]->grain ||
         overlap (sorted[i - 1], sorted[i])))
      snprintf (image->no_write, sizeof image->no_write,
                "extents %u and %u are the same bytes of %.100s",
                sorted[i - 1]->number, sorted[i]->number,
                sorted[i]->store->name);
  return 0;
}

static int
judge_writing (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  const struct vmdk_fields *fields =
    vmdk_descriptor_fields (vmdk->descriptor);
  bool any = false, stream;
  size_t i;

  if (image->front_to_back)
    return 0;
  for (i = 0; i < vmdk->nextents && !image->no_write[0]; ++i) {
    const struct vmdk_extent *x = &vmdk->extents[i];

    any |= x->access == VMDK_RW && x->store;
    /* VirtualBox calls the extent of a stream RDONLY, which it would be under
     * any name.
     */
    stream = x->embedded && x->grain;
    if ((x->access == VMDK_RW || stream) && x->no_write[0])
      snprintf (image->no_write, sizeof image->no_write, "extent %u: %s",
                x->number, x->no_write);
  }
  if (image->no_write[0])
    return 0;
  if (!any)
    snprintf (image->no_write, sizeof image->no_write,
              "none of its extents is RW");
  else if (fields->change_track)
    snprintf (image->no_write, sizeof image->no_write,
              "changeTrackPath is set, and VMware's record of changed blocks "
              "would not know of ours");
  else if (fields->version > 3)
    snprintf (image->no_write, sizeof image->no_write,
              "version is %u, 1 to 3 are known", fields->version);
  else if (image->write)
    return check_overlaps (ctx, image);
  return 0;
}

/* ---- open and close ---------------------------------------------------- */

static int
make_index (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  uint64_t i, n;
  uint32_t x = 0;

  while ((image->size >> vmdk->shift) > max_u64 (64, 4 * vmdk->nextents))
    vmdk->shift++;
  n = (image->size >> vmdk->shift) + 2;
  vmdk->index = calloc (n, sizeof vmdk->index[0]);
  if (!vmdk->index)
    return vd_error (ctx, ENOMEM, "%s: no memory for %zu extents",
                     image->name, vmdk->nextents);
  for (i = 0; i < n; ++i) {
    while (x + 1 < vmdk->nextents &&
           vmdk->extents[x].start + vmdk->extents[x].size <=
           i << vmdk->shift)
      x++;
    vmdk->index[i] = x;
  }
  return 0;
}

static struct vmdk_extent *
extent_at (const struct vd_image *image, uint64_t offset)
{
  const struct vmdk *vmdk = image->priv;
  uint32_t low, high;

  if (vmdk->nextents == 1)
    return vmdk->extents;
  low = vmdk->index[offset >> vmdk->shift];
  high = vmdk->index[(offset >> vmdk->shift) + 1];
  /* The last one that starts at or before the offset and is not empty. */
  while (low < high) {
    uint32_t mid = low + (high - low + 1) / 2;

    if (vmdk->extents[mid].start <= offset)
      low = mid;
    else
      high = mid - 1;
  }
  while (vmdk->extents[low].size == 0 && low > 0)
    low--;
  return &vmdk->extents[low];
}

static void
vmdk_close (struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  size_t i;

  if (!vmdk)
    return;
  for (i = 0; i < vmdk->nextents; ++i)
    if (vmdk->extents[i].ops)
      vmdk->extents[i].ops->close (&vmdk->extents[i]);
  vd_lazy_free (vmdk->lazy);
  if (vmdk->limit)
    vd_open_limit_give (vmdk->limit, vmdk->kept);
  if (vmdk->limit != image->open_limit)
    vd_open_limit_free (vmdk->limit);
  free (vmdk->extents);
  free (vmdk->index);
  vmdk_descriptor_free (vmdk->descriptor);
  free (vmdk);
  image->priv = NULL;
}

static void
fill_metadata (struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  const struct vmdk_fields *f = vmdk_descriptor_fields (vmdk->descriptor);
  bool sparse = false, all_zero = true;
  size_t i;

  image->link.uuid = f->image;
  image->link.modification = f->modification;
  image->link.parent = f->parent;
  image->link.parent_modification = f->parent_modification;
  image->link.has_cid = f->has_cid;
  image->link.cid = f->cid;
  image->link.parent_cid = f->parent_cid;
  image->link.parent_hint = f->parent_hint;
  image->differencing = !vd_uuid_is_null (&f->parent) ||
    (f->has_cid && f->parent_cid != VD_CID_NONE);
  image->lchs = f->lchs;
  image->comment = f->comment;
  image->variant = f->create_type ? f->create_type : "custom";

  image->block_size = 0;
  for (i = 0; i < vmdk->nextents; ++i) {
    const struct vmdk_extent *x = &vmdk->extents[i];

    image->block_size = max_u64 (image->block_size,
                                 x->grain ? x->grain : FLAT_BLOCK);
    sparse |= x->grain > 0;
    all_zero &= !x->grain || x->has_zero;
    /* Its parent, which the descriptor may not name, must not be missing. */
    image->differencing |= x->differing;
  }
  /* The engine has one rule for the whole image. */
  image->has_zero = sparse && all_zero;
  image->fixed = !sparse;
}

static int
vmdk_open (struct vd_ctx *ctx, struct vd_image *image)
{
  int r;

  image->priv = calloc (1, sizeof (struct vmdk));
  if (!image->priv)
    return vd_error (ctx, ENOMEM, "%s: no memory", image->name);
  r = find_descriptor (ctx, image);
  if (r == 0 && !image->info)
    r = vmdk_check_lock_folder (ctx, image, NULL);
  if (r == 0)
    r = image->info ? described_size (ctx, image)
      : open_extents (ctx, image);
  if (r == 0 && !image->info)
    r = make_index (ctx, image);
  if (r == 0) {
    fill_metadata (image);
    r = judge_writing (ctx, image);
  }
  if (r < 0)
    vmdk_close (image);
  return r;
}

/* ---- reading ------------------------------------------------------------ */

static void
vmdk_block_at (const struct vd_image *image, uint64_t offset,
               uint64_t *ret_start, uint64_t *ret_length)
{
  const struct vmdk_extent *x = extent_at (image, offset);
  uint64_t grain = x->grain ? x->grain : FLAT_BLOCK;
  uint64_t start = round_down (offset - x->start, grain);

  /* The next extent may begin inside the last grain of this one. */
  *ret_start = x->start + start;
  *ret_length = min_u64 (grain, x->size - start);
}

static int
vmdk_locate (struct vd_ctx *ctx, struct vd_image *image,
             uint64_t offset, uint64_t len, enum vd_locate what,
             struct vd_run *ret)
{
  struct vmdk_extent *x = extent_at (image, offset);
  int r;

  len = min_u64 (len, x->start + x->size - offset);
  if (x->access == VMDK_NOACCESS) {
    *ret = (struct vd_run) {
      .kind = VD_RUN_BAD, .mode = VD_MODE_DENY, .length = len,
      .error = EIO, .reason = "the extent is NOACCESS", .value = x->number,
    };
    return 0;
  }
  r = x->ops->locate (ctx, x, offset - x->start, len, what, ret);
  if (r < 0)
    return r;
  if (ret->kind == VD_RUN_PACKED)
    ret->block += x->start;
  if (x->access == VMDK_RDONLY && ret->mode != VD_MODE_DENY) {
    ret->mode = VD_MODE_DENY;
    ret->error = EPERM;
    ret->reason = "the extent is RDONLY";
    ret->value = x->number;
  }
  return 0;
}

static int
vmdk_unpack (struct vd_ctx *ctx, struct vd_image *image, uint64_t block,
             void *buf)
{
  struct vmdk_extent *x = extent_at (image, block);
  uint64_t start = block - x->start;
  CLEANUP_FREE char *grain = NULL;
  int r;

  if (x->grain <= x->size - start)
    return x->ops->unpack (ctx, x, start, buf);

  /* The caller's buffer ends where the extent does. */
  grain = malloc (x->grain);
  if (!grain)
    return vd_error (ctx, ENOMEM, "%s: no memory for a grain", image->name);
  r = x->ops->unpack (ctx, x, start, grain);
  if (r == 0)
    memcpy (buf, grain, x->size - start);
  return r;
}

/* ---- writing: each verb to the extent it concerns ----------------------- */

static int
vmdk_reserve (struct vd_ctx *ctx, struct vd_image *image,
              uint64_t block, struct vd_place *ret)
{
  struct vmdk_extent *x = extent_at (image, block);

  return x->ops->reserve (ctx, x, block - x->start, ret);
}

static void
vmdk_abandon (struct vd_image *image, uint64_t block,
              const struct vd_place *place)
{
  struct vmdk_extent *x = extent_at (image, block);

  x->ops->abandon (x, block - x->start, place);
}

static int
vmdk_commit (struct vd_ctx *ctx, struct vd_image *image,
             uint64_t block, enum vd_state state,
             const struct vd_place *place, uint64_t *ret_value)
{
  struct vmdk_extent *x = extent_at (image, block);

  return x->ops->commit (ctx, x, block - x->start, state, place, ret_value);
}

static int
vmdk_write_tables (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  size_t i;
  int r;

  for (i = 0; i < vmdk->nextents; ++i) {
    struct vmdk_extent *x = &vmdk->extents[i];

    if (!x->write || !x->ops->write_tables)
      continue;
    r = x->ops->write_tables (ctx, x);
    if (r < 0)
      return r;
  }
  return 0;
}

static int
vmdk_write_map (struct vd_ctx *ctx, struct vd_image *image,
                const struct vd_change *changes, size_t n)
{
  struct vd_change part[512];
  size_t i, count;
  int r;

  for (; n > 0; changes += count, n -= count) {
    struct vmdk_extent *x = extent_at (image, changes[0].block);
    uint64_t end = x->start + x->size;

    for (count = 0; count < n && count < sizeof part / sizeof part[0] &&
           changes[count].block < end; ++count)
      ;
    for (i = 0; i < count; ++i) {
      part[i].block = changes[i].block - x->start;
      part[i].value = changes[i].value;
    }
    r = x->ops->write_map (ctx, x, part, count);
    if (r < 0)
      return r;
  }
  return 0;
}

static const struct vd_format_key vmdk_keys[] = {
  { "RawDrive", "" },
  { "Partitions", "" },
  { "BootSector", "" },
  { "Relative", "" },
  { NULL, NULL },
};

const struct vd_format vd_format_vmdk = {
  .name = "vmdk",
  .capabilities =
    "uuid,create-fixed,create-dynamic,create-split-2g,diff,async,file",
  .extensions = "vmdk",
  .keys = vmdk_keys,
  .probe = vmdk_probe,
  .open = vmdk_open,
  .close = vmdk_close,
  .create = vmdk_create,
  .check_create = vmdk_check_create,
  .block_at = vmdk_block_at,
  .locate = vmdk_locate,
  .unpack = vmdk_unpack,
  .begin_session = vmdk_begin_session,
  .reserve = vmdk_reserve,
  .abandon = vmdk_abandon,
  .commit = vmdk_commit,
  .write_tables = vmdk_write_tables,
  .write_map = vmdk_write_map,
  .end_session = vmdk_end_session,
  .set_meta = vmdk_set_meta,
  .sink_open = vmdk_sink_open,
  .sink_put = vmdk_sink_put,
  .sink_finish = vmdk_sink_finish,
  .sink_close = vmdk_sink_close,
};
