/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The search for parents where others can write in the folder: what was looked
 * at is what is opened, whatever its name means by then; and how much is read
 * of files that nobody has named.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "machine.h"

#define SIZE (1024 * 1024)

static char dir[sizeof unit_dir + 32];

static const char *
in_dir (const char *name)
{
  static char paths[4][sizeof dir + 64];
  static unsigned n;
  char *path = paths[n++ % 4];

  snprintf (path, sizeof paths[0], "%s/%s", dir, name);
  return path;
}

static void
make (const char *name, const char *format, uint8_t fill,
      const struct vd_link *parent, struct vd_link *ret)
{
  const struct vd_open how = { .write = VD_WRITE_REQUIRE, .stacked = true };
  struct vd_create create = { .size = SIZE };
  struct vd_image *image;
  static uint8_t data[4096];
  UNIT_CTX (ctx);

  if (parent) {
    create.differencing = true;
    create.link.parent = parent->uuid;
    create.link.parent_cid = VD_CID_NONE;
  }
  assert_ok (ctx, vd_image_create (ctx, in_dir (name),
                                   vd_format_by_name (format), VD_LOCK_OFF,
                                   &create));
  if (!parent) {
    assert_ok (ctx, vd_image_open (ctx, in_dir (name), &how, &image));
    memset (data, fill, sizeof data);
    assert_ok (ctx, vd_image_pwrite (ctx, image, data, sizeof data, 0, 0));
    if (ret)
      *ret = image->link;
    assert_ok (ctx, vd_image_close (ctx, image));
  }
}

static int
setup (void **state)
{
  static unsigned n;

  (void) state;
  snprintf (dir, sizeof dir, "%s/%u", unit_dir, n++);
  return mkdir (dir, 0700);
}

/* base.vdi (0x11), child.vdi on it; other.vdi (0x22) has base.vdi's UUID. */
static struct vd_link base;

static void
make_chain (void)
{
  struct vd_create create = { .size = SIZE };
  const struct vd_open how = { .write = VD_WRITE_REQUIRE };
  struct vd_image *image;
  static uint8_t data[4096];
  UNIT_CTX (ctx);

  make ("base.vdi", "vdi", 0x11, NULL, &base);
  make ("child.vdi", "vdi", 0, &base, NULL);
  create.link.uuid = base.uuid;
  assert_ok (ctx, vd_image_create (ctx, in_dir ("other"),
                                   vd_format_by_name ("vdi"), VD_LOCK_OFF,
                                   &create));
  assert_ok (ctx, vd_image_open (ctx, in_dir ("other"), &how, &image));
  memset (data, 0x22, sizeof data);
  assert_ok (ctx, vd_image_pwrite (ctx, image, data, sizeof data, 0, 0));
  assert_ok (ctx, vd_image_close (ctx, image));
}

static int
open_found (struct vd_ctx *ctx, const struct vd_files *files, bool by_name,
            struct vd_chain **ret)
{
  const struct vd_chain_open how = {
    .how = { .write = VD_WRITE_NO, .lock = VD_LOCK_OFF },
    .fds = by_name ? NULL : files->fds,
  };

  return vd_chain_open (ctx, (const char *const *) files->paths, files->n,
                        &how, ret);
}

static uint8_t
first_byte (struct vd_chain *chain)
{
  uint8_t byte = 0;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_chain_pread (ctx, chain, vd_chain_length (chain) - 1,
                                  &byte, 1, 0));
  return byte;
}

static void
find (struct vd_files *ret)
{
  const struct vd_search how = { .policy = NULL };
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_find_chain (ctx, in_dir ("child.vdi"), &how, ret));
  assert_int_equal (ret->n, 2);
}

/* ---- replaced between the search and the opening ----------------------- */

static void
test_still (void **state)
{
  struct vd_files files;
  struct vd_chain *chain;
  UNIT_CTX (ctx);

  (void) state;
  make_chain ();
  find (&files);
  assert_ok (ctx, open_found (ctx, &files, false, &chain));
  assert_int_equal (first_byte (chain), 0x11);
  assert_ok (ctx, vd_chain_close (ctx, chain));
  vd_files_free (&files);
}

/* Between the search and the opening this happens. */
static void
fails_after (void (*replace) (void))
{
  struct vd_files files;
  struct vd_chain *chain;
  UNIT_CTX (ctx);

  make_chain ();
  find (&files);
  replace ();
  assert_fails (ctx, open_found (ctx, &files, false, &chain), ESTALE,
                "was replaced");
  vd_files_free (&files);
}

static void
by_other (void)
{
  assert_int_equal (rename (in_dir ("other"), in_dir ("base.vdi")), 0);
}

static void
by_link (void)
{
  assert_int_equal (rename (in_dir ("base.vdi"), in_dir ("base.old")), 0);
  assert_int_equal (symlink ("base.old", in_dir ("base.vdi")), 0);
}

