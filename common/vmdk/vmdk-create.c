/* SPDX-License-Identifier: BSD-3-Clause
 *
 * New images (vmdk-format 2.7, 5.2, 6.4, 7, 9).
 *
 * Split images are made as VMware and qemu make them: a text descriptor and
 * numbered extents even if there is only one.  VirtualBox makes a monolithic
 * image of such a disk, but reads these.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "escape.h"
#include "rounding.h"
#include "vmdk-hosted.h"
#include "vmdk-private.h"
#include "vmdk-raw.h"

#define GRAIN 65536             /* bytes */
#define GRAIN_SECTORS (GRAIN / VMDK_SECTOR)

/* 2047 MiB, as VMware and VirtualBox split (vmdk-format 7). */
#define SPLIT_SECTORS UINT64_C (4192256)

/* What every tool reserves for an embedded descriptor. */
#define DESCRIPTOR_SECTORS 20

/* VirtualBox's limit for sparse extents (vmdk-format 13.1). */
#define SPARSE_SECTORS_MAX ((UINT64_C (256) << 31) - GRAIN_SECTORS)

#define FLAT_SECTORS_MAX (UINT64_C (1) << 54)

/* ---- variants --------------------------------------------------------- */

struct variant {
  const char *name;             /* of ours */
  const char *other;            /* one more name; NULL: none */
  const char *create_type;
  enum vmdk_type type;
  bool split, stream, preallocate;
  bool disk, partitions;        /* a disk of the host, or some of it */
};

static const struct variant variants[] = {
  { "sparse", NULL, "monolithicSparse", .type = VMDK_SPARSE },
  { "flat", NULL, "monolithicFlat", .type = VMDK_FLAT },
  { "flat-preallocated", NULL, "monolithicFlat", .type = VMDK_FLAT,
    .preallocate = true },
  { "split-sparse", "2GbMaxExtentSparse", "twoGbMaxExtentSparse",
    .type = VMDK_SPARSE, .split = true },
  { "split-flat", "2GbMaxExtentFlat", "twoGbMaxExtentFlat",
    .type = VMDK_FLAT, .split = true },
  { "split-flat-preallocated", NULL, "twoGbMaxExtentFlat", .type = VMDK_FLAT,
    .split = true, .preallocate = true },
  { "vmfs", "vmfs-flat", "vmfs", .type = VMDK_VMFS },
  { "vmfs-preallocated", NULL, "vmfs", .type = VMDK_VMFS,
    .preallocate = true },
  { "stream", NULL, "streamOptimized", .type = VMDK_SPARSE, .stream = true },
  { "full-device", NULL, "fullDevice", .type = VMDK_FLAT, .disk = true },
  { "partitioned-device", NULL, "partitionedDevice", .type = VMDK_FLAT,
    .disk = true, .partitions = true },
};

#define N_VARIANTS (sizeof variants / sizeof variants[0])

/* Case and dashes do not matter: "monolithic-sparse" is how the nbdkit VDDK
 * plugin writes it.
 */
static bool
same_name (const char *a, const char *b)
{
  for (;;) {
    while (*a == '-')
      ++a;
    while (*b == '-')
      ++b;
    if (strncasecmp (a, b, 1) != 0)
      return false;
    if (*a == '\0')
      return true;
    ++a;
    ++b;
  }
}

static const struct variant *
find_variant (struct vd_ctx *ctx, const char *name, const char *wanted)
{
  char text[64], list[400] = "";
  size_t i, n = 0;

  if (wanted == NULL)
    return &variants[0];
  for (i = 0; i < N_VARIANTS; ++i) {
    const struct variant *v = &variants[i];

    if (same_name (wanted, v->name) || same_name (wanted, v->create_type) ||
        (v->other && same_name (wanted, v->other)))
      return v;
    n += snprintf (&list[n], sizeof list - n, "%s\"%s\"",
                   n > 0 ? ", " : "", v->name);
  }
  vd_error (ctx, EINVAL, "%s: variant is \"%s\", a VMDK is one of %s", name,
            vd_escape (wanted, strlen (wanted), text, sizeof text), list);
  return NULL;
}

