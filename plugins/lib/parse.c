/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
  char *path;

  if (*value == '\0') {
    nbdkit_error ("%s=: must be a name, and is empty", key);
    return NULL;
  }
  path = find (value);
  if (!path)
    nbdkit_error ("%s=%s: must be the name of what is there", key, value);
  return path;
}

static char *
parse_existing (const char *key, const char *value, bool folder)
{
  char *path = parse_path (nbdkit_realpath, key, value);
  struct stat sb;

  if (!path)
    return NULL;
  if (stat (path, &sb) == -1)
    nbdkit_error ("%s=%s: %m", key, value);
  else if (S_ISDIR (sb.st_mode) != folder)
    nbdkit_error ("%s=%s: is %sa folder", key, value,
                  folder ? "not " : "");
  else
    return path;
  free (path);
  return NULL;
}

char *
parse_folder (const char *key, const char *value)
{
  return parse_existing (key, value, true);
}

char *
parse_file (const char *key, const char *value)
{
  return parse_existing (key, value, false);
}

int
parse_size (uint64_t *ret, const char *key, const char *value)
{
  int64_t r = nbdkit_parse_size (value);

  if (r <= 0) {
    nbdkit_error ("%s=%s: must be a size, greater than 0", key, value);
    return -1;
  }
  *ret = r;
  return 0;
}

int
parse_number (unsigned *ret, const char *key, const char *value,
              unsigned min, unsigned max)
{
  unsigned n;

  if (nbdkit_parse_unsigned (key, value, &n) == -1 || n < min || n > max) {
    nbdkit_error ("%s=%s: must be a number from %u to %u", key, value, min,
                  max);
    return -1;
  }
  *ret = n;
  return 0;
}

int
parse_once (char ***given, const char *key, const char *value)
{
  char **k;

  for (k = *given; k && *k; ++k) {
    if (strcmp (*k, key) == 0) {
      nbdkit_error ("%s=%s: this parameter was given already, and can be given "
                    "once only", key, value ? value : "...");
      return -1;
    }
  }
  return parse_add_string (given, strdup (key));
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
