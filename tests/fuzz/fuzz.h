/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Any bytes, opened as an image.  Nothing may crash, hang or ask for much
 * memory; what is read must not depend on how it is asked for, extents must
 * tell the truth, and an image that may be written holds, after it was closed
 * and opened again, what was written and nothing else.
 *
 * With libFuzzer (clang -fsanitize=fuzzer,address,undefined -DFUZZER) it is
 * its target.  Otherwise it is a program: it runs the files that are its
 * arguments one by one, or those in the folders of seeds and regressions;
 * with -n N also N random mutations of them, from number -f on.
 */

#ifndef VDKIT_FUZZ_H
#define VDKIT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define FUZZ_INPUT_MAX (256 * 1024)
#define FUZZ_FILES 3

struct fuzz_piece {
  const uint8_t *data;
  size_t size;
};

struct fuzz_format {
  /* The folders, inside of tests/fuzz. */
  const char *seeds, *regressions;
  unsigned long mutations;      /* of a run without arguments */
  /* The first file is the image; the others can be named in it. */
  const char *names[FUZZ_FILES];
  /* Cut the input into the files. */
  void (*cut) (const uint8_t *data, size_t size,
               struct fuzz_piece pieces[FUZZ_FILES]);
  /* A place where a mutation means something; draw (n): 0 to n - 1. */
  uint32_t (*spot) (uint32_t (*draw) (uint32_t n), const uint8_t *data,
                    size_t size);
};

/* Each target has one. */
extern const struct fuzz_format fuzz_format;

extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif /* VDKIT_FUZZ_H */
