/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The files that the extents of a VMDK name: each is opened once, however
 * often it is named, and is the file that was judged.
 */

#include <config.h>

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "lazy.h"
#include "vmdk-private.h"

/* A file, as far as it is known before it is opened. */
struct named_file {
  struct stat sb;
  bool write;                   /* by any of its extents */
  bool device;
  struct vd_store *store;
};

struct files {
  struct named_file *files;
  size_t n;
  uint32_t *of;                 /* extent -> file */
};

static int
stat_extent (struct vd_ctx *ctx, struct vd_image *image,
             const struct vmdk_extent_line *line, struct files *fs, size_t i)
{
  const struct vmdk *vmdk = image->priv;
  bool flat = line->type == VMDK_FLAT || line->type == VMDK_VMFS;
  bool device = flat && (vmdk_is_device_type (vmdk) ||
                         strncmp (line->name, "/dev/", 5) == 0);
  struct named_file *f;
  struct stat sb;
  size_t j;
  int r;

  if (!image->folder)
    return vd_error (ctx, ENOTSUP, "%s: names other files, which cannot be "
                     "reached from here", image->name);
  r = vd_folder_stat (ctx, image->folder, line->name, device, &sb);
  if (r < 0)
    return r;
  if (vd_file_is (image->store, &sb))
    return vd_error (ctx, EIO, "%s: line %u names the descriptor itself as "
                     "an extent", image->name, line->line);

  for (j = fs->n; j-- > 0;)
    if (vd_same_inode (&fs->files[j].sb, &sb))
      break;
  if (j == SIZE_MAX) {
    j = fs->n++;
    f = &fs->files[j];
    f->sb = sb;
  }
  f = &fs->files[j];
  f->write |= vmdk->extents[i].write;
  f->device |= device;
  fs->of[i] = j;
  return 0;
}

static int
open_file (struct vd_ctx *ctx, struct vd_image *image,
           const struct vmdk_extent_line *line, struct named_file *f)
{
  struct vmdk *vmdk = image->priv;
  int r;

  if (f->write) {
    r = vmdk_check_lock_folder (ctx, image, line->name);
    if (r < 0)
      return r;
  }
  if (vmdk->lazy && !f->write)
    r = vd_lazy_open (ctx, vmdk->lazy, line->name, f->device, &f->store);
  else
    r = vd_folder_open (ctx, image->folder, line->name, f->write, f->device,
                        &image->other_writer, &f->store);
  if (r < 0)
    return r;
  r = vd_image_add_store (ctx, image, f->store);
  /* What was judged (is it another extent's, or the descriptor?) must be what
   * is used.
   */
  if (r == 0 && !vd_file_is (f->store, &f->sb))
    r = vd_error (ctx, ESTALE, "%s: was replaced by another file while the "
                  "image was opened", f->store->name);
  /* A server before us may have been killed: what it was told to write, and
   * what clients that come back think is covered by their next flush, is
   * perhaps in the page cache only (rules O13).
   */
  if (r == 0 && f->write)
    r = vd_store_sync_always (ctx, f->store);
  return r;
}

/* Do all files stay open?  Those that are written must, for their locks
 * (rules 4); with too many the others are opened when they are read.
 */
static int
count_files (struct vd_ctx *ctx, struct vd_image *image,
             const struct files *fs)
{
  struct vmdk *vmdk = image->priv;
  size_t j, written = 0;

  vmdk->limit = image->open_limit;
  if (!vmdk->limit)
    vmdk->limit = vd_open_limit_new (0);
  if (!vmdk->limit)
    return vd_error (ctx, ENOMEM, "%s: no memory", image->name);
  for (j = 0; j < fs->n; ++j)
    written += fs->files[j].write;
  vmdk->kept = fs->n;
  if (vd_open_limit_keep (vmdk->limit, fs->n, written == fs->n))
    return 0;
  vmdk->kept = written;
  vd_open_limit_keep (vmdk->limit, written, true);
  return vd_lazy_new (ctx, image->folder, vmdk->limit, &vmdk->lazy);
}

int
vmdk_open_files (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vmdk *vmdk = image->priv;
  CLEANUP_FREE struct named_file *files =
    calloc (vmdk->nextents, sizeof files[0]);
  CLEANUP_FREE uint32_t *of = calloc (vmdk->nextents, sizeof of[0]);
  struct files fs = { .files = files, .of = of };
  const struct vmdk_extent_line *line;
  size_t i;
  int r;

  if (!files || !of)
    return vd_error (ctx, ENOMEM, "%s: no memory for %zu extents",
                     image->name, vmdk->nextents);
  for (i = 0; i < vmdk->nextents; ++i) {
    line = vmdk_descriptor_extent (vmdk->descriptor, i);
    if (line->type == VMDK_ZERO)
      continue;
    r = stat_extent (ctx, image, line, &fs, i);
    if (r < 0)
      return r;
  }
  r = count_files (ctx, image, &fs);
  if (r < 0)
    return r;
  for (i = 0; i < vmdk->nextents; ++i) {
    struct named_file *f = &files[of[i]];

    line = vmdk_descriptor_extent (vmdk->descriptor, i);
    if (line->type == VMDK_ZERO)
      continue;
    if (!f->store) {
      r = open_file (ctx, image, line, f);
      if (r < 0)
        return r;
    }
    vmdk->extents[i].store = f->store;
  }
  return 0;
}
