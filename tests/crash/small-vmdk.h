/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Small VMDK images made by hand, with grains that are smaller than those
 * that vdkit makes.  Offsets are written out as in vmdk-format 5.1.
 */

#ifndef VDKIT_SMALL_VMDK_H
#define VDKIT_SMALL_VMDK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "byteorder.h"
#include "store.h"

#define SMALL_DESCRIPTOR_MAX 10240      /* an embedded one has 20 sectors */

struct small_vmdk {
  uint64_t sectors;
  uint32_t grain;               /* sectors: 8 and more */
  uint32_t gtes;                /* 128 and more */
  bool zeroed;                  /* version 2, with zeroed grains */
  bool single;                  /* no redundant tables */
  bool few_tables;              /* only every second table is there */
};

/* The text up to the extent lines, which the caller appends. */
static inline size_t
small_descriptor (char *text, const char *type, bool differencing,
                  const char *extents)
{
  return snprintf (text, SMALL_DESCRIPTOR_MAX,
                   "# Disk DescriptorFile\n"
                   "version=1\n"
                   "CID=1234abcd\n"
                   "parentCID=%s\n"
                   "createType=\"%s\"\n"
                   "%s"
                   "\n"
                   "# Extent description\n"
                   "%s"
                   "\n"
                   "# The Disk Data Base\n"
                   "#DDB\n"
                   "\n"
                   "ddb.adapterType = \"ide\"\n"
                   "ddb.uuid.image=\"11111111-2222-4333-8444-555555555555\"\n"
                   "ddb.uuid.modification="
                   "\"66666666-7777-4888-9999-aaaaaaaaaaaa\"\n",
                   differencing ? "11223344" : "ffffffff", type,
                   differencing ? "parentFileNameHint=\"base.vmdk\"\n" : "",
                   extents);
}

/* An empty extent; text: its embedded descriptor, or NULL.  Free it. */
static inline uint8_t *
small_extent (const struct small_vmdk *s, const char *text, size_t *ret_size)
{
  uint64_t ngrains = (s->sectors + s->grain - 1) / s->grain;
  uint64_t ngts = (ngrains + s->gtes - 1) / s->gtes, i;
  uint64_t gt_sectors = s->gtes * 4 / 512;
  uint64_t gd_sectors = (ngts * 4 + 511) / 512;
  uint64_t at[2], overhead;
  unsigned ncopies = s->single ? 1 : 2, c;
  uint8_t *p;

  at[1] = text ? 21 : 1;                        /* redundant */
  at[0] = s->single ? at[1] : at[1] + gd_sectors + ngts * gt_sectors;
  overhead = at[0] + gd_sectors + ngts * gt_sectors;
  overhead = (overhead + s->grain - 1) / s->grain * s->grain;
  p = calloc (1, overhead * 512);
  if (p == NULL)
    abort ();
  memcpy (p, "KDMV", 4);
  put_le32 (p + 4, s->zeroed ? 2 : 1);
  put_le32 (p + 8, 1 | (s->single ? 0 : 2) | (s->zeroed ? 4 : 0));
  put_le64 (p + 12, s->sectors);
  put_le64 (p + 20, s->grain);
  put_le64 (p + 28, text ? 1 : 0);
  put_le64 (p + 36, text ? 20 : 0);
  put_le32 (p + 44, s->gtes);
  put_le64 (p + 48, s->single ? 0 : at[1]);
  put_le64 (p + 56, at[0]);
  put_le64 (p + 64, overhead);
  memcpy (p + 73, "\n \r\n", 4);
  for (c = 0; c < ncopies; ++c)
    for (i = 0; i < ngts; i += s->few_tables ? 2 : 1)
      put_le32 (p + at[c] * 512 + i * 4, at[c] + gd_sectors + i * gt_sectors);
  if (text)
    memcpy (p + 512, text, strlen (text));
  *ret_size = overhead * 512;
  return p;
}

/* The same into an empty store. */
static inline int
small_write (struct vd_ctx *ctx, struct vd_store *store,
             const struct small_vmdk *s, const char *text)
{
  size_t size;
  uint8_t *data = small_extent (s, text, &size);
  int r;

  r = vd_store_truncate (ctx, store, size);
  if (r == 0)
    r = vd_store_pwrite (ctx, store, data, size, 0, 0);
  free (data);
  return r;
}

#endif /* VDKIT_SMALL_VMDK_H */
