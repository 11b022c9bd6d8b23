/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address.h"
#include "cleanup.h"
#include "escape.h"

/* libiscsi cuts everything at 255. */
#define TEXT_MAX_BYTES 255

static int
no_memory (struct vd_ctx *ctx)
{
  return vd_error (ctx, ENOMEM, "no memory for the address of a LUN");
}

/* Replace *field by len bytes of text. */
static int
set (struct vd_ctx *ctx, char **field, const char *text, size_t len)
{
  char *copy = strndup (text, len);

  if (copy == NULL)
    return no_memory (ctx);
  free (*field);
  *field = copy;
  return 0;
}

/* ---- numbers ----------------------------------------------------------- */

static int
parse_u64 (const char *text, uint64_t *ret)
{
  unsigned long long v;
  char *end;

  if (!isdigit ((unsigned char) *text))
    return -EINVAL;
  errno = 0;
  v = strtoull (text, &end, 0);
  if (errno != 0 || *end != '\0')
    return -EINVAL;
  *ret = v;
  return 0;
}

int
vd_iscsi_parse_lun (struct vd_ctx *ctx, const char *text,
                    struct vd_iscsi_address *a)
{
  const bool encoded = strncmp (text, "enc", 3) == 0;
  char shown[80];
  uint64_t v;

  vd_escape (text, strlen (text), shown, sizeof shown);
  if (parse_u64 (text + (encoded ? 3 : 0), &v) < 0)
    return vd_error (ctx, EINVAL, "lun: '%s' is not a number, nor enc and a "
                     "number", shown);
  if (encoded) {
    if (v & UINT64_C (0xffffffffffff))
      return vd_error (ctx, EINVAL, "lun: '%s' has more than one level, which "
                       "libiscsi cannot address", shown);
    a->lun = v >> 48;
  }
  else if (v < 256)
    a->lun = v;
  else if (v < 16384)
    a->lun = 0x4000 | v;
  else
    return vd_error (ctx, EINVAL, "lun: '%s' is more than 16383", shown);
  a->have_lun = true;
  return 0;
}

unsigned
vd_iscsi_lun_number (uint16_t lun)
{
  return (lun >> 14) == 1 ? lun & 0x3fff : lun;
}

int
vd_iscsi_parse_digest (struct vd_ctx *ctx, const char *text,
                       enum vd_iscsi_digest *ret)
{
  static const char *const names[] = {
    [VD_ISCSI_DIGEST_NONE] = "none",
    [VD_ISCSI_DIGEST_NONE_CRC32C] = "none-crc32c",
    [VD_ISCSI_DIGEST_CRC32C_NONE] = "crc32c-none",
    [VD_ISCSI_DIGEST_CRC32C] = "crc32c",
  };
  char shown[80];
  size_t i;

  for (i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp (text, names[i]) == 0) {
      *ret = i;
      return 0;
    }
  return vd_error (ctx, EINVAL, "header-digest: '%s' is not none, crc32c, "
                   "none-crc32c or crc32c-none",
                   vd_escape (text, strlen (text), shown, sizeof shown));
}

/* ---- portal and URL ---------------------------------------------------- */

static int
parse_port (struct vd_ctx *ctx, const char *text, struct vd_iscsi_address *a)
{
  size_t digits = strspn (text, "0123456789");
  unsigned long port = strtoul (text, NULL, 10);

  if (digits == 0 || digits > 5 || text[digits] != '\0'
      || port == 0 || port > 65535)
    return vd_error (ctx, EINVAL, "portal: the port must be a number from 1 "
                     "to 65535");
  return set (ctx, &a->port, text, digits);
}

int
vd_iscsi_parse_portal (struct vd_ctx *ctx, const char *text,
                       struct vd_iscsi_address *a)
{
  const char *host = text, *end, *port = NULL, *p;
  int r;

  if (*text == '[') {
    host++;
    end = strchr (host, ']');
    if (end == NULL || (end[1] != '\0' && end[1] != ':'))
      return vd_error (ctx, EINVAL, "portal: an IPv6 address is written "
                       "[ADDRESS] or [ADDRESS]:PORT");
    if (end[1] == ':')
      port = end + 2;
  }
  else {
    end = strchr (host, ':');
    if (end == NULL || strchr (end + 1, ':') != NULL)
      end = host + strlen (host); /* no port, or bare IPv6 */
    else
      port = end + 1;
  }
  if (end == host)
    return vd_error (ctx, EINVAL, "portal: there is no host");
  if (end - host > VD_ISCSI_NAME_MAX)
    return vd_error (ctx, EINVAL, "portal: the host name is too long");
  for (p = host; p < end; p++)
    if (!isgraph ((unsigned char) *p) || strchr ("/?#@[]", *p))
      return vd_error (ctx, EINVAL, "portal: there is a character in the host "
                       "name that does not belong there");
  if (port) {
    r = parse_port (ctx, port, a);
    if (r < 0)
      return r;
  }
  return set (ctx, &a->host, host, end - host);
}

