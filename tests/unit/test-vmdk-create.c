/* SPDX-License-Identifier: BSD-3-Clause
 *
 * New VMDK images: every byte of the layout (vmdk-format 5.2, 6.4, 7), the
 * limits, the order in which they reach the disk, and that nothing is left
 * of what failed.
 */

#include <config.h>

#include "vmdk-folder.h"

#include "memory.h"
#include "vmdk-private.h"
#include "vmdk-raw.h"

#define KIB UINT64_C (1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)
#define SPLIT (2047 * MIB)

static uint64_t
peek (const uint8_t *data, uint64_t offset, unsigned width)
{
  uint64_t v = 0;

  while (width-- > 0)
    v = v << 8 | data[offset + width];
  return v;
}

/* The bytes of a file of the simulated disk, from offset on. */
static void
read_file (struct vd_sim *sim, const char *name, void *buf, size_t len,
           uint64_t offset)
{
  UNIT_CTX (ctx);
  struct vd_store *st;

  assert_ok (ctx, vd_sim_open (ctx, sim, name, false, &st));
  assert_ok (ctx, vd_store_pread (ctx, st, buf, len, offset));
  vd_store_close (st);
}

static uint64_t
file_size (struct vd_sim *sim, const char *name)
{
  UNIT_CTX (ctx);
  struct vd_store *st;
  uint64_t size;

  assert_ok (ctx, vd_sim_open (ctx, sim, name, false, &st));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  vd_store_close (st);
  return size;
}

static struct vmdk_descriptor *
parse_file (struct vd_sim *sim, const char *name)
{
  UNIT_CTX (ctx);
  uint64_t size = file_size (sim, name);
  struct vmdk_descriptor *d;
  char buf[4096];

  assert_true (size > 0 && size < sizeof buf);
  read_file (sim, name, buf, size, 0);
  assert_ok (ctx, vmdk_descriptor_parse (ctx, name, buf, size, false, &d));
  return d;
}

static int
create (struct vd_ctx *ctx, struct sim_folder *sf, const char *name,
        const struct vd_create *how)
{
  struct vd_store *st;
  int r;

  assert_ok (ctx, vmdk_check_create (ctx, how));
  assert_ok (ctx, vd_sim_open (ctx, sf->sim, name, true, &st));
  r = vmdk_create (ctx, st, &sf->f, name, how);
  vd_store_close (st);
  return r;
}

/* ---- sparse ----------------------------------------------------------- */

static struct vd_store *
create_memory (const struct vd_create *how)
{
  UNIT_CTX (ctx);
  struct vd_store *st;

  assert_ok (ctx, vmdk_check_create (ctx, how));
  assert_ok (ctx, vd_memory_open (ctx, "new.vmdk", NULL, 0, true, &st));
  assert_ok (ctx, vmdk_create (ctx, st, NULL, "new.vmdk", how));
  return st;
}

/* The hexdump and the table in vmdk-format 5.1 and 5.2. */
static void
test_sparse (void **state)
{
  static const uint8_t header[80] = {
    0x4b, 0x44, 0x4d, 0x56, 0x01, 0, 0, 0, 0x03, 0, 0, 0, 0, 0x20, 0x03, 0,
    0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0, 0,
    0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x02, 0, 0,
    0x15, 0, 0, 0, 0, 0, 0, 0, 0x26, 0, 0, 0, 0, 0, 0, 0,
    0x80, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x0a, 0x20, 0x0d, 0x0a, 0, 0, 0,
  };
  UNIT_CTX (ctx);
  struct vd_store *st = create_memory (&(struct vd_create) {
      .size = 100 * MIB, .comment = "hello", .lchs = { 1, 2, 3 } });
  const struct vmdk_fields *f;
  struct vmdk_descriptor *d;
  const uint8_t *data;
  size_t size, i;

  (void) state;
  data = vd_memory_data (st, &size);
  assert_int_equal (size, 64 * KIB);
  assert_memory_equal (data, header, sizeof header);
  for (i = sizeof header; i < 512; ++i)
    assert_int_equal (data[i], 0);
  /* Both directories, each with its tables behind it. */
  for (i = 0; i < 4; ++i) {
    assert_int_equal (peek (data, 21 * 512 + 4 * i, 4), 22 + 4 * i);
    assert_int_equal (peek (data, 38 * 512 + 4 * i, 4), 39 + 4 * i);
  }
  for (i = 21 * 512 + 16; i < 38 * 512; ++i)
    assert_int_equal (data[i], 0);
  for (i = 38 * 512 + 16; i < size; ++i)
    assert_int_equal (data[i], 0);

  assert_ok (ctx, vmdk_descriptor_parse (ctx, "x", (const char *) data + 512,
                                         20 * 512, true, &d));
  f = vmdk_descriptor_fields (d);
  assert_string_equal (f->create_type, "monolithicSparse");
  assert_true (f->has_cid);
  assert_int_equal (f->parent_cid, VD_CID_NONE);
  assert_null (f->parent_hint);
  assert_string_equal (f->comment, "hello");
  assert_string_equal (f->adapter, "ide");
  assert_int_equal (f->hw_version, 4);
  assert_int_equal (f->pchs.cylinders, 203);
  assert_int_equal (f->lchs.sectors, 3);
  assert_int_equal (f->image.bytes[6] >> 4, 4);
  assert_int_equal (f->modification.bytes[6] >> 4, 4);
  assert_true (vd_uuid_is_null (&f->parent));
  assert_non_null (vmdk_descriptor_get (d, "ddb.uuid.parent"));
  assert_non_null (vmdk_descriptor_get (d, "ddb.uuid.parentmodification"));
  assert_string_equal (vmdk_descriptor_extent (d, 0)->name, "new.vmdk");
  assert_int_equal (vmdk_descriptor_extent (d, 0)->sectors, 204800);
  vmdk_descriptor_free (d);
  vd_store_close (st);

  /* A size that is no multiple of the grain stands in both places. */
  st = create_memory (&(struct vd_create) { .size = 1954 * 512 });
  data = vd_memory_data (st, &size);
  assert_int_equal (peek (data, 12, 8), 1954);
  assert_int_equal (peek (data, 56, 8), 26);
  assert_ok (ctx, vmdk_descriptor_parse (ctx, "x", (const char *) data + 512,
                                         20 * 512, true, &d));
  assert_int_equal (vmdk_descriptor_extent (d, 0)->sectors, 1954);
  vmdk_descriptor_free (d);
  vd_store_close (st);
}

