/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Random operations on VDI and VMDK images, against a plain buffer that holds what the
 * disk must read as.  Every seed draws its own geometry, flags and parent; at
 * times the image is closed, looked at byte by byte, spoiled in ways that the
 * format allows (a place that no entry names, garbage behind the last block,
 * a count that lies, a table that only half of a crash has reached), and opened
 * again.  A VMDK is one sparse extent, or a mixture of several, some of which
 * must not be written.
 *
 * VDKIT_MODEL_SEEDS: number of seeds of the kind that has most, the others
 * have theirs in proportion, at least 1; VDKIT_MODEL_FROM: the first (a
 * failure names the seed, VDKIT_MODEL_SEEDS=1 repeats it alone).
 */

#include <config.h>

#include "chance.h"

#include <errno.h>

#include "byteorder.h"
#include "image.h"
#include "iszero.h"
#include "memory.h"
#include "memory-parent.h"
#include "rounding.h"
#include "sim.h"
#include "vdi.h"

#include "small-vmdk.h"

#define KIB UINT64_C (1024)
#define MIB (UINT64_C (1024) * 1024)
#define ENTRY_FREE UINT32_C (0xffffffff)
#define ENTRY_ZERO UINT32_C (0xfffffffe)
#define PIECE (256 * KIB)

#define PARTS_MAX 6

/* An extent of a VMDK. */
struct part {
  enum { FLAT, SPARSE, NOTHING } kind;
  bool read_only;
  uint64_t start, size;         /* bytes */
  uint64_t file_offset;         /* FLAT */
  struct small_vmdk sparse;
  char name[16];
};

struct model {
  uint64_t seed, state;
  unsigned op;                  /* number of the present operation */
  const char *what;             /* its name */

  /* What was drawn. */
  uint64_t size;                /* of the disk */
  uint32_t block_size, extra;
  bool differencing;
  struct vd_parent parent;
  struct memory_parent memory;  /* its data */
  bool honor_zeroes, honor_same;
  size_t table_memory;
  const char *path;             /* NULL: in memory */

  /* VMDK: */
  struct vd_sim *sim;           /* with its files; NULL: a VDI */
  struct part parts[PARTS_MAX];
  unsigned nparts;
  bool spoiled;                 /* until a session repairs it */

  struct vd_image *image;
  int64_t lie;                  /* a count that spoil wrote, -1: none */
  uint8_t *shadow;
  uint8_t *buf, *buf2;          /* PIECE bytes */
};

/* ---- the parent ------------------------------------------------------- */

static void
make_parent (struct model *m)
{
  uint64_t i, n;

  switch (below (m, 3)) {
  case 0: m->parent.size = m->size; break;
  case 1: m->parent.size = m->size / 2 + below (m, m->size / 2); break;
  default: m->parent.size = m->size + 512 * below (m, 300); break;
  }
  if (chance (m, 10))
    m->parent.size = 512;
  m->parent.opaque = &m->memory;
  m->parent.pread = memory_parent_pread;
  m->parent.extents = memory_parent_extents;
  m->memory.used = m->memory.size = m->parent.size;
  m->memory.data = calloc (1, m->parent.size);
  assert_non_null (m->memory.data);
  for (i = 0; i < m->parent.size; i += n) {
    n = min_u64 (m->parent.size - i, 1 + below (m, 3 * m->block_size));
    if (chance (m, 60))
      memset (m->memory.data + i, 1 + below (m, 255), n);
  }
}

/* What the disk reads as where the image has nothing. */
static void
from_below (const struct model *m, uint8_t *buf, uint64_t offset, size_t len)
{
  size_t n = 0;

  if (m->differencing && offset < m->parent.size) {
    n = min_u64 (len, m->parent.size - offset);
    memcpy (buf, m->memory.data + offset, n);
  }
  memset (buf + n, 0, len - n);
}

/* ---- opening and closing ---------------------------------------------- */

