/* SPDX-License-Identifier: BSD-3-Clause
 *
 * VMDK descriptors: what is read and refused (vmdk-format 2, 12, 17), that
 * nothing is lost, and what is written.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>

#include "unit.h"
#include "vmdk-descriptor.h"

/* Warnings, one after the other. */
static char warnings[4096];

static void
collect (enum vd_log_level level, const char *text)
{
  if (level == VD_LOG_WARNING) {
    strncat (warnings, text, sizeof warnings - strlen (warnings) - 2);
    strcat (warnings, "\n");
  }
}

static struct vd_ctx *
new_ctx (void)
{
  static struct vd_ctx ctx;

  vd_ctx_init (&ctx, collect);
  warnings[0] = '\0';
  return &ctx;
}

static struct vmdk_descriptor *
parse_n (const char *text, size_t len)
{
  struct vd_ctx *ctx = new_ctx ();
  struct vmdk_descriptor *d;

  if (vmdk_descriptor_parse (ctx, "x.vmdk", text, len, false, &d) < 0)
    fail_msg ("%s\n%s", ctx->message, text);
  return d;
}

static struct vmdk_descriptor *
parse (const char *text)
{
  return parse_n (text, strlen (text));
}

static void
refused_how (const char *text, bool strict, int err, const char *part)
{
  struct vd_ctx *ctx = new_ctx ();
  struct vmdk_descriptor *d;
  int r;

  r = vmdk_descriptor_parse (ctx, "x.vmdk", text, strlen (text), strict, &d);
  if (r != -err || !strstr (ctx->message, part) ||
      strncmp (ctx->message, "x.vmdk: ", 8) != 0)
    fail_msg ("returned %d \"%s\", expected %d \"%s\", for\n%s", r,
              ctx->message, -err, part, text);
}

static void
refused (const char *text, int err, const char *part)
{
  refused_how (text, false, err, part);
}

static void
expect_text (const struct vmdk_descriptor *d, const char *expected)
{
  struct vd_ctx *ctx = new_ctx ();
  char *text;
  size_t len;

  assert_ok (ctx, vmdk_descriptor_text (ctx, d, &text, &len));
  assert_string_equal (text, expected);
  assert_int_equal (len, strlen (expected));
  free (text);
}

static void
expect_extent (const struct vmdk_descriptor *d, size_t i,
               enum vmdk_access access, enum vmdk_type type,
               uint64_t sectors, const char *name, uint64_t offset)
{
  const struct vmdk_extent_line *x = vmdk_descriptor_extent (d, i);

  assert_true (i < vmdk_descriptor_nextents (d));
  assert_int_equal (x->access, access);
  assert_int_equal (x->type, type);
  assert_int_equal (x->sectors, sectors);
  assert_int_equal (x->offset, offset);
  if (name)
    assert_string_equal (x->name, name);
  else
    assert_null (x->name);
}

#define HEAD                                                            \
  "# Disk DescriptorFile\n"                                             \
  "version=1\n"                                                         \
  "CID=0a0e1ad9\n"                                                      \
  "parentCID=ffffffff\n"                                                \
  "createType=\"monolithicFlat\"\n"

#define ONE_EXTENT "RW 2048 FLAT \"x.bin\" 0\n"

/* One extent line in an otherwise good descriptor. */
static void
extent_ok (const char *line, enum vmdk_access access, enum vmdk_type type,
           uint64_t sectors, const char *name, uint64_t offset)
{
  struct vmdk_descriptor *d;
  char text[8000];

  snprintf (text, sizeof text, "%s%s\n", HEAD, line);
  d = parse (text);
  assert_int_equal (vmdk_descriptor_nextents (d), 1);
  expect_extent (d, 0, access, type, sectors, name, offset);
  assert_int_equal (vmdk_descriptor_extent (d, 0)->line, 6);
  expect_text (d, text);
  vmdk_descriptor_free (d);
}

static void
extent_bad (const char *line, int err, const char *part)
{
  char text[8000];

  snprintf (text, sizeof text, "%s%s\n%s", HEAD, line, ONE_EXTENT);
  refused (text, err, part);
  refused (text, err, "descriptor line 6: ");
}

/* One header line, alone or in place of the usual one. */
static struct vmdk_descriptor *
with_line (const char *line)
{
  char text[8000];

  snprintf (text, sizeof text, "# Disk DescriptorFile\n%s\n%s", line,
            ONE_EXTENT);
  return parse (text);
}

static void
line_bad (const char *line, int err, const char *part)
{
  char text[8000];

  snprintf (text, sizeof text, "# Disk DescriptorFile\n%s\n%s", line,
            ONE_EXTENT);
  refused (text, err, part);
}

/* ---- probing ---------------------------------------------------------- */

static bool
probe (const char *text)
{
  return vmdk_descriptor_probe ((const uint8_t *) text, strlen (text));
}

static void
test_probe (void **state)
{
  (void) state;
  assert_true (probe (HEAD));
  assert_true (probe ("# Disk DescriptorFile"));
  assert_true (probe ("# Disk Descriptor File\n"));
  assert_true (probe ("#Disk Descriptor File\r\n"));
  assert_true (probe ("#Disk DescriptorFile\n"));
  assert_true (probe ("# dISK dESCRIPTORfILE \t\n"));
  assert_true (probe ("\xef\xbb\xbf# Disk DescriptorFile\n"));
  assert_true (probe ("\n \n\r\n# Disk DescriptorFile\n"));
  assert_true (probe ("version=1\n"));
  assert_true (probe ("# some comment\nversion=2"));
  assert_true (probe ("# c\n\n version = \"3\"\n"));
  assert_true (probe (".encoding = \"UTF-8\"\n"
                      "encryption.keySafe = \"vmware:key\"\n"));
  assert_true (vmdk_descriptor_probe ((const uint8_t *) "version=1\0x", 11));

  assert_false (probe (""));
  assert_false (probe ("\n\n"));
  assert_false (probe ("# comments only\n"));
  assert_false (probe ("version"));
  assert_false (probe ("version=x\n"));
  assert_false (probe ("CID=1\nversion=1\n"));
  assert_false (probe ("KDMV"));
  assert_false (probe (".encoding = \"UTF-8\"\nconfig.version = \"8\"\n"));
  assert_false (vmdk_descriptor_probe
                ((const uint8_t *) "\0\n# Disk DescriptorFile\n", 24));
  assert_false (vmdk_descriptor_probe (NULL, 0));
}

/* ---- extents ---------------------------------------------------------- */