/* ---- plan ------------------------------------------------------------- */

struct plan {
  const struct variant *v;
  uint64_t sectors;
  size_t nextents;
  const char *adapter;          /* canonical spelling */
  struct vd_link link;
};

static bool
has_parent (const struct vd_link *link)
{
  return !vd_uuid_is_null (&link->parent) ||
    (link->has_cid && link->parent_cid != VD_CID_NONE);
}

static int
plan_adapter (struct vd_ctx *ctx, const char *name,
              const struct vd_create *how, struct plan *p)
{
  static const char *const known[] = {
    "ide", "buslogic", "lsilogic", "legacyESX",
  };
  char text[64];
  size_t i;

  if (how->adapter == NULL) {
    /* ESX refuses ide. */
    p->adapter = p->v->type == VMDK_VMFS ? "lsilogic" : "ide";
    return 0;
  }
  for (i = 0; i < sizeof known / sizeof known[0]; ++i)
    if (strcasecmp (how->adapter, known[i]) == 0) {
      p->adapter = known[i];
      return 0;
    }
  if (!how->force)
    return vd_error (ctx, EINVAL, "%s: adapter type is \"%s\", usual are "
                     "\"ide\", \"buslogic\", \"lsilogic\" and \"legacyESX\"; "
                     "others need \"force\"", name,
                     vd_escape (how->adapter, strlen (how->adapter),
                                text, sizeof text));
  p->adapter = how->adapter;
  return 0;
}

static int
plan_link (struct vd_ctx *ctx, const char *name,
           const struct vd_create *how, struct plan *p)
{
  p->link = how->link;
  if (!p->link.has_cid) {
    p->link.cid = p->link.parent_cid = VD_CID_NONE;
    p->link.parent_hint = NULL;
  }
  if (has_parent (&p->link) && p->v->type != VMDK_SPARSE)
    return vd_error (ctx, EINVAL, "%s: variant is \"%s\", but an image with "
                     "a parent must be \"sparse\", \"split-sparse\" or "
                     "\"stream\"", name, p->v->name);
  if (how->differencing && !has_parent (&p->link))
    return vd_error (ctx, ENOTSUP, "%s: what lies below has neither a UUID nor "
                     "a CID, and a VMDK can only be a difference of an image "
                     "that it can name; a VDI can", name);
  if (vd_uuid_is_null (&p->link.parent) &&
      !vd_uuid_is_null (&p->link.parent_modification))
    return vd_error (ctx, EINVAL, "%s: ddb.uuid.parentmodification is given "
                     "without the UUID of a parent", name);
  if (p->link.parent_hint && p->link.parent_cid == VD_CID_NONE)
    return vd_error (ctx, EINVAL, "%s: parentFileNameHint is given without "
                     "the CID of a parent", name);
  if (vd_uuid_is_null (&p->link.uuid))
    vd_uuid_random (&p->link.uuid);
  if (vd_uuid_is_null (&p->link.modification))
    vd_uuid_random (&p->link.modification);
  if (p->link.cid == 0 || p->link.cid == VD_CID_NONE)
    p->link.cid = vmdk_new_cid (VD_CID_NONE, 8);
  return 0;
}

static int
check_geometry (struct vd_ctx *ctx, const char *name, const char *what,
                const struct vd_geometry *g, unsigned max_heads)
{
  if (g->heads > max_heads)
    return vd_error (ctx, EINVAL, "%s: %s heads is %" PRIu32
                     ", at most %u are possible", name, what,
                     g->heads, max_heads);
  if (g->sectors > 63)
    return vd_error (ctx, EINVAL, "%s: %s sectors is %" PRIu32
                     ", at most 63 are possible", name, what, g->sectors);
  return 0;
}

