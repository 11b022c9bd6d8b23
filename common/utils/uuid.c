/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include <uuid/uuid.h>

#include "uuid.h"

void
vd_uuid_random (struct vd_uuid *ret)
{
  uuid_generate_random (ret->bytes);
}

bool
vd_uuid_is_null (const struct vd_uuid *u)
{
  return uuid_is_null (u->bytes);
}

bool
vd_uuid_equal (const struct vd_uuid *a, const struct vd_uuid *b)
{
  return memcmp (a->bytes, b->bytes, sizeof a->bytes) == 0;
}

const char *
vd_uuid_text (const struct vd_uuid *u, char buffer[VD_UUID_TEXT])
{
  uuid_unparse_lower (u->bytes, buffer);
  return buffer;
}

bool
vd_uuid_parse (const char *text, struct vd_uuid *ret)
{
  char bare[VD_UUID_TEXT];
  uuid_t u;
  size_t len = strlen (text);

  if (len == sizeof bare + 1 && text[0] == '{' && text[len - 1] == '}') {
    text++;
    len -= 2;
  }
  if (len != sizeof bare - 1)
    return false;
  memcpy (bare, text, len);
  bare[len] = '\0';
  if (uuid_parse (bare, u) != 0)
    return false;
  memcpy (ret->bytes, u, sizeof ret->bytes);
  return true;
}

/* The swap is its own inverse. */
static void
swap_fields (const uint8_t *in, uint8_t *out)
{
  static const uint8_t order[16] = {
    3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15
  };
  unsigned i;

  for (i = 0; i < 16; ++i)
    out[i] = in[order[i]];
}

void
vd_uuid_from_disk (const uint8_t *disk, struct vd_uuid *ret)
{
  swap_fields (disk, ret->bytes);
}

void
vd_uuid_to_disk (const struct vd_uuid *u, uint8_t *disk)
{
  swap_fields (u->bytes, disk);
}

bool
vd_cid_parse (const char *text, uint32_t *ret)
{
  size_t n = strspn (text, "0123456789abcdefABCDEF");

  if (n < 1 || n > 8 || text[n] != '\0')
    return false;
  *ret = strtoul (text, NULL, 16);
  return true;
}
