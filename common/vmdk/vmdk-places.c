/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "rounding.h"
#include "vmdk-places.h"

#define CHUNK 4096u             /* slots */

/* Grain-sized slots of the file; at most one grain can begin in each. */
struct chunk {
  uint16_t first;               /* sectors into the slot: all grains' ... */
  uint16_t *each;               /* ... unless this is not NULL */
  uint64_t taken[CHUNK / 64];
};

struct vmdk_places {
  unsigned shift;               /* log2 of sectors in a slot */
  uint32_t nchunks;
  struct chunk *chunks[];       /* NULL: none is taken */
};

struct vmdk_places *
vmdk_places_new (uint32_t grain)
{
  unsigned shift = log_2 (grain);
  uint32_t nchunks = (UINT32_MAX >> shift) / CHUNK + 1;
  struct vmdk_places *places;

  places = calloc (1, sizeof *places + nchunks * sizeof places->chunks[0]);
  if (places == NULL)
    return NULL;
  places->shift = shift;
  places->nchunks = nchunks;
  return places;
}

void
vmdk_places_free (struct vmdk_places *places)
{
  uint32_t i;

  if (places == NULL)
    return;
  for (i = 0; i < places->nchunks; ++i)
    if (places->chunks[i]) {
      free (places->chunks[i]->each);
      free (places->chunks[i]);
    }
  free (places);
}

/* Does a grain begin in the slot, and how many sectors into it? */
static bool
is_taken (const struct vmdk_places *places, uint32_t slot, uint32_t *ret)
{
  const struct chunk *chunk = places->chunks[slot / CHUNK];
  uint32_t i = slot % CHUNK;

  if (chunk == NULL || !(chunk->taken[i / 64] >> i % 64 & 1))
    return false;
  *ret = chunk->each ? chunk->each[i] : chunk->first;
  return true;
}

int
vmdk_places_take (struct vmdk_places *places, uint32_t sector)
{
  uint32_t slot = sector >> places->shift, i = slot % CHUNK, j, other;
  uint32_t in = sector & ((1u << places->shift) - 1);
  struct chunk **chunk = &places->chunks[slot / CHUNK];

  if (is_taken (places, slot, &other) ||
      (slot > 0 && is_taken (places, slot - 1, &other) && other > in) ||
      (slot < UINT32_MAX >> places->shift &&
       is_taken (places, slot + 1, &other) && other < in))
    return 0;

  if (*chunk == NULL) {
    *chunk = calloc (1, sizeof **chunk);
    if (*chunk == NULL)
      return -ENOMEM;
    (*chunk)->first = in;
  }
  if (in != (*chunk)->first && (*chunk)->each == NULL) {
    uint16_t *each = malloc (CHUNK * sizeof each[0]);

    if (each == NULL)
      return -ENOMEM;
    for (j = 0; j < CHUNK; ++j)
      each[j] = (*chunk)->first;
    (*chunk)->each = each;
  }
  if ((*chunk)->each)
    (*chunk)->each[i] = in;
  (*chunk)->taken[i / 64] |= UINT64_C (1) << i % 64;
  return 1;
}