/* The parameters for disks of the host, and for nothing else. */
static int
check_raw (struct vd_ctx *ctx, const char *name, const struct variant *v,
           const struct vd_raw *raw)
{
  char text[200];
  const char *p;

  if (!v->disk && raw)
    return vd_error (ctx, EINVAL, "%s: device=%s: a \"%s\" VMDK is not made of "
                     "a disk of the host; use create=full-device or "
                     "create=partitioned-device", name, raw->device, v->name);
  if (!v->disk)
    return 0;
  if (!raw)
    return vd_error (ctx, EINVAL, "%s: create=%s needs device=: which disk of "
                     "the host?", name, v->name);
  if (v->partitions && raw->nchoices == 0)
    return vd_error (ctx, EINVAL, "%s: create=%s needs partitions=, a list "
                     "like 1,5,7r; for all of %s use create=full-device",
                     name, v->name, raw->device);
  for (p = raw->device; *p; ++p)
    if ((unsigned char) *p < ' ' || *p == 0x7f || *p == '"')
      return vd_error (ctx, EINVAL, "%s: device=%s: a descriptor cannot hold a "
                       "name with quotes or control characters; give it "
                       "another one (a link)", name,
                       vd_escape (raw->device, strlen (raw->device), text,
                                  sizeof text));
  if (!v->partitions && (raw->nchoices > 0 || raw->relative ||
                         raw->boot_sector))
    return vd_error (ctx, EINVAL, "%s: create=%s stands for the whole disk, so "
                     "%s cannot be used; use create=partitioned-device", name,
                     v->name, raw->nchoices > 0 ? "partitions=" :
                     raw->relative ? "relative=true" : "boot-sector=");
  return 0;
}

static int
plan_size (struct vd_ctx *ctx, const char *name,
           const struct vd_create *how, struct plan *p)
{
  struct hosted_header h;
  uint64_t max;

  /* As large as the device, which may not have been asked yet. */
  if (p->v->disk && how->size == 0 && !how->raw->store)
    return 0;
  if (how->size == 0 || how->size % VMDK_SECTOR != 0)
    return vd_error (ctx, EINVAL, "%s: size is %" PRIu64
                     ", must be a multiple of 512, and not 0", name,
                     how->size);
  p->sectors = how->size / VMDK_SECTOR;
  p->nextents = 1;
  if (p->v->split) {
    max = VMDK_EXTENTS_MAX * SPLIT_SECTORS;
    p->nextents = div_round_up (p->sectors, SPLIT_SECTORS);
  }
  else if (p->v->type == VMDK_SPARSE)
    max = SPARSE_SECTORS_MAX;
  else
    max = FLAT_SECTORS_MAX;
  if (p->sectors > max)
    return vd_error (ctx, EFBIG, "%s: size is %" PRIu64 ", a \"%s\" VMDK "
                     "can have %" PRIu64, name, how->size, p->v->name,
                     max * VMDK_SECTOR);

  if (p->v->type == VMDK_SPARSE && !p->v->split && !p->v->stream) {
    int r = hosted_layout (ctx, name, p->sectors, DESCRIPTOR_SECTORS, &h);

    if (r < 0)
      return r;
    /* A grain has a number of 32 bits, in sectors. */
    if (!how->force && h.overhead + round_up (p->sectors, GRAIN_SECTORS) >
        UINT32_MAX)
      return vd_error (ctx, EFBIG, "%s: size is %" PRIu64 ", a \"sparse\" "
                       "VMDK cannot hold more than 2 TiB of data; use "
                       "\"split-sparse\", or \"force\" for one that must "
                       "not become full", name, how->size);
  }
  return 0;
}

