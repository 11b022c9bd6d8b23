/* SPDX-License-Identifier: BSD-3-Clause
 *
 * UUIDs as values.  In memory the bytes stand in the order of the text form
 * (RFC 4122); VDI stores the first three fields little-endian
 * (vdi-format 3.2), hence the two conversions.
 */

#ifndef VDKIT_UUID_H
#define VDKIT_UUID_H

#include <stdbool.h>
#include <stdint.h>

struct vd_uuid {
  uint8_t bytes[16];
};

#define VD_UUID_TEXT 37         /* room for the text form and its NUL */

/* A random (version 4) UUID.  Thread-safe. */
extern void vd_uuid_random (struct vd_uuid *ret);

extern bool vd_uuid_is_null (const struct vd_uuid *u);
extern bool vd_uuid_equal (const struct vd_uuid *a, const struct vd_uuid *b);

/* Lower case, without braces. */
extern const char *vd_uuid_text (const struct vd_uuid *u,
                                 char buffer[VD_UUID_TEXT]);

/* Accepts upper and lower case, with or without braces.  False if the text
 * is not a UUID; *ret is then untouched.
 */
extern bool vd_uuid_parse (const char *text, struct vd_uuid *ret);

/* From and to the mixed-endian form on disk (16 bytes). */
extern void vd_uuid_from_disk (const uint8_t *disk, struct vd_uuid *ret);
extern void vd_uuid_to_disk (const struct vd_uuid *u, uint8_t *disk);

/* The content ID by which VMware's images know each other: 1 to 8 hex digits
 * and nothing else.  False, and *ret untouched, for other texts.
 */
extern bool vd_cid_parse (const char *text, uint32_t *ret);

#endif /* VDKIT_UUID_H */
