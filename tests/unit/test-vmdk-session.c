/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The descriptor of an open VMDK: what a session changes in it, and what
 * setting metadata does, power cuts included.
 */

#include <config.h>

#include "vmdk-folder.h"

#include "memory.h"
#include "vmdk-private.h"

/* An image as vmdk_open leaves it, as far as the descriptor goes. */
struct fixture {
  struct vd_image image;
  struct vmdk vmdk;
  struct vmdk_extent extents[3];
  struct vd_store *stores[1];
  unsigned begun[3], ended[3];
  int fail;
};

static struct fixture *current;

static int
count_begin (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  (void) ctx;
  ++current->begun[x->number];
  return x->number == 1 && current->fail ? vd_error (ctx, EIO, "injected")
    : 0;
}

static int
count_end (struct vd_ctx *ctx, struct vmdk_extent *x)
{
  (void) ctx;
  ++current->ended[x->number];
  return 0;
}

static const struct vmdk_extent_ops counting = {
  .kind = "counting",
  .begin_session = count_begin,
  .end_session = count_end,
};
static const struct vmdk_extent_ops silent = { .kind = "silent" };

/* The image over a store, which it then owns.  room 0: a text file. */
static void
open_fixture (struct fixture *fx, struct vd_store *st, uint64_t offset,
              uint64_t room)
{
  UNIT_CTX (ctx);
  char text[20 * 512 + 1];
  uint64_t size;
  unsigned i;

  memset (fx, 0, sizeof *fx);
  current = fx;
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  size -= offset;
  if (room && size > room)
    size = room;
  assert_true (size < sizeof text);
  assert_ok (ctx, vd_store_pread (ctx, st, text, size, offset));
  ctx->log = NULL;
  assert_ok (ctx, vmdk_descriptor_parse (ctx, st->name, text, size, false,
                                         &fx->vmdk.descriptor));
  fx->vmdk.descriptor_offset = offset;
  fx->vmdk.descriptor_room = room;
  fx->vmdk.extents = fx->extents;
  fx->vmdk.nextents = 3;
  for (i = 0; i < 3; ++i) {
    fx->extents[i].image = &fx->image;
    fx->extents[i].number = i;
    fx->extents[i].write = true;
    fx->extents[i].ops = &counting;
  }
  fx->stores[0] = st;
  fx->image.name = st->name;
  fx->image.store = st;
  fx->image.stores = fx->stores;
  fx->image.nstores = 1;
  fx->image.priv = &fx->vmdk;
  fx->image.write = true;
}

static void
close_fixture (struct fixture *fx)
{
  vmdk_descriptor_free (fx->vmdk.descriptor);
  vd_store_close (fx->image.store);
}

static struct vd_store *
memory_text (const char *text, size_t len)
{
  UNIT_CTX (ctx);
  struct vd_store *st;

  assert_ok (ctx, vd_memory_open (ctx, "x.vmdk", text, len, true, &st));
  return st;
}

static const char base[] =
  "# Disk DescriptorFile\n"
  "version=1\n"
  "CID=0a0e1ad9\n"
  "parentCID=1234abcd\n"
  "createType=\"monolithicSparse\"\n"
  "parentFileNameHint=\"base.vmdk\"\n"
  "description=\"a line that is there for its length, so that most of the "
  "data base is in the second sector of the text and all the rest is in "
  "the first, "
  "as it may well be somewhere, for all that we know of such "
  "things, which is little enough\"\n"
  "\n"
  "# Extent description\n"
  "RW 204800 SPARSE \"x.vmdk\"\n"
  "\n"
  "# The Disk Data Base\n"
  "#DDB\n"
  "\n"
  "ddb.virtualHWVersion = \"4\"\n"
  "ddb.longContentID = \"7a8d277e9e4ec89451404a320a0e1ad9\"\n"
  "ddb.geometry.biosCylinders=\"100\"\n"
  "ddb.geometry.biosHeads=\"16\"\n"
  "ddb.geometry.biosSectors=\"63\"\n"
  "ddb.uuid.image=\"a0000000-0000-4000-8000-000000000022\"\n"
  "ddb.uuid.parent=\"b0000000-0000-4000-8000-000000000022\"\n"
  "ddb.uuid.modification=\"c3b6e47b-4375-402b-b1a2-8335b85727a2\"\n"
  "ddb.uuid.parentmodification=\"00000000-0000-0000-0000-000000000000\"\n"
  "ddb.comment=\"first\"\n";

