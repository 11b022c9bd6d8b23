/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "unit.h"
#include "escape.h"

static void
check (const char *in, size_t len, const char *want)
{
  char out[256];

  assert_ptr_equal (vd_escape (in, len, out, sizeof out), out);
  assert_string_equal (out, want);
}

#define CHECK(in, want) check (in, sizeof (in) - 1, want)

static void
test_plain (void **state)
{
  (void) state;
  CHECK ("", "");
  CHECK ("a disk", "a disk");
  CHECK ("\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe",
         "\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe");
  CHECK ("one\0two", "one");
  check ("not all of it", 3, "not");
}

static void
test_hostile (void **state)
{
  (void) state;
  CHECK ("\033[2J", "\\x1b[2J");
  CHECK ("a\nwarning: b\r\t\x7f", "a\\x0awarning: b\\x0d\\x09\\x7f");
  CHECK ("\\x41", "\\x5cx41");
  /* C1 controls, in both spellings */
  CHECK ("\x9b" "2J", "\\x9b2J");
  CHECK ("\xc2\x9b" "2J", "\\xc2\\x9b2J");
  /* stray, overlong, surrogate, too big, cut off */
  CHECK ("\x80", "\\x80");
  CHECK ("\xc0\xaf", "\\xc0\\xaf");
  CHECK ("\xe0\x80\xaf", "\\xe0\\x80\\xaf");
  CHECK ("\xed\xa0\x80", "\\xed\\xa0\\x80");
  CHECK ("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80");
  CHECK ("\xf0\x9f\x92", "\\xf0\\x9f\\x92");
  check ("\xc3\xa4", 1, "\\xc3");
}

static void
test_room (void **state)
{
  static const char in[] = "ab\n\xc3\xa4z";
  char want[64], out[64];
  size_t size, n;

  (void) state;
  vd_escape (in, sizeof in - 1, want, sizeof want);
  assert_string_equal (want, "ab\\x0a\xc3\xa4z");
  for (size = 1; size <= strlen (want) + 1; ++size) {
    memset (out, '#', sizeof out);
    vd_escape (in, sizeof in - 1, out, size);
    n = strlen (out);
    assert_true (n < size);
    assert_memory_equal (out, want, n);
    assert_int_equal (out[size], '#');
    /* Neither an escape nor a character is cut in two. */
    assert_true (n < 3 || n >= 6);
    assert_int_not_equal (n, 7);
  }
  assert_string_equal (out, want);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_plain),
    cmocka_unit_test (test_hostile),
    cmocka_unit_test (test_room),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