/* The table of blanks and forms in vmdk-format 2.2, and 2.5. */
static void
test_extent_lines (void **state)
{
  char line[4200];

  (void) state;
  extent_ok ("RW 2048 FLAT \"x.bin\" 0", VMDK_RW, VMDK_FLAT, 2048, "x.bin",
             0);
  extent_ok (" \tRW 2048 FLAT \"x.bin\" 7", VMDK_RW, VMDK_FLAT, 2048,
             "x.bin", 7);
  extent_ok ("RW\t2048\tFLAT\t\"x.bin\"\t0", VMDK_RW, VMDK_FLAT, 2048,
             "x.bin", 0);
  extent_ok ("RW  2048  FLAT  \"x.bin\"  0", VMDK_RW, VMDK_FLAT, 2048,
             "x.bin", 0);
  extent_ok ("RW 2048 FLAT \"x.bin\" 0 \t", VMDK_RW, VMDK_FLAT, 2048,
             "x.bin", 0);
  extent_ok ("RW 2048 FLAT \"x.bin\"", VMDK_RW, VMDK_FLAT, 2048, "x.bin", 0);
  extent_ok ("RW 2048 ZERO", VMDK_RW, VMDK_ZERO, 2048, NULL, 0);
  extent_ok ("RW 2048 ZERO ", VMDK_RW, VMDK_ZERO, 2048, NULL, 0);
  extent_ok ("RW 2048 VMFS \"x.bin\"", VMDK_RW, VMDK_VMFS, 2048, "x.bin", 0);
  extent_ok ("RW 2048 VMFS \"x.bin\" 0", VMDK_RW, VMDK_VMFS, 2048, "x.bin",
             0);
  extent_ok ("RW 2048 FLAT \"\\\\.\\PhysicalDrive0\" 5 partitionUUID x-y",
             VMDK_RW, VMDK_FLAT, 2048, "\\\\.\\PhysicalDrive0", 5);
  extent_ok ("rdonly 1 flat \"a b\" 0", VMDK_RDONLY, VMDK_FLAT, 1, "a b", 0);
  extent_ok ("NoAccess 1 Sparse \"../x\"", VMDK_NOACCESS, VMDK_SPARSE, 1,
             "../x", 0);
  extent_ok ("RW 1 SPARSE \"x\" 0", VMDK_RW, VMDK_SPARSE, 1, "x", 0);
  extent_ok ("RW 1 VMFSSPARSE \"x\"", VMDK_RW, VMDK_VMFSSPARSE, 1, "x", 0);
  extent_ok ("RW 1 VMFSRDM \"x\"", VMDK_RW, VMDK_VMFSRDM, 1, "x", 0);
  extent_ok ("RW 1 VMFSRAW \"/vmfs/x\"", VMDK_RW, VMDK_VMFSRAW, 1, "/vmfs/x",
             0);
  extent_ok ("RW 1 SESPARSE \"x\"", VMDK_RW, VMDK_SESPARSE, 1, "x", 0);
  extent_ok ("RW 0 FLAT \"\" 0", VMDK_RW, VMDK_FLAT, 0, "", 0);
  extent_ok ("RW 00000000000000000000000000002 ZERO", VMDK_RW, VMDK_ZERO, 2,
             NULL, 0);
  extent_ok ("RW 18014398509481984 ZERO", VMDK_RW, VMDK_ZERO,
             UINT64_C (1) << 54, NULL, 0);
  extent_ok ("RW 1 FLAT \"\xc3\xa4\xff\"", VMDK_RW, VMDK_FLAT, 1,
             "\xc3\xa4\xff", 0);

  extent_bad ("RW 2048 FLAT x.bin 0", EIO, "double quotes");
  extent_bad ("RW 2048 FLAT \"x.bin 0", EIO, "double quotes");
  extent_bad ("RW 2048 FLAT \"q\"t.bin\" 0", EIO, "follows");
  extent_bad ("RW 2048 FLAT \"x.bin\"0", EIO, "follows");
  extent_bad ("RW 2048 FLAT \"x.bin\" \\", EIO, "offset is \"\\x5c\"");
  extent_bad ("RW 2048 FLAT \"x.bin\" -1", EIO, "offset is \"-1\"");
  extent_bad ("RW 2048 FLAT \"x.bin\" 18014398509481985", EIO, "offset");
  extent_bad ("RW 2048 SPARSE \"x.bin\" 1", EIO, "offset is 1");
  extent_bad ("RW 2048 FLAT", EIO, "no file name");
  extent_bad ("RW 2048 FLAT \\", EIO, "double quotes");
  extent_bad ("RW 2048 THIN \"x.bin\"", ENOTSUP, "type is \"THIN\"");
  extent_bad ("RW 2048", EIO, "no type");
  extent_bad ("RW", EIO, "size is \"\"");
  extent_bad ("RW FLAT \"x.bin\" 0", EIO, "size is \"FLAT\"");
  extent_bad ("RW -5 FLAT \"x.bin\" 0", EIO, "size is \"-5\"");
  extent_bad ("RW +5 FLAT \"x.bin\" 0", EIO, "size is \"+5\"");
  extent_bad ("RW 0x10 FLAT \"x.bin\" 0", EIO, "size is \"0x10\"");
  extent_bad ("RW 18014398509481985 FLAT \"x.bin\" 0", EIO, "size");
  extent_bad ("RW 18446744073709551617 FLAT \"x.bin\" 0", EIO, "size");
  extent_bad ("RW 2048FLAT \"x.bin\" 0", EIO, "size is \"2048FLAT\"");
  extent_bad ("RW = 2048", EIO, "size is \"=\"");
  extent_bad ("RW2048 FLAT \"x.bin\" 0", EIO, "begins as an extent");
  extent_bad ("RDONLYX", EIO, "begins as an extent");
  extent_bad ("RW 1 FLAT \"a\tb\" 0", EIO, "control character");
  extent_bad ("RW 1 FLAT \"a\033[1mb\" 0", EIO, "\\x1b");
  extent_bad ("RW 1 FLAT \"a\x7f\" 0", EIO, "control character");

  /* A line has 4096 bytes, its end included. */
  memset (line, ' ', sizeof line);
  memcpy (line, "RW 1 FLAT \"x\" 3", 15);
  line[4095] = '\0';
  extent_ok (line, VMDK_RW, VMDK_FLAT, 1, "x", 3);
  line[4095] = ' ';
  line[4096] = '\0';
  extent_bad (line, EIO, "4097 bytes long");
}

