/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The VDI format: VirtualBox's own disk image.
 *
 * All of version 1 and version 0 are read, version 1.1 is written.
 * On-disk facts are from vdi-format, a description made from observation;
 * comments name its sections.
 */

#ifndef VDKIT_VDI_H
#define VDKIT_VDI_H

#include "format.h"

extern const struct vd_format vd_format_vdi;

#endif /* VDKIT_VDI_H */