static int
make_plan (struct vd_ctx *ctx, const char *name,
           const struct vd_create *how, struct plan *p)
{
  int r;

  *p = (struct plan) { 0 };
  p->v = find_variant (ctx, name, how->variant);
  if (p->v == NULL)
    return -EINVAL;
  if (how->block_size != 0 &&
      (how->block_size != GRAIN || p->v->type != VMDK_SPARSE))
    return vd_error (ctx, EINVAL, "%s: block-size is %" PRIu64 ", a \"%s\" "
                     "VMDK has %s", name, how->block_size, p->v->name,
                     p->v->type == VMDK_SPARSE ? "65536" : "no blocks");
  if (how->alignment != 0)
    return vd_error (ctx, EINVAL, "%s: alignment is %" PRIu64
                     ", a VMDK has none to choose", name, how->alignment);
  r = check_raw (ctx, name, p->v, how->raw);
  if (r == 0)
    r = plan_size (ctx, name, how, p);
  if (r == 0)
    r = plan_adapter (ctx, name, how, p);
  if (r == 0)
    r = plan_link (ctx, name, how, p);
  /* The limits of VirtualBox's setters; SCSI disks of the others have 255
   * heads (vmdk-format 2.6).
   */
  if (r == 0)
    r = check_geometry (ctx, name, "PCHS", &how->pchs,
                        strcmp (p->adapter, "ide") == 0 ? 16 : 255);
  if (r == 0)
    r = check_geometry (ctx, name, "LCHS", &how->lchs, 255);
  return r;
}

/* The descriptor of the image, with these extents. */
static int
make_descriptor (struct vd_ctx *ctx, const char *name, const struct plan *p,
                 const struct vd_create *how,
                 const struct vmdk_extent_line *extents,
                 char **ret, size_t *ret_len)
{
  const struct vmdk_new_descriptor new = {
    .create_type = p->v->create_type,
    .cid = p->link.cid,
    .parent_cid = p->link.parent_cid,
    .parent_hint = p->link.parent_hint,
    .extents = extents,
    .nextents = p->nextents,
    .adapter = p->adapter,
    .hw_version = how->hw_version,
    .pchs = how->pchs,
    .lchs = how->lchs,
    .link = p->link,
    .comment = how->comment,
  };
  struct vmdk_descriptor *d;
  int r;

  r = vmdk_descriptor_new (ctx, name, &new, &d);
  if (r < 0)
    return r;
  r = vmdk_descriptor_text (ctx, d, ret, ret_len);
  vmdk_descriptor_free (d);
  return r;
}

int
vmdk_check_create (struct vd_ctx *ctx, const struct vd_create *how)
{
  struct vmdk_extent_line one = { .name = (char *) "x" };
  CLEANUP_FREE char *text = NULL;
  struct plan p;
  size_t len;
  int r;

  r = make_plan (ctx, "vmdk", how, &p);
  if (r < 0)
    return r;
  /* Only to see that the comment and the names can be written. */
  p.nextents = 1;
  if (how->raw)
    one.name = (char *) how->raw->device;
  return make_descriptor (ctx, "vmdk", &p, how, &one, &text, &len);
}

/* ---- one file --------------------------------------------------------- */

