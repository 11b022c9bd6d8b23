/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where a LUN is and how to log in there.  Our own reading of URLs and LUN
 * numbers: libiscsi's parser crashes on some URLs, cuts others, and takes one
 * LUN for another.
 */

#ifndef VDKIT_ISCSI_ADDRESS_H
#define VDKIT_ISCSI_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "ctx.h"

#define VD_ISCSI_NAME_MAX 223   /* bytes; RFC 3720, 3.2.6.1 */

enum vd_iscsi_digest {
  VD_ISCSI_DIGEST_NONE,
  VD_ISCSI_DIGEST_NONE_CRC32C,  /* prefer none */
  VD_ISCSI_DIGEST_CRC32C_NONE,  /* prefer crc32c */
  VD_ISCSI_DIGEST_CRC32C,
};

/* All strings are on the heap; vd_iscsi_address_free frees them. */
struct vd_iscsi_address {
  char *host;                   /* name or number, IPv6 without brackets */
  char *port;                   /* NULL: 3260 */
  char *target;                 /* iqn., eui. or naa. name */
  bool have_lun;
  uint16_t lun;                 /* the first two bytes as they are sent */

  char *initiator;              /* NULL: vd_iscsi_default_initiator */
  char *user, *password;        /* CHAP; both or neither */
  char *target_user, *target_password; /* the target must prove itself */
  enum vd_iscsi_digest digest;
};

#define VD_ISCSI_ADDRESS_INIT { .digest = VD_ISCSI_DIGEST_NONE_CRC32C }

/* iscsi://[user@]host[:port][/target[/lun]], with user and target
 * percent-encoded where needed.  Fields that the URL does not have are left
 * alone, others are replaced.  -EINVAL.  No message repeats what may be a
 * password.
 */
extern int vd_iscsi_parse_url (struct vd_ctx *ctx, const char *text,
                               struct vd_iscsi_address *a);

/* host, host:port, [v6], [v6]:port or a bare IPv6 address. */
extern int vd_iscsi_parse_portal (struct vd_ctx *ctx, const char *text,
                                  struct vd_iscsi_address *a);

/* 0 to 16383, decimal, 0x hexadecimal or 0 octal; or "enc" and the 64-bit
 * value that goes over the wire, of which only the first level can be used.
 */
extern int vd_iscsi_parse_lun (struct vd_ctx *ctx, const char *text,
                               struct vd_iscsi_address *a);

/* none, crc32c, none-crc32c, crc32c-none. */
extern int vd_iscsi_parse_digest (struct vd_ctx *ctx, const char *text,
                                  enum vd_iscsi_digest *ret);

/* The checks that need all of it: names present, well-formed and not too
 * long, user with password.  -EINVAL; -ENOENT if all is well but that there is
 * no target.
 */
extern int vd_iscsi_check_address (struct vd_ctx *ctx,
                                   const struct vd_iscsi_address *a);

/* The number as a user writes it. */
extern unsigned vd_iscsi_lun_number (uint16_t lun);

/* A name that is the same in each run on this host.  To be freed; NULL: no
 * memory.
 */
extern char *vd_iscsi_default_initiator (void);

/* "host:port/target/lun", for messages.  To be freed; NULL: no memory. */
extern char *vd_iscsi_address_name (const struct vd_iscsi_address *a);

/* Deep copy.  -ENOMEM, with nothing to free. */
extern int vd_iscsi_address_copy (const struct vd_iscsi_address *from,
                                  struct vd_iscsi_address *to);

/* Passwords are overwritten first. */
extern void vd_iscsi_address_free (struct vd_iscsi_address *a);

#endif /* VDKIT_ISCSI_ADDRESS_H */
