/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Changing a descriptor, and making one (vmdk-format 2.2, 2.7, 2.8).
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "escape.h"
#include "vmdk-descriptor-private.h"

/* What VirtualBox keeps of an encoded comment (vmdk-format 2.6). */
#define COMMENT_MAX 1022

/* For a file name, so that its line does not become too long. */
#define NAME_BYTES_MAX (VMDK_LINE_MAX - 100)

static int
no_memory (struct vd_ctx *ctx, const char *name)
{
  return vd_error (ctx, ENOMEM, "%s: no memory for the descriptor", name);
}

int
vmdk_descriptor_text (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
                      char **ret, size_t *ret_len)
{
  char *text = strndup (d->text, d->len);

  if (text == NULL)
    return no_memory (ctx, d->name);
  *ret = text;
  *ret_len = d->len;
  return 0;
}

/* ---- editing ---------------------------------------------------------- */

/* Put with in place of the bytes from..to, and take what is read from that;
 * on failure nothing is changed.
 */
static int
splice (struct vd_ctx *ctx, struct vmdk_descriptor *d,
        size_t from, size_t to, const char *with)
{
  size_t n = strlen (with), len = d->len - (to - from) + n;
  CLEANUP_FREE char *text = malloc (len + 1);
  struct vmdk_descriptor *new, swap;
  struct vd_ctx quiet;
  int r;

  if (text == NULL)
    return no_memory (ctx, d->name);
  memcpy (text, d->text, from);
  memcpy (text + from, with, n);
  memcpy (text + from + n, d->text + to, d->len - to);

  /* Warnings were given when it was read first. */
  vd_ctx_init (&quiet, NULL);
  r = vmdk_descriptor_parse (&quiet, d->name, text, len, false, &new);
  if (r < 0)
    return vd_error (ctx, -r, "%s", quiet.message);
  swap = *d;
  *d = *new;
  *new = swap;
  vmdk_descriptor_free (new);
  return 0;
}

/* The line end that this descriptor uses. */
static const char *
line_end (const struct vmdk_descriptor *d)
{
  const char *eol = memchr (d->text, '\n', d->len);

  return eol && eol > d->text && eol[-1] == '\r' ? "\r\n" : "\n";
}

static bool
is_ddb (const struct vmdk_descriptor *d, const struct line *l)
{
  return strncasecmp (&d->text[l->start], "ddb.", 4) == 0;
}

/* Where a line with this new key goes: the end of its section.  Readers want
 * header, extents and database in this order, and find the CID first
 * (vmdk-format 2.2, 2.3).
 */
static size_t
place_of (const struct vmdk_descriptor *d, const char *key, bool ddb)
{
  size_t i, at = d->len;
  bool found = false;

  for (i = 0; i < d->nlines; ++i) {
    const struct line *l = &d->lines[i];

    if (ddb) {
      if (l->kind == LINE_KEY && is_ddb (d, l))
        at = l->next;
    }
    else if (l->kind == LINE_EXTENT) {
      if (!found)
        at = l->full;
      break;
    }
    else if (l->kind == LINE_KEY && !is_ddb (d, l)) {
      if (strcasecmp (key, "CID") == 0 &&
          vmdk_descriptor_find (d, "parentCID", i) == i)
        return l->full;
      at = l->next;
      found = true;
    }
  }
  return at;
}

static int
add_line (struct vd_ctx *ctx, struct vmdk_descriptor *d,
          const char *key, const char *value, bool quoted)
{
  bool ddb = strncasecmp (key, "ddb.", 4) == 0;
  size_t at = place_of (d, key, ddb), i;
  const char *eol = line_end (d), *quote = quoted ? "\"" : "";
  CLEANUP_FREE char *text = NULL, *heading = NULL;
  bool cut = at > 0 && d->text[at - 1] != '\n';

  /* libvmdk finds the database by this comment only. */
  for (i = 0; ddb && i < d->nlines; ++i)
    if (d->lines[i].kind == LINE_KEY && is_ddb (d, &d->lines[i]))
      break;
  if (ddb && i == d->nlines &&
      asprintf (&heading, "%s# The Disk Data Base%s#DDB%s%s",
                eol, eol, eol, eol) == -1) {
    heading = NULL;
    return no_memory (ctx, d->name);
  }
  if (asprintf (&text, "%s%s%s%s%s%s%s%s", cut ? eol : "",
                heading ? heading : "", key, ddb ? " = " : "=",
                quote, value, quote, cut ? "" : eol) == -1) {
    text = NULL;
    return no_memory (ctx, d->name);
  }
  return splice (ctx, d, at, at, text);
}