static void
test_extents (void **state)
{
  struct vmdk_descriptor *d;
  char *text, *p;
  unsigned i;

  (void) state;
  d = parse (HEAD
             "RW 1000 FLAT \"part-a.bin\" 1048\n"
             "RW 777 ZERO\n"
             "RDONLY 3000 FLAT \"part-b.bin\" 100\n"
             "NOACCESS 200 FLAT \"part-a.bin\" 0");
  assert_int_equal (vmdk_descriptor_nextents (d), 4);
  expect_extent (d, 0, VMDK_RW, VMDK_FLAT, 1000, "part-a.bin", 1048);
  expect_extent (d, 1, VMDK_RW, VMDK_ZERO, 777, NULL, 0);
  expect_extent (d, 2, VMDK_RDONLY, VMDK_FLAT, 3000, "part-b.bin", 100);
  expect_extent (d, 3, VMDK_NOACCESS, VMDK_FLAT, 200, "part-a.bin", 0);
  vmdk_descriptor_free (d);

  refused (HEAD, EIO, "no extents");
  refused (HEAD "RW 18014398509481983 ZERO\nRW 2 ZERO\n", EIO,
           "has 18014398509481985 sectors");

  text = malloc (1024 * 1024);
  assert_non_null (text);
  p = stpcpy (text, HEAD);
  for (i = 0; i < VMDK_EXTENTS_MAX; ++i)
    p = stpcpy (p, "RW 1 ZERO\n");
  d = parse (text);
  assert_int_equal (vmdk_descriptor_nextents (d), VMDK_EXTENTS_MAX);
  vmdk_descriptor_free (d);
  strcpy (p, "RW 1 ZERO\n");
  refused (text, EIO, "8193 extents");
  free (text);
}

/* ---- the whole text --------------------------------------------------- */

static void
test_form (void **state)
{
  static const char bom[] = "\xef\xbb\xbf" HEAD ONE_EXTENT;
  static const char nul[] = HEAD ONE_EXTENT "\0\0\0RW 5 FLAT x";
  struct vmdk_descriptor *d;
  char *text, *p;
  unsigned i;

  (void) state;
  /* CRLF, kept; a CR alone is an error. */
  d = parse ("# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\n"
             "createType=\"monolithicFlat\"\r\n\r\n"
             "RW 2048 FLAT \"x.bin\" 0\r\n");
  assert_string_equal (warnings, "");
  expect_extent (d, 0, VMDK_RW, VMDK_FLAT, 2048, "x.bin", 0);
  assert_int_equal (vmdk_descriptor_fields (d)->cid, 1);
  expect_text (d, "# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\n"
               "createType=\"monolithicFlat\"\r\n\r\n"
               "RW 2048 FLAT \"x.bin\" 0\r\n");
  vmdk_descriptor_free (d);
  refused ("# Disk DescriptorFile\rversion=1\rRW 1 ZERO\r", EIO,
           "line 1: a CR without LF");
  refused (HEAD "RW 1 FLAT \"a\rb\" 0\n", EIO, "a CR without LF, byte 12");
  refused (HEAD "RW 1 ZERO\r\r\n", EIO, "a CR without LF");
  refused (HEAD "RW 1 ZERO\r", EIO, "a CR without LF");

  /* Ends at NUL, or without a line end. */
  d = parse_n (nul, sizeof nul - 1);
  assert_int_equal (vmdk_descriptor_nextents (d), 1);
  expect_text (d, HEAD ONE_EXTENT);
  vmdk_descriptor_free (d);
  d = parse (HEAD "RW 2048 FLAT \"x.bin\"");
  expect_extent (d, 0, VMDK_RW, VMDK_FLAT, 2048, "x.bin", 0);
  vmdk_descriptor_free (d);

  /* BOM, blank lines in front, no signature. */
  d = parse (bom);
  assert_int_equal (vmdk_descriptor_fields (d)->cid, 0x0a0e1ad9);
  expect_text (d, bom);
  vmdk_descriptor_free (d);
  vmdk_descriptor_free (parse ("\n  \n" HEAD ONE_EXTENT));
  vmdk_descriptor_free (parse ("version=1\n" ONE_EXTENT));
  vmdk_descriptor_free (parse ("#hi\nversion=1\n" ONE_EXTENT));
  refused ("", EIO, "is empty");
  refused ("\n\n# x\n", EIO, "is empty");
  refused ("CID=1\n" ONE_EXTENT, EIO, "not a VMDK descriptor: line 1 is");
  refused ("hello\033 world\n", EIO, "line 1 is \"hello\\x1b world\"");

  /* Limits. */
  text = malloc (VMDK_DESCRIPTOR_MAX + 10);
  assert_non_null (text);
  p = stpcpy (text, HEAD ONE_EXTENT);
  for (i = 6; i < VMDK_LINES_MAX; ++i)
    *p++ = '\n';
  *p = '\0';
  vmdk_descriptor_free (parse (text));
  strcpy (p, "\n");
  refused (text, EIO, "16385 lines");
  p = stpcpy (text, HEAD ONE_EXTENT);
  while (p < text + VMDK_DESCRIPTOR_MAX) {
    *p = (p - text) % 4000 == 0 ? '\n' : '#';
    ++p;
  }
  *p = '\0';
  vmdk_descriptor_free (parse (text));
  strcpy (p, "#");
  refused (text, EIO, "longer than 1048576");
  free (text);
}

