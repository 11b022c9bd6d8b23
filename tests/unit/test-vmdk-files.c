/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The files of a VMDK while it is opened: what was looked at under a name is
 * what is used, and two names of one file are one file.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <sys/stat.h>

#include "image.h"

/* A folder in which b takes the place of a after a was looked at so often. */
struct unsteady {
  struct vd_folder f;
  struct vd_folder *inner;
  int looks;
};

static int
unsteady_open (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool write, bool device, bool *ret_writer,
               struct vd_store **ret)
{
  struct unsteady *u = (struct unsteady *) f;

  return vd_folder_open (ctx, u->inner, name, write, device, ret_writer, ret);
}

static int
unsteady_stat (struct vd_ctx *ctx, struct vd_folder *f, const char *name,
               bool device, struct stat *ret)
{
  struct unsteady *u = (struct unsteady *) f;
  int r = vd_folder_stat (ctx, u->inner, name, device, ret);

  if (--u->looks == 0)
    assert_int_equal (rename (unit_path ("b"), unit_path ("a")), 0);
  return r;
}

static void
unsteady_close (struct vd_folder *f)
{
  vd_folder_close (((struct unsteady *) f)->inner);
  free (f);
}

static const struct vd_folder_ops unsteady_ops = {
  .open = unsteady_open,
  .stat = unsteady_stat,
  .close = unsteady_close,
};

/* disk.vmdk: n extents of one sector of a, and a sector each of the rest. */
static void
describe (unsigned n, unsigned others)
{
  FILE *f = fopen (unit_path ("disk.vmdk"), "w");
  char name[16];
  unsigned i;

  assert_non_null (f);
  fprintf (f, "# Disk DescriptorFile\nversion=1\nCID=12345678\n"
           "parentCID=ffffffff\ncreateType=\"custom\"\n");
  for (i = 0; i < n; ++i)
    fprintf (f, "RW 1 FLAT \"a\" %u\n", i);
  for (i = 0; i < others; ++i) {
    snprintf (name, sizeof name, "o%u", i);
    unit_file (name, 512, 'o');
    fprintf (f, "RDONLY 1 FLAT \"%s\" 0\n", name);
  }
  assert_int_equal (fclose (f), 0);
  unit_file ("a", 1024, 'a');
  unit_file ("b", 1024, 'b');
}

static int
open_unsteady (struct vd_ctx *ctx, int looks, enum vd_write write,
               struct vd_image **ret)
{
  const struct vd_open how = { .write = write, .lock = VD_LOCK_AUTO };
  struct unsteady *u = calloc (1, sizeof *u);
  struct vd_store *st;
  int r;

  assert_non_null (u);
  u->f.ops = &unsteady_ops;
  u->looks = looks;
  assert_ok (ctx, vd_folder_of (ctx, unit_path ("disk.vmdk"), NULL,
                                VD_LOCK_AUTO, &u->inner));
  assert_ok (ctx, vd_file_open (ctx, unit_path ("disk.vmdk"),
                                write != VD_WRITE_NO, VD_LOCK_AUTO, NULL,
                                &st));
  r = vd_image_open_folder (ctx, st, &u->f, &how, ret);
  if (r == 0)
    assert_ok (ctx, vd_image_close (ctx, *ret));
  return r;
}

static void
test_replaced (void **state)
{
  static const enum vd_write writes[] = { VD_WRITE_NO, VD_WRITE_REQUIRE };
  struct vd_image *image;
  UNIT_CTX (ctx);
  size_t i;

  (void) state;
  for (i = 0; i < 2; ++i) {
    describe (2, 0);
    assert_ok (ctx, open_unsteady (ctx, 0, writes[i], &image));
    /* Between the last look and the open. */
    assert_fails (ctx, open_unsteady (ctx, 2, writes[i], &image), ESTALE,
                  "was replaced by another file while");
    /* Between the two looks: a is then the name of two files. */
    describe (2, 0);
    assert_fails (ctx, open_unsteady (ctx, 1, writes[i], &image), ESTALE,
                  "was replaced by another file while");
  }

  /* Files that are opened when they are read are looked at once more. */
  describe (1, 300);
  assert_ok (ctx, open_unsteady (ctx, 0, VD_WRITE_NO, &image));
  assert_fails (ctx, open_unsteady (ctx, 1, VD_WRITE_NO, &image), ESTALE,
                "was replaced by another file while");
}

/* Hard links are one file, and its bytes must not be there twice. */
static void
test_names (void **state)
{
  const struct vd_open how = { .write = VD_WRITE_REQUIRE };
  struct vd_image *image;
  UNIT_CTX (ctx);
  FILE *f;

  (void) state;
  describe (1, 0);
  assert_int_equal (link (unit_path ("a"), unit_path ("c")), 0);
  f = fopen (unit_path ("disk.vmdk"), "a");
  assert_non_null (f);
  fprintf (f, "RW 1 FLAT \"c\" 1\n");
  assert_int_equal (fclose (f), 0);
  assert_ok (ctx, vd_image_open (ctx, unit_path ("disk.vmdk"), &how, &image));
  assert_int_equal (image->nstores, 2);
  assert_ok (ctx, vd_image_close (ctx, image));

  f = fopen (unit_path ("disk.vmdk"), "a");
  assert_non_null (f);
  fprintf (f, "RW 1 FLAT \"c\" 0\n");
  assert_int_equal (fclose (f), 0);
  assert_fails (ctx, vd_image_open (ctx, unit_path ("disk.vmdk"), &how,
                                    &image),
                EROFS, "extents 0 and 2 are the same bytes");

  /* An empty extent between them hides nothing. */
  f = fopen (unit_path ("disk.vmdk"), "w");
  assert_non_null (f);
  fprintf (f, "# Disk DescriptorFile\nversion=1\nCID=12345678\n"
           "parentCID=ffffffff\ncreateType=\"custom\"\n"
           "RW 2 FLAT \"a\" 0\nRW 0 FLAT \"a\" 0\nRW 1 FLAT \"a\" 1\n");
  assert_int_equal (fclose (f), 0);
  assert_fails (ctx, vd_image_open (ctx, unit_path ("disk.vmdk"), &how,
                                    &image),
                EROFS, "extents 0 and 2 are the same bytes");
}

static void
test_same_inode (void **state)
{
  struct stat a = { .st_mode = S_IFREG, .st_dev = 1, .st_ino = 2 }, b = a;

  (void) state;
  assert_true (vd_same_inode (&a, &b));
  b.st_dev = 2;
  assert_false (vd_same_inode (&a, &b));
  b.st_dev = 1;
  b.st_ino = 3;
  assert_false (vd_same_inode (&a, &b));
  /* Nodes of devices, wherever they are. */
  a.st_mode = b.st_mode = S_IFBLK;
  a.st_rdev = b.st_rdev = 0x700;
  assert_true (vd_same_inode (&a, &b));
  b = a;
  b.st_rdev = 0x701;
  assert_false (vd_same_inode (&a, &b));
  /* What a file has there means nothing. */
  b.st_mode = S_IFREG;
  assert_true (vd_same_inode (&a, &b));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_replaced),
    cmocka_unit_test (test_names),
    cmocka_unit_test (test_same_inode),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
