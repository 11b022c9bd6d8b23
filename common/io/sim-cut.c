/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "iszero.h"
#include "rounding.h"
#include "sim-private.h"

#define SECTOR 512u

static const struct sim_content *
base_of (const struct sim_file *file)
{
  return file->changed ? &file->base : &file->now;
}

/* Apply the records first <= i < end that are about file. */
static bool
replay (const struct vd_sim *sim, const struct sim_file *file,
        size_t first, size_t end, struct sim_content *c)
{
  size_t i;

  for (i = first; i < end; ++i)
    if (sim->log[i].file == file && !sim_apply (c, &sim->log[i]))
      return false;
  return true;
}

/* splitmix64 */
static uint64_t
draw (uint64_t *seed)
{
  uint64_t z = (*seed += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* How the states of sectors are drawn.  All of them are possible with ANY,
 * but losing all of a big write and keeping the small one after it is not
 * likely then.
 */
enum bias { ANY, OLD, NEW, FIRST_OR_LAST };

static uint32_t
draw_state (uint64_t *seed, enum bias bias, uint32_t low, uint32_t high)
{
  uint64_t v = draw (seed), coin = v >> 56;

  switch (bias) {
  case OLD:
    if (coin < 224)
      return low;
    break;
  case NEW:
    if (coin < 224)
      return high;
    break;
  case FIRST_OR_LAST:
    return coin & 1 ? low : high;
  case ANY:
    break;
  }
  return low + v % (high - low + 1);
}

/* The range in which a record changes bytes, given the size that it found.
 * A truncate that shrinks is a loss of what is beyond.
 */
static void
touched_range (const struct sim_record *rec, uint64_t size,
               uint64_t *ret_offset, uint64_t *ret_end)
{
  *ret_offset = *ret_end = 0;
  switch (rec->kind) {
  case SIM_WRITE:
  case SIM_ZERO:
  case SIM_PUNCH:
    *ret_offset = rec->offset;
    *ret_end = rec->offset + rec->len;
    break;
  case SIM_TRUNCATE:
    if (rec->offset < size) {
      *ret_offset = rec->offset;
      *ret_end = size;
    }
    break;
  case SIM_ALLOCATE:
  case SIM_SYNC:
  case SIM_MARK:
    break;
  }
}

/* A walk through the records of a file; size is the file's after the last one
 * that was returned.
 */
struct walk {
  const struct vd_sim *sim;
  const struct sim_file *file;
  size_t next, end;
  uint64_t size;
};

/* NULL: that was all.  The range is what the record changes. */
static const struct sim_record *
walk_on (struct walk *w, uint64_t *ret_offset, uint64_t *ret_end)
{
  while (w->next < w->end) {
    const struct sim_record *rec = &w->sim->log[w->next++];

    if (rec->file != w->file)
      continue;
    touched_range (rec, w->size, ret_offset, ret_end);
    w->size = sim_size_after (rec, w->size);
    return rec;
  }
  return NULL;
}

/* Per sector: how many records touch it, up to which one it is durable (FUA),
 * which state was drawn (0: as at the sync, k: after the k-th), and how many
 * have gone by.
 */
struct sector {
  uint32_t touching, durable, state, seen;
};

static bool
cut_file (const struct vd_sim *sim, const struct sim_file *file, size_t n,
          uint64_t *seed, struct sim_content *c)
{
  CLEANUP_FREE struct sector *sectors = NULL;
  CLEANUP_FREE uint64_t *sizes = NULL;
  uint64_t size, size_max, chosen, s, page, offset, end;
  size_t i, j, nsizes, first = 0;
  const struct sim_record *rec;
  struct walk start, walk;
  enum bias bias = draw (seed) % 4;

  /* What the last sync covered is there. */
  for (i = 0; i < n; ++i)
    if (sim->log[i].file == file && sim->log[i].kind == SIM_SYNC)
      first = i + 1;
  if (!sim_copy_content (c, base_of (file)) ||
      !replay (sim, file, 0, first, c))
    return false;

  /* Sizes since then, one of which is drawn.  What a FUA write wrote can be
   * read, so sizes before it that do not reach so far are out.
   */
  sizes = malloc ((n - first + 1) * sizeof *sizes);
  if (sizes == NULL)
    return false;
  start = walk = (struct walk) { sim, file, first, n, c->size };
  size = size_max = sizes[0] = c->size;
  nsizes = 1;
  while ((rec = walk_on (&walk, &offset, &end))) {
    if (walk.size != size)
      sizes[nsizes++] = size = walk.size;
    size_max = max_u64 (size_max, size);
    if (rec->fua) {
      size_t kept = 0;

      for (j = 0; j < nsizes; ++j)
        if (sizes[j] >= rec->offset + rec->len)
          sizes[kept++] = sizes[j];
      nsizes = kept;
    }
  }
  chosen = sizes[draw (seed) % nsizes];

  if (!sim_reserve (c, size_max))
    return false;
  sectors = calloc (size_max / SECTOR + 1, sizeof *sectors);
  if (sectors == NULL)
    return false;

  walk = start;
  while ((rec = walk_on (&walk, &offset, &end))) {
    for (s = offset / SECTOR; s * SECTOR < end; ++s) {
      sectors[s].touching++;
      if (rec->fua)
        sectors[s].durable = sectors[s].touching;
    }
  }
  for (s = 0; s * SECTOR < size_max; ++s)
    if (sectors[s].touching)
      sectors[s].state = draw_state (seed, bias, sectors[s].durable,
                                     sectors[s].touching);

  walk = start;
  while ((rec = walk_on (&walk, &offset, &end))) {
    for (s = offset / SECTOR; s * SECTOR < end; ++s) {
      uint64_t from = max_u64 (s * SECTOR, offset);
      uint64_t to = min_u64 ((s + 1) * SECTOR, end);

      if (++sectors[s].seen <= sectors[s].state)
        sim_put (c, from, to - from,
                 rec->kind == SIM_WRITE ? rec->data + (from - offset) : NULL);
    }
  }

  c->size = max_u64 (c->size, size_max);
  sim_set_size (c, chosen);
  for (page = 0; page * SIM_PAGE < c->size; ++page)
    c->used[page] = !is_zero (c->data + page * SIM_PAGE, SIM_PAGE);
  return true;
}

enum how { CLONE, PREFIX, CUT };

static struct vd_sim *
derive (const struct vd_sim *sim, enum how how, size_t n, uint64_t *seed)
{
  struct vd_sim *to = vd_sim_new ();
  bool ok = to != NULL;
  size_t i;

  sim_lock (sim);
  if (n > sim->nlog)
    n = sim->nlog;
  for (i = 0; ok && i < sim->nfiles; ++i) {
    const struct sim_file *from = sim->files[i];
    struct sim_file *file;

    if (from->removed)
      continue;
    file = sim_add_file (to, from->name);
    ok = file != NULL;
    if (ok)
      switch (how) {
      case CLONE:
        ok = sim_copy_content (&file->now, &from->now);
        break;
      case PREFIX:
        ok = sim_copy_content (&file->now, base_of (from)) &&
          replay (sim, from, 0, n, &file->now);
        break;
      case CUT:
        ok = cut_file (sim, from, n, seed, &file->now);
        break;
      }
  }
  sim_unlock (sim);
  if (!ok) {
    vd_sim_free (to);
    return NULL;
  }
  return to;
}

struct vd_sim *
vd_sim_clone (const struct vd_sim *sim)
{
  return derive (sim, CLONE, 0, NULL);
}

struct vd_sim *
vd_sim_prefix (const struct vd_sim *sim, size_t n)
{
  return derive (sim, PREFIX, n, NULL);
}

struct vd_sim *
vd_sim_power_cut (const struct vd_sim *sim, size_t n, uint64_t *seed)
{
  return derive (sim, CUT, n, seed);
}
