/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reading a descriptor (vmdk-format 2).
 */

#include <config.h>

#include <errno.h>
#include <iconv.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "escape.h"
#include "vmdk-descriptor-private.h"

#define SECTORS_MAX (UINT64_C (1) << 54)

/* Room for a value in a message. */
#define SHOWN 100

static const char *const access_words[] = {
  [VMDK_RW] = "RW",
  [VMDK_RDONLY] = "RDONLY",
  [VMDK_NOACCESS] = "NOACCESS",
};

static const char *const type_words[] = {
  [VMDK_FLAT] = "FLAT",
  [VMDK_SPARSE] = "SPARSE",
  [VMDK_ZERO] = "ZERO",
  [VMDK_VMFS] = "VMFS",
  [VMDK_VMFSSPARSE] = "VMFSSPARSE",
  [VMDK_VMFSRDM] = "VMFSRDM",
  [VMDK_VMFSRAW] = "VMFSRAW",
  [VMDK_SESPARSE] = "SESPARSE",
};

static const char *const create_types[] = {
  "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
  "2GbMaxExtentSparse", "twoGbMaxExtentFlat", "2GbMaxExtentFlat",
  "streamOptimized", "vmfs", "vmfsPreallocated", "vmfsEagerZeroedThick",
  "vmfsThin", "vmfsThick", "vmfsSparse", "seSparse", "vmfsSeSparse",
  "vmfsRaw", "vmfsRDM", "vmfsRawDeviceMap", "vmfsRDMP",
  "vmfsPassthroughRawDeviceMap", "fullDevice", "partitionedDevice", "custom",
};

#define N_ELEMENTS(a) (sizeof (a) / sizeof (a)[0])

static bool
is_blank (char c)
{
  return c == ' ' || c == '\t';
}

static bool
is_digit (char c)
{
  return c >= '0' && c <= '9';
}

static bool
is_word (const char *text, size_t len, const char *word)
{
  return strlen (word) == len && strncasecmp (text, word, len) == 0;
}

static bool
starts (const char *text, size_t len, const char *with)
{
  size_t n = strlen (with);

  return len >= n && strncasecmp (text, with, n) == 0;
}

/* The index of a word in a list; n: it is not there. */
static size_t
find_word (const char *text, size_t len, const char *const *words, size_t n)
{
  size_t i;

  for (i = 0; i < n && !is_word (text, len, words[i]); ++i)
    ;
  return i;
}

/* How many bytes a byte order mark takes at the start of the text. */
static size_t
bom (const char *text, size_t len)
{
  return len >= 3 && memcmp (text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}

/* One of the four spellings of "# Disk DescriptorFile", blanks taken off. */
static bool
is_signature (const char *text, size_t len)
{
  static const char *const spellings[] = {
    "# Disk DescriptorFile", "# Disk Descriptor File",
    "#Disk DescriptorFile", "#Disk Descriptor File",
  };

  return find_word (text, len, spellings, N_ELEMENTS (spellings)) <
    N_ELEMENTS (spellings);
}

/* ---- probing ---------------------------------------------------------- */

bool
vmdk_descriptor_probe (const uint8_t *head, size_t n)
{
  const char *p = (const char *) head, *end, *eol, *last;
  bool dot_encoding = false;

  if (n == 0)
    return false;
  end = p + strnlen (p, n);
  for (p += bom (p, n); p < end; p = eol + 1) {
    eol = memchr (p, '\n', end - p);
    if (eol == NULL)
      eol = end;
    for (last = eol; last > p && (is_blank (last[-1]) || last[-1] == '\r');
         --last)
      ;
    while (p < last && is_blank (*p))
      ++p;
    if (p == last)
      continue;
    if (*p == '#') {
      if (is_signature (p, last - p))
        return true;
      continue;
    }
    /* An encrypted one, which parsing refuses with the right words.  A .vmx
     * file begins like it.
     */
    if (starts (p, last - p, ".encoding")) {
      dot_encoding = true;
      continue;
    }
    if (dot_encoding)
      return starts (p, last - p, "encryption.");
    if (!starts (p, last - p, "version"))
      return false;
    for (p += strlen ("version"); p < last && is_blank (*p); ++p)
      ;
    if (p == last || *p++ != '=')
      return false;
    while (p < last && (is_blank (*p) || *p == '"'))
      ++p;
    return p < last && is_digit (*p);
  }
  return false;
}

/* ---- lines ------------------------------------------------------------ */

static int bad (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
                size_t line, int err, const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 5, 6)));

