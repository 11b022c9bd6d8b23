/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "rounding.h"
#include "sim-private.h"

bool
sim_reserve (struct sim_content *c, uint64_t size)
{
  size_t capacity, i;
  uint8_t *data;
  bool *used;

  if (size <= c->capacity)
    return true;
  if (size > SIM_FILE_MAX)
    return false;
  capacity = round_up (max_u64 (size, c->capacity + c->capacity / 2),
                       SIM_PAGE);
  data = realloc (c->data, capacity);
  if (data == NULL)
    return false;
  memset (data + c->capacity, 0, capacity - c->capacity);
  c->data = data;
  used = realloc (c->used, capacity / SIM_PAGE * sizeof *used);
  if (used == NULL)
    return false;
  for (i = c->capacity / SIM_PAGE; i < capacity / SIM_PAGE; ++i)
    used[i] = false;
  c->used = used;
  c->capacity = capacity;
  return true;
}

void
sim_free_content (struct sim_content *c)
{
  free (c->data);
  free (c->used);
}

bool
sim_copy_content (struct sim_content *to, const struct sim_content *from)
{
  memset (to, 0, sizeof *to);
  if (!sim_reserve (to, from->size)) {
    sim_free_content (to);
    memset (to, 0, sizeof *to);
    return false;
  }
  to->size = from->size;
  if (from->size) {
    memcpy (to->data, from->data, from->size);
    memcpy (to->used, from->used, div_round_up (from->size, SIM_PAGE));
  }
  return true;
}

void
sim_put (struct sim_content *c, uint64_t offset, uint64_t len,
         const uint8_t *data)
{
  uint64_t p;

  if (len == 0)
    return;
  if (data)
    memcpy (c->data + offset, data, len);
  else
    memset (c->data + offset, 0, len);
  for (p = offset / SIM_PAGE; p <= (offset + len - 1) / SIM_PAGE; ++p)
    c->used[p] = true;
}

static void
punch (struct sim_content *c, uint64_t offset, uint64_t len)
{
  uint64_t p, end = offset + len;

  if (len == 0)
    return;
  memset (c->data + offset, 0, len);
  /* The last page counts as whole if the rest of it is beyond the end. */
  if (end >= c->size)
    end = round_up (end, SIM_PAGE);
  for (p = div_round_up (offset, SIM_PAGE); p < end / SIM_PAGE; ++p)
    c->used[p] = false;
}

void
sim_set_size (struct sim_content *c, uint64_t size)
{
  if (size < c->size)
    punch (c, size, c->size - size);
  c->size = size;
}

uint64_t
sim_size_after (const struct sim_record *rec, uint64_t size)
{
  switch (rec->kind) {
  case SIM_WRITE:
  case SIM_ALLOCATE:
    return max_u64 (size, rec->offset + rec->len);
  case SIM_TRUNCATE:
    return rec->offset;
  default:
    return size;
  }
}

bool
sim_apply (struct sim_content *c, const struct sim_record *rec)
{
  uint64_t size = sim_size_after (rec, c->size);

  if (!sim_reserve (c, size))
    return false;
  switch (rec->kind) {
  case SIM_WRITE: sim_put (c, rec->offset, rec->len, rec->data); break;
  case SIM_ZERO: sim_put (c, rec->offset, rec->len, NULL); break;
  case SIM_PUNCH: punch (c, rec->offset, rec->len); break;
  case SIM_TRUNCATE:
  case SIM_ALLOCATE:
  case SIM_SYNC:
  case SIM_MARK:
    break;
  }
  sim_set_size (c, size);
  return true;
}