static void
test_parent (void **state)
{
  struct vd_create how = {
    .size = 64 * KIB,
    .link = { .has_cid = true, .cid = 0x1234, .parent_cid = 0xabc,
              .parent_hint = "base.vmdk" },
  };
  UNIT_CTX (ctx);
  const struct vmdk_fields *f;
  struct vmdk_descriptor *d;
  struct vd_store *st;
  size_t size;

  (void) state;
  vd_uuid_random (&how.link.uuid);
  vd_uuid_random (&how.link.parent);
  vd_uuid_random (&how.link.parent_modification);
  st = create_memory (&how);
  assert_ok (ctx, vmdk_descriptor_parse
             (ctx, "x", (const char *) vd_memory_data (st, &size) + 512,
              20 * 512, true, &d));
  f = vmdk_descriptor_fields (d);
  assert_int_equal (f->cid, 0x1234);
  assert_int_equal (f->parent_cid, 0xabc);
  assert_string_equal (f->parent_hint, "base.vmdk");
  assert_true (vd_uuid_equal (&f->image, &how.link.uuid));
  assert_true (vd_uuid_equal (&f->parent, &how.link.parent));
  assert_true (vd_uuid_equal (&f->parent_modification,
                              &how.link.parent_modification));
  vmdk_descriptor_free (d);
  vd_store_close (st);
}

static void
test_stream (void **state)
{
  UNIT_CTX (ctx);
  struct vd_store *st = create_memory (&(struct vd_create) {
      .size = 389 * 512, .variant = "stream" });
  struct vmdk_descriptor *d;
  const uint8_t *data;
  size_t size, i;

  (void) state;
  data = vd_memory_data (st, &size);
  /* Complete, with no grains: directory, footer and end, and their markers. */
  assert_int_equal (size, (21 + 5) * 512);
  assert_memory_equal (data, "KDMV", 4);
  assert_int_equal (peek (data, 4, 4), 3);
  assert_int_equal (peek (data, 8, 4), 0x30001);
  assert_int_equal (peek (data, 12, 8), 512);
  assert_int_equal (peek (data, 20, 8), 128);
  assert_int_equal (peek (data, 28, 8), 1);
  assert_int_equal (peek (data, 36, 8), 20);
  assert_int_equal (peek (data, 44, 4), 512);
  assert_int_equal (peek (data, 48, 8), 0);
  assert_int_equal (peek (data, 56, 8), UINT64_MAX);
  assert_int_equal (peek (data, 64, 8), 21);
  assert_int_equal (peek (data, 72, 1), 0);
  assert_memory_equal (&data[73], "\n \r\n", 4);
  assert_int_equal (peek (data, 77, 2), 1);
  for (i = 79; i < 512; ++i)
    assert_int_equal (data[i], 0);
  assert_memory_equal (&data[size - 1024], "KDMV", 4);
  assert_int_equal (peek (data, size - 1024 + 56, 8), 22);
  assert_int_equal (peek (data, size - 512, 8), 0);
  assert_ok (ctx, vmdk_descriptor_parse (ctx, "x", (const char *) data + 512,
                                         20 * 512, true, &d));
  assert_string_equal (vmdk_descriptor_fields (d)->create_type,
                       "streamOptimized");
  assert_int_equal (vmdk_descriptor_extent (d, 0)->sectors, 389);
  assert_int_equal (vmdk_descriptor_extent (d, 0)->access, VMDK_RW);
  vmdk_descriptor_free (d);
  vd_store_close (st);
}