/* Returns NULL if there is a % that is not followed by two hexadecimal
 * digits, or a NUL; errno tells that from no memory.
 */
static char *
percent_decode (const char *text, size_t len)
{
  char *out = malloc (len + 1), *p = out;
  size_t i;

  if (out == NULL)
    return NULL;
  for (i = 0; i < len; i++) {
    char hex[3] = { 0 };

    if (text[i] != '%') {
      *p++ = text[i];
      continue;
    }
    if (i + 2 >= len || !isxdigit ((unsigned char) text[i + 1])
        || !isxdigit ((unsigned char) text[i + 2]))
      goto invalid;
    memcpy (hex, text + i + 1, 2);
    *p = strtoul (hex, NULL, 16);
    if (*p++ == '\0')
      goto invalid;
    i += 2;
  }
  *p = '\0';
  return out;

 invalid:
  free (out);
  errno = EINVAL;
  return NULL;
}

static int
parse_user (struct vd_ctx *ctx, const char *text, size_t len,
            struct vd_iscsi_address *a)
{
  char *user = NULL;

  if (memchr (text, ':', len) == NULL)
    user = percent_decode (text, len);
  else
    errno = EINVAL;
  if (user == NULL && errno != EINVAL)
    return no_memory (ctx);
  if (user == NULL)
    return vd_error (ctx, EINVAL, "url: what is before the @ must be a user "
                     "name alone, with special characters as %%XX; give the "
                     "password as password=, others could see it here");
  free (a->user);
  a->user = user;
  return 0;
}

static int
parse_authority (struct vd_ctx *ctx, const char *text, size_t len,
                 struct vd_iscsi_address *a)
{
  const char *at = memrchr (text, '@', len);
  char *portal;
  int r;

  if (at) {
    r = parse_user (ctx, text, at - text, a);
    if (r < 0)
      return r;
    len -= at + 1 - text;
    text = at + 1;
  }
  portal = strndup (text, len);
  if (portal == NULL)
    return no_memory (ctx);
  r = vd_iscsi_parse_portal (ctx, portal, a);
  free (portal);
  return r;
}

int
vd_iscsi_parse_url (struct vd_ctx *ctx, const char *text,
                    struct vd_iscsi_address *a)
{
  static const char scheme[] = "iscsi://";
  const char *p, *slash;
  char *target;
  int r;

  if (strncasecmp (text, "iser://", 7) == 0)
    return vd_error (ctx, EINVAL, "url: iSER is not supported, only iSCSI "
                     "over TCP");
  if (strncasecmp (text, scheme, sizeof scheme - 1) != 0)
    return vd_error (ctx, EINVAL, "url: must be "
                     "iscsi://[USER@]HOST[:PORT]/TARGET/LUN");
  text += sizeof scheme - 1;
  if (strpbrk (text, "?#") != NULL)
    return vd_error (ctx, EINVAL, "url: options after a ? are not supported; "
                     "use parameters of the plugin");

  slash = strchrnul (text, '/');
  r = parse_authority (ctx, text, slash - text, a);
  if (r < 0 || *slash == '\0' || slash[1] == '\0')
    return r;

  p = slash + 1;
  slash = strchrnul (p, '/');
  target = percent_decode (p, slash - p);
  if (target == NULL)
    return errno == EINVAL
      ? vd_error (ctx, EINVAL, "url: a %% in the name of the target must be "
                  "followed by two hexadecimal digits")
      : no_memory (ctx);
  free (a->target);
  a->target = target;
  if (*slash == '\0' || slash[1] == '\0')
    return 0;
  return vd_iscsi_parse_lun (ctx, slash + 1, a);
}

/* ---- checks ------------------------------------------------------------ */

static int
check_name (struct vd_ctx *ctx, const char *key, const char *name)
{
  const char *p;
  char shown[120];

  vd_escape (name, strlen (name), shown, sizeof shown);
  if (strlen (name) > VD_ISCSI_NAME_MAX)
    return vd_error (ctx, EINVAL, "%s: the name is longer than %d bytes",
                     key, VD_ISCSI_NAME_MAX);
  if (strncasecmp (name, "iqn.", 4) != 0 && strncasecmp (name, "eui.", 4) != 0
      && strncasecmp (name, "naa.", 4) != 0)
    return vd_error (ctx, EINVAL, "%s: '%s' does not start with iqn., eui. or "
                     "naa.", key, shown);
  for (p = name; *p; p++)
    if ((unsigned char) *p <= ' ' || *p == 0x7f)
      return vd_error (ctx, EINVAL, "%s: '%s' has a blank or control "
                       "character", key, shown);
  return 0;
}

