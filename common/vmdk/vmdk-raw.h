/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The extents of an image that stands for a disk of the host, fullDevice and
 * partitionedDevice (vmdk-format 9).
 */

#ifndef VDKIT_VMDK_RAW_H
#define VDKIT_VMDK_RAW_H

#include "format.h"
#include "vmdk-descriptor.h"

struct vmdk_raw_layout {
  struct vmdk_extent_line *extents;     /* names are those of raw and overlay */
  size_t nextents;
  struct vd_area *copies;       /* what of the device the overlay holds, end to
                                   end */
  size_t ncopies;
};

/* raw was found (vd_raw_open); it and the name of the overlay must outlive the
 * layout.  Free with vmdk_raw_layout_free.
 */
extern int vmdk_raw_layout (struct vd_ctx *ctx, const char *name,
                            const struct vd_raw *raw, const char *overlay,
                            struct vmdk_raw_layout *ret);
extern void vmdk_raw_layout_free (struct vmdk_raw_layout *layout);

/* Fill the empty overlay, durable on return. */
extern int vmdk_raw_copy (struct vd_ctx *ctx, const struct vd_raw *raw,
                          const struct vmdk_raw_layout *layout,
                          struct vd_store *overlay);

#endif /* VDKIT_VMDK_RAW_H */