/* Opens m->path, or this content, which is freed. */
static void
open_it (struct model *m, uint8_t *data, size_t size)
{
  struct vd_open how = {
    .write = VD_WRITE_REQUIRE,
    .honor_zeroes = m->honor_zeroes, .honor_same = m->honor_same,
    .table_memory = m->table_memory,
    .parent = m->differencing ? &m->parent : NULL,
    .log = quiet,
  };
  struct vd_store *st;
  CTX (ctx);

  if (m->path)
    must (m, ctx, vd_image_open (ctx, m->path, &how, &m->image));
  else {
    must (m, ctx, vd_memory_open (ctx, "model.vdi", data, size, true, &st));
    must (m, ctx, vd_image_open_store (ctx, st, &how, &m->image));
  }
  free (data);
  if (m->image->size != m->size)
    complain (m, "size is %" PRIu64, m->image->size);
}

/* The file as it is. */
static uint8_t *
content (struct model *m, size_t *ret_size)
{
  struct vd_store *st = m->image->store;
  uint64_t size;
  uint8_t *data;
  CTX (ctx);

  must (m, ctx, vd_store_get_size (ctx, st, &size));
  data = malloc (size);
  assert_non_null (data);
  must (m, ctx, vd_store_pread (ctx, st, data, size, 0));
  *ret_size = size;
  return data;
}

static void
put_content (struct model *m, const uint8_t *data, size_t size)
{
  FILE *f = fopen (m->path, "w");

  assert_non_null (f);
  assert_int_equal (fwrite (data, 1, size, f), size);
  assert_int_equal (fclose (f), 0);
}

/* What must hold for every image file, whoever looks at it. */
static void
check_raw (struct model *m, const uint8_t *data, size_t size, bool tidy)
{
  uint32_t off_blocks = get_le32 (&data[340]), off_data = get_le32 (&data[344]);
  uint32_t blocks = get_le32 (&data[384]), count = get_le32 (&data[388]);
  uint64_t stride = (uint64_t) m->block_size + m->extra;
  bool *seen = calloc (blocks, sizeof *seen);
  uint32_t i, e, end = 0;

  assert_non_null (seen);
  if (count > blocks)
    complain (m, "cBlocksAllocated %" PRIu32 " of %" PRIu32, count, blocks);
  for (i = 0; i < blocks; ++i) {
    uint64_t valid = min_u64 (m->block_size,
                              m->size - (uint64_t) i * m->block_size);

    e = get_le32 (&data[off_blocks + 4 * i]);
    if (e == ENTRY_FREE || e == ENTRY_ZERO)
      continue;
    if (e >= blocks || seen[e])
      complain (m, "entry %" PRIu32 " is %" PRIu32 "%s", i, e,
                e < blocks ? ", twice" : "");
    seen[e] = true;
    end = e >= end ? e + 1 : end;
    if (off_data + e * stride + m->extra + valid > size)
      complain (m, "entry %" PRIu32 " is %" PRIu32 ", the file ends at %zu",
                i, e, size);
  }
  /* Whoever never stores an entry need not correct the count. */
  if (count < end && count != m->lie)
    complain (m, "cBlocksAllocated %" PRIu32 ", used up to %" PRIu32,
              count, end);
  if (tidy && (count != end || size > off_data + end * stride))
    complain (m, "count %" PRIu32 " for %" PRIu32 " blocks, size %zu, "
              "offData %" PRIu32, count, end, size, off_data);
  free (seen);
}

/* What a crash, or another program, may leave.  Returns the content, moved if
 * it had to grow.
 */
static uint8_t *
spoil (struct model *m, uint8_t *data, size_t *size)
{
  uint32_t off_blocks = get_le32 (&data[340]);
  uint32_t blocks = get_le32 (&data[384]);
  unsigned i, n;

  for (n = below (m, 4); n > 0; --n) {
    uint32_t index = below (m, blocks);
    uint64_t start = (uint64_t) index * m->block_size;
    uint8_t *entry = &data[off_blocks + 4 * index];

    if (get_le32 (entry) >= ENTRY_ZERO)
      continue;
    put_le32 (entry, ENTRY_FREE);       /* its place is nobody's now */
    if (start < m->size)
      from_below (m, m->shadow + start, start,
                  min_u64 (m->block_size, m->size - start));
  }
  if (chance (m, 50)) {
    m->lie = chance (m, 50) ? below (m, blocks + 1) : blocks;
    put_le32 (&data[388], m->lie);
  }
  if (chance (m, 50)) {
    size_t more = 1 + below (m, 3 * m->block_size);

    data = realloc (data, *size + more);
    assert_non_null (data);
    for (i = 0; i < more; ++i)
      data[*size + i] = 0xee;
    *size += more;
  }
  return data;
}

