/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What VirtualBox makes of a disk (vmdk-format 9.1, 9.2), and the backup of
 * the GPT, which it leaves out: a guest would find it damaged, and repair it
 * in vain.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rounding.h"
#include "vmdk-extent.h"
#include "vmdk-raw.h"

/* What is copied of the room behind a table, where boot loaders are. */
#define PADDING_MAX (UINT64_C (4) << 20)

#define COPY_SIZE (1 << 20)

static void
add (struct vmdk_raw_layout *l, enum vmdk_access access, enum vmdk_type type,
     const char *name, uint64_t length, uint64_t offset)
{
  l->extents[l->nextents++] = (struct vmdk_extent_line) {
    .access = access,
    .type = type,
    .sectors = length / VMDK_SECTOR,
    .name = (char *) name,
    .offset = offset / VMDK_SECTOR,
  };
}

static void
add_partition (struct vmdk_raw_layout *l, const struct vd_raw *raw,
               const struct vd_partition *part)
{
  size_t i;

  for (i = 0; i < raw->nchoices; ++i) {
    const struct vd_raw_choice *c = &raw->choices[i];

    if (c->number == part->number) {
      add (l, c->readonly ? VMDK_RDONLY : VMDK_RW, VMDK_FLAT,
           raw->relative ? part->node : raw->device, part->length,
           raw->relative ? 0 : part->start);
      return;
    }
  }
  add (l, VMDK_RW, VMDK_ZERO, NULL, part->length, 0);
}

int
vmdk_raw_layout (struct vd_ctx *ctx, const char *name,
                 const struct vd_raw *raw, const char *overlay,
                 struct vmdk_raw_layout *ret)
{
  const struct vd_partitions *p = &raw->partitions;
  /* Each with a gap before it, and the tail. */
  size_t max = 2 * (p->nparts + p->ntables) + 1, i = 0, t = 0;
  struct vmdk_raw_layout l = { 0 };
  uint64_t at = 0, stored = 0, next;

  l.extents = calloc (max, sizeof l.extents[0]);
  l.copies = calloc (p->ntables + 1, sizeof l.copies[0]);
  if (!l.extents || !l.copies) {
    vmdk_raw_layout_free (&l);
    return vd_error (ctx, ENOMEM, "%s: no memory for %zu extents", name, max);
  }
  if (raw->nchoices == 0) {
    add (&l, VMDK_RW, VMDK_FLAT, raw->device, raw->size, 0);
    *ret = l;
    return 0;
  }

  for (;;) {
    const struct vd_partition *part;
    bool table;

    while (i < p->nparts && p->parts[i].extended)
      ++i;
    part = i < p->nparts ? &p->parts[i] : NULL;
    table = t < p->ntables && (!part || p->tables[t].start < part->start);
    next = table ? p->tables[t].start : part ? part->start : raw->size;
    if (next > at)
      add (&l, VMDK_RW, VMDK_ZERO, NULL, next - at, 0);
    at = next;
    if (table) {
      uint64_t end = at + p->tables[t++].length;

      next = min_u64 (part ? part->start : raw->size,
                      t < p->ntables ? p->tables[t].start : raw->size);
      end += min_u64 (next - end, PADDING_MAX);
      add (&l, VMDK_RW, VMDK_FLAT, overlay, end - at, stored);
      l.copies[l.ncopies++] = (struct vd_area) { at, end - at };
      stored += end - at;
      at = end;
    }
    else if (part) {
      add_partition (&l, raw, part);
      at += part->length;
      ++i;
    }
    else
      break;
  }
  *ret = l;
  return 0;
}

void
vmdk_raw_layout_free (struct vmdk_raw_layout *layout)
{
  free (layout->extents);
  free (layout->copies);
  *layout = (struct vmdk_raw_layout) { 0 };
}

int
vmdk_raw_copy (struct vd_ctx *ctx, const struct vd_raw *raw,
               const struct vmdk_raw_layout *layout,
               struct vd_store *overlay)
{
  CLEANUP_FREE uint8_t *buffer = malloc (COPY_SIZE);
  uint64_t to = 0, from, end, n;
  size_t i;
  int r;

  if (!buffer)
    return vd_error (ctx, ENOMEM, "%s: no memory", overlay->name);
  for (i = 0; i < layout->ncopies; ++i) {
    from = layout->copies[i].start;
    end = from + layout->copies[i].length;
    for (; from < end; from += n, to += n) {
      n = min_u64 (end - from, COPY_SIZE);
      r = vd_store_pread (ctx, raw->store, buffer, n, from);
      if (r < 0)
        return r;
      if (from == 0)            /* one sector at least */
        memcpy (buffer, raw->boot, raw->boot_length);
      r = vd_store_pwrite (ctx, overlay, buffer, n, to, 0);
      if (r < 0)
        return r;
    }
  }
  return vd_store_sync (ctx, overlay);
}
