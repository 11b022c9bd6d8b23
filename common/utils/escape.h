/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Text that comes out of an image is hostile: it can hold terminal escape
 * sequences or fake log lines.
 */

#ifndef VDKIT_ESCAPE_H
#define VDKIT_ESCAPE_H

#include <stddef.h>

/* Copy text (at most len bytes, stopping at a NUL) to out, with control
 * characters, the backslash and bytes that are not UTF-8 written as \xNN.
 * Always terminates out; what does not fit is cut off.  size >= 1.
 * Returns out.
 */
extern const char *vd_escape (const char *text, size_t len,
                              char *out, size_t size);

#endif /* VDKIT_ESCAPE_H */