static void
reopen (struct model *m)
{
  bool tidy = chance (m, 60);
  uint8_t *data;
  size_t size;
  CTX (ctx);

  /* With something stored, there is a session, and its end must be tidy. */
  if (tidy && chance (m, 50)) {
    must (m, ctx, vd_image_pwrite (ctx, m->image, "x", 1, 0, 0));
    m->shadow[0] = 'x';
    must (m, ctx, vd_image_end_session (ctx, m->image));
    m->lie = -1;
    data = content (m, &size);
    check_raw (m, data, size, true);
  }
  else {
    if (tidy)
      must (m, ctx, vd_image_end_session (ctx, m->image));
    else
      must (m, ctx, vd_image_flush (ctx, m->image));
    data = content (m, &size);
    check_raw (m, data, size, false);
  }
  must (m, ctx, vd_image_close (ctx, m->image));
  if (chance (m, 30)) {
    data = spoil (m, data, &size);
    if (m->path)
      put_content (m, data, size);
  }
  else if (m->path && !tidy)
    put_content (m, data, size);
  open_it (m, data, size);
}

/* ---- VMDK ------------------------------------------------------------- */

#define MAIN "model.vmdk"
#define UNCLEAN 72              /* vmdk-format 5.1 */

static bool
embedded (const struct model *m)
{
  return m->nparts == 1 && strcmp (m->parts[0].name, MAIN) == 0;
}

static void
draw_parts (struct model *m, bool mixed)
{
  uint64_t sectors;
  unsigned i;

  m->nparts = mixed ? 1 + below (m, PARTS_MAX) : 1;
  m->size = 0;
  for (i = 0; i < m->nparts; ++i) {
    struct part *p = &m->parts[i];

    p->kind = !mixed || i == 0 || chance (m, 60) ? SPARSE :
      chance (m, 70) ? FLAT : NOTHING;
    if (mixed && i == 0 && chance (m, 30) && !m->differencing)
      p->kind = FLAT;
    p->read_only = i > 0 && chance (m, 20);
    p->sparse = (struct small_vmdk) {
      .grain = 8 << below (m, 5), .gtes = 128 << below (m, 2),
      .zeroed = chance (m, 40), .single = chance (m, 20),
      .few_tables = chance (m, 30),
    };
    if (i == 0)
      m->block_size = p->sparse.grain * 512;
    /* Seldom a multiple of the grain. */
    sectors = 1 + below (m, (mixed ? 12 : 40) * p->sparse.grain);
    if (m->size > 0 && chance (m, 5))
      sectors = 0;
    if (!mixed && chance (m, 25))
      sectors += 300 * p->sparse.grain;         /* tables, plural */
    p->sparse.sectors = sectors;
    p->start = m->size;
    p->size = sectors * 512;
    p->file_offset = 512 * below (m, 20);
    m->size += p->size;
    snprintf (p->name, sizeof p->name, mixed ? "part-%u" : MAIN, i);
    /* An empty sparse extent is none. */
    if (sectors == 0 && p->kind == SPARSE)
      p->kind = FLAT;
  }
}

static void
write_file (struct model *m, const char *name, const void *data, size_t len)
{
  struct vd_store *st;
  CTX (ctx);

  must (m, ctx, vd_sim_open (ctx, m->sim, name, true, &st));
  must (m, ctx, vd_store_truncate (ctx, st, len));
  must (m, ctx, vd_store_pwrite (ctx, st, data, len, 0, 0));
  vd_store_close (st);
}