/* ---- several files ---------------------------------------------------- */

static void
test_split_sparse (void **state)
{
  static const char *const names[] = {
    "a.b-s001.vmdk", "a.b-s002.vmdk", "a.b-s003.vmdk",
  };
  UNIT_CTX (ctx);
  struct vd_sim *sim = vd_sim_new ();
  struct vmdk_descriptor *d;
  struct sim_folder sf;
  uint8_t header[512];
  size_t i;

  (void) state;
  sim_folder_init (&sf, sim);
  assert_ok (ctx, create (ctx, &sf, "a.b.vmdk", &(struct vd_create) {
        .size = 2 * SPLIT + 5 * 512, .variant = "split-sparse" }));
  assert_int_equal (sf.n, 3);
  assert_true (sf.syncs > 0);
  d = parse_file (sim, "a.b.vmdk");
  assert_string_equal (vmdk_descriptor_fields (d)->create_type,
                       "twoGbMaxExtentSparse");
  assert_int_equal (vmdk_descriptor_nextents (d), 3);
  for (i = 0; i < 3; ++i) {
    const struct vmdk_extent_line *x = vmdk_descriptor_extent (d, i);
    uint64_t sectors = i < 2 ? 4192256 : 5;

    assert_string_equal (x->name, names[i]);
    assert_string_equal (sf.names[i], names[i]);
    assert_int_equal (x->type, VMDK_SPARSE);
    assert_int_equal (x->sectors, sectors);
    /* As VirtualBox makes them. */
    read_file (sim, names[i], header, sizeof header, 0);
    assert_memory_equal (header, "KDMV\1\0\0\0\3\0\0\0", 12);
    assert_int_equal (peek (header, 12, 8), sectors);
    assert_int_equal (peek (header, 28, 8), 0);
    assert_int_equal (peek (header, 36, 8), 0);
    assert_int_equal (peek (header, 48, 8), 1);
    assert_int_equal (peek (header, 56, 8), i < 2 ? 258 : 6);
    assert_int_equal (peek (header, 64, 8), i < 2 ? 640 : 128);
    assert_int_equal (file_size (sim, names[i]), (i < 2 ? 640 : 128) * 512);
  }
  vmdk_descriptor_free (d);
  vd_sim_free (sim);
}

/* With real files, as a simulated disk has no holes. */
static void
test_split_flat (void **state)
{
  const char *path = unit_path ("a.b.vmdk");
  UNIT_CTX (ctx);
  struct vmdk_descriptor *d;
  struct vd_folder *folder;
  struct vd_store *st;
  char text[2048];
  struct stat sb;
  uint64_t size;
  unsigned i;

  (void) state;
  assert_ok (ctx, vd_folder_of (ctx, path, NULL, VD_LOCK_AUTO, &folder));
  assert_ok (ctx, vd_folder_create (ctx, folder, "a.b.vmdk", &st));
  assert_ok (ctx, vmdk_create (ctx, st, folder, "a.b.vmdk",
                               &(struct vd_create) {
                                 .size = 2 * SPLIT + 5 * 512,
                                 .variant = "2gbmaxextentflat" }));
  assert_ok (ctx, vd_store_get_size (ctx, st, &size));
  assert_true (size < sizeof text);
  assert_ok (ctx, vd_store_pread (ctx, st, text, size, 0));
  assert_ok (ctx, vmdk_descriptor_parse (ctx, "x", text, size, false, &d));
  assert_string_equal (vmdk_descriptor_fields (d)->create_type,
                       "twoGbMaxExtentFlat");
  assert_int_equal (vmdk_descriptor_nextents (d), 3);
  for (i = 0; i < 3; ++i) {
    const struct vmdk_extent_line *x = vmdk_descriptor_extent (d, i);
    char name[32];

    snprintf (name, sizeof name, "a.b-f00%u.vmdk", i + 1);
    assert_string_equal (x->name, name);
    assert_int_equal (x->type, VMDK_FLAT);
    assert_int_equal (x->sectors, i < 2 ? 4192256 : 5);
    assert_int_equal (stat (unit_path (name), &sb), 0);
    assert_int_equal (sb.st_size, x->sectors * 512);
    assert_int_equal (sb.st_blocks, 0);
    assert_int_equal (sb.st_mode & 0777, 0600);
  }
  vmdk_descriptor_free (d);
  vd_store_close (st);

  /* Preallocated. */
  assert_ok (ctx, vd_folder_create (ctx, folder, "p.vmdk", &st));
  assert_ok (ctx, vmdk_create (ctx, st, folder, "p.vmdk",
                               &(struct vd_create) {
                                 .size = MIB,
                                 .variant = "flat-preallocated" }));
  assert_int_equal (stat (unit_path ("p-flat.vmdk"), &sb), 0);
  assert_int_equal (sb.st_size, MIB);
  assert_true (sb.st_blocks >= 2048);
  vd_store_close (st);
  vd_folder_close (folder);
}

