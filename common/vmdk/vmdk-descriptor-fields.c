/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a descriptor says, beyond its extents (vmdk-format 2.1, 2.3, 2.6).
 */

#include <config.h>

#include <errno.h>
#include <iconv.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "escape.h"
#include "vmdk-descriptor-private.h"

static const char *const create_types[] = {
  "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
  "2GbMaxExtentSparse", "twoGbMaxExtentFlat", "2GbMaxExtentFlat",
  "streamOptimized", "vmfs", "vmfsPreallocated", "vmfsEagerZeroedThick",
  "vmfsThin", "vmfsThick", "vmfsSparse", "seSparse", "vmfsSeSparse",
  "vmfsRaw", "vmfsRDM", "vmfsRawDeviceMap", "vmfsRDMP",
  "vmfsPassthroughRawDeviceMap", "fullDevice", "partitionedDevice", "custom",
};

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
int
vmdk_convert_names (struct vd_ctx *ctx, struct vmdk_descriptor *d)
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
  if (!vmdk_parse_number (value, strlen (value), &v))
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

  if (value == NULL || !vmdk_parse_number (value, strlen (value), &v) ||
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

int
vmdk_parse_fields (struct vd_ctx *ctx, struct vmdk_descriptor *d)
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

int
vmdk_check_strict (struct vd_ctx *ctx, const struct vmdk_descriptor *d)
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
