/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What reading (vmdk-descriptor.c) and changing (vmdk-descriptor-write.c) a
 * descriptor share.
 *
 * A descriptor is its text and an index of the lines in it.  A change edits
 * the text and parses it again: nothing is lost, and what we write has been
 * read by our own reader.
 */

#ifndef VDKIT_VMDK_DESCRIPTOR_PRIVATE_H
#define VDKIT_VMDK_DESCRIPTOR_PRIVATE_H

#include "vmdk-descriptor.h"

enum line_kind {
  LINE_COMMENT,                 /* or blank */
  LINE_KEY,                     /* of the header or the disk database */
  LINE_EXTENT,
  LINE_JUNK,                    /* kept, and ignored as by everyone */
};

struct line {
  enum line_kind kind;
  uint32_t start, end;          /* without blanks at both ends */
  uint32_t full;                /* where the line begins */
  uint32_t next;                /* behind the line end */
  uint32_t key_end;             /* the key begins at start */
  uint32_t value, value_end;    /* without the quotes */
  bool quoted;
  bool more;                    /* something stands behind the value */
};

struct vmdk_descriptor {
  char *name;                   /* for messages */
  char *text;                   /* NUL-terminated */
  size_t len;
  char *values;                 /* the text again, NULs behind the values */
  struct line *lines;
  size_t nlines;
  struct vmdk_extent_line *extents;
  size_t nextents;
  char **owned;                 /* converted texts */
  size_t nowned;
  struct vmdk_fields fields;
};

/* The first line with this key at or behind i; nlines: none. */
extern size_t vmdk_descriptor_find (const struct vmdk_descriptor *d,
                                    const char *key, size_t i);

/* The number of hex digits in a CID as written, 0 if it is none; *ret_prefix
 * is the length of "0x" in front of them.
 */
extern unsigned vmdk_cid_digits (const char *value, unsigned *ret_prefix);

/* Keys that must not stand there twice with different values. */
extern bool vmdk_key_is_unique (const char *key);

#endif /* VDKIT_VMDK_DESCRIPTOR_PRIVATE_H */