/* The shadow has what lies below; put what the files hold on top. */
static void
make_parts (struct model *m)
{
  char text[SMALL_DESCRIPTOR_MAX], lines[1000];
  size_t n = 0, len;
  unsigned i;

  m->sim = vd_sim_new ();
  assert_non_null (m->sim);
  for (i = 0; i < m->nparts; ++i) {
    const struct part *p = &m->parts[i];

    n += snprintf (lines + n, sizeof lines - n, "%s %" PRIu64 " %s",
                   p->read_only ? "RDONLY" : "RW", p->size / 512,
                   p->kind == FLAT ? "FLAT" :
                   p->kind == SPARSE ? "SPARSE" : "ZERO");
    if (p->kind != NOTHING)
      n += snprintf (lines + n, sizeof lines - n, " \"%s\"", p->name);
    if (p->kind == FLAT)
      n += snprintf (lines + n, sizeof lines - n, " %" PRIu64,
                     p->file_offset / 512);
    n += snprintf (lines + n, sizeof lines - n, "\n");
  }
  len = small_descriptor (text, embedded (m) ? "monolithicSparse" : "custom",
                          m->differencing, lines);
  if (!embedded (m))
    write_file (m, MAIN, text, len);
  for (i = 0; i < m->nparts; ++i) {
    const struct part *p = &m->parts[i];
    uint8_t *data;
    size_t size, at;

    if (p->kind == NOTHING) {
      memset (m->shadow + p->start, 0, p->size);
      continue;
    }
    if (p->kind == SPARSE)
      data = small_extent (&p->sparse, embedded (m) ? text : NULL, &size);
    else {
      size = p->file_offset + p->size;
      data = malloc (size + 1);
      assert_non_null (data);
      for (at = 0; at < size; ++at)
        data[at] = at / 512 % 3 ? at / 512 + p->start : 0;
      memcpy (m->shadow + p->start, data + p->file_offset, p->size);
    }
    write_file (m, p->name, data, size);
    free (data);
  }
}

static void
open_parts (struct model *m)
{
  struct vd_open how = {
    .write = VD_WRITE_REQUIRE,
    .honor_zeroes = m->honor_zeroes, .honor_same = m->honor_same,
    .table_memory = m->table_memory,
    .parent = m->differencing ? &m->parent : NULL,
    .log = quiet,
  };
  struct vd_folder *folder;
  struct vd_store *st;
  CTX (ctx);

  must (m, ctx, vd_sim_folder (ctx, m->sim, &folder));
  must (m, ctx, vd_sim_open (ctx, m->sim, MAIN, true, &st));
  must (m, ctx, vd_image_open_folder (ctx, st, folder, &how, &m->image));
  if (m->image->size != m->size)
    complain (m, "size is %" PRIu64, m->image->size);
}

/* Where the entry of a grain is in the file. */
static uint64_t
entry_at (const uint8_t *data, const struct part *p, bool copy,
          uint64_t index)
{
  uint64_t gd = get_le64 (&data[copy ? 48 : 56]) * 512;
  uint64_t gt = get_le32 (&data[gd + index / p->sparse.gtes * 4]);

  return gt ? gt * 512 + index % p->sparse.gtes * 4 : 0;
}

static void
check_part (struct model *m, const struct part *p, const uint8_t *data,
            size_t size, bool tidy)
{
  uint64_t n = div_round_up (p->sparse.sectors, p->sparse.grain), i, at[2];
  uint64_t overhead = get_le64 (&data[64]), end = overhead;
  bool *seen = calloc (size / 512 / p->sparse.grain + 1, sizeof *seen);
  uint32_t e;

  assert_non_null (seen);
  for (i = 0; i < n; ++i) {
    at[0] = entry_at (data, p, false, i);
    at[1] = p->sparse.single ? at[0] : entry_at (data, p, true, i);
    if ((at[0] == 0) != (at[1] == 0))
      complain (m, "%s: grain %" PRIu64 " has one table", p->name, i);
    if (at[0] == 0)
      continue;
    e = get_le32 (&data[at[0]]);
    if (e != get_le32 (&data[at[1]]))
      complain (m, "%s: entry %" PRIu64 " is %" PRIu32 ", but %" PRIu32
                " in the copy", p->name, i, e, get_le32 (&data[at[1]]));
    if (e == 0 || (e == 1 && p->sparse.zeroed))
      continue;
    if (e < overhead || e % p->sparse.grain ||
        (e + min_u64 (p->sparse.grain, p->sparse.sectors -
                      i * p->sparse.grain)) * 512 > size ||
        seen[e / p->sparse.grain])
      complain (m, "%s: entry %" PRIu64 " is %" PRIu32 ", size %zu",
                p->name, i, e, size);
    seen[e / p->sparse.grain] = true;
    end = max_u64 (end, e + p->sparse.grain);
  }
  free (seen);
  if (tidy && data[UNCLEAN])
    complain (m, "%s: uncleanShutdown is set", p->name);
}

/* What a crash may leave: entries that have reached one table only, and a
 * tail of the file with anything in it.
 */
