/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Any bytes, opened as a VMDK: see fuzz.h.
 *
 * The input is the image, or up to three files: it then begins with "3FIL" and
 * the sizes of the first two, of 32 bits.  The image is a descriptor, a sparse
 * extent or a stream; a descriptor can name the others, "a" and "b".
 */

#include <config.h>

#include <string.h>

#include "byteorder.h"
#include "rounding.h"

#include "fuzz.h"

#define HEAD 12

static void
cut (const uint8_t *data, size_t size, struct fuzz_piece pieces[FUZZ_FILES])
{
  unsigned i;

  if (size < HEAD || memcmp (data, "3FIL", 4) != 0) {
    pieces[0] = (struct fuzz_piece) { .data = data, .size = size };
    return;
  }
  size -= HEAD;
  pieces[0].data = data + HEAD;
  for (i = 0; i < FUZZ_FILES; ++i) {
    pieces[i].size = i == FUZZ_FILES - 1 ? size :
      min_u64 (size, get_le32 (data + 4 + i * 4));
    size -= pieces[i].size;
    if (i + 1 < FUZZ_FILES)
      pieces[i + 1].data = pieces[i].data + pieces[i].size;
  }
}

/* In the text, or in the first sectors of one of the files. */
static uint32_t
spot (uint32_t (*draw) (uint32_t n), const uint8_t *data, size_t size)
{
  struct fuzz_piece pieces[FUZZ_FILES] = { { 0 } }, *p;
  uint32_t at;

  if (draw (20) == 0)
    return draw (size);
  cut (data, size, pieces);
  p = &pieces[draw (FUZZ_FILES)];
  if (p->size == 0)
    p = &pieces[0];
  if (p->size == 0)
    return 0;
  switch (draw (4)) {
  case 0: at = draw (80); break;
  case 1: at = draw (800); break;
  case 2: at = draw (12 * 1024) / 4 * 4; break;
  default:
    /* The end of a stream. */
    at = p->size - min_u64 (p->size, 1 + draw (4 * 512));
  }
  return p->data - data + at % p->size;
}

const struct fuzz_format fuzz_format = {
  .seeds = "seeds-vmdk", .regressions = "regressions-vmdk",
  .mutations = 20000,
  .names = { "fuzz.vmdk", "a", "b" },
  .cut = cut, .spot = spot,
};