/* An error in a line, which is counted from 0 here. */
static int
bad (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
     size_t line, int err, const char *fmt, ...)
{
  char text[512];
  va_list args;

  va_start (args, fmt);
  vsnprintf (text, sizeof text, fmt, args);
  va_end (args);
  return vd_error (ctx, err, "%s: descriptor line %zu: %s",
                   d->name, line + 1, text);
}

/* Does the line carry what makes the disk an encrypted one?
 * (vmdk-format 12)
 */
static bool
is_encrypted (const struct vmdk_descriptor *d, const struct line *l)
{
  const char *key = &d->text[l->start], *value = &d->text[l->value];
  size_t key_len = l->key_end - l->start, len = l->value_end - l->value, i;

  if (starts (key, key_len, "ddb.iofilters")) {
    static const char filter[] = "vmwarevmcrypt";

    for (i = 0; i + strlen (filter) <= len; ++i)
      if (starts (&value[i], len - i, filter))
        return true;
    return false;
  }
  if (len == 0)
    return false;
  if (starts (key, key_len, "encryption.") ||
      starts (key, key_len, "cipher") || is_word (key, key_len, "keyID") ||
      starts (key, key_len, "ddb.encryption"))
    return true;
  for (i = 0; i < key_len; ++i)
    if (starts (&key[i], key_len - i, "keySafe"))
      return true;
  return false;
}

/* Find key and value. */
static void
split_line (const struct vmdk_descriptor *d, struct line *l)
{
  const char *text = d->text;
  const char *quote;
  uint32_t p = l->start;

  if (p == l->end || text[p] == '#') {
    l->kind = LINE_COMMENT;
    return;
  }
  l->kind = LINE_JUNK;
  while (p < l->end && !is_blank (text[p]) && text[p] != '=')
    ++p;
  l->key_end = p;
  if (find_word (&text[l->start], p - l->start, access_words,
                 N_ELEMENTS (access_words)) < N_ELEMENTS (access_words)) {
    l->kind = LINE_EXTENT;
    return;
  }
  while (p < l->end && is_blank (text[p]))
    ++p;
  if (p == l->end || text[p] != '=' || l->key_end == l->start)
    return;
  ++p;
  while (p < l->end && is_blank (text[p]))
    ++p;
  l->value = p;
  l->quoted = p < l->end && text[p] == '"';
  if (l->quoted) {
    l->value = ++p;
    quote = memchr (&text[p], '"', l->end - p);
    /* With no second quote there is no value. */
    if (quote == NULL) {
      l->value_end = l->end;
      return;
    }
    p = l->value_end = quote - text;
    ++p;
  }
  else {
    while (p < l->end && !is_blank (text[p]))
      ++p;
    l->value_end = p;
  }
  l->more = p < l->end;
  while (p < l->end && is_blank (text[p]))
    ++p;
  l->more = p < l->end;
  l->kind = LINE_KEY;
}

/* The headers that we act on: to ignore a line that is meant to be one of
 * them would be wrong.
 */
static bool
is_our_header (const char *key, size_t len)
{
  static const char *const keys[] = {
    "version", "CID", "parentCID", "createType", "parentFileNameHint",
    "encoding",
  };

  return find_word (key, len, keys, N_ELEMENTS (keys)) < N_ELEMENTS (keys);
}

