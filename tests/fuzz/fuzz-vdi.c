/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Any bytes, opened as a VDI: see fuzz.h.
 */

#include <config.h>

#include "fuzz.h"

static void
cut (const uint8_t *data, size_t size, struct fuzz_piece pieces[FUZZ_FILES])
{
  pieces[0] = (struct fuzz_piece) { .data = data, .size = size };
}

/* Mostly in the header and the map. */
static uint32_t
spot (uint32_t (*draw) (uint32_t n), const uint8_t *data, size_t size)
{
  uint32_t at = draw (4) ? 68 + draw (400) / 4 * 4 : draw (size);

  (void) data;
  if (draw (3) == 0)
    at = 512 + draw (256) / 4 * 4;      /* where our seeds have their map */
  return at;
}

const struct fuzz_format fuzz_format = {
  .seeds = "seeds", .regressions = "regressions", .mutations = 20000,
  .names = { "fuzz.vdi" },
  .cut = cut, .spot = spot,
};