/* Variants of one extent beside the descriptor. */
static void
test_one_extent (void **state)
{
  static const struct {
    const char *variant, *name, *extent, *create_type, *adapter;
    enum vmdk_type type;
  } cases[] = {
    { "flat", "x.vmdk", "x-flat.vmdk", "monolithicFlat", "ide", VMDK_FLAT },
    { "monolithic-flat", "x", "x-flat", "monolithicFlat", "ide", VMDK_FLAT },
    { "MONOLITHICFLAT", ".vmdk", ".vmdk-flat", "monolithicFlat", "ide",
      VMDK_FLAT },
    { "flat-preallocated", "x.VMDK", "x-flat.VMDK", "monolithicFlat", "ide",
      VMDK_FLAT },
    { "vmfs", "x.vmdk", "x-flat.vmdk", "vmfs", "lsilogic", VMDK_VMFS },
    { "vmfs-flat", "x.vmdk", "x-flat.vmdk", "vmfs", "lsilogic", VMDK_VMFS },
    { "split-flat", "x.vmdk", "x-f001.vmdk", "twoGbMaxExtentFlat", "ide",
      VMDK_FLAT },
    { "twoGbMaxExtentSparse", "x.vmdk", "x-s001.vmdk", "twoGbMaxExtentSparse",
      "ide", VMDK_SPARSE },
  };
  UNIT_CTX (ctx);
  size_t i;

  (void) state;
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    struct vd_sim *sim = vd_sim_new ();
    struct vmdk_descriptor *d;
    struct sim_folder sf;

    sim_folder_init (&sf, sim);
    assert_ok (ctx, create (ctx, &sf, cases[i].name, &(struct vd_create) {
          .size = MIB + 512, .variant = cases[i].variant }));
    assert_int_equal (sf.n, 1);
    assert_string_equal (sf.names[0], cases[i].extent);
    if (cases[i].type != VMDK_SPARSE)
      assert_int_equal (file_size (sim, cases[i].extent), MIB + 512);
    d = parse_file (sim, cases[i].name);
    assert_string_equal (vmdk_descriptor_fields (d)->create_type,
                         cases[i].create_type);
    assert_string_equal (vmdk_descriptor_fields (d)->adapter,
                         cases[i].adapter);
    assert_int_equal (vmdk_descriptor_nextents (d), 1);
    assert_int_equal (vmdk_descriptor_extent (d, 0)->type, cases[i].type);
    assert_int_equal (vmdk_descriptor_extent (d, 0)->sectors, 2049);
    assert_string_equal (vmdk_descriptor_extent (d, 0)->name,
                         cases[i].extent);
    vmdk_descriptor_free (d);
    vd_sim_free (sim);
  }
}

/* ---- disks of the host ------------------------------------------------- */

#define DEVICE "/dev/disk"
#define DEVICE_SECTORS 32768

/* A device of the simulated disk whose sectors hold their numbers.  For the
 * caller to close.
 */
static struct vd_store *
make_device (struct vd_sim *sim)
{
  static uint8_t data[DEVICE_SECTORS * 512];
  UNIT_CTX (ctx);
  struct vd_store *st;
  size_t i;

  for (i = 0; i < sizeof data; ++i)
    data[i] = i % 2 ? i / 512 >> 8 : i / 512;
  assert_ok (ctx, vd_sim_open (ctx, sim, DEVICE, true, &st));
  assert_ok (ctx, vd_store_pwrite (ctx, st, data, sizeof data, 0, 0));
  vd_store_close (st);
  assert_ok (ctx, vd_sim_open (ctx, sim, DEVICE, false, &st));
  return st;
}

struct part {
  unsigned number;
  uint64_t start, length;       /* sectors */
  char how;                     /* 'w', 'r', 'h' (hidden), 'e' (extended) */
};

struct area {
  uint64_t start, length;       /* sectors */
};