static void
test_header (void **state)
{
  const struct vmdk_fields *f;
  struct vmdk_descriptor *d;

  (void) state;
  d = parse (" VERSION = \"2\"\n\tcid = 0X1AbC\nparentcid=12345678\t\n"
             "CreateType=vmfsThin\nPARENTFILENAMEHINT = \"a b.vmdk\"\n"
             "changeTrackPath=\"n-ctk.vmdk\"\nsome junk\nnew.key=x y z\n"
             "=\nisNativeSnapshot=\"no\"\n" ONE_EXTENT);
  f = vmdk_descriptor_fields (d);
  assert_string_equal (warnings, "");
  assert_int_equal (f->version, 2);
  assert_true (f->has_cid);
  assert_int_equal (f->cid, 0x1abc);
  assert_int_equal (f->parent_cid, 0x12345678);
  assert_string_equal (f->create_type, "vmfsThin");
  assert_string_equal (f->parent_hint, "a b.vmdk");
  assert_string_equal (f->change_track, "n-ctk.vmdk");
  assert_false (f->has_uuid);
  assert_true (vd_uuid_is_null (&f->image));
  assert_null (f->comment);
  assert_null (f->adapter);
  assert_int_equal (f->hw_version, 0);
  assert_string_equal (vmdk_descriptor_get (d, "NEW.KEY"), "x");
  assert_null (vmdk_descriptor_get (d, "new"));
  vmdk_descriptor_free (d);

  /* Nothing there. */
  d = parse ("# Disk DescriptorFile\n" ONE_EXTENT);
  f = vmdk_descriptor_fields (d);
  assert_int_equal (f->version, 1);
  assert_non_null (strstr (warnings, "no version"));
  assert_non_null (strstr (warnings, "no createType"));
  assert_false (f->has_cid);
  assert_int_equal (f->cid, VD_CID_NONE);
  assert_int_equal (f->parent_cid, VD_CID_NONE);
  assert_null (f->create_type);
  assert_null (f->parent_hint);
  assert_null (f->change_track);
  vmdk_descriptor_free (d);

  vmdk_descriptor_free (with_line ("version=4"));
  line_bad ("version=0", ENOTSUP, "version is 0");
  line_bad ("version=5", ENOTSUP, "version is 5");
  line_bad ("version=one", EIO, "version is \"one\"");
  line_bad ("version=", EIO, "version is \"\"");
  line_bad ("CID=", EIO, "CID is \"\"");
  line_bad ("CID=123456789", EIO, "1 to 8 hex digits");
  line_bad ("CID=0x", EIO, "1 to 8 hex digits");
  line_bad ("CID=xyz", EIO, "CID is \"xyz\"");
  line_bad ("parentCID=-1", EIO, "parentCID is \"-1\"");
  line_bad ("CID=1 2", EIO, "no proper value");
  line_bad ("createType=\"monolithicFlat", EIO, "no proper value");
  line_bad ("parentFileNameHint=\"a\"b\"", EIO, "no proper value");
  d = with_line ("createType=\"somethingElse\"");
  assert_non_null (strstr (warnings, "createType is \"somethingElse\""));
  vmdk_descriptor_free (d);
  d = with_line ("createType=\"2gbmaxextentsparse\"\nversion=1");
  assert_string_equal (warnings, "");
  vmdk_descriptor_free (d);

  /* The first one wins, but for three that must agree. */
  d = with_line ("version=1\nversion=2\nCID=1\ncid=0001\nparentCID=2\n"
                 "parentCID=2\ncreateType=\"vmfs\"\ncreateType=\"VMFS\"\n"
                 "ddb.adapterType=\"ide\"\nddb.adapterType=\"lsilogic\"");
  f = vmdk_descriptor_fields (d);
  assert_int_equal (f->version, 1);
  assert_int_equal (f->cid, 1);
  assert_string_equal (f->adapter, "ide");
  vmdk_descriptor_free (d);
  line_bad ("CID=1\nCID=2", EIO, "line 3: CID is 00000002");
  line_bad ("parentCID=1\nparentCID=2", EIO, "parentCID is 00000002");
  line_bad ("createType=\"vmfs\"\ncreateType=\"custom\"", EIO,
            "createType is \"custom\"");

  /* The change tracking line stands in either place. */
  d = parse (HEAD ONE_EXTENT
             "\n# Change Tracking File\nchangeTrackPath=\"x-ctk.vmdk\"\n"
             "\n#DDB\nddb.virtualHWVersion = \"8\"\n");
  f = vmdk_descriptor_fields (d);
  assert_string_equal (f->change_track, "x-ctk.vmdk");
  assert_int_equal (f->hw_version, 8);
  vmdk_descriptor_free (d);
}

static void
test_ddb (void **state)
{
  const struct vmdk_fields *f;
  struct vmdk_descriptor *d;
  char text[VD_UUID_TEXT];

  (void) state;
  d = parse (HEAD "ddb.comment=\"before \\\\ \\n and \\r, \\x\"\n"
             "# Extent description\n" ONE_EXTENT
             "ddb.virtualHWVersion = \"21\"\n"
             "ddb.adapterType=\"lsilogic\"\n"
             "ddb.geometry.cylinders=\"203\"\n"
             "ddb.geometry.heads = \"16\"\n"
             "DDB.Geometry.Sectors = 63\n"
             "ddb.geometry.biosCylinders=\"1024\"\n"
             "ddb.geometry.biosHeads=\"255\"\n"
             "ddb.geometry.biosSectors=\"63\"\n"
             "ddb.uuid.image=\"{A0000000-0000-4000-8000-000000000022}\"\n"
             "ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n"
             "ddb.uuid.modification=\"c3b6e47b-4375-402b-b1a2-8335b85727a2\""
             "\n"
             "ddb.uuid.parentmodification=\"not one\"\n"
             "ddb.uuid = \"60 00 C2 9c b4 0d 12 d5-0f a9 7b 45 97 ab b7 1c\""
             "\n"
             "ddb.deletable = \"true\"\n"
             "ddb.junk\n");
  f = vmdk_descriptor_fields (d);
  assert_int_equal (f->hw_version, 21);
  assert_string_equal (f->adapter, "lsilogic");
  assert_int_equal (f->pchs.cylinders, 203);
  assert_int_equal (f->pchs.heads, 16);
  assert_int_equal (f->pchs.sectors, 63);
  assert_int_equal (f->lchs.cylinders, 1024);
  assert_int_equal (f->lchs.heads, 255);
  assert_int_equal (f->lchs.sectors, 63);
  assert_true (f->has_uuid);
  assert_string_equal (vd_uuid_text (&f->image, text),
                       "a0000000-0000-4000-8000-000000000022");
  assert_string_equal (vd_uuid_text (&f->modification, text),
                       "c3b6e47b-4375-402b-b1a2-8335b85727a2");
  assert_true (vd_uuid_is_null (&f->parent));
  assert_true (vd_uuid_is_null (&f->parent_modification));
  assert_string_equal (warnings, "x.vmdk: descriptor line 20: "
                       "ddb.uuid.parentmodification is \"not one\", which is "
                       "not a UUID: ignored\n");
  assert_string_equal (f->comment, "before \\ \n and \r, \\x");
  vmdk_descriptor_free (d);

  /* Values out of their range are not set; a quote ends a comment. */
  d = parse (HEAD ONE_EXTENT
             "ddb.geometry.cylinders=\"99999999999999\"\n"
             "ddb.geometry.heads=\"16\"\nddb.geometry.sectors=\"63\"\n"
             "ddb.geometry.biosCylinders=\"1\"\n"
             "ddb.geometry.biosHeads=\"abc\"\n"
             "ddb.geometry.biosSectors=\"63\"\n"
             "ddb.comment=\"a\"b\"\n"
             "ddb.adapterType=\"open\n");
  f = vmdk_descriptor_fields (d);
  assert_int_equal (f->pchs.heads, 0);
  assert_int_equal (f->lchs.sectors, 0);
  assert_string_equal (f->comment, "a");
  assert_null (f->adapter);
  vmdk_descriptor_free (d);
  d = parse (HEAD ONE_EXTENT "ddb.comment=\"\"\n");
  assert_null (vmdk_descriptor_fields (d)->comment);
  vmdk_descriptor_free (d);
}

