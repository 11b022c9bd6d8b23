/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The VMDK formats, as the core sees them.
 */

#ifndef VDKIT_VMDK_H
#define VDKIT_VMDK_H

#include "format.h"

extern const struct vd_format vd_format_vmdk;

#endif /* VDKIT_VMDK_H */