static int
check_line (struct vd_ctx *ctx, const struct vmdk_descriptor *d, size_t n)
{
  const struct line *l = &d->lines[n];
  const char *key = &d->text[l->start];
  size_t key_len = l->key_end - l->start, i;
  char shown[SHOWN];

  if (l->value_end > 0 && is_encrypted (d, l))
    return vd_error (ctx, ENOTSUP, "%s: descriptor line %zu: key \"%s\": "
                     "encrypted VMDK is not supported", d->name, n + 1,
                     vd_escape (key, key_len, shown, sizeof shown));
  if (l->next - l->full > VMDK_LINE_MAX)
    return bad (ctx, d, n, EIO, "is %" PRIu32 " bytes long, at most %d are "
                "possible", l->next - l->full, VMDK_LINE_MAX);
  if (l->kind == LINE_JUNK) {
    /* qemu leaves such extents out, and all that follows moves. */
    for (i = 0; i < N_ELEMENTS (access_words); ++i)
      if (starts (key, l->end - l->start, access_words[i]))
        return bad (ctx, d, n, EIO, "is \"%s\", begins as an extent "
                    "but is none",
                    vd_escape (key, l->end - l->start, shown, sizeof shown));
  }
  if ((l->kind == LINE_JUNK || (l->kind == LINE_KEY && l->more)) &&
      is_our_header (key, key_len) && l->value > 0)
    return bad (ctx, d, n, EIO, "key \"%s\" has no proper value: \"%s\"",
                vd_escape (key, key_len, shown, sizeof shown),
                vd_escape (key, l->end - l->start,
                           (char[SHOWN]) { 0 }, SHOWN));
  return 0;
}

static int
split (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  size_t pos, n = 0;
  const char *eol;
  int r;

  for (pos = 0; pos < d->len; ++pos)
    n += d->text[pos] == '\n' || pos == d->len - 1;
  if (n > VMDK_LINES_MAX)
    return vd_error (ctx, EIO, "%s: descriptor has %zu lines, at most %d are "
                     "possible", d->name, n, VMDK_LINES_MAX);
  d->lines = calloc (n ? n : 1, sizeof d->lines[0]);
  if (d->lines == NULL)
    return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor",
                     d->name);

  for (pos = 0; pos < d->len; pos = d->lines[d->nlines++].next) {
    struct line *l = &d->lines[d->nlines];
    size_t start = pos, end, i;

    eol = memchr (&d->text[pos], '\n', d->len - pos);
    end = eol ? (size_t) (eol - d->text) : d->len;
    l->full = pos;
    l->next = eol ? end + 1 : d->len;
    if (eol && end > pos && d->text[end - 1] == '\r')
      --end;
    for (i = start; i < end; ++i)
      if (d->text[i] == '\r')
        return bad (ctx, d, d->nlines, EIO, "a CR without LF, byte %zu",
                    i - start);
    if (pos == 0)
      start += bom (d->text, end);
    while (end > start && is_blank (d->text[end - 1]))
      --end;
    while (start < end && is_blank (d->text[start]))
      ++start;
    l->start = start;
    l->end = end;
    split_line (d, l);
    r = check_line (ctx, d, d->nlines);
    if (r < 0)
      return r;
  }
  return 0;
}

static int
check_is_descriptor (struct vd_ctx *ctx, const struct vmdk_descriptor *d)
{
  char shown[SHOWN];
  size_t i;

  for (i = 0; i < d->nlines; ++i) {
    const struct line *l = &d->lines[i];
    const char *text = &d->text[l->start];

    if (l->start == l->end)
      continue;
    if (l->kind == LINE_COMMENT) {
      if (is_signature (text, l->end - l->start))
        return 0;
      continue;
    }
    if (l->kind == LINE_KEY &&
        is_word (text, l->key_end - l->start, "version"))
      return 0;
    return vd_error (ctx, EIO, "%s: is not a VMDK descriptor: line %zu is "
                     "\"%s\", expected \"# Disk DescriptorFile\"", d->name,
                     i + 1, vd_escape (text, l->end - l->start,
                                       shown, sizeof shown));
  }
  return vd_error (ctx, EIO, "%s: descriptor is empty", d->name);
}

/* ---- extents ---------------------------------------------------------- */

/* Digits only, up to a blank or the end. */
static bool
parse_sectors (const char *p, size_t len, uint64_t *ret)
{
  uint64_t v = 0;
  size_t i;

  for (i = 0; i < len; ++i) {
    if (!is_digit (p[i]))
      return false;
    v = v * 10 + (p[i] - '0');
    if (v > SECTORS_MAX)
      return false;
  }
  *ret = v;
  return len > 0;
}

/* The next word of a line: the number of its bytes, and *p at its start. */
static size_t
word (const char **p, const char *end)
{
  const char *q;

  while (*p < end && is_blank (**p))
    ++*p;
  for (q = *p; q < end && !is_blank (*q); ++q)
    ;
  return q - *p;
}