/* The descriptor as the store has it. */
static struct vmdk_descriptor *
on_disk (struct vd_store *st, uint64_t offset, uint64_t room, char *text,
         size_t size)
{
  UNIT_CTX (ctx);
  struct vmdk_descriptor *d;
  uint64_t len;

  assert_ok (ctx, vd_store_get_size (ctx, st, &len));
  len -= offset;
  if (room && len > room)
    len = room;
  assert_true (len < size);
  assert_ok (ctx, vd_store_pread (ctx, st, text, len, offset));
  text[len] = '\0';
  ctx->log = NULL;
  if (vmdk_descriptor_parse (ctx, "disk", text, len, false, &d) < 0)
    fail_msg ("%s\n%s", ctx->message, text);
  return d;
}

/* ---- sessions --------------------------------------------------------- */

static void
check_session (const char *text, size_t len, uint64_t offset, uint64_t room)
{
  UNIT_CTX (ctx);
  struct vd_store *st = memory_text (text, len);
  struct fixture fx;
  const struct vmdk_fields *f;
  struct vmdk_descriptor *d;
  char now[20 * 512 + 1];
  const uint8_t *data;
  size_t size, i, same = 0;

  open_fixture (&fx, st, offset, room);
  fx.extents[1].write = false;
  fx.extents[2].ops = &silent;
  assert_ok (ctx, vmdk_begin_session (ctx, &fx.image));
  assert_int_equal (fx.begun[0], 1);
  assert_int_equal (fx.begun[1], 0);
  assert_false (st->touched);

  data = vd_memory_data (st, &size);
  assert_int_equal (size, len);
  for (i = 0; i < len; ++i)
    same += data[i] == (uint8_t) text[i];
  /* CID, modification UUID, long content ID. */
  assert_true (same >= len - 8 - 36 - 32 && same < len);

  d = on_disk (st, offset, room, now, sizeof now);
  f = vmdk_descriptor_fields (d);
  assert_int_not_equal (f->cid, 0x0a0e1ad9);
  assert_int_equal (fx.image.link.cid, f->cid);
  assert_true (fx.image.link.has_cid);
  assert_int_equal (f->parent_cid, 0x1234abcd);
  assert_string_equal (fx.image.link.parent_hint, "base.vmdk");
  assert_string_equal (fx.image.comment, "first");
  assert_int_equal (f->modification.bytes[6] >> 4, 4);
  assert_true (vd_uuid_equal (&f->modification,
                              &fx.image.link.modification));
  assert_int_equal (strtoul (vmdk_descriptor_get (d, "ddb.longContentID") +
                             24, NULL, 16), f->cid);
  vmdk_descriptor_free (d);

  assert_ok (ctx, vmdk_end_session (ctx, &fx.image));
  assert_int_equal (fx.ended[0], 1);
  assert_int_equal (fx.ended[1], 0);
  close_fixture (&fx);
}

static void
test_session (void **state)
{
  char region[22 * 512];

  (void) state;
  check_session (base, strlen (base), 0, 0);
  memset (region, 0xee, sizeof region);
  memset (region + 512, 0, 20 * 512);
  memcpy (region + 512, base, strlen (base));
  check_session (region, sizeof region, 512, 20 * 512);
}

/* Short CIDs, braces and prefixes stay as long as they are; what is not there
 * is not added.
 */