/* The layout of a device of DEVICE_SECTORS, as text. */
static void
check_layout (const struct part *p, size_t np, const struct area *t,
              size_t nt, bool relative, const char *want)
{
  static const char *const words[] = { "RW", "RDONLY", "NOACCESS" };
  struct vd_partition parts[8] = { { 0 } };
  struct vd_raw_choice choices[8];
  struct vmdk_raw_layout l;
  struct vd_area tables[8];
  struct vd_raw raw = {
    .device = DEVICE, .size = DEVICE_SECTORS * 512, .choices = choices,
    .partitions = { "MBR", parts, np, tables, nt }, .relative = relative,
  };
  uint64_t sum = 0, stored = 0;
  char got[1000];
  size_t i, n = 0;
  UNIT_CTX (ctx);

  for (i = 0; i < np; ++i) {
    parts[i] = (struct vd_partition) {
      .number = p[i].number, .start = p[i].start * 512,
      .length = p[i].length * 512, .extended = p[i].how == 'e',
      .node = (char *) "/dev/part",
    };
    if (p[i].how == 'w' || p[i].how == 'r')
      choices[raw.nchoices++] = (struct vd_raw_choice) {
        p[i].number, p[i].how == 'r',
      };
  }
  for (i = 0; i < nt; ++i)
    tables[i] = (struct vd_area) { t[i].start * 512, t[i].length * 512 };
  assert_ok (ctx, vmdk_raw_layout (ctx, "x", &raw, "x-pt", &l));
  for (i = 0; i < l.nextents; ++i) {
    const struct vmdk_extent_line *x = &l.extents[i];

    n += snprintf (&got[n], sizeof got - n, "%s %d %s %d\n",
                   words[x->access], (int) x->sectors,
                   x->type == VMDK_ZERO ? "zero" : x->name, (int) x->offset);
    if (x->name && strcmp (x->name, "x-pt") == 0) {
      assert_int_equal (x->offset, stored);
      stored += x->sectors;
    }
    sum += x->sectors;
  }
  assert_string_equal (got, want);
  assert_int_equal (sum, DEVICE_SECTORS);
  for (i = 0; i < l.ncopies; ++i)
    stored -= l.copies[i].length / 512;
  assert_int_equal (stored, 0);
  vmdk_raw_layout_free (&l);
}

#define LAYOUT(want, relative, tables, ...)                             \
  check_layout ((const struct part[]) { __VA_ARGS__ },                  \
                sizeof ((const struct part[]) { __VA_ARGS__ }) /        \
                sizeof (struct part), tables, sizeof tables /           \
                sizeof tables[0], relative, want)

static void
test_raw_layout (void **state)
{
  static const struct area first[] = { { 0, 1 } };
  static const struct area both[] = { { 0, 34 }, { 32735, 33 } };
  static const struct area logical[] = { { 0, 1 }, { 100, 1 }, { 200, 1 } };
  static const struct area chain[] = { { 0, 1 }, { 100, 1 }, { 101, 1 } };

  (void) state;
  /* Directly behind the table, and up to the end. */
  LAYOUT ("RW 1 x-pt 0\nRW 32767 /dev/disk 1\n", false, first,
          { 1, 1, 32767, 'w' });
  LAYOUT ("RW 1 x-pt 0\nRDONLY 32767 /dev/part 0\n", true, first,
          { 1, 1, 32767, 'r' });
  /* The room behind a table ends after 4 MiB, or where something begins. */
  LAYOUT ("RW 8193 x-pt 0\nRW 1807 zero 0\nRW 100 zero 0\n"
          "RW 100 /dev/disk 10100\nRW 22568 zero 0\n", false, first,
          { 1, 10000, 100, 'h' }, { 2, 10100, 100, 'w' });
  LAYOUT ("RW 64 x-pt 0\nRW 32000 /dev/disk 64\nRW 671 zero 0\n"
          "RW 33 x-pt 64\n", false, both, { 7, 64, 32000, 'w' });
  LAYOUT ("RW 34 x-pt 0\nRW 32701 /dev/disk 34\nRW 33 x-pt 34\n", false,
          both, { 7, 34, 32701, 'w' });
  /* Logical partitions: the extended one is no extent. */
  LAYOUT ("RW 64 x-pt 0\nRW 30 zero 0\nRW 6 zero 0\nRW 1 x-pt 64\n"
          "RW 99 /dev/disk 101\nRW 10 x-pt 65\nRDONLY 90 /dev/disk 210\n"
          "RW 32468 zero 0\n", false, logical,
          { 1, 64, 30, 'h' }, { 2, 100, 200, 'e' }, { 5, 101, 99, 'w' },
          { 6, 210, 90, 'r' });
  /* A table with nothing behind it but the next one. */
  LAYOUT ("RW 64 x-pt 0\nRW 36 /dev/disk 64\nRW 1 x-pt 64\n"
          "RW 8193 x-pt 65\nRW 24474 zero 0\n", false, chain,
          { 1, 64, 36, 'w' }, { 2, 100, 200, 'e' });
}

static struct vd_partition raw_parts[] = {
  { .number = 1, .start = 64 * 512, .length = 1000 * 512 },
  { .number = 3, .start = 20000 * 512, .length = 500 * 512 },
};
static struct vd_area raw_tables[] = {
  { 0, 34 * 512 }, { 32735 * 512, 33 * 512 },
};
static struct vd_raw_choice raw_choices[] = { { 3, false } };

static const struct vd_raw raw_example = {
  .device = DEVICE,
  .size = DEVICE_SECTORS * 512,
  .choices = raw_choices,
  .nchoices = 1,
  .partitions = { "GPT", raw_parts, 2, raw_tables, 2 },
  .boot = "BOOT",
  .boot_length = 4,
};

