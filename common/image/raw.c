/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Disks of the host (rules 7).
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "raw.h"

static const char *
no_disk (mode_t mode)
{
  return S_ISDIR (mode) ? "a folder" : S_ISCHR (mode) ? "a character device"
    : "a pipe or socket";
}

/* The image will be opened as soon as it is made: what would be refused then
 * is refused now.
 */
static int
check_allowed (struct vd_ctx *ctx, struct vd_folder *folder,
               const struct vd_raw *raw, const char *path)
{
  struct vd_ctx quiet;
  struct stat sb;
  int r = -EACCES;

  vd_ctx_init (&quiet, NULL);
  if (vd_policy_has_raw_disks (raw->policy))
    r = vd_folder_stat (&quiet, folder, path, true, &sb);
  if (r == -EACCES)
    return vd_error (ctx, EACCES, "device=%s: a disk of the host is only "
                     "served if that is allowed; add raw-disk=%s, or "
                     "raw-disk=allow", raw->device, path);
  if (r < 0)
    return vd_error (ctx, -r, "device=%s: %s", raw->device, quiet.message);
  return 0;
}

static int
open_device (struct vd_ctx *ctx, struct vd_folder *folder, uint64_t size,
             struct vd_raw *raw)
{
  struct stat sb;
  int r;

  if (stat (raw->device, &sb) == -1)
    return vd_error (ctx, errno, "device=%s: %m", raw->device);
  if (!S_ISBLK (sb.st_mode) && !S_ISREG (sb.st_mode))
    return vd_error (ctx, EINVAL, "device=%s: is %s, must be a block device "
                     "(or a file that holds a disk)", raw->device,
                     no_disk (sb.st_mode));
  if (raw->relative && !S_ISBLK (sb.st_mode))
    return vd_error (ctx, EINVAL, "relative=true: %s is a file, and partitions "
                     "in a file have no devices of their own; leave it out",
                     raw->device);
  r = check_allowed (ctx, folder, raw, raw->device);
  if (r == 0)
    r = vd_folder_open (ctx, folder, raw->device, false, true, NULL,
                        &raw->store);
  if (r == 0)
    r = vd_store_get_size (ctx, raw->store, &raw->size);
  if (r < 0)
    return r;
  if (raw->size == 0)
    return vd_error (ctx, EINVAL, "device=%s: has no bytes (no medium, or "
                     "nothing behind it?)", raw->device);
  if (raw->size % 512 != 0)
    return vd_error (ctx, EINVAL, "device=%s: has %" PRIu64 " bytes, which is "
                     "no multiple of 512", raw->device, raw->size);
  if (size != 0 && size != raw->size)
    return vd_error (ctx, EINVAL, "size=%" PRIu64 ": %s has %" PRIu64
                     " bytes; leave size= out", size, raw->device, raw->size);
  return 0;
}

/* ---- its partitions ----------------------------------------------------- */

static const struct vd_partition *
partition (const struct vd_raw *raw, unsigned number)
{
  size_t i;

  for (i = 0; i < raw->partitions.nparts; ++i)
    if (raw->partitions.parts[i].number == number)
      return &raw->partitions.parts[i];
  return NULL;
}

/* The numbers that can be chosen, as far as there is room. */
static const char *
list_numbers (const struct vd_raw *raw, char *buffer, size_t size)
{
  unsigned last = 0, next;
  size_t i, len = 0;

  strcpy (buffer, "none");
  for (;;) {
    for (next = 0, i = 0; i < raw->partitions.nparts; ++i) {
      const struct vd_partition *p = &raw->partitions.parts[i];

      if (!p->extended && p->number > last && (!next || p->number < next))
        next = p->number;
    }
    if (next == 0)
      return buffer;
    if (len + 20 > size) {
      strcpy (&buffer[len], ", ...");
      return buffer;
    }
    len += snprintf (&buffer[len], size - len, "%s%u", len ? ", " : "", next);
    last = next;
  }
}