static void
test_session_forms (void **state)
{
  static const struct {
    const char *text, *expected;        /* '*' for what changes */
  } cases[] = {
    { "version=1\nCID=f\nRW 1 ZERO\n", "version=1\nCID=*\nRW 1 ZERO\n" },
    { "version=1\nCID=0xab\nRW 1 ZERO\n", "version=1\nCID=0x**\nRW 1 ZERO\n" },
    { "version=1\nRW 1 ZERO\n", "version=1\nRW 1 ZERO\n" },
    { "version=1\nRW 1 ZERO\nddb.uuid.modification=\"none\"\n",
      "version=1\nRW 1 ZERO\nddb.uuid.modification=\"none\"\n" },
    { "version=1\nRW 1 ZERO\n"
      "ddb.uuid.modification=\"{C3B6E47B-4375-402B-B1A2-8335B85727A2}\"\n",
      "version=1\nRW 1 ZERO\n"
      "ddb.uuid.modification=\"{********-****-****-****-************}\"\n" },
    { "version=1\nCID=1\nCID=1\nRW 1 ZERO\n",
      "version=1\nCID=*\nCID=*\nRW 1 ZERO\n" },
    { "version=1\nCID=0x0ab\ncid = 000000ab\nRW 1 ZERO\n",
      "version=1\nCID=0x***\ncid = 00000***\nRW 1 ZERO\n" },
    { "version=1\nCID=ab\nRW 1 ZERO\n"
      "ddb.uuid.modification=\"c3b6e47b-4375-402b-b1a2-8335b85727a2\" junk\n"
      "ddb.longContentID = 7a8d277e9e4ec89451404a32000000ab\n",
      "version=1\nCID=**\nRW 1 ZERO\n"
      "ddb.uuid.modification=\"********-****-****-****-************\" junk\n"
      "ddb.longContentID = ************************000000**\n" },
  };
  size_t i, j, size;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    UNIT_CTX (ctx);
    struct vd_store *st = memory_text (cases[i].text,
                                       strlen (cases[i].text));
    struct fixture fx;
    const char *data;

    open_fixture (&fx, st, 0, 0);
    assert_ok (ctx, vmdk_begin_session (ctx, &fx.image));
    data = (const char *) vd_memory_data (st, &size);
    assert_int_equal (size, strlen (cases[i].expected));
    for (j = 0; j < size; ++j)
      if (cases[i].expected[j] != '*')
        assert_int_equal (data[j], cases[i].expected[j]);
    close_fixture (&fx);
  }
}

/* A session that cannot begin leaves the image as it was. */
static void
test_session_fails (void **state)
{
  UNIT_CTX (ctx);
  struct vd_store *st = memory_text (base, strlen (base));
  struct vmdk_descriptor *d;
  struct fixture fx;
  char now[4096];

  (void) state;
  open_fixture (&fx, st, 0, 0);
  fx.fail = true;
  assert_fails (ctx, vmdk_begin_session (ctx, &fx.image), EIO, "injected");
  assert_int_equal (fx.begun[0], 1);
  assert_int_equal (fx.begun[2], 0);
  assert_int_equal (vmdk_descriptor_fields (fx.vmdk.descriptor)->cid,
                    0x0a0e1ad9);
  /* And can be begun again, over what it had written. */
  fx.fail = false;
  assert_ok (ctx, vmdk_begin_session (ctx, &fx.image));
  assert_int_equal (vmdk_descriptor_fields (fx.vmdk.descriptor)->cid,
                    fx.image.link.cid);
  d = on_disk (st, 0, 0, now, sizeof now);
  assert_int_equal (vmdk_descriptor_fields (d)->cid, fx.image.link.cid);
  assert_true (vd_uuid_equal (&vmdk_descriptor_fields (d)->modification,
                              &fx.image.link.modification));
  vmdk_descriptor_free (d);
  close_fixture (&fx);
}

/* A key that stands there twice stays there twice, also if a session could not
 * begin at first: no text moves.
 */