static uint8_t *
spoil_part (struct model *m, const struct part *p, uint8_t *data,
            size_t *size)
{
  uint64_t n = div_round_up (p->sparse.sectors, p->sparse.grain), index, at;
  unsigned i;

  data[UNCLEAN] = 1;
  for (i = below (m, 8); !p->sparse.single && i > 0; --i) {
    /* Never both. */
    index = below (m, n);
    at = entry_at (data, p, (index ^ m->op) & 1, index);
    if (at)
      put_le32 (&data[at], p->sparse.zeroed && chance (m, 30) ?
                min_u64 (1, get_le32 (&data[at])) : 0);
  }
  if (chance (m, 50)) {
    size_t more = 1 + below (m, 3 * p->sparse.grain * 512);

    data = realloc (data, *size + more);
    assert_non_null (data);
    memset (data + *size, 0xee, more);
    *size += more;
  }
  return data;
}

static void
check_parts (struct model *m, bool tidy, bool spoil)
{
  unsigned i;
  CTX (ctx);

  for (i = 0; i < m->nparts; ++i) {
    const struct part *p = &m->parts[i];
    struct vd_store *st;
    uint64_t size;
    size_t now;
    uint8_t *data;

    if (p->kind != SPARSE)
      continue;
    must (m, ctx, vd_sim_open (ctx, m->sim, p->name, true, &st));
    must (m, ctx, vd_store_get_size (ctx, st, &size));
    data = malloc (size);
    assert_non_null (data);
    must (m, ctx, vd_store_pread (ctx, st, data, size, 0));
    check_part (m, p, data, size, tidy);
    vd_store_close (st);
    if (spoil && !p->read_only && chance (m, 60)) {
      m->spoiled = true;
      now = size;
      data = spoil_part (m, p, data, &now);
      write_file (m, p->name, data, now);
    }
    free (data);
  }
}

/* With something stored there is a session, which repairs. */
static void
start_session (struct model *m)
{
  CTX (ctx);

  m->shadow[0]++;
  must (m, ctx, vd_image_pwrite (ctx, m->image, m->shadow, 1, 0, 0));
  m->spoiled = false;
}

static void
reopen_parts (struct model *m)
{
  bool tidy = chance (m, 60);
  struct vd_sim *old = m->sim;
  CTX (ctx);

  if (m->spoiled)
    start_session (m);
  if (tidy)
    must (m, ctx, vd_image_end_session (ctx, m->image));
  else
    must (m, ctx, vd_image_flush (ctx, m->image));
  /* As it is now, whatever closing does; this also empties the log. */
  m->sim = vd_sim_clone (old);
  assert_non_null (m->sim);
  must (m, ctx, vd_image_close (ctx, m->image));
  vd_sim_free (old);
  check_parts (m, tidy, chance (m, 40));
  m->spoiled |= !tidy;
  open_parts (m);
}

/* Is there something in the range that must not be written? */
static bool
denied (const struct model *m, uint64_t offset, uint64_t len)
{
  unsigned i;

  for (i = 0; i < m->nparts; ++i) {
    const struct part *p = &m->parts[i];

    if ((p->read_only || p->kind == NOTHING) &&
        offset < p->start + p->size && p->start < offset + len)
      return true;
  }
  return false;
}

/* ---- checks ----------------------------------------------------------- */

static void
check_range (struct model *m, uint64_t offset, uint64_t len)
{
  uint64_t n, i;
  CTX (ctx);

  for (; len > 0; offset += n, len -= n) {
    n = min_u64 (len, PIECE);
    memset (m->buf, 0xdb, n);
    must (m, ctx, vd_image_pread (ctx, m->image, m->buf, n, offset));
    if (memcmp (m->buf, m->shadow + offset, n) == 0)
      continue;
    for (i = 0; m->buf[i] == m->shadow[offset + i]; ++i)
      ;
    complain (m, "byte %" PRIu64 " (block %" PRIu64 " + %" PRIu64
              ") is 0x%02x, not 0x%02x", offset + i,
              (offset + i) / m->block_size, (offset + i) % m->block_size,
              m->buf[i], m->shadow[offset + i]);
  }
}

struct extents {
  struct model *m;
  uint64_t next, calls;
  unsigned type;
};

