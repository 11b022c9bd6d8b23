/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "rounding.h"
#include "vdi-pool.h"

#define CHUNK_WORDS 512
#define CHUNK_BITS (CHUNK_WORDS * 64)

struct chunk {
  uint32_t taken;
  uint64_t words[CHUNK_WORDS];
};

struct vdi_pool {
  uint32_t n;
  uint32_t low;                 /* all places below it are taken */
  uint32_t nchunks;
  struct chunk *chunks[];       /* NULL: all free */
};

struct vdi_pool *
vdi_pool_new (uint32_t n)
{
  uint32_t nchunks = div_round_up (n, CHUNK_BITS);
  struct vdi_pool *pool;

  pool = calloc (1, sizeof *pool + nchunks * sizeof pool->chunks[0]);
  if (pool == NULL)
    return NULL;
  pool->n = n;
  pool->nchunks = nchunks;
  return pool;
}

void
vdi_pool_free (struct vdi_pool *pool)
{
  uint32_t i;

  if (pool == NULL)
    return;
  for (i = 0; i < pool->nchunks; ++i)
    free (pool->chunks[i]);
  free (pool);
}

int
vdi_pool_take (struct vdi_pool *pool, uint32_t place)
{
  struct chunk **chunk = &pool->chunks[place / CHUNK_BITS];
  uint32_t word = place % CHUNK_BITS / 64;
  uint64_t bit = UINT64_C (1) << place % 64;

  assert (place < pool->n);
  if (*chunk == NULL) {
    *chunk = calloc (1, sizeof **chunk);
    if (*chunk == NULL)
      return -ENOMEM;
  }
  if ((*chunk)->words[word] & bit)
    return 0;
  (*chunk)->words[word] |= bit;
  (*chunk)->taken++;
  return 1;
}

int
vdi_pool_take_lowest (struct vdi_pool *pool, uint32_t *ret)
{
  uint32_t i, word, place = pool->low;
  int r;

  for (i = place / CHUNK_BITS; i < pool->nchunks; ++i) {
    const struct chunk *chunk = pool->chunks[i];

    if (i != pool->low / CHUNK_BITS)
      place = i * CHUNK_BITS;
    if (chunk == NULL)
      break;
    if (chunk->taken == CHUNK_BITS)
      continue;
    word = place % CHUNK_BITS / 64;
    /* There is a free bit, and none below low. */
    while (chunk->words[word] == UINT64_MAX)
      word++;
    place = i * CHUNK_BITS + word * 64 +
      __builtin_ctzll (~chunk->words[word]);
    break;
  }
  if (i == pool->nchunks || place >= pool->n) {
    pool->low = pool->n;
    return 0;
  }

  r = vdi_pool_take (pool, place);
  if (r < 0)
    return r;
  assert (r == 1);
  pool->low = place + 1;
  *ret = place;
  return 1;
}

void
vdi_pool_give (struct vdi_pool *pool, uint32_t place)
{
  struct chunk *chunk = pool->chunks[place / CHUNK_BITS];
  uint32_t word = place % CHUNK_BITS / 64;
  uint64_t bit = UINT64_C (1) << place % 64;

  assert (place < pool->n);
  assert (chunk && chunk->words[word] & bit);
  chunk->words[word] &= ~bit;
  chunk->taken--;
  if (place < pool->low)
    pool->low = place;
}

uint32_t
vdi_pool_end (const struct vdi_pool *pool)
{
  uint32_t i = pool->nchunks;

  while (i-- > 0) {
    const struct chunk *chunk = pool->chunks[i];
    uint32_t word;

    if (chunk == NULL || chunk->taken == 0)
      continue;
    for (word = CHUNK_WORDS; word-- > 0;)
      if (chunk->words[word])
        return i * CHUNK_BITS + word * 64 + log_2 (chunk->words[word]) + 1;
  }
  return 0;
}
