/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the unit tests share.  Included first after config.h; everything is
 * static inline, so a test links nothing for it.
 */

#ifndef VDKIT_UNIT_H
#define VDKIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctx.h"

static inline void
unit_log (enum vd_log_level level, const char *text)
{
  fprintf (stderr, "%s: %s\n",
           level == VD_LOG_DEBUG ? "debug" : "warning", text);
}

/* A context that lives as long as the enclosing block. */
#define UNIT_CTX(ctx)                                                   \
  struct vd_ctx ctx##_, *ctx = (vd_ctx_init (&ctx##_, unit_log), &ctx##_)

/* Say why before failing. */
#define assert_ok(ctx, call)                                            \
  do {                                                                  \
    int r_ = (call);                                                    \
    if (r_ < 0)                                                         \
      fail_msg ("%s: %s (%d)", #call, (ctx)->message, r_);              \
  } while (0)

/* The call fails with -err and a message that contains text. */
#define assert_fails(ctx, call, err, text)                              \
  do {                                                                  \
    int r_;                                                             \
    (ctx)->error = 0;                                                   \
    (ctx)->message[0] = '\0';                                           \
    r_ = (call);                                                        \
    if (r_ != -(err) || (ctx)->error != (err))                          \
      fail_msg ("%s: returned %d, error %d \"%s\"",                     \
                #call, r_, (ctx)->error, (ctx)->message);               \
    if (strstr ((ctx)->message, (text)) == NULL)                        \
      fail_msg ("%s: \"%s\" lacks \"%s\"",                              \
                #call, (ctx)->message, (text));                         \
  } while (0)

/* A temporary folder for the test program: group set-up and tear-down for
 * cmocka_run_group_tests, and the path of a file in it (valid until the
 * next four calls).
 */
static char unit_dir[4096];

static inline int
unit_setup (void **state)
{
  const char *tmp = getenv ("TMPDIR");

  (void) state;
  snprintf (unit_dir, sizeof unit_dir, "%s/vdkit-unit.XXXXXX",
            tmp && *tmp ? tmp : "/tmp");
  return mkdtemp (unit_dir) ? 0 : -1;
}

static inline int
unit_remove_ (const char *path, const struct stat *sb, int type,
              struct FTW *ftw)
{
  (void) sb;
  (void) type;
  (void) ftw;
  return remove (path);
}

static inline int
unit_teardown (void **state)
{
  (void) state;
  return nftw (unit_dir, unit_remove_, 16, FTW_DEPTH | FTW_PHYS);
}

static inline const char *
unit_path (const char *name)
{
  static char paths[4][4200];
  static unsigned next;
  char *path = paths[next++ % 4];

  snprintf (path, sizeof paths[0], "%s/%s", unit_dir, name);
  return path;
}

/* Make a file of size bytes of the value. */
static inline const char *
unit_file (const char *name, size_t size, uint8_t value)
{
  const char *path = unit_path (name);
  FILE *f = fopen (path, "w");
  size_t i;

  assert_non_null (f);
  for (i = 0; i < size; ++i)
    assert_int_equal (putc (value, f), value);
  assert_int_equal (fclose (f), 0);
  return path;
}

#endif /* VDKIT_UNIT_H */