static void
test_encoding (void **state)
{
  struct vmdk_descriptor *d;

  (void) state;
  d = with_line ("version=1\nencoding=\"windows-1252\"\ncreateType=\"custom\""
                 "\nparentFileNameHint=\"b\xe4se.vmdk\"\n"
                 "RW 1 FLAT \"\x80\xe4.bin\" 0");
  expect_extent (d, 0, VMDK_RW, VMDK_FLAT, 1, "\xe2\x82\xac\xc3\xa4.bin", 0);
  expect_extent (d, 1, VMDK_RW, VMDK_FLAT, 2048, "x.bin", 0);
  assert_string_equal (vmdk_descriptor_fields (d)->parent_hint,
                       "b\xc3\xa4se.vmdk");
  vmdk_descriptor_free (d);
  d = with_line ("encoding=\"GBK\"\nRW 1 FLAT \"\xd6\xd0.bin\" 0");
  expect_extent (d, 0, VMDK_RW, VMDK_FLAT, 1, "\xe4\xb8\xad.bin", 0);
  vmdk_descriptor_free (d);
  d = with_line ("encoding=\"utf-8\"\nRW 1 FLAT \"\xd6\" 0");
  expect_extent (d, 0, VMDK_RW, VMDK_FLAT, 1, "\xd6", 0);
  vmdk_descriptor_free (d);
  /* Not needed for ASCII. */
  vmdk_descriptor_free (with_line ("encoding=\"no-such\""));

  line_bad ("encoding=\"no-such\"\nRW 1 FLAT \"\xd6\" 0", ENOTSUP,
            "encoding is \"no-such\"");
  line_bad ("encoding=\"../../tmp/x//TRANSLIT\"\nRW 1 FLAT \"\xd6\" 0",
            ENOTSUP, "encoding is \"../../tmp");
  line_bad ("encoding=\"GBK\"\nRW 1 FLAT \"\xff\xff\" 0", ENOTSUP,
            "cannot be converted from encoding \"GBK\"");
  /* What is no control character before it is converted. */
  line_bad ("encoding=\"ISO-8859-1\"\nRW 1 FLAT \"\x80\n\" 0", EIO,
            "double quotes");
}

static void
test_encrypted (void **state)
{
  char *text, *p;

  (void) state;
  refused (".encoding = \"UTF-8\"\n"
           "encryption.keySafe = \"vmware:key/list/(pair/(phrase/x\"\n"
           "encryption.data = \"abcdef\"\n", ENOTSUP, "encrypted VMDK");
  line_bad ("keyID=\"x\"", ENOTSUP, "encrypted VMDK is not supported");
  line_bad ("KeySafe=\"x\"", ENOTSUP, "key \"KeySafe\"");
  line_bad ("ddb.dataFileKeySafe=\"x\"", ENOTSUP, "encrypted VMDK");
  line_bad ("cipherKey=x", ENOTSUP, "encrypted VMDK");
  line_bad ("ddb.encryption.method=\"aes\"", ENOTSUP, "encrypted VMDK");
  line_bad ("ddb.iofilters = \"other,vmwarevmcrypt\"", ENOTSUP, "encrypted");
  vmdk_descriptor_free (with_line ("ddb.iofilters = \"vmwarelwd\""));
  vmdk_descriptor_free (with_line ("keyID=\"\""));
  refused (".encoding = \"UTF-8\"\nconfig.version = \"8\"\n", EIO,
           "not a VMDK descriptor");

  /* Their lines are long. */
  text = malloc (20000);
  assert_non_null (text);
  p = stpcpy (text, "encryption.data = \"");
  memset (p, 'A', 9000);
  strcpy (p + 9000, "\"\n");
  refused (text, ENOTSUP, "encrypted VMDK");
  free (text);
}

static void
test_strict (void **state)
{
  struct vd_ctx *ctx = new_ctx ();
  struct vmdk_descriptor *d;
  static const char good[] =
    "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
    "createType=\"STREAMOPTIMIZED\"\n\n# x\nRW 2048 SPARSE \"x.vmdk\"\n"
    "ddb.adapterType = \"ide\"\nddb.comment=\"a\"b\"\n";
  char text[2000];
  const char *const lines[] = {
    "some junk", "key = value", "key=two words", "RW 1 SPARSE \"a/b\"",
    "\xc3\xa4=1",
  };
  size_t i;

  (void) state;
  assert_ok (ctx, vmdk_descriptor_parse (ctx, "x", good, strlen (good), true,
                                         &d));
  vmdk_descriptor_free (d);
  for (i = 0; i < sizeof lines / sizeof lines[0]; ++i) {
    snprintf (text, sizeof text, "%s%s\n", good, lines[i]);
    vmdk_descriptor_free (parse (text));
    refused_how (text, true, EACCES, "line 11: strict");
  }
  refused_how (HEAD ONE_EXTENT, true, EACCES, "createType is");
  refused_how ("version=1\n" ONE_EXTENT, true, EACCES, "createType is");
}

/* ---- losslessness ----------------------------------------------------- */

/* What tools have written (tests/data has the files). */
static const char virtualbox[] =
  "# Disk DescriptorFile\n"
  "version=1\n"
  "CID=0a0e1ad9\n"
  "parentCID=ffffffff\n"
  "createType=\"twoGbMaxExtentSparse\"\n"
  "\n"
  "# Extent description\n"
  "RW 4192256 SPARSE \"split-s001.vmdk\"\n"
  "RW 4192256 SPARSE \"split-s002.vmdk\"\n"
  "RW 831488 SPARSE \"split-s003.vmdk\"\n"
  "\n"
  "# The disk Data Base \n"
  "#DDB\n"
  "\n"
  "ddb.virtualHWVersion = \"4\"\n"
  "ddb.adapterType=\"ide\"\n"
  "ddb.uuid.image=\"a0000000-0000-4000-8000-000000000022\"\n"
  "ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n"
  "ddb.uuid.modification=\"c3b6e47b-4375-402b-b1a2-8335b85727a2\"\n"
  "ddb.uuid.parentmodification=\"00000000-0000-0000-0000-000000000000\"\n";

static const char qemu[] =
  "# Disk DescriptorFile\n"
  "version=1\n"
  "CID=eb5b544\n"
  "parentCID=ffffffff\n"
  "createType=\"monolithicSparse\"\n"
  "\n"
  "# Extent description\n"
  "RW 12288 SPARSE \"q-sparse.vmdk\"\n"
  "\n"
  "# The Disk Data Base\n"
  "#DDB\n"
  "\n"
  "ddb.virtualHWVersion = \"4\"\n"
  "ddb.geometry.cylinders = \"12\"\n"
  "ddb.geometry.heads = \"16\"\n"
  "ddb.geometry.sectors = \"63\"\n"
  "ddb.adapterType = \"ide\"\n"
  "ddb.toolsVersion = \"2147483647\"\n";

static const char vmware[] =
  "# Disk DescriptorFile\n"
  "version=3\n"
  "encoding=\"UTF-8\"\n"
  "CID=4164f1a0\n"
  "parentCID=ffffffff\n"
  "createType=\"vmfs\"\n"
  "\n"
  "# Extent description\n"
  "RW 12582912 VMFS \"ESX4.0-flat.vmdk\"\n"
  "\n"
  "# Change Tracking File\n"
  "changeTrackPath=\"ESX4.0-ctk.vmdk\"\n"
  "\n"
  "# The Disk Data Base \n"
  "#DDB\n"
  "\n"
  "ddb.thinProvisioned = \"1\"\n"
  "ddb.uuid = \"60 00 C2 9c b4 0d 12 d5-0f a9 7b 45 97 ab b7 1c\"\n"
  "ddb.longContentID = \"7a8d277e9e4ec89451404a324164f1a0\"";

