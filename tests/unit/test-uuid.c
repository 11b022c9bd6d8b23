/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "unit.h"
#include "uuid.h"

#define TEXT "00112233-4455-6677-8899-aabbccddeeff"

static void
test_parse (void **state)
{
  static const char *const bad[] = {
    "", "{", "{}", "{{" TEXT "}", TEXT "0", "{" TEXT, TEXT "}",
    "{" TEXT "]", "00112233-4455-6677-8899-aabbccddeefg",
    "00112233445566778899aabbccddeeff", " " TEXT, "0" TEXT "0",
  };
  struct vd_uuid u, v;
  char text[VD_UUID_TEXT];
  size_t i;

  (void) state;
  assert_true (vd_uuid_parse (TEXT, &u));
  assert_string_equal (vd_uuid_text (&u, text), TEXT);
  for (i = 0; i < 16; ++i)
    assert_int_equal (u.bytes[i], i * 0x11);

  assert_true (vd_uuid_parse ("{" TEXT "}", &v));
  assert_true (vd_uuid_equal (&u, &v));
  assert_true (vd_uuid_parse ("{00112233-4455-6677-8899-AABBCCDDEEFF}", &v));
  assert_true (vd_uuid_equal (&u, &v));

  for (i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
    memset (&v, 0x5a, sizeof v);
    assert_false (vd_uuid_parse (bad[i], &v));
    assert_int_equal (v.bytes[0], 0x5a);
    assert_int_equal (v.bytes[15], 0x5a);
  }
}

static void
test_disk (void **state)
{
  static const uint8_t disk[16] = {
    0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
    0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff
  };
  struct vd_uuid u;
  char text[VD_UUID_TEXT];
  uint8_t back[16];

  (void) state;
  vd_uuid_from_disk (disk, &u);
  assert_string_equal (vd_uuid_text (&u, text), TEXT);
  vd_uuid_to_disk (&u, back);
  assert_memory_equal (back, disk, 16);
}

static void
test_random (void **state)
{
  struct vd_uuid u, v, zero = { { 0 } };

  (void) state;
  vd_uuid_random (&u);
  vd_uuid_random (&v);
  assert_false (vd_uuid_equal (&u, &v));
  assert_false (vd_uuid_is_null (&u));
  assert_true (vd_uuid_is_null (&zero));
  assert_int_equal (u.bytes[6] >> 4, 4);
  assert_int_equal (u.bytes[8] >> 6, 2);
}

/* Hex digits and nothing else, as an export description or an image may have
 * any text there.
 */
static void
test_cid (void **state)
{
  static const char *const bad[] = {
    "", "123456789", "-1", "+1", " 1", "1 ", "0x1", "g", "1g", "\n1", "--",
  };
  uint32_t cid = 77;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
    assert_false (vd_cid_parse (bad[i], &cid));
    assert_int_equal (cid, 77);
  }
  assert_true (vd_cid_parse ("0", &cid));
  assert_int_equal (cid, 0);
  assert_true (vd_cid_parse ("fFfffffe", &cid));
  assert_int_equal (cid, 0xfffffffe);
  assert_true (vd_cid_parse ("0000000a", &cid));
  assert_int_equal (cid, 10);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_cid),
    cmocka_unit_test (test_parse),
    cmocka_unit_test (test_disk),
    cmocka_unit_test (test_random),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