static int
check_account (struct vd_ctx *ctx, const char *key, const char *user,
               const char *password)
{
  if (user && (*user == '\0' || strlen (user) > TEXT_MAX_BYTES))
    return vd_error (ctx, EINVAL, "%suser: the name is empty or longer than "
                     "%d bytes", key, TEXT_MAX_BYTES);
  if (user && !password)
    return vd_error (ctx, EINVAL, "there is %suser= but no %spassword=",
                     key, key);
  if (password && !user)
    return vd_error (ctx, EINVAL, "there is %spassword= but no %suser=",
                     key, key);
  if (password && (*password == '\0' || strlen (password) > TEXT_MAX_BYTES))
    return vd_error (ctx, EINVAL, "%spassword: is empty or longer than %d "
                     "bytes", key, TEXT_MAX_BYTES);
  return 0;
}

int
vd_iscsi_check_address (struct vd_ctx *ctx, const struct vd_iscsi_address *a)
{
  int r = 0;

  if (a->host == NULL)
    return vd_error (ctx, EINVAL, "where is the target? give "
                     "iscsi://HOST/TARGET/LUN, or portal=HOST");
  if (a->initiator)
    r = check_name (ctx, "initiator-name", a->initiator);
  if (r == 0)
    r = check_account (ctx, "", a->user, a->password);
  if (r == 0)
    r = check_account (ctx, "target-", a->target_user, a->target_password);
  if (r == 0 && a->target_user && !a->user)
    r = vd_error (ctx, EINVAL, "target-user= needs user= too: a target proves "
                  "itself only to who has done so");
  if (r < 0)
    return r;
  if (a->target == NULL || *a->target == '\0')
    return vd_error (ctx, ENOENT, "target= is missing; \"iscsi-ls -s "
                     "iscsi://%s%s%s/\" lists what there is", a->host,
                     a->port ? ":" : "", a->port ? a->port : "");
  return check_name (ctx, "target", a->target);
}

/* ---- the rest ---------------------------------------------------------- */

char *
vd_iscsi_default_initiator (void)
{
  char host[65] = "";
  char *name, *p;

  if (gethostname (host, sizeof host - 1) == -1 || host[0] == '\0')
    strcpy (host, "localhost");
  for (p = host; *p; p++)
    *p = isalnum ((unsigned char) *p) || *p == '.' || *p == '-'
      ? tolower ((unsigned char) *p) : '-';
  if (asprintf (&name, "iqn.2026-01.local.vdkit:%s", host) == -1)
    return NULL;
  return name;
}

char *
vd_iscsi_address_name (const struct vd_iscsi_address *a)
{
  const bool v6 = a->host && strchr (a->host, ':') != NULL;
  char target[256];
  char *name;

  if (asprintf (&name, "%s%s%s%s%s/%s/%u", v6 ? "[" : "", a->host,
                v6 ? "]" : "", a->port ? ":" : "", a->port ? a->port : "",
                vd_escape (a->target, strlen (a->target), target,
                           sizeof target),
                vd_iscsi_lun_number (a->lun)) == -1)
    return NULL;
  return name;
}

static int
copy_string (const char *from, char **to)
{
  if (from == NULL)
    return 0;
  *to = strdup (from);
  return *to ? 0 : -ENOMEM;
}

int
vd_iscsi_address_copy (const struct vd_iscsi_address *from,
                       struct vd_iscsi_address *to)
{
  *to = (struct vd_iscsi_address) {
    .have_lun = from->have_lun, .lun = from->lun, .digest = from->digest,
  };
  if (copy_string (from->host, &to->host) < 0
      || copy_string (from->port, &to->port) < 0
      || copy_string (from->target, &to->target) < 0
      || copy_string (from->initiator, &to->initiator) < 0
      || copy_string (from->user, &to->user) < 0
      || copy_string (from->password, &to->password) < 0
      || copy_string (from->target_user, &to->target_user) < 0
      || copy_string (from->target_password, &to->target_password) < 0) {
    vd_iscsi_address_free (to);
    return -ENOMEM;
  }
  return 0;
}

static void
free_secret (char *secret)
{
  if (secret)
    explicit_bzero (secret, strlen (secret));
  free (secret);
}

void
vd_iscsi_address_free (struct vd_iscsi_address *a)
{
  free (a->host);
  free (a->port);
  free (a->target);
  free (a->initiator);
  free (a->user);
  free_secret (a->password);
  free (a->target_user);
  free_secret (a->target_password);
  *a = (struct vd_iscsi_address) { 0 };
}