static const char stream[] =            /* blanks behind the lines */
  "# Disk DescriptorFile\n"
  "version=1 \n"
  "CID=0dc3c2a9 \n"
  "parentCID=ffffffff \n"
  "createType=\"streamOptimized\" \n"
  "# Extent description\n"
  "RDONLY 16777216 SPARSE \"generated-stream.vmdk\"\n"
  "# The Disk Data Base \n"
  "#DDB\n"
  "ddb.adapterType = \"lsilogic\"\n";

static const char crlf[] =
  "#Disk Descriptor File\r\n\r\nversion = 1\r\n; junk\r\n"
  "\tCID = {x\r\nRW 5 ZERO\r\n";

static const char *const samples[] = { virtualbox, qemu, vmware, stream };

static void
test_lossless (void **state)
{
  struct vmdk_descriptor *d;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof samples / sizeof samples[0]; ++i) {
    d = parse (samples[i]);
    assert_string_equal (warnings, "");
    expect_text (d, samples[i]);
    vmdk_descriptor_free (d);
  }
  refused (crlf, EIO, "CID is \"{x\"");
}

/* The descriptors of the images in tests/data. */
static void
test_fixtures (void **state)
{
  static const struct {
    const char *archive, *file;
    uint64_t offset;
    size_t nextents;
    const char *create_type;
  } files[] = {
    { "vmdk-sparse", "sparse.vmdk", 512, 1, "monolithicSparse" },
    { "vmdk-flat", "flat.vmdk", 0, 1, "monolithicFlat" },
    { "vmdk-esx", "esx.vmdk", 0, 1, "vmfs" },
    { "vmdk-multi-extent", "multi.vmdk", 0, 5, "monolithicFlat" },
    { "vmdk-raw-disk", "full.vmdk", 0, 1, "fullDevice" },
    { "vmdk-raw-disk", "partitions.vmdk", 0, 6, "partitionedDevice" },
    { "vmdk-split-sparse", "split.vmdk", 0, 3, "twoGbMaxExtentSparse" },
    { "vmdk-split-flat-small", "sfs.vmdk", 0, 1, "monolithicFlat" },
    { "vmdk-split-sparse-small", "small.vmdk", 512, 1, "monolithicSparse" },
    { "vmdk-stream", "stream.vmdk", 512, 1, "streamOptimized" },
    { "vmdk-qemu", "q-flat.vmdk", 0, 1, "monolithicFlat" },
    { "vmdk-qemu", "q-split.vmdk", 0, 1, "twoGbMaxExtentSparse" },
    { "vmdk-qemu", "q-sparse.vmdk", 512, 1, "monolithicSparse" },
    { "vmdk-qemu", "q-stream.vmdk", 512, 1, "streamOptimized" },
    { "vmdk-chain4", "diff3.vmdk", 512, 1, "monolithicSparse" },
  };
  const char *srcdir = getenv ("srcdir");
  size_t i, n, len, seen = 0;

  (void) state;
  for (i = 0; i < sizeof files / sizeof files[0]; ++i) {
    struct vmdk_descriptor *d;
    struct vd_ctx *ctx;
    char command[5000], path[5000], buf[20 * 512 + 1], *text;
    FILE *f;

    snprintf (command, sizeof command, "tar -C '%s' -xf '%s/data/%s.tar.xz' "
              "'%s/%s' 2>/dev/null", unit_dir, srcdir ? srcdir : ".",
              files[i].archive, files[i].archive, files[i].file);
    if (system (command) != 0)
      continue;
    ++seen;
    snprintf (path, sizeof path, "%s/%s/%s", unit_dir, files[i].archive,
              files[i].file);
    f = fopen (path, "r");
    assert_non_null (f);
    assert_int_equal (fseek (f, files[i].offset, SEEK_SET), 0);
    n = fread (buf, 1, sizeof buf - 1, f);
    buf[n] = '\0';
    fclose (f);
    d = parse_n (buf, n);
    assert_string_equal (warnings, "");
    assert_int_equal (vmdk_descriptor_nextents (d), files[i].nextents);
    assert_string_equal (vmdk_descriptor_fields (d)->create_type,
                         files[i].create_type);
    assert_true (vmdk_descriptor_fields (d)->has_cid);
    ctx = new_ctx ();
    assert_ok (ctx, vmdk_descriptor_text (ctx, d, &text, &len));
    assert_string_equal (text, buf);
    free (text);
    vmdk_descriptor_free (d);
  }
  if (seen == 0)
    skip ();
  assert_int_equal (seen, i);
}

/* ---- changing --------------------------------------------------------- */

/* The text with old replaced by new. */
static char *
replaced (const char *text, const char *old, const char *new)
{
  const char *p = strstr (text, old);
  char *ret;

  assert_non_null (p);
  ret = malloc (strlen (text) + strlen (new) + 1);
  assert_non_null (ret);
  sprintf (ret, "%.*s%s%s", (int) (p - text), text, new, p + strlen (old));
  return ret;
}

static void
expect_replaced (const struct vmdk_descriptor *d, const char *text,
                 const char *old, const char *new)
{
  char *expected = replaced (text, old, new);

  expect_text (d, expected);
  free (expected);
}