static int
replace_value (struct vd_ctx *ctx, struct vmdk_descriptor *d, size_t i,
               const char *value, bool quoted)
{
  const struct line *l = &d->lines[i];
  const char *quote = quoted || l->quoted ? "\"" : "";
  size_t from = l->value - l->quoted, to = l->value_end + l->quoted;
  CLEANUP_FREE char *text = NULL;

  /* What stands behind a value belongs to the old one: VirtualBox writes
   * quotes in a comment as they are.
   */
  if (l->more)
    to = l->end;
  if (asprintf (&text, "%s%s%s", quote, value, quote) == -1) {
    text = NULL;
    return no_memory (ctx, d->name);
  }
  return splice (ctx, d, from, to, text);
}

static int
check_value (struct vd_ctx *ctx, const struct vmdk_descriptor *d,
             const char *key, const char *value, bool quoted)
{
  static const char allowed[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  char shown[100];

  if (*key == '\0' || strspn (key, allowed) != strlen (key))
    return vd_error (ctx, EINVAL, "%s: \"%s\" cannot be a key of a "
                     "descriptor", d->name,
                     vd_escape (key, strlen (key), shown, sizeof shown));
  if (value == NULL)
    return 0;
  if (strpbrk (value, quoted ? "\"\r\n" : "\" \t\r\n") != NULL ||
      (!quoted && *value == '\0'))
    return vd_error (ctx, EINVAL, "%s: %s is \"%s\", a descriptor cannot "
                     "hold this", d->name, key,
                     vd_escape (value, strlen (value), shown, sizeof shown));
  return 0;
}

int
vmdk_descriptor_set (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                     const char *key, const char *value, bool quoted)
{
  size_t i;
  int r;

  r = check_value (ctx, d, key, value, quoted);
  if (r < 0)
    return r;

  /* All of them, or the next one would count. */
  if (value == NULL) {
    while ((i = vmdk_descriptor_find (d, key, 0)) < d->nlines) {
      r = splice (ctx, d, d->lines[i].full, d->lines[i].next, "");
      if (r < 0)
        return r;
    }
    return 0;
  }

  i = vmdk_descriptor_find (d, key, 0);
  if (i == d->nlines)
    return add_line (ctx, d, key, value, quoted);
  if (!vmdk_key_is_unique (key))
    return replace_value (ctx, d, i, value, quoted);

  /* These may stand there twice, but only with one value: the others go, last
   * first.
   */
  for (;;) {
    size_t last = i, next;

    while ((next = vmdk_descriptor_find (d, key, last + 1)) < d->nlines)
      last = next;
    if (last == i)
      return replace_value (ctx, d, i, value, quoted);
    r = splice (ctx, d, d->lines[last].full, d->lines[last].next, "");
    if (r < 0)
      return r;
  }
}

/* ---- fields ----------------------------------------------------------- */

int
vmdk_descriptor_set_cid (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                         const char *key, uint32_t cid)
{
  const char *old = vmdk_descriptor_get (d, key);
  unsigned digits = 0, prefix = 0;
  char value[16];

  if (old)
    digits = vmdk_cid_digits (old, &prefix);
  /* As long as it was, if that will do (rules O15). */
  if (digits > 0 && (digits == 8 || cid >> (4 * digits) == 0))
    snprintf (value, sizeof value, "%.*s%0*" PRIx32, (int) prefix, old,
              (int) digits, cid);
  else
    snprintf (value, sizeof value, "%08" PRIx32, cid);
  return vmdk_descriptor_set (ctx, d, key, value, false);
}

int
vmdk_descriptor_set_uuid (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                          const char *key, const struct vd_uuid *uuid)
{
  const char *old = vmdk_descriptor_get (d, key);
  char text[VD_UUID_TEXT], value[VD_UUID_TEXT + 2];
  struct vd_uuid was;
  bool braces;

  braces = old && *old == '{' && vd_uuid_parse (old, &was);
  snprintf (value, sizeof value, "%s%s%s", braces ? "{" : "",
            vd_uuid_text (uuid, text), braces ? "}" : "");
  return vmdk_descriptor_set (ctx, d, key, value, true);
}

/* The other readers end at a quote, so it becomes an apostrophe. */
static int
encode_comment (struct vd_ctx *ctx, const char *name, const char *comment,
                char **ret)
{
  char *buf = malloc (2 * strlen (comment) + 1), *out = buf;

  if (buf == NULL)
    return no_memory (ctx, name);
  for (; *comment; ++comment) {
    if (*comment == '\\' || *comment == '\n' || *comment == '\r') {
      *out++ = '\\';
      *out++ = *comment == '\n' ? 'n' : *comment == '\r' ? 'r' : '\\';
    }
    else
      *out++ = *comment == '"' ? '\'' : *comment;
  }
  *out = '\0';
  if (out - buf > COMMENT_MAX) {
    int r = vd_error (ctx, EINVAL, "%s: comment is %zd bytes long with its "
                      "escapes, a VMDK has room for %d", name,
                      out - buf, COMMENT_MAX);

    free (buf);
    return r;
  }
  *ret = buf;
  return 0;
}

int
vmdk_descriptor_set_comment (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                             const char *comment)
{
  CLEANUP_FREE char *value = NULL;
  int r;

  if (comment && *comment) {
    r = encode_comment (ctx, d->name, comment, &value);
    if (r < 0)
      return r;
  }
  return vmdk_descriptor_set (ctx, d, "ddb.comment", value, true);
}

int
vmdk_descriptor_set_geometry (struct vd_ctx *ctx, struct vmdk_descriptor *d,
                              bool bios, const struct vd_geometry *g)
{
  const char *keys[] = {
    bios ? "ddb.geometry.biosCylinders" : "ddb.geometry.cylinders",
    bios ? "ddb.geometry.biosHeads" : "ddb.geometry.heads",
    bios ? "ddb.geometry.biosSectors" : "ddb.geometry.sectors",
  };
  uint32_t values[] = { g->cylinders, g->heads, g->sectors };
  bool none = !g->cylinders && !g->heads && !g->sectors;
  char value[16];
  unsigned i;
  int r = 0;

  for (i = 0; i < 3 && r == 0; ++i) {
    snprintf (value, sizeof value, "%" PRIu32, values[i]);
    r = vmdk_descriptor_set (ctx, d, keys[i], none ? NULL : value, true);
  }
  return r;
}

uint32_t
vmdk_new_cid (uint32_t old, unsigned digits)
{
  uint32_t mask = digits >= 8 ? UINT32_MAX : (UINT32_C (1) << 4 * digits) - 1;
  struct vd_uuid u;
  uint32_t cid;

  do {
    vd_uuid_random (&u);
    memcpy (&cid, u.bytes, sizeof cid);         /* these are all random */
    cid &= mask;
  } while (cid == old || cid == VD_CID_NONE || cid == VD_CID_NONE - 1);
  return cid;
}

/* ---- a session -------------------------------------------------------- */

/* A new CID where it stands, in all lines that have one, and in VMware's longer
 * form of it, which ends with it (vmdk-format 2.6).
 */
static void
renew_cid (const struct vmdk_descriptor *d, char *text)
{
  unsigned digits, prefix, fewest = 8;
  char new[33];
  struct vd_uuid u;
  uint32_t cid;
  size_t i;

  for (i = 0; (i = vmdk_descriptor_find (d, "CID", i)) < d->nlines; ++i) {
    digits = vmdk_cid_digits (&d->values[d->lines[i].value], &prefix);
    if (digits < fewest)
      fewest = digits;
  }
  cid = vmdk_new_cid (d->fields.cid, fewest);
  for (i = 0; (i = vmdk_descriptor_find (d, "CID", i)) < d->nlines; ++i) {
    digits = vmdk_cid_digits (&d->values[d->lines[i].value], &prefix);
    snprintf (new, sizeof new, "%0*" PRIx32, (int) digits, cid);
    memcpy (text + d->lines[i].value + prefix, new, digits);
  }

  i = vmdk_descriptor_find (d, "ddb.longContentID", 0);
  if (i < d->nlines &&
      d->lines[i].value_end - d->lines[i].value == 32 &&
      strspn (&d->values[d->lines[i].value],
              "0123456789abcdefABCDEF") == 32) {
    vd_uuid_random (&u);
    for (digits = 0; digits < 12; ++digits)
      snprintf (&new[2 * digits], 3, "%02x", u.bytes[digits]);
    snprintf (&new[24], 9, "%08" PRIx32, cid);
    memcpy (text + d->lines[i].value, new, 32);
  }
}

static void
renew_modification (const struct vmdk_descriptor *d, char *text)
{
  size_t i = vmdk_descriptor_find (d, "ddb.uuid.modification", 0);
  char new[VD_UUID_TEXT];
  struct vd_uuid u;
  const char *old;

  if (i == d->nlines)
    return;
  old = &d->values[d->lines[i].value];
  if (!vd_uuid_parse (old, &u))
    return;
  vd_uuid_random (&u);
  vd_uuid_text (&u, new);
  memcpy (text + d->lines[i].value + (*old == '{'), new, strlen (new));
}

int
vmdk_descriptor_renew (struct vd_ctx *ctx, struct vmdk_descriptor *d)
{
  CLEANUP_FREE char *text = strndup (d->text, d->len);

  if (text == NULL)
    return no_memory (ctx, d->name);
  if (d->fields.has_cid)
    renew_cid (d, text);
  renew_modification (d, text);
  return splice (ctx, d, 0, d->len, text);
}

/* ---- a new one -------------------------------------------------------- */

/* As qemu computes it, with the limits of VMware (vmdk-format 2.6). */
static struct vd_geometry
usual_geometry (uint64_t sectors, const char *adapter)
{
  bool ide = strcasecmp (adapter, "ide") == 0;
  struct vd_geometry g = { 0, ide ? 16 : 255, 63 };
  uint64_t cylinders = sectors / (g.heads * g.sectors);
  uint32_t max = ide ? 16383 : 65535;

  g.cylinders = cylinders < max ? cylinders : max;
  return g;
}

static int
check_text (struct vd_ctx *ctx, const char *name, const char *what,
            const char *text)
{
  const char *p;
  char shown[100];

  if (strlen (text) > NAME_BYTES_MAX)
    return vd_error (ctx, EINVAL, "%s: %s is %zu bytes long, at most %d are "
                     "possible", name, what, strlen (text), NAME_BYTES_MAX);
  for (p = text; *p; ++p)
    if ((unsigned char) *p < ' ' || *p == 0x7f || *p == '"')
      return vd_error (ctx, EINVAL, "%s: %s is \"%s\": quotes and control "
                       "characters are not possible there", name, what,
                       vd_escape (text, strlen (text), shown, sizeof shown));
  return 0;
}

static void
write_extent (FILE *f, const struct vmdk_extent_line *x)
{
  static const char *const access_words[] = { "RW", "RDONLY", "NOACCESS" };
  static const char *const type_words[] = {
    "FLAT", "SPARSE", "ZERO", "VMFS", "VMFSSPARSE", "VMFSRDM", "VMFSRAW",
    "SESPARSE",
  };

  fprintf (f, "%s %" PRIu64 " %s", access_words[x->access], x->sectors,
           type_words[x->type]);
  if (x->name)
    fprintf (f, " \"%s\"", x->name);
  /* qemu wants the offset behind FLAT, and refuses it behind VMFS. */
  if (x->type == VMDK_FLAT || x->offset > 0)
    fprintf (f, " %" PRIu64, x->offset);
  fputc ('\n', f);
}

static void
write_geometry (FILE *f, const struct vd_geometry *g, const char *keys[3])
{
  fprintf (f, "ddb.geometry.%s = \"%" PRIu32 "\"\n", keys[0], g->cylinders);
  fprintf (f, "ddb.geometry.%s = \"%" PRIu32 "\"\n", keys[1], g->heads);
  fprintf (f, "ddb.geometry.%s = \"%" PRIu32 "\"\n", keys[2], g->sectors);
}

int
vmdk_descriptor_new (struct vd_ctx *ctx, const char *name,
                     const struct vmdk_new_descriptor *how,
                     struct vmdk_descriptor **ret)
{
  const char *adapter = how->adapter ? how->adapter : "ide";
  struct vd_geometry pchs = how->pchs;
  CLEANUP_FREE char *text = NULL, *comment = NULL;
  char uuid[VD_UUID_TEXT];
  uint64_t sectors = 0;
  size_t len, i;
  FILE *f;
  int r;

  r = check_text (ctx, name, "adapter type", adapter);
  if (r == 0 && how->parent_hint)
    r = check_text (ctx, name, "parentFileNameHint", how->parent_hint);
  for (i = 0; i < how->nextents && r == 0; ++i) {
    sectors += how->extents[i].sectors;
    if (how->extents[i].name)
      r = check_text (ctx, name, "extent file name", how->extents[i].name);
  }
  if (r == 0 && how->comment && *how->comment)
    r = encode_comment (ctx, name, how->comment, &comment);
  if (r < 0)
    return r;
  if (!pchs.cylinders && !pchs.heads && !pchs.sectors)
    pchs = usual_geometry (sectors, adapter);

  f = open_memstream (&text, &len);
  if (f == NULL)
    return no_memory (ctx, name);
  fprintf (f, "# Disk DescriptorFile\n"
           "version=1\n"
           "CID=%08" PRIx32 "\n"
           "parentCID=%08" PRIx32 "\n"
           "createType=\"%s\"\n",
           how->cid, how->parent_cid, how->create_type);
  if (how->parent_hint)
    fprintf (f, "parentFileNameHint=\"%s\"\n", how->parent_hint);
  fprintf (f, "\n# Extent description\n");
  for (i = 0; i < how->nextents; ++i)
    write_extent (f, &how->extents[i]);
  fprintf (f, "\n# The Disk Data Base\n"
           "#DDB\n"
           "\n"
           "ddb.virtualHWVersion = \"%u\"\n"
           "ddb.adapterType = \"%s\"\n",
           how->hw_version ? how->hw_version : 4, adapter);
  write_geometry (f, &pchs,
                  (const char *[]) { "cylinders", "heads", "sectors" });
  if (how->lchs.cylinders || how->lchs.heads || how->lchs.sectors)
    write_geometry (f, &how->lchs,
                    (const char *[]) { "biosCylinders", "biosHeads",
                                       "biosSectors" });
  fprintf (f, "ddb.uuid.image = \"%s\"\n",
           vd_uuid_text (&how->link.uuid, uuid));
  fprintf (f, "ddb.uuid.parent = \"%s\"\n",
           vd_uuid_text (&how->link.parent, uuid));
  fprintf (f, "ddb.uuid.modification = \"%s\"\n",
           vd_uuid_text (&how->link.modification, uuid));
  fprintf (f, "ddb.uuid.parentmodification = \"%s\"\n",
           vd_uuid_text (&how->link.parent_modification, uuid));
  if (comment)
    fprintf (f, "ddb.comment = \"%s\"\n", comment);
  r = ferror (f) ? -1 : 0;
  if (fclose (f) == EOF || r < 0)
    return no_memory (ctx, name);
  return vmdk_descriptor_parse (ctx, name, text, len, false, ret);
}