static int
create_single (struct vd_ctx *ctx, struct vd_store *store, const char *name,
               const struct plan *p, const struct vd_create *how)
{
  struct vmdk_extent_line x = {
    .type = VMDK_SPARSE,
    .sectors = p->sectors,
    .name = (char *) (name ? name : "disk.vmdk"),
  };
  CLEANUP_FREE char *text = NULL;
  uint8_t sector[HOSTED_HEADER];
  struct hosted_header h;
  size_t len;
  int r;

  r = make_descriptor (ctx, store->name, p, how, &x, &text, &len);
  if (r < 0)
    return r;
  if (len > DESCRIPTOR_SECTORS * VMDK_SECTOR)
    return vd_error (ctx, ENOSPC, "%s: descriptor too long: %zu bytes, there "
                     "is room for %d", store->name, len,
                     DESCRIPTOR_SECTORS * VMDK_SECTOR);
  if (!p->v->stream) {
    r = hosted_layout (ctx, store->name, p->sectors, DESCRIPTOR_SECTORS, &h);
    if (r < 0)
      return r;
    return hosted_create (ctx, store, &h, text, len);
  }

  /* A complete stream without grains; the writer takes its end away before
   * it stores the first one, and readers refuse the file until the writer has
   * completed it again (vmdk-format 6.4).  The grains begin right behind the
   * descriptor, and not at a multiple of their size as in VirtualBox's: open-
   * vmdk, VMware's own, does the same.
   */
  if (p->sectors % GRAIN_SECTORS != 0)
    vd_warning (ctx, "%s: size is %" PRIu64 ", no multiple of %d: qemu will "
                "show the disk rounded up", store->name, how->size, GRAIN);
  h = (struct hosted_header) {
    .version = 3,
    .flags = HOSTED_FLAG_NEWLINES | HOSTED_FLAG_COMPRESSED |
      HOSTED_FLAG_MARKERS,
    .capacity = round_up (p->sectors, GRAIN_SECTORS),
    .grain = GRAIN_SECTORS,
    .descriptor_offset = 1,
    .descriptor_size = DESCRIPTOR_SECTORS,
    .gtes = 512,
    .gd_offset = HOSTED_GD_AT_END,
    .overhead = 1 + DESCRIPTOR_SECTORS,
    .compression = 1,
  };
  r = vd_store_truncate (ctx, store, h.overhead * VMDK_SECTOR);
  if (r == 0)
    r = vd_store_pwrite (ctx, store, text, len,
                         h.descriptor_offset * VMDK_SECTOR, 0);
  if (r == 0)
    r = stream_create_end (ctx, store, &h);
  if (r < 0)
    return r;
  hosted_header_encode (&h, sector);
  r = vd_store_pwrite (ctx, store, sector, sizeof sector, 0, 0);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}

/* ---- several files ---------------------------------------------------- */

/* The name of extent i beside the descriptor, whose extension it gets. */
static char *
extent_name (const struct variant *v, const char *name, size_t i)
{
  const char *dot = strrchr (name, '.');
  int base = dot && dot > name ? dot - name : (int) strlen (name), r;
  char *ret;

  if (v->split)
    r = asprintf (&ret, "%.*s-%c%03zu%s", base, name,
                  v->type == VMDK_SPARSE ? 's' : 'f', i + 1, name + base);
  else
    r = asprintf (&ret, "%.*s-%s%s", base, name, v->disk ? "pt" : "flat",
                  name + base);
  return r == -1 ? NULL : ret;
}

static int
create_extent (struct vd_ctx *ctx, struct vd_store *store,
               const struct variant *v, uint64_t sectors)
{
  struct hosted_header h;
  int r;

  if (v->type == VMDK_SPARSE) {
    r = hosted_layout (ctx, store->name, sectors, 0, &h);
    if (r < 0)
      return r;
    return hosted_create (ctx, store, &h, NULL, 0);
  }
  if (v->preallocate)
    r = vd_store_allocate (ctx, store, 0, sectors * VMDK_SECTOR);
  else
    r = vd_store_truncate (ctx, store, sectors * VMDK_SECTOR);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}

/* The text, in a way that it is either there or not (rules O16): its first
 * sector last.
 */
static int
write_descriptor (struct vd_ctx *ctx, struct vd_store *store,
                  const char *text, size_t len)
{
  int r;

  if (len > VMDK_SECTOR) {
    r = vd_store_pwrite (ctx, store, text + VMDK_SECTOR, len - VMDK_SECTOR,
                         VMDK_SECTOR, 0);
    if (r == 0)
      r = vd_store_sync (ctx, store);
    if (r < 0)
      return r;
  }
  r = vd_store_pwrite (ctx, store, text, min_u64 (len, VMDK_SECTOR), 0, 0);
  if (r < 0)
    return r;
  return vd_store_sync (ctx, store);
}

/* What an image of several files ends with: made of them are there, and durable
 * but for their names.  r < 0: something went wrong, undo.
 */