static void
test_set (void **state)
{
  struct vd_ctx *ctx = new_ctx ();
  struct vd_uuid u;
  struct vmdk_descriptor *d;

  (void) state;
  assert_true (vd_uuid_parse ("12345678-9abc-4def-8123-456789abcdef", &u));

  /* In the line where it is. */
  d = parse (virtualbox);
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ADAPTERTYPE", NULL, true));
  expect_text (d, virtualbox);
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ddb.adaptertype", "buslogic",
                                       true));
  expect_replaced (d, virtualbox, "\"ide\"", "\"buslogic\"");
  assert_string_equal (vmdk_descriptor_fields (d)->adapter, "buslogic");
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ddb.adapterType", "ide",
                                       false));
  expect_text (d, virtualbox);
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 0xbc));
  expect_replaced (d, virtualbox, "0a0e1ad9", "000000bc");
  assert_int_equal (vmdk_descriptor_fields (d)->cid, 0xbc);
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 0x0a0e1ad9));
  assert_ok (ctx, vmdk_descriptor_set_uuid (ctx, d, "ddb.uuid.modification",
                                            &u));
  expect_replaced (d, virtualbox, "c3b6e47b-4375-402b-b1a2-8335b85727a2",
                   "12345678-9abc-4def-8123-456789abcdef");
  assert_true (vd_uuid_equal (&vmdk_descriptor_fields (d)->modification,
                              &u));
  vmdk_descriptor_free (d);

  /* As short as it was, if it fits. */
  d = parse (qemu);
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 0xbc));
  expect_replaced (d, qemu, "eb5b544", "00000bc");
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 0x12345678));
  expect_replaced (d, qemu, "eb5b544", "12345678");
  vmdk_descriptor_free (d);
  d = with_line ("CID=0xAB\nddb.uuid.image=\"{A0000000-0000-4000-8000-"
                 "000000000022}\" junk");
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 1));
  assert_string_equal (vmdk_descriptor_get (d, "CID"), "0x01");
  assert_ok (ctx, vmdk_descriptor_set_uuid (ctx, d, "ddb.uuid.image", &u));
  expect_text (d, "# Disk DescriptorFile\nCID=0x01\nddb.uuid.image=\""
               "{12345678-9abc-4def-8123-456789abcdef}\"\n" ONE_EXTENT);
  vmdk_descriptor_free (d);

  /* A new line at the end of the section. */
  d = parse (qemu);
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "parentFileNameHint",
                                       "a.vmdk", true));
  expect_replaced (d, qemu, "Sparse\"\n",
                   "Sparse\"\nparentFileNameHint=\"a.vmdk\"\n");
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "parentFileNameHint", NULL,
                                       true));
  expect_text (d, qemu);
  assert_ok (ctx, vmdk_descriptor_set_comment (ctx, d, "a\"b\\c\nd\re"));
  expect_replaced (d, qemu, "2147483647\"\n", "2147483647\"\n"
                   "ddb.comment = \"a'b\\\\c\\nd\\re\"\n");
  assert_string_equal (vmdk_descriptor_fields (d)->comment, "a'b\\c\nd\re");
  assert_ok (ctx, vmdk_descriptor_set_comment (ctx, d, NULL));
  expect_text (d, qemu);
  assert_ok (ctx, vmdk_descriptor_set_geometry
             (ctx, d, true, &(struct vd_geometry) { 1, 2, 3 }));
  assert_int_equal (vmdk_descriptor_fields (d)->lchs.heads, 2);
  assert_ok (ctx, vmdk_descriptor_set_geometry
             (ctx, d, true, &(struct vd_geometry) { 0 }));
  assert_ok (ctx, vmdk_descriptor_set_geometry
             (ctx, d, false, &(struct vd_geometry) { 9, 16, 63 }));
  expect_replaced (d, qemu, "\"12\"", "\"9\"");
  vmdk_descriptor_free (d);

  /* Without the line end that it needs. */
  d = parse (vmware);
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ddb.x", "1", true));
  expect_replaced (d, vmware, "4164f1a0\"", "4164f1a0\"\nddb.x = \"1\"");
  vmdk_descriptor_free (d);
  /* Sections that are not there; CRLF stays CRLF. */
  d = parse ("# Disk DescriptorFile\r\nRW 1 ZERO");
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "parentCID", 2));
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 1));
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ddb.x", "1", true));
  expect_text (d, "# Disk DescriptorFile\r\nCID=00000001\r\n"
               "parentCID=00000002\r\nRW 1 ZERO\r\n"
               "\r\n# The Disk Data Base\r\n#DDB\r\n\r\nddb.x = \"1\"");
  vmdk_descriptor_free (d);

  /* Lines that stand there twice. */
  d = with_line ("CID=1\nCID=01\nddb.x=1\nddb.x=2\nddb.y=1\nddb.y=2");
  assert_ok (ctx, vmdk_descriptor_set_cid (ctx, d, "CID", 2));
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ddb.x", "3", false));
  assert_ok (ctx, vmdk_descriptor_set (ctx, d, "ddb.y", NULL, false));
  expect_text (d, "# Disk DescriptorFile\nCID=2\nddb.x=3\nddb.x=2\n"
               ONE_EXTENT);

  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "x", "a\"b", true), EINVAL,
                "x is");
  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "x", "a\nb", true), EINVAL,
                "x is");
  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "x", "a\rb", true), EINVAL,
                "x is");
  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "x", "a b", false), EINVAL,
                "x is");
  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "x", "", false), EINVAL,
                "x is");
  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "a b", "", true), EINVAL,
                "\"a b\" cannot be a key");
  assert_fails (ctx, vmdk_descriptor_set (ctx, d, "#a", "", true), EINVAL,
                "cannot be a key");
  {
    char comment[1024];

    memset (comment, 'x', sizeof comment);
    comment[1023] = '\0';
    assert_fails (ctx, vmdk_descriptor_set_comment (ctx, d, comment), EINVAL,
                  "comment is 1023 bytes long");
    comment[0] = '\n';
    comment[1022] = '\0';
    assert_fails (ctx, vmdk_descriptor_set_comment (ctx, d, comment), EINVAL,
                  "comment is 1023 bytes long");
    comment[1021] = '\0';
    assert_ok (ctx, vmdk_descriptor_set_comment (ctx, d, comment));
    assert_string_equal (vmdk_descriptor_fields (d)->comment, comment);
  }
  vmdk_descriptor_free (d);
}

static void
test_new_cid (void **state)
{
  unsigned digits, i;
  uint32_t old = 0, cid, seen = 0;

  (void) state;
  for (digits = 1; digits <= 8; ++digits)
    for (i = 0; i < 200; ++i) {
      cid = vmdk_new_cid (old, digits);
      assert_int_not_equal (cid, old);
      assert_true (cid < VD_CID_NONE - 1);
      assert_int_equal ((uint64_t) cid >> (4 * digits), 0);
      old = cid;
      seen |= cid;
    }
  assert_int_equal (seen, UINT32_MAX);
}