static void
test_raw (void **state)
{
  static uint8_t want[DEVICE_SECTORS * 512], got[97 * 512];
  struct vd_sim *sim = vd_sim_new ();
  struct vd_raw raw = raw_example;
  struct vmdk_descriptor *d;
  struct sim_folder sf;
  UNIT_CTX (ctx);

  (void) state;
  sim_folder_init (&sf, sim);
  raw.store = make_device (sim);
  assert_ok (ctx, create (ctx, &sf, "a.b.vmdk", &(struct vd_create) {
        .size = raw.size, .variant = "partitionedDevice", .raw = &raw }));
  assert_int_equal (sf.n, 1);
  assert_string_equal (sf.names[0], "a.b-pt.vmdk");
  assert_int_equal (sf.syncs, 2);       /* before the descriptor, and after */
  d = parse_file (sim, "a.b.vmdk");
  assert_string_equal (vmdk_descriptor_fields (d)->create_type,
                       "partitionedDevice");
  assert_int_equal (vmdk_descriptor_fields (d)->pchs.cylinders, 32);
  assert_int_equal (vmdk_descriptor_fields (d)->pchs.heads, 16);
  assert_int_equal (vmdk_descriptor_fields (d)->pchs.sectors, 63);
  assert_int_equal (vmdk_descriptor_nextents (d), 6);
  assert_string_equal (vmdk_descriptor_extent (d, 3)->name, DEVICE);
  assert_int_equal (vmdk_descriptor_extent (d, 3)->offset, 20000);
  vmdk_descriptor_free (d);

  assert_int_equal (file_size (sim, "a.b-pt.vmdk"), sizeof got);
  read_file (sim, "a.b-pt.vmdk", got, sizeof got, 0);
  read_file (sim, DEVICE, want, sizeof want, 0);
  assert_memory_equal (got, "BOOT", 4);
  assert_memory_equal (got + 4, want + 4, 64 * 512 - 4);
  assert_memory_equal (got + 64 * 512, want + 32735 * 512, 33 * 512);
  vd_store_close (raw.store);
  vd_sim_free (sim);
}

/* ---- what is refused -------------------------------------------------- */

static void
refused (const struct vd_create *how, int err, const char *part)
{
  UNIT_CTX (ctx);
  struct vd_store *st;
  size_t size;

  assert_fails (ctx, vmdk_check_create (ctx, how), err, part);
  assert_ok (ctx, vd_memory_open (ctx, "new.vmdk", NULL, 0, true, &st));
  assert_fails (ctx, vmdk_create (ctx, st, NULL, "new.vmdk", how), err,
                part);
  vd_memory_data (st, &size);
  assert_int_equal (size, 0);
  vd_store_close (st);
}

#define REFUSED(err, part, ...) \
  refused (&(struct vd_create) { __VA_ARGS__ }, err, part)