static void
test_session_again (void **state)
{
  static const char twice[] =
    "version=1\nCID=12345678\nparentCID=ffffffff\nCID=12345678\n"
    "RW 1 ZERO\nddb.uuid.modification=\"c3b6e47b-4375-402b-b1a2-"
    "8335b85727a2\"\nddb.x=1\nddb.x=2\n";
  UNIT_CTX (ctx);
  struct vd_store *st = memory_text (twice, strlen (twice));
  struct fixture fx;
  const char *data;
  char line[16];
  size_t size, n;
  unsigned i;

  (void) state;
  open_fixture (&fx, st, 0, 0);
  for (i = 0; i < 4; ++i) {
    fx.fail = i < 3;
    if (fx.fail)
      assert_fails (ctx, vmdk_begin_session (ctx, &fx.image), EIO,
                    "injected");
    else
      assert_ok (ctx, vmdk_begin_session (ctx, &fx.image));
    data = (const char *) vd_memory_data (st, &size);
    assert_int_equal (size, strlen (twice));
    for (n = 0; n < size; ++n)
      if (data[n] == '\n')
        assert_int_equal (twice[n], '\n');
    memcpy (line, strstr (data, "\nCID="), 14);
    assert_memory_equal (line, strstr (data, "ffffffff") + 8, 14);
    assert_memory_not_equal (line, "\nCID=12345678", 14);
  }
  snprintf (line, sizeof line, "CID=%08x", fx.image.link.cid);
  assert_memory_equal (line, strstr (data, "CID="), 12);
  close_fixture (&fx);
}

/* ---- metadata --------------------------------------------------------- */

static void
check_meta (const char *text, size_t len, uint64_t offset, uint64_t room,
            uint64_t expected_size)
{
  UNIT_CTX (ctx);
  struct vd_store *st = memory_text (text, len);
  struct vd_uuid uuid, modification, none = { { 0 } }, other;
  struct vd_geometry lchs = { 1024, 255, 63 };
  struct fixture fx;
  const struct vmdk_fields *f;
  struct vmdk_descriptor *d;
  char now[20 * 512 + 1];
  const uint8_t *data;
  size_t size, i;

  vd_uuid_random (&uuid);
  vd_uuid_random (&modification);
  vd_uuid_random (&other);
  open_fixture (&fx, st, offset, room);
  assert_ok (ctx, vmdk_set_meta (ctx, &fx.image, &(struct vd_meta_change) {
        .uuid = &uuid, .modification = &modification, .lchs = &lchs,
        .comment = "a much longer\ncomment", .parent_modification = &other,
      }));
  d = on_disk (st, offset, room, now, sizeof now);
  f = vmdk_descriptor_fields (d);
  assert_true (vd_uuid_equal (&f->image, &uuid));
  assert_true (vd_uuid_equal (&fx.image.link.uuid, &uuid));
  assert_true (vd_uuid_equal (&f->modification, &modification));
  assert_true (vd_uuid_equal (&f->parent_modification, &other));
  assert_int_equal (f->lchs.cylinders, 1024);
  assert_int_equal (fx.image.lchs.heads, 255);
  assert_string_equal (f->comment, "a much longer\ncomment");
  assert_string_equal (fx.image.comment, "a much longer\ncomment");
  /* The parent is the old one. */
  assert_int_equal (f->parent_cid, 0x1234abcd);
  assert_string_equal (f->parent_hint, "base.vmdk");
  vmdk_descriptor_free (d);

  /* The same once more, then no parent and no comment. */
  assert_ok (ctx, vmdk_set_meta (ctx, &fx.image, &(struct vd_meta_change) {
        .comment = "a much longer\ncomment" }));
  assert_ok (ctx, vmdk_set_meta (ctx, &fx.image, &(struct vd_meta_change) {
        .parent = &none, .parent_modification = &none, .comment = "" }));
  d = on_disk (st, offset, room, now, sizeof now);
  f = vmdk_descriptor_fields (d);
  assert_true (vd_uuid_is_null (&f->parent));
  assert_int_equal (f->parent_cid, VD_CID_NONE);
  assert_int_equal (fx.image.link.parent_cid, VD_CID_NONE);
  assert_null (f->parent_hint);
  assert_null (f->comment);
  assert_null (fx.image.comment);
  vmdk_descriptor_free (d);

  data = vd_memory_data (st, &size);
  if (room) {
    assert_int_equal (size, len);
    for (i = 0; i < len; ++i)
      if (i < offset || i >= offset + room)
        assert_int_equal (data[i], (uint8_t) text[i]);
    for (i = offset + strlen (now); i < offset + room; ++i)
      assert_int_equal (data[i], 0);
  }
  else if (expected_size)
    assert_int_equal (size, expected_size);
  else
    assert_int_equal (size, strlen (now));

  assert_fails (ctx, vmdk_set_meta (ctx, &fx.image,
                                    &(struct vd_meta_change) {
                                      .uuid = &none }),
                EINVAL, "must not be null");
  lchs.sectors = 64;
  assert_fails (ctx, vmdk_set_meta (ctx, &fx.image,
                                    &(struct vd_meta_change) {
                                      .lchs = &lchs }),
                EINVAL, "sectors is 64");
  close_fixture (&fx);
}

