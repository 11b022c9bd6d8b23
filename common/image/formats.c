/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The formats that we know, and which one a file is.
 */

#include <config.h>

#include <strings.h>

#include "image.h"
#include "vdi.h"
#include "vmdk.h"

const struct vd_format *const vd_formats[] = {
  &vd_format_vdi,
  &vd_format_vmdk,
  NULL,
};

const struct vd_format *
vd_format_by_name (const char *name)
{
  const struct vd_format *const *f;

  for (f = vd_formats; *f; ++f)
    if (strcasecmp ((*f)->name, name) == 0)
      return *f;
  return NULL;
}

const struct vd_format *
vd_format_probe (const uint8_t *head, size_t n)
{
  const struct vd_format *const *f;

  for (f = vd_formats; *f; ++f)
    if ((*f)->probe (head, n))
      return *f;
  return NULL;
}
