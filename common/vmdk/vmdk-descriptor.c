/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reading a descriptor (vmdk-format 2).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "escape.h"
#include "vmdk-descriptor-private.h"

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

int
vmdk_line_error (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
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

bool
vmdk_parse_number (const char *p, size_t len, uint64_t *ret)
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
  if (!vmdk_parse_number (p, len, &x->sectors))
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
  if (len > 0 && !vmdk_parse_number (p, len, &x->offset))
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

/* ---- looking up ------------------------------------------------------- */

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
  r = vmdk_parse_fields (ctx, d);
  if (r == 0)
    r = parse_extents (ctx, d);
  if (r == 0)
    r = vmdk_convert_names (ctx, d);
  if (r == 0 && strict)
    r = vmdk_check_strict (ctx, d);
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