static int
check_extent (void *opaque, uint64_t offset, uint64_t len, unsigned type)
{
  struct extents *x = opaque;
  struct model *m = x->m;

  if (offset != x->next || len == 0)
    complain (m, "extent at %" PRIu64 "+%" PRIu64 ", expected one at %" PRIu64,
              offset, len, x->next);
  if (x->calls > 0 && type == x->type)
    complain (m, "two extents of type %u meet at %" PRIu64, type, offset);
  if (offset + len > m->size)
    complain (m, "extent beyond the end of the disk");
  if (type & VD_EXTENT_ZERO && !is_zero (m->shadow + offset, len))
    complain (m, "extent %" PRIu64 "+%" PRIu64 " is not zero", offset, len);
  if (type == VD_EXTENT_HOLE)
    complain (m, "extent at %" PRIu64 " is a hole but not zero", offset);
  x->next += len;
  x->type = type;
  x->calls++;
  return 0;
}

static void
check_extents (struct model *m, uint64_t offset, uint64_t len, bool one)
{
  struct extents x = { .m = m, .next = offset };
  CTX (ctx);

  must (m, ctx, vd_image_extents (ctx, m->image, offset, len, one,
                                  check_extent, &x));
  if (one ? x.calls != 1 : x.next < offset + len)
    complain (m, "%" PRIu64 " extents of %" PRIu64 "+%" PRIu64
              " end at %" PRIu64, x.calls, offset, len, x.next);
}

/* ---- operations ------------------------------------------------------- */

static void
draw_range (struct model *m, uint64_t *ret_offset, uint64_t *ret_len)
{
  uint64_t offset = below (m, m->size), len;

  switch (below (m, 5)) {
  case 0:                       /* whole blocks */
    offset = round_down (offset, m->block_size);
    len = m->block_size * (1 + below (m, 4));
    break;
  case 1:                       /* sectors */
    offset = round_down (offset, 512);
    len = 512 * (1 + below (m, 16));
    break;
  case 2:                       /* the end of the disk */
    len = 1 + below (m, 2 * m->block_size);
    if (chance (m, 20))
      offset = m->size - min_u64 (len, m->size);
    break;
  default:
    len = 1 + below (m, chance (m, 50) ? 1000 : 3 * m->block_size);
  }
  *ret_offset = offset;
  *ret_len = min_u64 (min_u64 (len, m->size - offset), PIECE);
}

/* A write into a range that must not be written, or in part.  What may be is
 * old or new (m->buf).
 */
static void
refused (struct model *m, int r, uint64_t offset, uint64_t len)
{
  uint64_t i;
  CTX (ctx);

  if (r != -EPERM)
    complain (m, "error %d", r);
  must (m, ctx, vd_image_pread (ctx, m->image, m->buf2, len, offset));
  for (i = 0; i < len; ++i) {
    uint8_t old = m->shadow[offset + i];

    if (m->buf2[i] != old && (m->buf2[i] != m->buf[i] ||
                              denied (m, offset + i, 1)))
      complain (m, "byte %" PRIu64 " is 0x%02x after a write was refused, "
                "was 0x%02x", offset + i, m->buf2[i], old);
  }
  memcpy (m->shadow + offset, m->buf2, len);
}

static void
op_write (struct model *m)
{
  uint64_t offset, len, i;
  int r;
  CTX (ctx);

  m->what = "write";
  draw_range (m, &offset, &len);
  switch (below (m, 6)) {
  case 0:
    memset (m->buf, 0, len);
    break;
  case 1:
    from_below (m, m->buf, offset, len);
    break;
  case 2:
    memcpy (m->buf, m->shadow + offset, len);
    break;
  case 3:                       /* zeroes but for the last byte */
    memset (m->buf, 0, len);
    m->buf[len - 1] = 1;
    break;
  default:
    for (i = 0; i < len; ++i)
      m->buf[i] = (i * 7 + m->op) % 251 + 1;
  }
  r = vd_image_pwrite (ctx, m->image, m->buf, len, offset,
                       chance (m, 15) ? VD_FUA : 0);
  if (r < 0 && denied (m, offset, len)) {
    refused (m, r, offset, len);
    return;
  }
  must (m, ctx, r);
  memcpy (m->shadow + offset, m->buf, len);
}