static int
check_choice (struct vd_ctx *ctx, struct vd_folder *folder,
              const struct vd_raw *raw, size_t n)
{
  unsigned number = raw->choices[n].number;
  const struct vd_partition *p = partition (raw, number);
  char list[200];
  size_t i;

  if (p == NULL)
    return vd_error (ctx, EINVAL, "partitions=%u: there is no such partition "
                     "on %s (%s); it has %s", number, raw->device,
                     raw->partitions.type,
                     list_numbers (raw, list, sizeof list));
  if (p->extended)
    return vd_error (ctx, EINVAL, "partitions=%u: is the extended partition "
                     "of %s, which holds others and no data; choose among %s",
                     number, raw->device,
                     list_numbers (raw, list, sizeof list));
  for (i = 0; i < n; ++i)
    if (raw->choices[i].number == number)
      return vd_error (ctx, EINVAL, "partitions=%u: is named twice", number);
  if (!raw->relative)
    return 0;
  if (p->node == NULL)
    return vd_error (ctx, ENOENT, "relative=true: no device that is just "
                     "partition %u was found beside %s; let the system read "
                     "the table again (partprobe), or leave relative= out",
                     number, raw->device);
  return check_allowed (ctx, folder, raw, p->node);
}

static int
find_partitions (struct vd_ctx *ctx, struct vd_folder *folder,
                 struct vd_raw *raw)
{
  char name[600];
  size_t i;
  int r;

  snprintf (name, sizeof name, "device=%s", raw->device);
  r = vd_partitions_read (ctx, raw->store, name,
                          raw->relative ? raw->device : NULL,
                          &raw->partitions);
  for (i = 0; r == 0 && i < raw->nchoices; ++i)
    r = check_choice (ctx, folder, raw, i);
  return r;
}

/* ---- the boot sector ---------------------------------------------------- */

static int
read_boot_sector (struct vd_ctx *ctx, struct vd_raw *raw)
{
  const char *name = raw->boot_sector;
  struct stat sb;
  ssize_t n = -1;
  int fd, r = 0;

  fd = open (name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd == -1 || fstat (fd, &sb) == -1)
    r = vd_error (ctx, errno, "boot-sector=%s: %m", name);
  else if (!S_ISREG (sb.st_mode))
    r = vd_error (ctx, EINVAL, "boot-sector=%s: is not a file", name);
  else if (sb.st_size < 1 || (size_t) sb.st_size > sizeof raw->boot)
    r = vd_error (ctx, EINVAL, "boot-sector=%s: has %jd bytes, must have 1 to "
                  "%zu: what follows in the sector is the partition table "
                  "(\"head -c 440\" cuts the code out of a whole one)", name,
                  (intmax_t) sb.st_size, sizeof raw->boot);
  else {
    do
      n = pread (fd, raw->boot, sb.st_size, 0);
    while (n == -1 && errno == EINTR);
    if (n == -1)
      r = vd_error (ctx, errno, "boot-sector=%s: read: %m", name);
    else if (n < sb.st_size)
      r = vd_error (ctx, EIO, "boot-sector=%s: has become shorter while it "
                    "was read", name);
    else
      raw->boot_length = n;
  }
  if (fd != -1)
    close (fd);
  return r;
}

int
vd_raw_open (struct vd_ctx *ctx, const char *path, enum vd_lock lock,
             uint64_t size, struct vd_raw *raw)
{
  struct vd_folder *folder;
  int r;

  r = vd_folder_of (ctx, path, raw->policy, lock, &folder);
  if (r < 0)
    return r;
  r = open_device (ctx, folder, size, raw);
  if (r == 0 && raw->nchoices > 0)
    r = find_partitions (ctx, folder, raw);
  if (r == 0 && raw->boot_sector)
    r = read_boot_sector (ctx, raw);
  vd_folder_close (folder);
  return r;
}

void
vd_raw_close (struct vd_raw *raw)
{
  vd_partitions_free (&raw->partitions);
  vd_store_close (raw->store);
  raw->store = NULL;
}
