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

#include <string.h>
#include <strings.h>

#include "vmdk-descriptor.h"

/* The largest number of sectors that we believe. */
#define SECTORS_MAX (UINT64_C (1) << 54)

/* Room for a value in a message. */
#define SHOWN 100

#define N_ELEMENTS(a) (sizeof (a) / sizeof (a)[0])

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

/* ---- words, where case does not matter -------------------------------- */

static inline bool
is_word (const char *text, size_t len, const char *word)
{
  return strlen (word) == len && strncasecmp (text, word, len) == 0;
}

static inline bool
starts (const char *text, size_t len, const char *with)
{
  size_t n = strlen (with);

  return len >= n && strncasecmp (text, with, n) == 0;
}

/* The index of a word in a list; n: it is not there. */
static inline size_t
find_word (const char *text, size_t len, const char *const *words, size_t n)
{
  size_t i;

  for (i = 0; i < n && !is_word (text, len, words[i]); ++i)
    ;
  return i;
}

/* A number of digits only, at most SECTORS_MAX. */
extern bool vmdk_parse_number (const char *p, size_t len, uint64_t *ret);

/* ---- parsing ---------------------------------------------------------- */

/* An error in a line, which is counted from 0 here. */
extern int vmdk_line_error (struct vd_ctx *ctx,
                            const struct vmdk_descriptor *d, size_t line,
                            int err, const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 5, 6)));
#define bad(...) vmdk_line_error (__VA_ARGS__)

/* vmdk-descriptor-fields.c: d->fields; names of another character set than
 * ours; and what else the gate of OpenStack refuses.
 */
extern int vmdk_parse_fields (struct vd_ctx *ctx, struct vmdk_descriptor *d);
extern int vmdk_convert_names (struct vd_ctx *ctx, struct vmdk_descriptor *d);
extern int vmdk_check_strict (struct vd_ctx *ctx,
                              const struct vmdk_descriptor *d);

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
