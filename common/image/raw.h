/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A disk of the host, for a new image that stands for it.
 */

#ifndef VDKIT_RAW_H
#define VDKIT_RAW_H

#include "format.h"

/* Open the device that raw names, if raw->policy lets the image at path have
 * it, and find out what a format must know of it; size is what the user says,
 * 0: nothing.  Nothing is written.  Messages name the parameters of the
 * plugins.  vd_raw_close also after a failure.
 *
 * -EACCES: not allowed.  -EBUSY: another process writes it.  -EINVAL: not what
 * it should be; -EIO, -ENODATA, -ENOTSUP: of its partition table.
 */
extern int vd_raw_open (struct vd_ctx *ctx, const char *path,
                        enum vd_lock lock, uint64_t size,
                        struct vd_raw *raw);

extern void vd_raw_close (struct vd_raw *raw);

#endif /* VDKIT_RAW_H */
