/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Every level of a chain has a name: the UUID of its image, and the name of
 * its file where that is the only one of its kind.
 */

#include <config.h>

#include <string.h>

#include "chain.h"

static const char *
file_name (const struct vd_image *image)
{
  const char *slash = strrchr (image->name, '/');

  return slash ? slash + 1 : image->name;
}

const char *
vd_chain_level_uuid (const struct vd_chain *chain, size_t level,
                     char buffer[VD_UUID_TEXT])
{
  const struct vd_uuid *uuid = &vd_chain_image (chain, level)->link.uuid;

  return vd_uuid_is_null (uuid) ? NULL : vd_uuid_text (uuid, buffer);
}

/* How many images of the stack have a file of this name? */
static size_t
count_files (const struct vd_chain *chain, const char *name)
{
  size_t n = 0, i;

  while (vd_chain_under (chain))
    chain = vd_chain_under (chain);
  for (; chain; chain = vd_chain_over (chain))
    for (i = 0; i < vd_chain_length (chain); ++i)
      n += strcmp (name, file_name (vd_chain_image (chain, i))) == 0;
  return n;
}

const char *
vd_chain_level_file (const struct vd_chain *chain, size_t level)
{
  const char *name = file_name (vd_chain_image (chain, level));

  return count_files (chain, name) == 1 ? name : NULL;
}

bool
vd_chain_find_level (const struct vd_chain *chain, const char *name,
                     size_t *ret)
{
  char uuid[VD_UUID_TEXT];
  size_t i;

  for (i = 0; i < vd_chain_length (chain); ++i) {
    const char *file = vd_chain_level_file (chain, i);
    const char *text = vd_chain_level_uuid (chain, i, uuid);

    if ((text && strcmp (name, text) == 0) ||
        (file && strcmp (name, file) == 0)) {
      *ret = i;
      return true;
    }
  }
  return false;
}