static int
parse_extent (struct vd_ctx *ctx, struct vmdk_descriptor *d, size_t n)
{
  const struct line *l = &d->lines[n];
  struct vmdk_extent_line *x = &d->extents[d->nextents];
  const char *p = &d->text[l->key_end], *end = &d->text[l->end], *quote;
  char shown[SHOWN];
  size_t len, type;

  x->line = n + 1;
  x->access = find_word (&d->text[l->start], l->key_end - l->start,
                         access_words, N_ELEMENTS (access_words));
  len = word (&p, end);
  if (!parse_sectors (p, len, &x->sectors))
    return bad (ctx, d, n, EIO, "extent size is \"%s\", must be a number of "
                "sectors, at most %" PRIu64,
                vd_escape (p, len, shown, sizeof shown), SECTORS_MAX);
  p += len;
  len = word (&p, end);
  type = find_word (p, len, type_words, N_ELEMENTS (type_words));
  if (len == 0)
    return bad (ctx, d, n, EIO, "extent has no type");
  if (type == N_ELEMENTS (type_words))
    return bad (ctx, d, n, ENOTSUP, "extent type is \"%s\", which is not "
                "known", vd_escape (p, len, shown, sizeof shown));
  x->type = type;
  p += len;
  while (p < end && is_blank (*p))
    ++p;

  if (p == end) {
    if (x->type != VMDK_ZERO)
      return bad (ctx, d, n, EIO, "%s extent has no file name",
                  type_words[type]);
    ++d->nextents;
    return 0;
  }
  quote = *p == '"' ? memchr (p + 1, '"', end - (p + 1)) : NULL;
  if (quote == NULL)
    return bad (ctx, d, n, EIO, "extent file name is %s, must be in double "
                "quotes", vd_escape (p, end - p, shown, sizeof shown));
  ++p;
  for (len = 0; p + len < quote; ++len)
    if ((unsigned char) p[len] < ' ' || p[len] == 0x7f)
      return bad (ctx, d, n, EIO, "extent file name is \"%s\", with a "
                  "control character in it",
                  vd_escape (p, quote - p, shown, sizeof shown));
  if (x->type != VMDK_ZERO) {
    x->name = &d->values[p - d->text];
    x->name[len] = '\0';
  }

  p = quote + 1;
  if (p < end && !is_blank (*p))
    return bad (ctx, d, n, EIO, "\"%s\" follows the extent file name",
                vd_escape (p, end - p, shown, sizeof shown));
  len = word (&p, end);
  if (len > 0 && !parse_sectors (p, len, &x->offset))
    return bad (ctx, d, n, EIO, "extent offset is \"%s\", must be a number "
                "of sectors, at most %" PRIu64,
                vd_escape (p, len, shown, sizeof shown), SECTORS_MAX);
  if (x->offset > 0 &&
      (x->type == VMDK_SPARSE || x->type == VMDK_VMFSSPARSE ||
       x->type == VMDK_SESPARSE))
    return bad (ctx, d, n, EIO, "extent offset is %" PRIu64
                ", must be 0 for a %s extent", x->offset, type_words[type]);
  ++d->nextents;
  return 0;
}

static int
parse_extents (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  size_t n = 0, i;
  uint64_t sum = 0;
  int r;

  for (i = 0; i < d->nlines; ++i)
    n += d->lines[i].kind == LINE_EXTENT;
  if (n == 0)
    return vd_error (ctx, EIO, "%s: descriptor has no extents", d->name);
  if (n > VMDK_EXTENTS_MAX)
    return vd_error (ctx, EIO, "%s: descriptor has %zu extents, at most %d "
                     "are possible", d->name, n, VMDK_EXTENTS_MAX);
  d->extents = calloc (n, sizeof d->extents[0]);
  if (d->extents == NULL)
    return vd_error (ctx, ENOMEM, "%s: no memory for the extents", d->name);
  for (i = 0; i < d->nlines; ++i) {
    if (d->lines[i].kind != LINE_EXTENT)
      continue;
    r = parse_extent (ctx, d, i);
    if (r < 0)
      return r;
    sum += d->extents[d->nextents - 1].sectors;
    if (sum > SECTORS_MAX)
      return bad (ctx, d, i, EIO, "with this extent the disk has %" PRIu64
                  " sectors, at most %" PRIu64 " are possible",
                  sum, SECTORS_MAX);
  }
  return 0;
}