static void
test_refused (void **state)
{
  char comment[1024], hint[5000];
  struct vd_uuid u;
  UNIT_CTX (ctx);

  (void) state;
  vd_uuid_random (&u);
  REFUSED (EINVAL, "size is 0", 0);
  REFUSED (EINVAL, "size is 513", .size = 513);
  REFUSED (EINVAL, "variant is \"thin\", a VMDK is one of \"sparse\", ",
           .size = MIB, .variant = "thin");
  REFUSED (EINVAL, "variant is \"\"", .size = MIB, .variant = "");
  REFUSED (EINVAL, "block-size is 1048576, a \"sparse\" VMDK has 65536",
           .size = MIB, .block_size = MIB);
  REFUSED (EINVAL, "no blocks", .size = MIB, .block_size = 65536,
           .variant = "flat");
  REFUSED (EINVAL, "alignment", .size = MIB, .alignment = 4096);
  REFUSED (EINVAL, "others need \"force\"", .size = MIB, .adapter = "ahci");
  REFUSED (EINVAL, "adapter type is", .size = MIB, .adapter = "a\nb",
           .force = true);
  REFUSED (EINVAL, "PCHS heads is 17", .size = MIB, .pchs = { 1, 17, 1 });
  REFUSED (EINVAL, "LCHS heads is 256", .size = MIB, .lchs = { 1, 256, 1 });
  REFUSED (EINVAL, "LCHS sectors is 64", .size = MIB, .lchs = { 1, 1, 64 });
  REFUSED (EINVAL, "an image with a parent must be", .size = MIB,
           .variant = "flat", .link.parent = u);
  REFUSED (EINVAL, "an image with a parent must be", .size = MIB,
           .variant = "vmfs", .link = { .has_cid = true, .parent_cid = 5 });
  REFUSED (EINVAL, "without the UUID of a parent", .size = MIB,
           .link.parent_modification = u);
  REFUSED (EINVAL, "without the CID of a parent", .size = MIB,
           .link = { .has_cid = true, .parent_cid = VD_CID_NONE,
                     .parent_hint = "x" });
  REFUSED (EINVAL, "create=full-device needs device=", .size = MIB,
           .variant = "full-device");
  REFUSED (EINVAL, "create=partitioned-device needs partitions=",
           .variant = "partitioned-device",
           .raw = &(struct vd_raw) { .device = "/d" });
  REFUSED (EINVAL, "partitions= cannot be used", .variant = "full-device",
           .raw = &raw_example);
  REFUSED (EINVAL, "a \"flat\" VMDK is not made of a disk", .size = MIB,
           .variant = "flat", .raw = &raw_example);
  REFUSED (EINVAL, "an image with a parent must be", .link.parent = u,
           .variant = "partitioned-device", .raw = &raw_example);
  REFUSED (EINVAL, "device=/d\": a descriptor cannot hold", .size = MIB,
           .variant = "full-device",
           .raw = &(struct vd_raw) { .device = "/d\"" });
  REFUSED (EFBIG, "cannot hold more than 2 TiB", .size = 2 * TIB);
  REFUSED (EFBIG, "can have 281474976645120", .size = 256 * TIB,
           .force = true);
  REFUSED (EFBIG, "a \"split-sparse\" VMDK can have", .size = 17 * TIB,
           .variant = "split-sparse");
  memset (comment, '\\', sizeof comment);
  comment[512] = '\0';
  REFUSED (EINVAL, "comment is 1024 bytes long", .size = MIB,
           .comment = comment);
  memset (hint, 'x', sizeof hint);
  hint[sizeof hint - 1] = '\0';
  REFUSED (EINVAL, "parentFileNameHint is 4999 bytes long", .size = MIB,
           .link = { .has_cid = true, .parent_cid = 5,
                     .parent_hint = hint });

  /* The most that is possible. */
  assert_ok (ctx, vmdk_check_create (ctx, &(struct vd_create) {
        .size = 2 * TIB - 1 * GIB }));
  assert_ok (ctx, vmdk_check_create (ctx, &(struct vd_create) {
        .size = 3 * TIB, .force = true }));
  assert_ok (ctx, vmdk_check_create (ctx, &(struct vd_create) {
        .size = 3 * TIB, .variant = "stream" }));
  assert_ok (ctx, vmdk_check_create (ctx, &(struct vd_create) {
        .size = 8192 * SPLIT, .variant = "split-flat" }));
  assert_ok (ctx, vmdk_check_create (ctx, &(struct vd_create) {
        .size = UINT64_C (1) << 60, .variant = "flat" }));
  assert_ok (ctx, vmdk_check_create (ctx, &(struct vd_create) {
        .size = MIB, .adapter = "LSIlogic", .pchs = { 1, 255, 63 } }));
}

/* More files than one need a folder. */
static void
test_no_folder (void **state)
{
  UNIT_CTX (ctx);
  struct vd_store *st;

  (void) state;
  assert_ok (ctx, vd_memory_open (ctx, "new.vmdk", NULL, 0, true, &st));
  assert_fails (ctx, vmdk_create (ctx, st, NULL, "new.vmdk",
                                  &(struct vd_create) {
                                    .size = MIB, .variant = "flat" }),
                ENOTSUP, "has several files");
  vd_store_close (st);
}

/* ---- failures and power cuts ------------------------------------------ */

/* Every call fails once; nothing of ours is left, and nothing of others is
 * removed.
 */
static void
test_faults (void **state)
{
  static const char *const names[] = {
    "sparse", "stream", "flat", "split-sparse", "vmfs-preallocated",
    "partitioned-device",
  };
  UNIT_CTX (ctx);
  size_t i;
  uint64_t n;

  (void) state;
  ctx->log = NULL;
  for (i = 0; i < sizeof names / sizeof names[0]; ++i) {
    struct vd_raw raw = raw_example;
    bool disk = strcmp (names[i], "partitioned-device") == 0, hit;
    const struct vd_create how = {
      .size = strcmp (names[i], "split-sparse") == 0 ? 2 * SPLIT :
        disk ? raw.size : MIB,
      .variant = names[i], .comment = "a comment",
      .raw = disk ? &raw : NULL,
    };

    for (n = 1; ; ++n) {
      struct vd_sim *sim = vd_sim_new ();
      struct sim_folder sf;
      int r;

      sim_folder_init (&sf, sim);
      if (disk)
        raw.store = make_device (sim);
      vd_sim_fail_at (sim, n, EIO, false);
      r = create (ctx, &sf, "x.vmdk", &how);
      hit = vd_sim_fault_hit (sim);
      vd_store_close (raw.store);
      raw.store = NULL;
      vd_sim_free (sim);
      if (!hit) {
        assert_int_equal (r, 0);
        break;
      }
      assert_int_equal (r, -EIO);
      assert_int_equal (sf.n, 0);
    }
    assert_true (n > 4);
  }

  /* The second extent cannot be made, or is there already. */
  for (i = 0; i < 2; ++i) {
    struct vd_sim *sim = vd_sim_new ();
    struct sim_folder sf;

    sim_folder_init (&sf, sim);
    if (i == 0)
      sf.fail_create = 2;
    else
      strcpy (sf.names[sf.n++], "x-s002.vmdk");
    assert_int_equal (create (ctx, &sf, "x.vmdk", &(struct vd_create) {
          .size = 3 * SPLIT, .variant = "split-sparse" }),
      i == 0 ? -EMFILE : -EEXIST);
    assert_int_equal (sf.n, i);
    assert_int_equal (file_size (sim, "x.vmdk"), 0);
    vd_sim_free (sim);
  }
}