static int
finish (struct vd_ctx *ctx, struct vd_store *store, struct vd_folder *folder,
        const char *text, size_t len, const struct vmdk_extent_line *files,
        size_t made, int r)
{
  struct vd_ctx quiet;

  /* The descriptor names only what is there, also after a crash. */
  if (r == 0 && made > 0)
    r = vd_folder_sync (ctx, folder);
  if (r == 0)
    r = write_descriptor (ctx, store, text, len);
  /* Our caller does so, but then nobody knows of the files any more. */
  if (r == 0)
    r = vd_folder_sync (ctx, folder);
  if (r < 0) {
    vd_ctx_init (&quiet, NULL);
    while (made > 0)
      vd_folder_remove (&quiet, folder, files[--made].name);
  }
  return r;
}

static int
create_multiple (struct vd_ctx *ctx, struct vd_store *store,
                 struct vd_folder *folder, const char *name,
                 const struct plan *p, const struct vd_create *how)
{
  struct vmdk_extent_line *extents = calloc (p->nextents, sizeof extents[0]);
  CLEANUP_FREE char *text = NULL;
  size_t made = 0, len, i;
  int r = 0;

  for (i = 0; extents && i < p->nextents; ++i) {
    extents[i].type = p->v->type;
    extents[i].sectors = p->v->split
      ? min_u64 (SPLIT_SECTORS, p->sectors - i * SPLIT_SECTORS) : p->sectors;
    extents[i].name = extent_name (p->v, name, i);
    if (extents[i].name == NULL)
      break;
  }
  if (!extents || i < p->nextents)
    r = vd_error (ctx, ENOMEM, "%s: no memory for the extents", store->name);
  else
    r = make_descriptor (ctx, store->name, p, how, extents, &text, &len);

  for (i = 0; r == 0 && i < p->nextents; ++i) {
    struct vd_store *extent;

    r = vd_folder_create (ctx, folder, extents[i].name, &extent);
    if (r < 0)
      break;
    ++made;
    r = create_extent (ctx, extent, p->v, extents[i].sectors);
    vd_store_close (extent);
  }
  r = finish (ctx, store, folder, text, len, extents, made, r);
  for (i = 0; extents && i < p->nextents; ++i)
    free (extents[i].name);
  free (extents);
  return r;
}

/* ---- a disk of the host ------------------------------------------------ */

static int
create_disk (struct vd_ctx *ctx, struct vd_store *store,
             struct vd_folder *folder, const char *name,
             struct plan *p, const struct vd_create *how)
{
  CLEANUP_FREE char *overlay = extent_name (p->v, name, 0);
  CLEANUP_FREE char *text = NULL;
  const struct vmdk_extent_line file = { .name = overlay };
  struct vmdk_raw_layout layout;
  struct vd_store *extent;
  size_t made = 0, len;
  int r;

  if (!overlay)
    return vd_error (ctx, ENOMEM, "%s: no memory for a name", store->name);
  r = vmdk_raw_layout (ctx, store->name, how->raw, overlay, &layout);
  if (r < 0)
    return r;
  p->nextents = layout.nextents;
  r = make_descriptor (ctx, store->name, p, how, layout.extents, &text, &len);
  if (r == 0 && p->v->partitions) {
    r = vd_folder_create (ctx, folder, overlay, &extent);
    if (r == 0) {
      made = 1;
      r = vmdk_raw_copy (ctx, how->raw, &layout, extent);
      vd_store_close (extent);
    }
  }
  vmdk_raw_layout_free (&layout);
  return finish (ctx, store, folder, text, len, &file, made, r);
}

int
vmdk_create (struct vd_ctx *ctx, struct vd_store *store,
             struct vd_folder *folder, const char *name,
             const struct vd_create *how)
{
  struct plan p;
  int r;

  r = make_plan (ctx, store->name, how, &p);
  if (r < 0)
    return r;
  if (p.v->type == VMDK_SPARSE && !p.v->split)
    return create_single (ctx, store, name, &p, how);
  if (folder == NULL || name == NULL)
    return vd_error (ctx, ENOTSUP, "%s: a \"%s\" VMDK has several files, "
                     "which cannot be made here", store->name, p.v->name);
  if (p.v->disk)
    return create_disk (ctx, store, folder, name, &p, how);
  return create_multiple (ctx, store, folder, name, &p, how);
}
