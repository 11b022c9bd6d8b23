/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fault at call n, for VMDK: see faults.h.
 */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>

#include "vmdk.h"

#include "faults.h"
#include "small-vmdk.h"

#define NAME "disk.vmdk"
#define SECTORS (FAULTS_DISK / 512)

static int
create_as (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
           const char *variant, const struct vd_raw *raw)
{
  struct vd_create how = {
    .size = FAULTS_DISK, .variant = variant, .raw = raw,
  };
  struct vd_folder *folder;
  struct vd_store *store;
  int r;

  r = vd_sim_folder (ctx, sim, &folder);
  if (r < 0)
    return r;
  r = vd_sim_open (ctx, sim, name, true, &store);
  if (r == 0) {
    r = vd_format_vmdk.create (ctx, store, folder, name, &how);
    vd_store_close (store);
  }
  vd_folder_close (folder);
  return r;
}

static int
create_sparse (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  return create_as (ctx, sim, name, "sparse", NULL);
}

static int
create_split (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  return create_as (ctx, sim, name, "split-sparse", NULL);
}

static int
create_flat (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  return create_as (ctx, sim, name, "flat", NULL);
}

static int
create_stream (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  return create_as (ctx, sim, name, "stream", NULL);
}

/* ---- a disk of the host ------------------------------------------------ */

#define DEVICE "/dev/disk"

static int
create_raw (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
            const char *variant, struct vd_raw *raw)
{
  struct vd_store *store;
  int r;

  r = vd_sim_open (ctx, sim, DEVICE, true, &store);
  if (r < 0)
    return r;
  r = vd_store_truncate (ctx, store, FAULTS_DISK);
  vd_store_close (store);
  if (r == 0)
    r = vd_sim_open (ctx, sim, DEVICE, false, &raw->store);
  if (r < 0)
    return r;
  raw->device = DEVICE;
  raw->size = FAULTS_DISK;
  r = create_as (ctx, sim, name, variant, raw);
  vd_store_close (raw->store);
  return r;
}

static int
create_full (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  struct vd_raw raw = { 0 };

  return create_raw (ctx, sim, name, "full-device", &raw);
}

/* All that is written lies in tables or in partitions 1 and 5. */
static int
create_partitions (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  struct vd_partition parts[] = {
    { .number = 1, .start = 16 * 512, .length = 112 * 512 },
    { .number = 2, .start = 128 * 512, .length = 272 * 512,
      .extended = true },
    { .number = 5, .start = 144 * 512, .length = 256 * 512 },
    { .number = 3, .start = 400 * 512, .length = 50 * 512 },
  };
  struct vd_area tables[] = { { 0, 512 }, { 128 * 512, 512 } };
  struct vd_raw_choice choices[] = { { 5, false }, { 1, false } };
  struct vd_raw raw = {
    .choices = choices, .nchoices = 2,
    .partitions = { "MBR", parts, 4, tables, 2 },
    .boot = "boot", .boot_length = 4,
  };

  return create_raw (ctx, sim, name, "partitioned-device", &raw);
}

/* ---- what we would make larger ----------------------------------------- */

static int
make_file (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
           const struct small_vmdk *s, const char *text)
{
  struct vd_store *store;
  int r;

  r = vd_sim_open (ctx, sim, name, true, &store);
  if (r < 0)
    return r;
  if (s)
    r = small_write (ctx, store, s, text);
  else {
    r = vd_store_truncate (ctx, store, strlen (text));
    if (r == 0)
      r = vd_store_pwrite (ctx, store, text, strlen (text), 0, 0);
  }
  vd_store_close (store);
  return r;
}

static int
small_sparse (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  const struct small_vmdk s = {
    .sectors = SECTORS, .grain = FAULTS_BLOCK / 512, .gtes = 128,
  };
  char text[SMALL_DESCRIPTOR_MAX], line[100];

  snprintf (line, sizeof line, "RW %d SPARSE \"%s\"\n", SECTORS, name);
  small_descriptor (text, "monolithicSparse", false, line);
  return make_file (ctx, sim, name, &s, text);
}

/* The same without the tables, which must be made. */
static int
no_tables (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  static const uint8_t nothing[4];
  struct vd_store *store;
  uint32_t at;
  int r, copy;

  r = small_sparse (ctx, sim, name);
  if (r == 0)
    r = vd_sim_open (ctx, sim, name, true, &store);
  if (r < 0)
    return r;
  for (copy = 0; r == 0 && copy < 2; ++copy) {
    r = vd_store_pread (ctx, store, &at, 4, copy ? 48 : 56);
    if (r == 0)
      r = vd_store_pwrite (ctx, store, nothing, 4,
                           (uint64_t) le32toh (at) * 512, 0);
  }
  vd_store_close (store);
  return r;
}

static int
small_split (struct vd_ctx *ctx, struct vd_sim *sim, const char *name)
{
  static const uint64_t sizes[] = { 100, 60, SECTORS - 160 };
  char text[SMALL_DESCRIPTOR_MAX], lines[300], part[32];
  struct small_vmdk s = { .grain = FAULTS_BLOCK / 512, .gtes = 128 };
  size_t n = 0, i;
  int r = 0;

  for (i = 0; r == 0 && i < 3; ++i) {
    s.sectors = sizes[i];
    snprintf (part, sizeof part, "part-%zu.vmdk", i);
    n += snprintf (lines + n, sizeof lines - n, "RW %" PRIu64
                   " SPARSE \"%s\"\n", sizes[i], part);
    r = make_file (ctx, sim, part, &s, NULL);
  }
  if (r < 0)
    return r;
  small_descriptor (text, "twoGbMaxExtentSparse", false, lines);
  return make_file (ctx, sim, name, NULL, text);
}

static const struct faults_case cases[] = {
  { .name = "sparse", .file = NAME, .create = create_sparse,
    .prepare = small_sparse },
  { .name = "sparse without tables", .file = NAME, .create = create_sparse,
    .prepare = no_tables },
  { .name = "split sparse", .file = NAME, .create = create_split,
    .prepare = small_split, .beside = "new-s001.img" },
  { .name = "flat", .file = NAME, .create = create_flat,
    .beside = "new-flat.img" },
  { .name = "full device", .file = NAME, .create = create_full },
  { .name = "partitions", .file = NAME, .create = create_partitions,
    .beside = "new-pt.img" },
  { .name = "stream", .file = NAME, .create = create_stream, .stream = true },
};

int
main (void)
{
  return faults_main (cases, sizeof cases / sizeof cases[0]);
}