/* ---- encodings -------------------------------------------------------- */

static bool
is_ascii (const char *text, size_t len)
{
  size_t i;

  for (i = 0; i < len; ++i)
    if ((unsigned char) text[i] >= 0x80)
      return false;
  return true;
}

/* Keep a text for as long as the descriptor. */
static int
own (struct vd_ctx *ctx, struct vmdk_descriptor *d, char *text)
{
  char **owned = realloc (d->owned, (d->nowned + 1) * sizeof owned[0]);

  if (owned == NULL) {
    free (text);
    return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor",
                     d->name);
  }
  d->owned = owned;
  d->owned[d->nowned++] = text;
  return 0;
}

static int
convert (struct vd_ctx *ctx, struct vmdk_descriptor *d, iconv_t cd,
         const char *encoding, const char *what, const char *text,
         char **ret)
{
  size_t in_left = strlen (text), out_left = in_left * 4, i;
  char *in = (char *) text, *buf = malloc (out_left + 1), *out = buf;
  char shown[SHOWN];
  int r;

  if (buf == NULL)
    return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor",
                     d->name);
  iconv (cd, NULL, NULL, NULL, NULL);
  if (iconv (cd, &in, &in_left, &out, &out_left) == (size_t) -1)
    goto refuse;
  *out = '\0';
  for (i = 0; buf + i < out; ++i)
    if ((unsigned char) buf[i] < ' ' || buf[i] == 0x7f)
      goto refuse;
  r = own (ctx, d, buf);
  if (r == 0)
    *ret = buf;
  return r;

 refuse:
  free (buf);
  return vd_error (ctx, ENOTSUP, "%s: %s is \"%s\", which cannot be "
                   "converted from encoding \"%s\"", d->name, what,
                   vd_escape (text, strlen (text), shown, sizeof shown),
                   encoding);
}

/* File names are bytes, unless the descriptor says that they are of another
 * character set (vmdk-format 2.1).
 */
