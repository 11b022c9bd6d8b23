/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "parse.h"

int
parse_bool (bool *ret, const char *key, const char *value)
{
  int r = nbdkit_parse_bool (value);

  if (r == -1) {
    nbdkit_error ("%s=%s: must be 'true' or 'false'", key, value);
    return -1;
  }
  *ret = r;
  return 0;
}

int
parse_word (bool *ret, const char *key, const char *value,
            const char *first, const char *second)
{
  if (strcmp (value, first) != 0 && strcmp (value, second) != 0) {
    nbdkit_error ("%s=%s: must be '%s' or '%s'", key, value, first, second);
    return -1;
  }
  *ret = strcmp (value, second) == 0;
  return 0;
}

char *
parse_path (char *(*find) (const char *path), const char *key,
            const char *value)
{
  char *path = find (value);

  if (!path)
    nbdkit_error ("%s=%s: must be the name of what is there", key, value);
  return path;
}

int
parse_add_string (char ***array, char *value)
{
  size_t n = 0;
  char **a;

  if (!value)
    return -1;
  while (*array && (*array)[n])
    n++;
  a = realloc (*array, (n + 2) * sizeof a[0]);
  if (!a) {
    nbdkit_error ("realloc: %m");
    free (value);
    return -1;
  }
  a[n] = value;
  a[n + 1] = NULL;
  *array = a;
  return 0;
}

void
parse_free_strings (char **array)
{
  size_t i;

  for (i = 0; array && array[i]; ++i)
    free (array[i]);
  free (array);
}
