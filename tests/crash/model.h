/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A model of what a disk may hold after a crash, for images on a simulated
 * disk (common/io/sim.h).
 *
 * The disk is a number of 512-byte sectors.  Every operation of the script
 * that changes a sector adds a version to it.  A flush raises the floor of
 * every sector to its newest version, a FUA request that of its own sectors.
 * After a crash a sector must hold one of its versions from the floor on:
 * nothing that was flushed is lost, and nothing changes that was not written.
 */

#ifndef VDKIT_CRASH_MODEL_H
#define VDKIT_CRASH_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512

/* What a version holds: 0 zeroes, else bytes made from this number and the
 * sector's; PARENT + x the parent's bytes.
 */
#define CONTENT_ZERO 0
#define CONTENT_PARENT UINT32_MAX

struct version {
  uint32_t op;                  /* that made it; 0: there from the start */
  uint32_t content;
};

struct sector {
  struct version *versions;
  uint32_t n;
};

/* When a floor was raised. */
struct model {
  uint64_t nsectors;
  struct sector *sectors;
  uint32_t nops;                /* operations so far; ops count from 1 */
  /* What operation i (1..nops) made durable when it returned. */
  struct durable { uint64_t first, count; } *durable;
};

static inline uint64_t
model_random (uint64_t *seed)
{
  uint64_t z = (*seed += UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* The bytes of a content.  Never all zero but for CONTENT_ZERO. */
static inline void
model_content (uint32_t content, uint64_t sector, uint8_t *out)
{
  uint64_t seed = ((uint64_t) content << 32) ^ sector, i;

  if (content == CONTENT_ZERO) {
    memset (out, 0, SECTOR);
    return;
  }
  for (i = 0; i < SECTOR / 8; ++i) {
    uint64_t v = model_random (&seed) | 1;

    memcpy (out + i * 8, &v, 8);
  }
}

/* parent: sectors from 0 on hold CONTENT_PARENT up to parent_sectors where
 * (sector / 24) is even; everything else starts as zeroes.
 */
static inline bool
model_in_parent (uint64_t sector, uint64_t parent_sectors)
{
  return sector < parent_sectors && (sector / 24) % 2 == 0;
}

static inline struct model *
model_new (uint64_t nsectors, uint64_t parent_sectors, uint32_t max_ops)
{
  struct model *m = calloc (1, sizeof *m);
  uint64_t i;

  m->nsectors = nsectors;
  m->sectors = calloc (nsectors, sizeof m->sectors[0]);
  m->durable = calloc (max_ops + 1, sizeof m->durable[0]);
  for (i = 0; i < nsectors; ++i) {
    m->sectors[i].versions = malloc (sizeof (struct version));
    m->sectors[i].versions[0].op = 0;
    m->sectors[i].versions[0].content =
      model_in_parent (i, parent_sectors) ? CONTENT_PARENT : CONTENT_ZERO;
    m->sectors[i].n = 1;
  }
  return m;
}

static inline void
model_free (struct model *m)
{
  uint64_t i;

  for (i = 0; i < m->nsectors; ++i)
    free (m->sectors[i].versions);
  free (m->sectors);
  free (m->durable);
  free (m);
}

/* Operation number m->nops gives these sectors a new version. */
static inline void
model_set (struct model *m, uint64_t first, uint64_t count, uint32_t content)
{
  uint64_t i;

  for (i = first; i < first + count; ++i) {
    struct sector *s = &m->sectors[i];

    s->versions = realloc (s->versions, (s->n + 1) * sizeof s->versions[0]);
    s->versions[s->n].op = m->nops;
    s->versions[s->n].content = content;
    s->n++;
  }
}

/* Newest content. */
static inline uint32_t
model_now (const struct model *m, uint64_t sector)
{
  const struct sector *s = &m->sectors[sector];

  return s->versions[s->n - 1].content;
}

/* The floors after operations 1..done have returned: floors[i] is the index
 * of the oldest version that sector i may hold.  Call with done ascending;
 * *upto says how far the array is, and starts at 0.
 */
static inline void
model_floors (const struct model *m, uint32_t done, uint32_t *floors,
              uint32_t *upto)
{
  uint64_t i;

  for (; *upto < done; ++*upto) {
    const struct durable *d = &m->durable[*upto + 1];

    for (i = d->first; i < d->first + d->count; ++i) {
      const struct sector *s = &m->sectors[i];
      uint32_t v = floors[i];

      while (v + 1 < s->n && s->versions[v + 1].op <= *upto + 1)
        v++;
      floors[i] = v;
    }
  }
}

/* May the sector hold these bytes, when operations up to done have returned
 * and done + 1 was perhaps under way?
 */
static inline bool
model_allows (const struct model *m, uint64_t sector, const uint8_t *bytes,
              const uint32_t *floors, uint32_t done)
{
  const struct sector *s = &m->sectors[sector];
  uint8_t want[SECTOR];
  uint32_t v;

  for (v = floors[sector]; v < s->n && s->versions[v].op <= done + 1; ++v) {
    model_content (s->versions[v].content, sector, want);
    if (memcmp (want, bytes, SECTOR) == 0)
      return true;
  }
  return false;
}

#endif /* VDKIT_CRASH_MODEL_H */