static void
op_zero (struct model *m)
{
  unsigned flags = below (m, 8);        /* FUA, MAY_TRIM, FAST */
  uint64_t offset, len;
  int r;
  CTX (ctx);

  m->what = "zero";
  draw_range (m, &offset, &len);
  r = vd_image_zero (ctx, m->image, len, offset, flags);
  if (r == -ENOTSUP && flags & VD_FAST) {
    check_range (m, offset, len);       /* refused, and nothing was done */
    return;
  }
  if (r < 0 && denied (m, offset, len)) {
    memset (m->buf, 0, len);
    refused (m, r, offset, len);
    return;
  }
  must (m, ctx, r);
  memset (m->shadow + offset, 0, len);
}

/* What was trimmed reads as before or as zeroes, never as older data. */
static void
op_trim (struct model *m)
{
  uint64_t offset, len, i;
  int r;
  CTX (ctx);

  m->what = "trim";
  draw_range (m, &offset, &len);
  r = vd_image_trim (ctx, m->image, len, offset,
                     chance (m, 15) ? VD_FUA : 0);
  if (r != -EPERM || !denied (m, offset, len))
    must (m, ctx, r);
  must (m, ctx, vd_image_pread (ctx, m->image, m->buf, len, offset));
  for (i = 0; i < len; ++i) {
    if (m->buf[i] != 0 && m->buf[i] != m->shadow[offset + i])
      complain (m, "byte %" PRIu64 " is 0x%02x after trim, was 0x%02x",
                offset + i, m->buf[i], m->shadow[offset + i]);
    m->shadow[offset + i] = m->buf[i];
  }
}

static void
operation (struct model *m)
{
  unsigned kind = below (m, 100);
  uint64_t offset, len;
  CTX (ctx);

  if (kind < 35)
    op_write (m);
  else if (kind < 50)
    op_zero (m);
  else if (kind < 60)
    op_trim (m);
  else if (kind < 80) {
    m->what = "read";
    draw_range (m, &offset, &len);
    check_range (m, offset, len);
  }
  else if (kind < 90) {
    m->what = "extents";
    draw_range (m, &offset, &len);
    if (chance (m, 30))
      len = m->size - offset;
    check_extents (m, offset, len, chance (m, 40));
  }
  else if (kind < 94) {
    m->what = "flush";
    must (m, ctx, vd_image_flush (ctx, m->image));
  }
  else if (kind < 96) {
    m->what = "end of session";
    must (m, ctx, vd_image_end_session (ctx, m->image));
  }
  else if (kind < 97) {
    m->what = "cache";
    draw_range (m, &offset, &len);
    must (m, ctx, vd_image_cache (ctx, m->image, len, offset));
  }
  else if (m->size < 100 * MIB || chance (m, 10)) {
    m->what = "reopen";
    if (m->sim)
      reopen_parts (m);
    else
      reopen (m);
    check_range (m, 0, m->size);
  }
}

/* ---- one seed --------------------------------------------------------- */

enum kind { BASE, DIFF, WINDOWED, IN_FILE, MONO, MIXED };

static void
run_seed (uint64_t seed, enum kind kind, unsigned operations)
{
  struct model m = { .seed = seed, .what = "set-up", .lie = -1 };
  struct vd_create how = { .force = true };
  struct vd_store *st;
  uint8_t *data;
  size_t size;
  unsigned i;
  CTX (ctx);

  m.state = seed * 4 + kind;
  m.block_size = 4 * KIB << below (&m, 5);
  m.extra = chance (&m, 40) ? 512 : 0;
  m.size = 512 * (1 + below (&m, 40 * m.block_size / 512));
  m.honor_zeroes = chance (&m, 30);
  m.honor_same = chance (&m, 30);
  m.table_memory = chance (&m, 50) ? 1 : 0;
  m.differencing = kind == DIFF || (kind == IN_FILE && chance (&m, 50));
  if (kind == WINDOWED) {
    /* More pages of 1024 entries than are kept: these come and go. */
    m.block_size = 4 * KIB;
    m.size = 200 * MIB;
      m.table_memory = 1;
  }
  if (kind == IN_FILE)
    m.path = unit_path ("model.vdi");
  m.buf = malloc (PIECE);
  m.shadow = calloc (1, m.size);
  assert_non_null (m.buf);
  assert_non_null (m.shadow);
  if (m.differencing) {
    make_parent (&m);
    from_below (&m, m.shadow, 0, m.size);
    vd_uuid_random (&how.link.parent);
  }

  how.size = m.size;
  how.block_size = m.block_size;
  how.alignment = 512 << below (&m, 12);
  must (&m, ctx, vd_memory_open (ctx, "new.vdi", NULL, 0, true, &st));
  must (&m, ctx, vd_format_vdi.create (ctx, st, NULL, NULL, &how));
  size = 0;
  {
    const uint8_t *p = vd_memory_data (st, &size);

    data = malloc (size);
    assert_non_null (data);
    memcpy (data, p, size);
  }
  vd_store_close (st);
  put_le32 (&data[380], m.extra);
  if (m.path)
    put_content (&m, data, size);
  open_it (&m, data, size);

  for (i = 0; i < operations; ++i) {
    m.op = i + 1;
    operation (&m);
  }

  m.what = "end";
  check_range (&m, 0, m.size);
  check_extents (&m, 0, m.size, false);
  must (&m, ctx, vd_image_end_session (ctx, m.image));
  data = content (&m, &size);
  check_raw (&m, data, size, false);
  must (&m, ctx, vd_image_close (ctx, m.image));
  open_it (&m, data, size);
  check_range (&m, 0, m.size);
  check_extents (&m, 0, m.size, false);
  must (&m, ctx, vd_image_close (ctx, m.image));
  free (m.shadow);
  free (m.memory.data);
  free (m.buf);
}

