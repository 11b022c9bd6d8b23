/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Values of parameters, for plugins and filters.  -1 after nbdkit_error.
 */

#ifndef VDKIT_PARSE_H
#define VDKIT_PARSE_H

#include <stdbool.h>
#include <stdint.h>

/* As nbdkit_parse_bool, which does not name the key; 0 on success. */
extern int parse_bool (bool *ret, const char *key, const char *value);

/* What find (nbdkit_realpath, nbdkit_absolute_path) makes of a path, for the
 * caller to free; NULL after nbdkit_error, with the key, too.
 */
extern char *parse_path (char *(*find) (const char *path), const char *key,
                         const char *value);

/* The same for what must be a folder (realpath), or must not be one. */
extern char *parse_folder (const char *key, const char *value);
extern char *parse_file (const char *key, const char *value);

/* As nbdkit_parse_size, greater than 0; 0 on success. */
extern int parse_size (uint64_t *ret, const char *key, const char *value);

/* From min to max; 0 on success. */
extern int parse_number (unsigned *ret, const char *key, const char *value,
                         unsigned min, unsigned max);

/* Remember the key in an array as below: the second time is an error, as to
 * use one of two values would be a surprise.  value is for the message; NULL:
 * it is secret.  0 the first time.
 */
extern int parse_once (char ***given, const char *key, const char *value);

/* One of two words; *ret says if it is the second.  0 on success. */
extern int parse_word (bool *ret, const char *key, const char *value,
                       const char *first, const char *second);

/* Append to an array that ends with NULL (or is NULL); value belongs to the
 * array from now on, or is freed.  NULL: fails (the caller's call that made it
 * has said why).  0 on success.
 */
extern int parse_add_string (char ***array, char *value);
extern void parse_free_strings (char **array);

#endif /* VDKIT_PARSE_H */
