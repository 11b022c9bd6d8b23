/* SPDX-License-Identifier: BSD-3-Clause */

#ifndef VDKIT_IOV_H
#define VDKIT_IOV_H

#include <stdint.h>
#include <sys/uio.h>

/* Sum of the lengths; saturates, so that no range of that length lies in a
 * file.
 */
static inline uint64_t
iov_total (const struct iovec *iov, int niov)
{
  uint64_t total = 0;
  int i;

  for (i = 0; i < niov; ++i)
    if (__builtin_add_overflow (total, (uint64_t) iov[i].iov_len, &total))
      return UINT64_MAX;
  return total;
}

#endif /* VDKIT_IOV_H */