static void
test_new (void **state)
{
  static char a[] = "a.vmdk", flat[] = "n-flat.vmdk", bad[] = "a\"b";
  struct vmdk_extent_line extents[] = {
    { .type = VMDK_SPARSE, .sectors = 204800, .name = a },
    { .type = VMDK_FLAT, .sectors = 8, .name = flat, .offset = 5 },
    { .type = VMDK_FLAT, .sectors = 8, .name = flat },
    { .type = VMDK_VMFS, .sectors = 8, .name = flat },
    { .type = VMDK_ZERO, .sectors = 8, .access = VMDK_RDONLY },
  };
  struct vmdk_new_descriptor how = {
    .create_type = "monolithicSparse", .cid = 0x12ab, .parent_cid = 5,
    .parent_hint = "base.vmdk", .extents = extents, .nextents = 1,
  };
  struct vd_ctx *ctx = new_ctx ();
  struct vmdk_descriptor *d;

  (void) state;
  assert_true (vd_uuid_parse ("00000000-0000-4000-8000-000000000001",
                              &how.link.uuid));
  assert_true (vd_uuid_parse ("00000000-0000-4000-8000-000000000002",
                              &how.link.modification));
  assert_ok (ctx, vmdk_descriptor_new (ctx, "x.vmdk", &how, &d));
  expect_text (d,
               "# Disk DescriptorFile\n"
               "version=1\n"
               "CID=000012ab\n"
               "parentCID=00000005\n"
               "createType=\"monolithicSparse\"\n"
               "parentFileNameHint=\"base.vmdk\"\n"
               "\n"
               "# Extent description\n"
               "RW 204800 SPARSE \"a.vmdk\"\n"
               "\n"
               "# The Disk Data Base\n"
               "#DDB\n"
               "\n"
               "ddb.virtualHWVersion = \"4\"\n"
               "ddb.adapterType = \"ide\"\n"
               "ddb.geometry.cylinders = \"203\"\n"
               "ddb.geometry.heads = \"16\"\n"
               "ddb.geometry.sectors = \"63\"\n"
               "ddb.uuid.image = \"00000000-0000-4000-8000-000000000001\"\n"
               "ddb.uuid.parent = \"00000000-0000-0000-0000-000000000000\"\n"
               "ddb.uuid.modification = "
               "\"00000000-0000-4000-8000-000000000002\"\n"
               "ddb.uuid.parentmodification = "
               "\"00000000-0000-0000-0000-000000000000\"\n");
  assert_string_equal (warnings, "");
  vmdk_descriptor_free (d);

  how.create_type = "custom";
  how.parent_hint = NULL;
  how.nextents = 5;
  how.adapter = "lsilogic";
  how.hw_version = 10;
  how.lchs = (struct vd_geometry) { 7, 8, 9 };
  how.comment = "it \"is\"\nso";
  assert_ok (ctx, vmdk_descriptor_new (ctx, "x.vmdk", &how, &d));
  expect_extent (d, 1, VMDK_RW, VMDK_FLAT, 8, "n-flat.vmdk", 5);
  expect_extent (d, 2, VMDK_RW, VMDK_FLAT, 8, "n-flat.vmdk", 0);
  expect_extent (d, 3, VMDK_RW, VMDK_VMFS, 8, "n-flat.vmdk", 0);
  expect_extent (d, 4, VMDK_RDONLY, VMDK_ZERO, 8, NULL, 0);
  assert_string_equal (vmdk_descriptor_fields (d)->comment, "it 'is'\nso");
  assert_int_equal (vmdk_descriptor_fields (d)->lchs.cylinders, 7);
  assert_int_equal (vmdk_descriptor_fields (d)->hw_version, 10);
  assert_string_equal (vmdk_descriptor_get (d, "ddb.geometry.heads"), "255");
  assert_string_equal (vmdk_descriptor_get (d, "ddb.geometry.cylinders"),
                       "12");
  vmdk_descriptor_free (d);

  extents[0].name = bad;
  assert_fails (ctx, vmdk_descriptor_new (ctx, "x.vmdk", &how, &d), EINVAL,
                "extent file name is \"a\"b\"");
  extents[0].name = a;
  how.parent_hint = "a\nb";
  assert_fails (ctx, vmdk_descriptor_new (ctx, "x.vmdk", &how, &d), EINVAL,
                "parentFileNameHint is");
}

/* ---- mutations -------------------------------------------------------- */

static uint64_t seed = 1;

static uint32_t
rnd (uint32_t n)
{
  seed = seed * UINT64_C (6364136223846793005) + 1442695040888963407u;
  return (uint32_t) (seed >> 33) % n;
}

/* Nothing crashes; what is read is written as it was; and a changed one can
 * be read again.
 */
static void
test_mutations (void **state)
{
  static const char *const pieces[] = {
    "\"", "\n", "\r\n", "\r", "=", " ", "\t", "#", "RW ", "RDONLY 1 ZERO\n",
    "ddb.", "CID=", "version=", "encoding=\"GBK\"\n", "\xff", "\\", "{",
    "RW 99999999999999999999 FLAT \"x\" 0\n", "\xef\xbb\xbf", "\0",
    "encryption.", "ddb.comment=\"\\\"",
  };
  unsigned round, read = 0;

  (void) state;
  for (round = 0; round < 30000; ++round) {
    const char *sample =
      samples[rnd (sizeof samples / sizeof samples[0])];
    size_t len = strlen (sample), n = rnd (4) + 1, len2;
    char *text = malloc (len + 200), *copy, *text2;
    struct vd_ctx *ctx = new_ctx ();
    struct vmdk_descriptor *d;

    memcpy (text, sample, len);
    for (; n > 0; --n) {
      const char *piece = pieces[rnd (sizeof pieces / sizeof pieces[0])];
      size_t at = rnd (len + 1), size = strlen (piece);

      switch (rnd (4)) {
      case 0:
        if (at < len)
          text[at] = rnd (256);
        break;
      case 1:
        memmove (text + at + size, text + at, len - at);
        memcpy (text + at, piece, size);
        len += size;
        break;
      case 2:
        len -= rnd (len - at + 1) % 30;
        break;
      default:
        size = rnd (len - at + 1) % 30;
        memmove (text + at, text + at + size, len - at - size);
        len -= size;
      }
    }
    /* So that a read beyond the end is seen. */
    copy = malloc (len ? len : 1);
    memcpy (copy, text, len);
    free (text);
    vmdk_descriptor_probe ((const uint8_t *) copy, len < 512 ? len : 512);
    if (vmdk_descriptor_parse (ctx, "x", copy, len, rnd (8) == 0, &d) == 0) {
      ++read;
      assert_ok (ctx, vmdk_descriptor_text (ctx, d, &text2, &len2));
      assert_int_equal (len2, strnlen (copy, len));
      assert_memory_equal (text2, copy, len2);
      free (text2);
      if (vmdk_descriptor_set_cid (ctx, d, "CID", 0xabcdef01) == 0) {
        assert_int_equal (vmdk_descriptor_fields (d)->cid, 0xabcdef01);
        assert_ok (ctx, vmdk_descriptor_set_comment (ctx, d, "hi"));
        assert_string_equal (vmdk_descriptor_fields (d)->comment, "hi");
        assert_ok (ctx, vmdk_descriptor_set (ctx, d, "createType", NULL,
                                             true));
        assert_null (vmdk_descriptor_fields (d)->create_type);
      }
      vmdk_descriptor_free (d);
    }
    else
      assert_int_equal (strncmp (ctx->message, "x: ", 3), 0);
    free (copy);
  }
  assert_true (read > 5000 && read < 25000);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_probe),
    cmocka_unit_test (test_extent_lines),
    cmocka_unit_test (test_extents),
    cmocka_unit_test (test_form),
    cmocka_unit_test (test_header),
    cmocka_unit_test (test_ddb),
    cmocka_unit_test (test_encoding),
    cmocka_unit_test (test_encrypted),
    cmocka_unit_test (test_strict),
    cmocka_unit_test (test_lossless),
    cmocka_unit_test (test_fixtures),
    cmocka_unit_test (test_set),
    cmocka_unit_test (test_new_cid),
    cmocka_unit_test (test_new),
    cmocka_unit_test (test_mutations),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
