/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The VDI format (VirtualBox's own), as the core sees it.
 */

#ifndef VDKIT_VDI_H
#define VDKIT_VDI_H

#include "format.h"

extern const struct vd_format vd_format_vdi;

#endif /* VDKIT_VDI_H */