static void
test_meta (void **state)
{
  char region[22 * 512];

  (void) state;
  check_meta (base, strlen (base), 0, 0, 0);
  memset (region, 0xee, sizeof region);
  memset (region + 512, 0, 20 * 512);
  memcpy (region + 512, base, strlen (base));
  check_meta (region, sizeof region, 512, 20 * 512, 0);
  /* Padded, as qemu leaves it. */
  check_meta (region + 512, 1024, 0, 0, 1024);
  check_meta (region + 512, 4096, 0, 0, 4096);
}

static void
test_meta_room (void **state)
{
  UNIT_CTX (ctx);
  char region[1536] = { 0 }, comment[900];
  struct vd_store *st;
  struct fixture fx;
  const char *data;
  size_t size, n;

  (void) state;
  memcpy (region, base, strlen (base));
  memset (comment, 'x', sizeof comment);
  n = 1024 - strlen (base) + strlen ("first");
  comment[n] = '\0';

  st = memory_text (region, sizeof region);
  open_fixture (&fx, st, 0, 1024);
  /* To the last byte, and one more. */
  assert_ok (ctx, vmdk_set_meta (ctx, &fx.image, &(struct vd_meta_change) {
        .comment = comment }));
  data = (const char *) vd_memory_data (st, &size);
  assert_memory_equal (data + 1024 - 3, "x\"\n", 4);
  assert_string_equal (fx.image.comment, comment);
  comment[n] = 'x';
  comment[n + 1] = '\0';
  assert_fails (ctx, vmdk_set_meta (ctx, &fx.image,
                                    &(struct vd_meta_change) {
                                      .comment = comment }),
                ENOSPC, "descriptor too long: 1025 bytes, there is room for "
                "1024");
  assert_int_equal (strlen (fx.image.comment), n);
  close_fixture (&fx);

  /* Somebody else has written it. */
  st = memory_text (region, sizeof region);
  open_fixture (&fx, st, 0, 1024);
  assert_ok (ctx, vd_store_pwrite (ctx, st, "x", 1, 5, 0));
  assert_fails (ctx, vmdk_set_meta (ctx, &fx.image,
                                    &(struct vd_meta_change) {
                                      .comment = "longer than first" }),
                EIO, "not what it was");
  close_fixture (&fx);
}

/* ---- power cuts ------------------------------------------------------- */

/* The text before and after; what a cut leaves is one of them, or, where that
 * cannot be, the copy is.
 */
