/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a format warns of, and what its locate finds, for the unit tests that
 * make images by hand.
 */

#ifndef VDKIT_TEST_FOUND_H
#define VDKIT_TEST_FOUND_H

#include "unit.h"

#include <errno.h>

#include "format.h"

/* Warnings with a context of new_ctx, since the test made it empty. */
static char warnings[4096];

static inline void
log_warning (enum vd_log_level level, const char *text)
{
  if (level == VD_LOG_WARNING) {
    size_t n = strlen (warnings);

    snprintf (&warnings[n], sizeof warnings - n, "%s\n", text);
  }
}

static inline struct vd_ctx
new_ctx (void)
{
  struct vd_ctx ctx;

  memset (&ctx, 0, sizeof ctx);
  vd_ctx_init (&ctx, log_warning);
  return ctx;
}

/* The run is such, and may be written as its kind allows.  position: of DATA
 * in the store, the block of PACKED, the value that is BAD.
 */
static inline void
expect_found (struct vd_run run, const struct vd_store *store,
              enum vd_run_kind kind, uint64_t length, uint64_t position)
{
  assert_int_equal (run.kind, kind);
  assert_int_equal (run.length, length);
  switch (kind) {
  case VD_RUN_DATA:
    assert_ptr_equal (run.store, store);
    assert_int_equal (run.position, position);
    assert_int_equal (run.mode, VD_MODE_IN_PLACE);
    break;
  case VD_RUN_PACKED:
    assert_int_equal (run.block, position);
    assert_int_equal (run.mode, VD_MODE_DENY);
    assert_int_equal (run.error, EROFS);
    break;
  case VD_RUN_BAD:
    assert_int_equal (run.mode, VD_MODE_DENY);
    assert_int_equal (run.error, EIO);
    assert_non_null (run.reason);
    assert_int_equal (run.value, position);
    break;
  default:
    assert_int_equal (run.mode, VD_MODE_ALLOC);
  }
}

static inline void
expect_text (const char *text, const char *part)
{
  if (strstr (text, part) == NULL)
    fail_msg ("\"%s\" is not in \"%s\"", part, text);
}

#endif /* VDKIT_TEST_FOUND_H */