static void
run_vmdk_seed (uint64_t seed, enum kind kind, unsigned operations)
{
  struct model m = { .seed = seed, .what = "set-up" };
  unsigned i;
  CTX (ctx);

  m.state = seed * 8 + kind;
  m.honor_zeroes = chance (&m, 30);
  m.honor_same = chance (&m, 30);
  m.table_memory = chance (&m, 50) ? 1 : 0;
  m.differencing = chance (&m, 50);
  draw_parts (&m, kind == MIXED);
  m.buf = malloc (PIECE);
  m.buf2 = malloc (PIECE);
  m.shadow = calloc (1, m.size);
  assert_non_null (m.buf);
  assert_non_null (m.buf2);
  assert_non_null (m.shadow);
  if (m.differencing)
    make_parent (&m);
  from_below (&m, m.shadow, 0, m.size);
  make_parts (&m);
  open_parts (&m);
  check_range (&m, 0, m.size);

  for (i = 0; i < operations; ++i) {
    m.op = i + 1;
    operation (&m);
  }

  m.what = "end";
  check_range (&m, 0, m.size);
  check_extents (&m, 0, m.size, false);
  start_session (&m);
  must (&m, ctx, vd_image_close (ctx, m.image));
  check_parts (&m, true, false);
  open_parts (&m);
  check_range (&m, 0, m.size);
  check_extents (&m, 0, m.size, false);
  must (&m, ctx, vd_image_close (ctx, m.image));
  vd_sim_free (m.sim);
  free (m.shadow);
  free (m.memory.data);
  free (m.buf);
  free (m.buf2);
}

#define MOST_SEEDS 300

static void
run_seeds (enum kind kind, unsigned seeds, unsigned operations)
{
  uint64_t i, end;

  for (draw_seeds (seeds, MOST_SEEDS, &i, &end); i < end; ++i)
    if (kind >= MONO)
      run_vmdk_seed (i, kind, operations);
    else
      run_seed (i, kind, operations);
}

static void
test_base (void **state)
{
  (void) state;
  run_seeds (BASE, 250, 300);
}

static void
test_diff (void **state)
{
  (void) state;
  run_seeds (DIFF, 250, 300);
}

static void
test_windowed (void **state)
{
  (void) state;
  run_seeds (WINDOWED, 6, 1500);
}

static void
test_in_file (void **state)
{
  (void) state;
  run_seeds (IN_FILE, 60, 200);
}

static void
test_vmdk (void **state)
{
  (void) state;
  run_seeds (MONO, 200, 300);
}

static void
test_vmdk_mixed (void **state)
{
  (void) state;
  run_seeds (MIXED, MOST_SEEDS, 300);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_base),
    cmocka_unit_test (test_diff),
    cmocka_unit_test (test_windowed),
    cmocka_unit_test (test_in_file),
    cmocka_unit_test (test_vmdk),
    cmocka_unit_test (test_vmdk_mixed),
  };

  return cmocka_run_group_tests (tests, unit_setup, unit_teardown);
}