static void
cut_everywhere (const char *text, size_t len, uint64_t room,
                const struct vd_meta_change *change, bool expect_copy)
{
  UNIT_CTX (ctx);
  struct vd_sim *sim = vd_sim_new ();
  struct fixture fx;
  struct vd_store *st;
  char before[20 * 512 + 1], after[20 * 512 + 1], now[20 * 512 + 1];
  size_t start, n, round, old = 0, new = 0, copies = 0;
  struct sim_folder sf;
  uint64_t seed = 3;

  sim_folder_init (&sf, sim);
  assert_ok (ctx, vd_sim_open (ctx, sim, "x.vmdk", true, &st));
  assert_ok (ctx, vd_store_pwrite (ctx, st, text, len, 0, 0));
  assert_ok (ctx, vd_store_sync (ctx, st));
  start = vd_sim_log_length (sim);
  vmdk_descriptor_free (on_disk (st, 0, room, before, sizeof before));
  open_fixture (&fx, st, 0, room);
  fx.image.folder = &sf.f;
  assert_ok (ctx, vmdk_set_meta (ctx, &fx.image, change));
  assert_false (st->touched);
  assert_int_equal (sf.n, 0);
  vmdk_descriptor_free (on_disk (st, 0, room, after, sizeof after));
  close_fixture (&fx);

  for (n = start; n <= vd_sim_log_length (sim); ++n)
    for (round = 0; round < 40; ++round) {
      struct vd_sim *cut = vd_sim_power_cut (sim, n, &seed);
      uint64_t size;

      assert_ok (ctx, vd_sim_open (ctx, cut, "x.vmdk", false, &st));
      assert_ok (ctx, vd_store_get_size (ctx, st, &size));
      assert_true (size < sizeof now);
      assert_ok (ctx, vd_store_pread (ctx, st, now, size, 0));
      now[size] = '\0';
      vd_store_close (st);
      if (strcmp (now, before) == 0)
        ++old;
      else if (strcmp (now, after) == 0)
        ++new;
      else {
        ++copies;
        if (!expect_copy)
          fail_msg ("cut at %zu of %zu leaves\n%s", n - start,
                    vd_sim_log_length (sim) - start, now);
        assert_ok (ctx, vd_sim_open (ctx, cut, "x.vmdk.new", false, &st));
        assert_ok (ctx, vd_store_get_size (ctx, st, &size));
        assert_int_equal (size, strlen (after));
        assert_ok (ctx, vd_store_pread (ctx, st, now, size, 0));
        now[size] = '\0';
        assert_string_equal (now, after);
        vd_store_close (st);
      }
      vd_sim_free (cut);
    }
  assert_true (old > 0 && new > 0);
  assert_int_equal (copies > 0, expect_copy);
  vd_sim_free (sim);
}

static void
test_meta_power_cut (void **state)
{
  static const uint64_t rooms[] = { 0, 20 * 512, 0 };
  char region[20 * 512] = { 0 }, comment[1000], padded[1100];
  struct vd_geometry lchs = { 5, 6, 7 };
  struct vd_uuid none = { { 0 } };
  size_t i, len;

  (void) state;
  memcpy (region, base, strlen (base));
  memset (comment, 'x', sizeof comment);
  comment[sizeof comment - 1] = '\0';
  for (i = 0; i < 3; ++i) {
    len = i == 0 ? strlen (base) : i == 1 ? sizeof region : 1024;
    /* At the end: shorter, longer, much longer. */
    cut_everywhere (region, len, rooms[i], &(struct vd_meta_change) {
        .comment = "f" }, false);
    cut_everywhere (region, len, rooms[i], &(struct vd_meta_change) {
        .comment = "first and last" }, false);
    cut_everywhere (region, len, rooms[i], &(struct vd_meta_change) {
        .comment = comment }, false);
    /* Earlier in the text, but in its last sector. */
    assert_true (strstr (base, "biosCyl") > base + 512);
    cut_everywhere (region, len, rooms[i], &(struct vd_meta_change) {
        .lchs = &lchs }, false);
    /* All of it moves. */
    cut_everywhere (region, len, rooms[i], &(struct vd_meta_change) {
        .parent = &none }, true);
  }

  /* Much shorter again. */
  len = snprintf (padded, sizeof padded, "version=1\nRW 1 ZERO\n"
                  "ddb.comment = \"%.900s\"\n", comment);
  cut_everywhere (padded, len, 0, &(struct vd_meta_change) {
      .comment = "short" }, false);
  /* The text fills its sector exactly. */
  len = snprintf (padded, sizeof padded, "version=1\nRW 1 ZERO\n"
                  "ddb.comment = \"%.475s\"\n", comment);
  assert_int_equal (len, 512);
  cut_everywhere (padded, len, 0, &(struct vd_meta_change) {
      .lchs = &lchs }, false);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_session),
    cmocka_unit_test (test_session_forms),
    cmocka_unit_test (test_session_fails),
    cmocka_unit_test (test_session_again),
    cmocka_unit_test (test_meta),
    cmocka_unit_test (test_meta_room),
    cmocka_unit_test (test_meta_power_cut),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
