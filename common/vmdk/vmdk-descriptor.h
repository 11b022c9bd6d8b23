/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The VMDK descriptor: a text that names extents and holds metadata
 * (vmdk-format 2).  Reading is lenient as the RULE lines say; everything that
 * was read is kept line by line, so that a rewrite loses nothing.
 *
 * No I/O here, and no thread-safety: a descriptor is read when the image is
 * opened and changed under the core's locks.
 */

#ifndef VDKIT_VMDK_DESCRIPTOR_H
#define VDKIT_VMDK_DESCRIPTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ctx.h"
#include "format.h"

/* Limits (vmdk-format 2.1, 7). */
#define VMDK_DESCRIPTOR_MAX (1024 * 1024)
#define VMDK_LINES_MAX 16384
#define VMDK_LINE_MAX 4096
#define VMDK_EXTENTS_MAX 8192

enum vmdk_access {
  VMDK_RW,
  VMDK_RDONLY,
  VMDK_NOACCESS,
};

enum vmdk_type {
  VMDK_FLAT,
  VMDK_SPARSE,
  VMDK_ZERO,
  VMDK_VMFS,
  VMDK_VMFSSPARSE,
  VMDK_VMFSRDM,
  VMDK_VMFSRAW,
  VMDK_SESPARSE,
};

struct vmdk_extent_line {
  enum vmdk_access access;
  enum vmdk_type type;
  uint64_t sectors;             /* nominal size */
  char *name;                   /* NULL: ZERO */
  uint64_t offset;              /* sectors in the file */
  unsigned line;                /* number in the text, from 1 */
};

struct vmdk_descriptor;

/* Could these first bytes of a file be a text descriptor?  (vmdk-format 1.1) */
extern bool vmdk_descriptor_probe (const uint8_t *head, size_t n);

/* Parse a descriptor; it ends at len or at the first NUL.  name is for
 * messages, which name the line, the key and the value.  -EIO: damaged or not
 * a descriptor; -ENOTSUP: encrypted, or a version that we do not do.
 * Encrypted descriptors are refused (vmdk-format 12), and with strict all
 * that OpenStack's gate refuses (peers 4.4), with -EACCES.
 */
extern int vmdk_descriptor_parse (struct vd_ctx *ctx, const char *name,
                                  const char *text, size_t len, bool strict,
                                  struct vmdk_descriptor **ret);
extern void vmdk_descriptor_free (struct vmdk_descriptor *d);

/* ---- what it says ------------------------------------------------------ */

/* Fields with a meaning of their own.  Absent: cid and parent_cid VD_CID_NONE
 * with has_cid false, texts NULL, version 1.
 */
struct vmdk_fields {
  unsigned version;
  bool has_cid;
  uint32_t cid;
  uint32_t parent_cid;
  const char *create_type;      /* as written */
  const char *parent_hint;
  const char *change_track;
  struct vd_uuid image, modification, parent, parent_modification;
  bool has_uuid;                /* ddb.uuid.image is there */
  struct vd_geometry pchs, lchs;        /* 0/0/0: not set or not valid */
  const char *adapter;
  unsigned hw_version;          /* 0: absent */
  const char *comment;          /* decoded; NULL: none */
};

/* Valid until the descriptor is changed or freed. */
extern const struct vmdk_fields *
vmdk_descriptor_fields (const struct vmdk_descriptor *d);

extern size_t vmdk_descriptor_nextents (const struct vmdk_descriptor *d);
extern const struct vmdk_extent_line *
vmdk_descriptor_extent (const struct vmdk_descriptor *d, size_t i);

/* Like all texts that this header hands out, valid until the descriptor is
 * changed or freed.
 *
 * The raw value of a key ("createType", "ddb.adapterType"; case does not
 * matter), quotes taken off; NULL if it is not there.
 */
extern const char *vmdk_descriptor_get (const struct vmdk_descriptor *d,
                                        const char *key);

/* ---- changing it ------------------------------------------------------- */

/* Set a key, in the line where it is or in a new line at the end of its
 * section; value NULL removes it.  quoted: in double quotes.  -EINVAL if the
 * value cannot be written (a quote, a line end, a NUL).  -ENOMEM.
 */
extern int vmdk_descriptor_set (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                                const char *key, const char *value,
                                bool quoted);

/* The same for the fields that have a form of their own.  A CID keeps its
 * number of digits and a UUID its braces, so that the length stays if it can.
 * In a comment quotes become apostrophes; NULL or "" removes it, as 0/0/0
 * does a geometry.  -EINVAL: the comment is too long.
 */
extern int vmdk_descriptor_set_cid (struct vd_ctx *ctx,
                                    struct vmdk_descriptor *d,
                                    const char *key, uint32_t cid);
extern int vmdk_descriptor_set_uuid (struct vd_ctx *ctx,
                                     struct vmdk_descriptor *d,
                                     const char *key,
                                     const struct vd_uuid *uuid);
extern int vmdk_descriptor_set_comment (struct vd_ctx *ctx,
                                        struct vmdk_descriptor *d,
                                        const char *comment);
extern int vmdk_descriptor_set_geometry (struct vd_ctx *ctx,
                                         struct vmdk_descriptor *d,
                                         bool bios,
                                         const struct vd_geometry *g);

/* The text as it would be written now (malloc'ed, NUL-terminated).  What was
 * not changed is byte for byte as it was read.
 */
extern int vmdk_descriptor_text (struct vd_ctx *ctx,
                                 const struct vmdk_descriptor *d,
                                 char **ret, size_t *ret_len);

/* New values for what tells that the disk has changed (CID, longContentID,
 * modification UUID), each where it stands and as long as it was, so that no
 * byte of the text moves (rules O15).  What is not there is not added: whoever
 * made the image does not look at it.  On failure nothing is changed.
 */
extern int vmdk_descriptor_renew (struct vd_ctx *ctx,
                                  struct vmdk_descriptor *d);

/* A CID for a new session: random, never VD_CID_NONE or 0xfffffffe, other
 * than old, and printable in digits hex digits (1 to 8).
 */
extern uint32_t vmdk_new_cid (uint32_t old, unsigned digits);

/* ---- making one -------------------------------------------------------- */

struct vmdk_new_descriptor {
  const char *create_type;
  uint32_t cid, parent_cid;
  const char *parent_hint;      /* NULL: none */
  const struct vmdk_extent_line *extents;
  size_t nextents;
  const char *adapter;          /* NULL: "ide" */
  unsigned hw_version;          /* 0: 4 */
  struct vd_geometry pchs, lchs;        /* pchs 0/0/0: computed */
  struct vd_link link;          /* all four UUIDs are written */
  const char *comment;          /* NULL: none */
};

/* The canonical template (vmdk-format 2.2 RULE (writer), 2.7 RULE), which
 * every reader accepts.
 */
extern int vmdk_descriptor_new (struct vd_ctx *ctx, const char *name,
                                const struct vmdk_new_descriptor *how,
                                struct vmdk_descriptor **ret);

#endif /* VDKIT_VMDK_DESCRIPTOR_H */