/* After a power cut the descriptor is there as a whole or not at all, and all
 * that it names is there.
 */
static void
test_power_cut (void **state)
{
  static const char *const names[] = {
    "split-sparse", "flat", "sparse", "partitioned-device",
  };
  char long_comment[1000];
  UNIT_CTX (ctx);
  uint64_t seed = 7;
  size_t i, n, round, whole = 0;

  (void) state;
  ctx->log = NULL;
  memset (long_comment, 'c', sizeof long_comment);
  long_comment[sizeof long_comment - 1] = '\0';
  for (i = 0; i < sizeof names / sizeof names[0]; ++i) {
    struct vd_sim *sim = vd_sim_new ();
    bool disk = strcmp (names[i], "partitioned-device") == 0;
    struct vd_raw raw = raw_example;
    struct sim_folder sf;
    size_t before = 0;

    sim_folder_init (&sf, sim);
    if (disk) {
      raw.store = make_device (sim);
      before = vd_sim_log_length (sim);
    }
    assert_ok (ctx, create (ctx, &sf, "x.vmdk", &(struct vd_create) {
          .size = disk ? raw.size :
            strcmp (names[i], "flat") == 0 ? MIB : SPLIT + MIB,
          .variant = names[i], .comment = long_comment,
          .raw = disk ? &raw : NULL }));
    vd_store_close (raw.store);
    for (n = before; n <= vd_sim_log_length (sim); ++n)
      for (round = 0; round < 20; ++round) {
        struct vd_sim *cut = vd_sim_power_cut (sim, n, &seed);
        uint64_t len = file_size (cut, "x.vmdk"), offset = 0;
        struct vmdk_descriptor *d;
        uint8_t head[512] = { 0 };
        char text[20 * 512] = { 0 };
        size_t j;

        if (len >= sizeof head)
          read_file (cut, "x.vmdk", head, sizeof head, 0);
        if (memcmp (head, "KDMV", 4) == 0)
          offset = 512;
        else if (!vmdk_descriptor_probe (head, sizeof head)) {
          assert_memory_equal (head, "\0\0\0\0", 4);
          vd_sim_free (cut);
          continue;
        }
        ++whole;
        len -= offset;
        if (len > sizeof text)
          len = sizeof text;
        read_file (cut, "x.vmdk", text, len, offset);
        assert_ok (ctx, vmdk_descriptor_parse (ctx, "x", text, len, false,
                                               &d));
        assert_string_equal (vmdk_descriptor_fields (d)->comment,
                             long_comment);
        for (j = 0; j < vmdk_descriptor_nextents (d) && offset == 0; ++j) {
          const struct vmdk_extent_line *x = vmdk_descriptor_extent (d, j);

          if (disk) {
            /* The overlay is all there. */
            uint8_t end[512], want[512];

            assert_int_equal (file_size (cut, "x-pt.vmdk"), 97 * 512);
            read_file (cut, "x-pt.vmdk", end, 512, 96 * 512);
            read_file (sim, DEVICE, want, 512, 32767 * 512);
            assert_memory_equal (end, want, 512);
          }
          else if (x->type == VMDK_FLAT)
            assert_int_equal (file_size (cut, x->name), x->sectors * 512);
          else {
            read_file (cut, x->name, head, sizeof head, 0);
            assert_memory_equal (head, "KDMV", 4);
            assert_true (file_size (cut, x->name) >=
                         peek (head, 64, 8) * 512);
          }
        }
        vmdk_descriptor_free (d);
        vd_sim_free (cut);
      }
    vd_sim_free (sim);
  }
  assert_true (whole > 30);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_sparse),
    cmocka_unit_test (test_parent),
    cmocka_unit_test (test_stream),
    cmocka_unit_test (test_split_sparse),
    cmocka_unit_test (test_split_flat),
    cmocka_unit_test (test_one_extent),
    cmocka_unit_test (test_raw_layout),
    cmocka_unit_test (test_raw),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_no_folder),
    cmocka_unit_test (test_faults),
    cmocka_unit_test (test_power_cut),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
