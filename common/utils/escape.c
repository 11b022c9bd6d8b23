/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdio.h>
#include <string.h>

#include "escape.h"

/* Length of the well-formed UTF-8 sequence at p (at most n bytes), 0 if there
 * is none.  Overlong forms, surrogates and C1 controls count as malformed.
 */
static size_t
utf8_sequence (const unsigned char *p, size_t n)
{
  size_t i, want;

  if (p[0] < 0x80)
    return 1;
  else if (p[0] >= 0xc2 && p[0] <= 0xdf)
    want = 2;
  else if (p[0] >= 0xe0 && p[0] <= 0xef)
    want = 3;
  else if (p[0] >= 0xf0 && p[0] <= 0xf4)
    want = 4;
  else
    return 0;

  if (want > n)
    return 0;
  for (i = 1; i < want; ++i)
    if ((p[i] & 0xc0) != 0x80)
      return 0;
  if ((p[0] == 0xc2 && p[1] < 0xa0) ||
      (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
      (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
    return 0;
  return want;
}

const char *
vd_escape (const char *text, size_t len, char *out, size_t size)
{
  const unsigned char *p = (const unsigned char *) text;
  size_t i = 0, o = 0;

  while (i < len && p[i]) {
    size_t n = utf8_sequence (&p[i], len - i);

    if (n == 0 || (n == 1 && (p[i] < 0x20 || p[i] == 0x7f || p[i] == '\\'))) {
      if (o + 4 >= size)
        break;
      snprintf (&out[o], size - o, "\\x%02x", p[i]);
      o += 4;
      i++;
    }
    else {
      if (o + n >= size)
        break;
      memcpy (&out[o], &p[i], n);
      o += n;
      i += n;
    }
  }
  out[o] = '\0';
  return out;
}