static void
by_nothing (void)
{
  assert_int_equal (unlink (in_dir ("base.vdi")), 0);
}

static void
folder_by_other (void)
{
  char was[sizeof dir + 8];

  snprintf (was, sizeof was, "%s.was", dir);
  assert_int_equal (rename (dir, was), 0);
  assert_int_equal (mkdir (dir, 0700), 0);
  make_chain ();
}

static void
test_replaced (void **state)
{
  (void) state;
  fails_after (by_other);
}

/* Its UUID does not give it away: by its name it would be served. */
static void
test_by_name (void **state)
{
  struct vd_files files;
  struct vd_chain *chain;
  UNIT_CTX (ctx);

  (void) state;
  make_chain ();
  find (&files);
  by_other ();
  assert_ok (ctx, open_found (ctx, &files, true, &chain));
  assert_int_equal (first_byte (chain), 0x22);
  assert_ok (ctx, vd_chain_close (ctx, chain));
  vd_files_free (&files);
}

static void
test_replaced_by_link (void **state)
{
  (void) state;
  fails_after (by_link);
}

static void
test_gone (void **state)
{
  (void) state;
  fails_after (by_nothing);
}

static void
test_folder_replaced (void **state)
{
  (void) state;
  fails_after (folder_by_other);
}

/* ---- files that nobody has named ---------------------------------------- */

/* A descriptor of its own with the UUID of the parent, so long. */
static void
make_descriptor (const char *name, const char *uuid, size_t comment)
{
  FILE *f = fopen (in_dir (name), "w");
  size_t i;

  assert_non_null (f);
  fprintf (f, "# Disk DescriptorFile\nversion=1\nCID=12345678\n"
           "parentCID=ffffffff\ncreateType=\"monolithicFlat\"\n");
  for (i = 0; i < comment; i += 80)
    fprintf (f, "#%78s\n", "");
  fprintf (f, "RW %d FLAT \"flat.img\" 0\n"
           "ddb.uuid.image=\"%s\"\nddb.adapterType=\"ide\"\n", SIZE / 512,
           uuid);
  assert_int_equal (fclose (f), 0);
}

static void
test_read_limit (void **state)
{
  const struct vd_search how = { .policy = NULL };
  struct vd_search named = { .policy = NULL };
  struct vd_link parent = { 0 };
  char uuid[VD_UUID_TEXT];
  struct vd_files files;
  UNIT_CTX (ctx);

  (void) state;
  vd_uuid_random (&parent.uuid);
  make ("child.vdi", "vdi", 0, &parent, NULL);
  vd_uuid_text (&parent.uuid, uuid);

  make_descriptor ("long.vmdk", uuid, 70400);
  assert_fails (ctx, vd_find_chain (ctx, in_dir ("child.vdi"), &how, &files),
                EUNATCH, "more than 64 KiB");
  assert_non_null (strstr (ctx->message, "parent=FILE"));

  /* Whoever is named is read. */
  named.parent = in_dir ("long.vmdk");
  assert_ok (ctx, vd_find_chain (ctx, in_dir ("child.vdi"), &named, &files));
  assert_int_equal (files.n, 2);
  vd_files_free (&files);

  assert_int_equal (unlink (in_dir ("long.vmdk")), 0);
  make_descriptor ("short.vmdk", uuid, 60000);
  assert_ok (ctx, vd_find_chain (ctx, in_dir ("child.vdi"), &how, &files));
  assert_int_equal (files.n, 2);
  assert_string_equal (strrchr (files.paths[0], '/'), "/short.vmdk");
  vd_files_free (&files);
}

static void
test_many_entries (void **state)
{
  const struct vd_search how = { .policy = NULL };
  struct vd_link parent = { 0 };
  struct vd_files files;
  unsigned i;
  char name[32];
  UNIT_CTX (ctx);

  (void) state;
  vd_uuid_random (&parent.uuid);
  make ("child.vdi", "vdi", 0, &parent, NULL);
  for (i = 0; i < 4100; ++i) {
    snprintf (name, sizeof name, "file%u", i);
    assert_int_equal (close (open (in_dir (name), O_CREAT | O_WRONLY, 0600)),
                      0);
  }
  assert_fails (ctx, vd_find_chain (ctx, in_dir ("child.vdi"), &how, &files),
                EFBIG, "parent=FILE");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup (test_still, setup),
    cmocka_unit_test_setup (test_replaced, setup),
    cmocka_unit_test_setup (test_by_name, setup),
    cmocka_unit_test_setup (test_replaced_by_link, setup),
    cmocka_unit_test_setup (test_gone, setup),
    cmocka_unit_test_setup (test_folder_replaced, setup),
    cmocka_unit_test_setup (test_read_limit, setup),
    cmocka_unit_test_setup (test_many_entries, setup),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
