/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Promise 1 for VDI: see crash.h.  Planted bugs are map-first, no-count.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "byteorder.h"
#include "vdi.h"

#include "crash.h"

#define NAME "disk.vdi"

/* ---- planted bugs ----------------------------------------------------- */

/* The entry goes to the disk at once, before the data is durable. */
static int
commit_map_first (struct vd_ctx *ctx, struct vd_image *image, uint64_t block,
                  enum vd_state state, const struct vd_place *place,
                  uint64_t *ret_value)
{
  uint8_t entry[4], off_blocks[4];
  int r;

  r = vd_format_vdi.commit (ctx, image, block, state, place, ret_value);
  if (r == 0)
    r = vd_store_pread (ctx, image->store, off_blocks, 4, 0x154);
  if (r < 0)
    return r;
  put_le32 (entry, *ret_value);
  return vd_store_pwrite (ctx, image->store, entry, 4,
                          get_le32 (off_blocks) + block / CRASH_BLOCK * 4, 0);
}

/* The header's count is not raised before the entries. */
static int
write_no_tables (struct vd_ctx *ctx, struct vd_image *image)
{
  (void) ctx;
  (void) image;
  return 0;
}

static bool
plant (struct crash_format *f, const char *bug)
{
  f->format = vd_format_vdi;
  if (!bug)
    return true;
  if (strcmp (bug, "map-first") == 0)
    f->format.commit = commit_map_first;
  else if (strcmp (bug, "no-count") == 0)
    f->format.write_tables = write_no_tables;
  else
    return false;
  return true;
}

/* ---- the format -------------------------------------------------------- */

static int
create (struct vd_ctx *ctx, struct vd_sim *sim, const struct crash_case *c)
{
  struct vd_create how = {
    .size = CRASH_DISK, .block_size = CRASH_BLOCK, .alignment = 512,
    .force = true,
  };
  struct vd_store *store;
  int r;

  if (c->differencing)
    vd_uuid_random (&how.link.parent);
  r = vd_sim_open (ctx, sim, NAME, true, &store);
  if (r < 0)
    return r;
  r = vd_format_vdi.create (ctx, store, NULL, NULL, &how);
  vd_store_close (store);
  return r;
}

/* The tables as VirtualBox and qemu would use them, read by hand. */
static const char *
check_tables (struct vd_sim *sim, const struct crash_case *c, bool changed)
{
  static char why[256];
  uint8_t header[512], entry[4];
  uint8_t seen[CRASH_DISK / CRASH_BLOCK + 1] = { 0 };
  uint32_t blocks, allocated, off_blocks, off_data, i, e;
  struct vd_store *store;
  struct vd_ctx ctx;
  uint64_t size;

  (void) c;
  (void) changed;
  vd_ctx_init (&ctx, NULL);
  if (vd_sim_open (&ctx, sim, NAME, false, &store) < 0 ||
      vd_store_get_size (&ctx, store, &size) < 0 ||
      vd_store_pread (&ctx, store, header, sizeof header, 0) < 0)
    return "header cannot be read";
  off_blocks = get_le32 (header + 0x154);
  off_data = get_le32 (header + 0x158);
  blocks = get_le32 (header + 0x180);
  allocated = get_le32 (header + 0x184);
  why[0] = '\0';
  if (allocated > blocks)
    snprintf (why, sizeof why, "cBlocksAllocated %" PRIu32 " > cBlocks",
              allocated);
  for (i = 0; i < blocks && !why[0]; ++i) {
    if (vd_store_pread (&ctx, store, entry, 4, off_blocks + i * 4) < 0) {
      snprintf (why, sizeof why, "map cannot be read");
      break;
    }
    e = get_le32 (entry);
    if (e >= 0xfffffffe)
      continue;
    if (e >= allocated)
      snprintf (why, sizeof why, "entry %" PRIu32 " is %" PRIu32 ", but "
                "cBlocksAllocated is %" PRIu32 ": the next allocation of "
                "VirtualBox would overwrite it", i, e, allocated);
    else if (seen[e]++)
      snprintf (why, sizeof why, "two entries are %" PRIu32, e);
    else if (off_data + ((uint64_t) e + 1) * CRASH_BLOCK > size)
      snprintf (why, sizeof why, "entry %" PRIu32 " lies beyond the end", e);
  }
  vd_store_close (store);
  return why[0] ? why : NULL;
}

static const struct crash_case cases[] = {
  { .name = "base image", .create = create },
  { .name = "differencing image", .create = create, .differencing = true },
};

static struct crash_format vdi = {
  .name = "vdi", .file = NAME,
  .cases = cases, .ncases = sizeof cases / sizeof cases[0],
  .plant = plant, .check = check_tables,
};

int
main (int argc, char *argv[])
{
  return crash_main (argc, argv, &vdi);
}