static int
convert_names (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  static const char *const plain[] = { "UTF-8", "UTF8", "ASCII", "US-ASCII" };
  static const char allowed[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
  const char *encoding = vmdk_descriptor_get (d, "encoding");
  const char *hint = d->fields.parent_hint;
  bool needed = hint && !is_ascii (hint, strlen (hint));
  char shown[SHOWN], *to;
  iconv_t cd;
  size_t i;
  int r = 0;

  if (encoding == NULL || *encoding == '\0' ||
      find_word (encoding, strlen (encoding), plain, N_ELEMENTS (plain)) <
      N_ELEMENTS (plain))
    return 0;
  for (i = 0; i < d->nextents && !needed; ++i)
    needed = d->extents[i].name &&
      !is_ascii (d->extents[i].name, strlen (d->extents[i].name));
  if (!needed)
    return 0;

  /* The name goes to the C library, which would see paths and options in
   * others.
   */
  if (strlen (encoding) > 40 ||
      strspn (encoding, allowed) != strlen (encoding) ||
      (cd = iconv_open ("UTF-8", encoding)) == (iconv_t) -1)
    return vd_error (ctx, ENOTSUP, "%s: encoding is \"%s\", which is not "
                     "known here, and the descriptor has file names that "
                     "are not ASCII", d->name,
                     vd_escape (encoding, strlen (encoding),
                                shown, sizeof shown));
  for (i = 0; i < d->nextents && r == 0; ++i) {
    struct vmdk_extent_line *x = &d->extents[i];

    if (x->name && !is_ascii (x->name, strlen (x->name)))
      r = convert (ctx, d, cd, encoding, "extent file name", x->name,
                   &x->name);
  }
  if (r == 0 && hint && !is_ascii (hint, strlen (hint))) {
    r = convert (ctx, d, cd, encoding, "parentFileNameHint", hint, &to);
    if (r == 0)
      d->fields.parent_hint = to;
  }
  iconv_close (cd);
  return r;
}

/* ---- fields ----------------------------------------------------------- */

size_t
vmdk_descriptor_find (const struct vmdk_descriptor *d, const char *key,
                      size_t i)
{
  for (; i < d->nlines; ++i) {
    const struct line *l = &d->lines[i];

    if (l->kind == LINE_KEY &&
        is_word (&d->text[l->start], l->key_end - l->start, key))
      break;
  }
  return i;
}

const char *
vmdk_descriptor_get (const struct vmdk_descriptor *d, const char *key)
{
  size_t i = vmdk_descriptor_find (d, key, 0);

  return i < d->nlines ? &d->values[d->lines[i].value] : NULL;
}

bool
vmdk_descriptor_where (const struct vmdk_descriptor *d, const char *key,
                       size_t *ret_offset, size_t *ret_len)
{
  size_t i = vmdk_descriptor_find (d, key, 0);

  if (i == d->nlines)
    return false;
  *ret_offset = d->lines[i].value;
  *ret_len = d->lines[i].value_end - d->lines[i].value;
  return true;
}

unsigned
vmdk_cid_digits (const char *value, unsigned *ret_prefix)
{
  size_t n, prefix = starts (value, strlen (value), "0x") ? 2 : 0;

  n = strspn (value + prefix, "0123456789abcdefABCDEF");
  if (n > 8 || value[prefix + n] != '\0')
    return 0;
  *ret_prefix = prefix;
  return n;
}

bool
vmdk_key_is_unique (const char *key)
{
  return strcasecmp (key, "CID") == 0 || strcasecmp (key, "parentCID") == 0 ||
    strcasecmp (key, "createType") == 0;
}

static int
parse_cid (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
           const char *key, bool *ret_has, uint32_t *ret)
{
  bool found = false;
  uint32_t cid;
  size_t i;

  for (i = 0; (i = vmdk_descriptor_find (d, key, i)) < d->nlines; ++i) {
    const char *value = &d->values[d->lines[i].value];
    char shown[SHOWN];
    unsigned prefix;

    if (vmdk_cid_digits (value, &prefix) == 0)
      return bad (ctx, d, i, EIO, "%s is \"%s\", must be 1 to 8 hex digits",
                  key, vd_escape (value, strlen (value),
                                  shown, sizeof shown));
    cid = strtoul (value + prefix, NULL, 16);
    if (found && cid != *ret)
      return bad (ctx, d, i, EIO, "%s is %08" PRIx32 ", but it was %08" PRIx32
                  " in an earlier line", key, cid, *ret);
    *ret = cid;
    found = true;
  }
  if (ret_has)
    *ret_has = found;
  return 0;
}

static int
parse_create_type (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  const char *type = vmdk_descriptor_get (d, "createType");
  char shown[SHOWN];
  size_t i;

  d->fields.create_type = type;
  if (type == NULL) {
    vd_warning (ctx, "%s: descriptor has no createType", d->name);
    return 0;
  }
  for (i = 0; (i = vmdk_descriptor_find (d, "createType", i)) < d->nlines;
       ++i) {
    const char *other = &d->values[d->lines[i].value];

    if (strcasecmp (type, other) != 0)
      return bad (ctx, d, i, EIO, "createType is \"%s\", but it was "
                  "different in an earlier line",
                  vd_escape (other, strlen (other), shown, sizeof shown));
  }
  if (find_word (type, strlen (type), create_types,
                 N_ELEMENTS (create_types)) == N_ELEMENTS (create_types))
    vd_warning (ctx, "%s: createType is \"%s\", which is not known",
                d->name, vd_escape (type, strlen (type),
                                    shown, sizeof shown));
  return 0;
}

static int
parse_version (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  size_t i = vmdk_descriptor_find (d, "version", 0);
  const char *value;
  char shown[SHOWN];
  uint64_t v;

  d->fields.version = 1;
  if (i == d->nlines) {
    vd_warning (ctx, "%s: descriptor has no version, taken as 1", d->name);
    return 0;
  }
  value = &d->values[d->lines[i].value];
  if (!parse_sectors (value, strlen (value), &v))
    return bad (ctx, d, i, EIO, "version is \"%s\", must be a number",
                vd_escape (value, strlen (value), shown, sizeof shown));
  if (v < 1 || v > 4)
    return bad (ctx, d, i, ENOTSUP, "version is %" PRIu64
                ", 1 to 4 are known", v);
  d->fields.version = v;
  return 0;
}

static void
parse_uuid (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
            const char *key, struct vd_uuid *ret)
{
  size_t i = vmdk_descriptor_find (d, key, 0);
  const char *value;
  char shown[SHOWN];

  if (i == d->nlines)
    return;
  value = &d->values[d->lines[i].value];
  if (!vd_uuid_parse (value, ret))
    vd_warning (ctx, "%s: descriptor line %zu: %s is \"%s\", which is not a "
                "UUID: ignored", d->name, i + 1, key,
                vd_escape (value, strlen (value), shown, sizeof shown));
}

static uint32_t
parse_number (const struct vmdk_descriptor *d, const char *key)
{
  const char *value = vmdk_descriptor_get (d, key);
  uint64_t v;

  if (value == NULL || !parse_sectors (value, strlen (value), &v) ||
      v > UINT32_MAX)
    return 0;
  return v;
}

static struct vd_geometry
parse_geometry (const struct vmdk_descriptor *d, const char *cylinders,
                const char *heads, const char *sectors, unsigned max_heads)
{
  struct vd_geometry g = {
    parse_number (d, cylinders),
    parse_number (d, heads),
    parse_number (d, sectors),
  };

  if (g.cylinders == 0 || g.heads == 0 || g.heads > max_heads ||
      g.sectors == 0 || g.sectors > 63)
    return (struct vd_geometry) { 0 };
  return g;
}

/* The other way than VirtualBox, which drops escaped characters
 * (vmdk-format 2.6).
 */
static int
parse_comment (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  const char *p = vmdk_descriptor_get (d, "ddb.comment");
  char *buf, *out;
  int r;

  if (p == NULL || *p == '\0')
    return 0;
  out = buf = malloc (strlen (p) + 1);
  if (buf == NULL)
    return vd_error (ctx, ENOMEM, "%s: no memory for the comment", d->name);
  while (*p) {
    char c = *p++;

    if (c == '\\' && (*p == '\\' || *p == 'n' || *p == 'r')) {
      c = *p == 'n' ? '\n' : *p == 'r' ? '\r' : '\\';
      ++p;
    }
    *out++ = c;
  }
  *out = '\0';
  r = own (ctx, d, buf);
  if (r == 0)
    d->fields.comment = buf;
  return r;
}

static int
parse_fields (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  struct vmdk_fields *f = &d->fields;
  int r;

  f->cid = f->parent_cid = VD_CID_NONE;
  r = parse_version (ctx, d);
  if (r == 0)
    r = parse_cid (ctx, d, "CID", &f->has_cid, &f->cid);
  if (r == 0)
    r = parse_cid (ctx, d, "parentCID", NULL, &f->parent_cid);
  if (r == 0)
    r = parse_create_type (ctx, d);
  if (r == 0)
    r = parse_comment (ctx, d);
  if (r < 0)
    return r;

  f->parent_hint = vmdk_descriptor_get (d, "parentFileNameHint");
  if (f->parent_hint && *f->parent_hint == '\0')
    f->parent_hint = NULL;
  f->change_track = vmdk_descriptor_get (d, "changeTrackPath");
  if (f->change_track && *f->change_track == '\0')
    f->change_track = NULL;
  parse_uuid (ctx, d, "ddb.uuid.image", &f->image);
  parse_uuid (ctx, d, "ddb.uuid.modification", &f->modification);
  parse_uuid (ctx, d, "ddb.uuid.parent", &f->parent);
  parse_uuid (ctx, d, "ddb.uuid.parentmodification", &f->parent_modification);
  f->has_uuid = vmdk_descriptor_get (d, "ddb.uuid.image") != NULL;
  f->pchs = parse_geometry (d, "ddb.geometry.cylinders", "ddb.geometry.heads",
                            "ddb.geometry.sectors", 16);
  f->lchs = parse_geometry (d, "ddb.geometry.biosCylinders",
                            "ddb.geometry.biosHeads",
                            "ddb.geometry.biosSectors", 255);
  f->adapter = vmdk_descriptor_get (d, "ddb.adapterType");
  f->hw_version = parse_number (d, "ddb.virtualHWVersion");
  return 0;
}

/* ---- the gate of OpenStack -------------------------------------------- */

static int
check_strict (struct vd_ctx *ctx, const struct vmdk_descriptor *d)
{
  const char *type = d->fields.create_type;
  char shown[SHOWN];
  size_t i;

  if (d->len >= VMDK_DESCRIPTOR_MAX)
    return vd_error (ctx, EACCES, "%s: strict: descriptor is %zu bytes long, "
                     "must be less than %d", d->name, d->len,
                     VMDK_DESCRIPTOR_MAX);
  if (type == NULL || (strcasecmp (type, "monolithicSparse") != 0 &&
                       strcasecmp (type, "streamOptimized") != 0))
    return vd_error (ctx, EACCES, "%s: strict: createType is \"%s\", must be "
                     "monolithicSparse or streamOptimized", d->name,
                     type ? vd_escape (type, strlen (type),
                                       shown, sizeof shown) : "");
  for (i = 0; i < d->nlines; ++i) {
    const struct line *l = &d->lines[i];
    const char *text = &d->text[l->start];
    size_t len = l->end - l->start;
    const char *why = NULL;

    if (!is_ascii (&d->text[l->full], l->next - l->full))
      why = "is not ASCII";
    else if (l->kind == LINE_EXTENT && memchr (text, '/', len))
      why = "is an extent with a \"/\" in it";
    else if (l->kind == LINE_JUNK || (l->kind == LINE_KEY && l->more))
      why = starts (text, len, "ddb") ? NULL
        : "is neither a comment, key=value, nor an extent";
    else if (l->kind == LINE_KEY && !starts (text, len, "ddb") &&
             d->text[l->key_end] != '=')
      why = "has a blank in front of the \"=\"";
    if (why)
      return bad (ctx, d, i, EACCES, "strict: \"%s\" %s",
                  vd_escape (text, len, shown, sizeof shown), why);
  }
  return 0;
}

/* ---- all of it -------------------------------------------------------- */

int
vmdk_descriptor_parse (struct vd_ctx *ctx, const char *name,
                       const char *text, size_t len, bool strict,
                       struct vmdk_descriptor **ret)
{
  struct vmdk_descriptor *d;
  size_t i;
  int r;

  len = strnlen (text, len);
  if (len > VMDK_DESCRIPTOR_MAX)
    return vd_error (ctx, EIO, "%s: descriptor is longer than %d bytes",
                     name, VMDK_DESCRIPTOR_MAX);
  d = calloc (1, sizeof *d);
  if (d) {
    d->name = strdup (name);
    d->text = strndup (text, len);
    d->values = strndup (text, len);
    d->len = len;
  }
  if (!d || !d->name || !d->text || !d->values) {
    vmdk_descriptor_free (d);
    return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor", name);
  }

  r = split (ctx, d);
  if (r == 0)
    r = check_is_descriptor (ctx, d);
  if (r < 0)
    goto err;
  for (i = 0; i < d->nlines; ++i)
    if (d->lines[i].kind == LINE_KEY)
      d->values[d->lines[i].value_end] = '\0';
  r = parse_fields (ctx, d);
  if (r == 0)
    r = parse_extents (ctx, d);
  if (r == 0)
    r = convert_names (ctx, d);
  if (r == 0 && strict)
    r = check_strict (ctx, d);
  if (r < 0)
    goto err;
  *ret = d;
  return 0;

 err:
  vmdk_descriptor_free (d);
  return r;
}

void
vmdk_descriptor_free (struct vmdk_descriptor *d)
{
  size_t i;

  if (d == NULL)
    return;
  for (i = 0; i < d->nowned; ++i)
    free (d->owned[i]);
  free (d->owned);
  free (d->extents);
  free (d->lines);
  free (d->values);
  free (d->text);
  free (d->name);
  free (d);
}

const struct vmdk_fields *
vmdk_descriptor_fields (const struct vmdk_descriptor *d)
{
  return &d->fields;
}

size_t
vmdk_descriptor_nextents (const struct vmdk_descriptor *d)
{
  return d->nextents;
}

const struct vmdk_extent_line *
vmdk_descriptor_extent (const struct vmdk_descriptor *d, size_t i)
{
  return &d->extents[i];
}
