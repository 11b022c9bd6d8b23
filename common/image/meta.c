/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Metadata: what an image says of itself, and changing it.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cleanup.h"
#include "engine.h"

int
vd_image_set_meta (struct vd_ctx *ctx, struct vd_image *image,
                   const struct vd_meta_change *change)
{
  struct vd_engine *e = image->engine;
  int r;

  if (!image->write)
    return vd_error (ctx, EROFS, "%s: is open read-only", image->name);
  if (!image->format->set_meta)
    return vd_error (ctx, ENOTSUP, "%s: %s metadata cannot be changed",
                     image->name, image->format->name);

  LOCK_SCOPE (&e->session_lock);
  if (atomic_load (&e->in_session))
    return vd_error (ctx, EBUSY, "%s: metadata cannot be changed while the "
                     "disk is being written", image->name);
  r = vd_round_check (ctx, image);
  if (r == 0)
    r = image->format->set_meta (ctx, image, change);
  if (r == 0) {
    r = vd_store_sync (ctx, image->store);
    if (r < 0)
      vd_round_poison (ctx, image);
  }
  return r;
}

void
vd_image_description (const struct vd_image *image,
                      char *buffer, size_t size)
{
  struct vd_engine *e = image->engine;
  char uuid[VD_UUID_TEXT], modification[VD_UUID_TEXT], cid[16] = "";
  struct vd_link link;

  /* A session that begins changes it. */
  if (image->write)
    pthread_mutex_lock (&e->session_lock);
  link = image->link;
  if (image->write)
    pthread_mutex_unlock (&e->session_lock);

  if (link.has_cid)
    snprintf (cid, sizeof cid, " cid=%08" PRIx32, link.cid);
  snprintf (buffer, size, "vdkit1 uuid=%s muuid=%s%s size=%" PRIu64,
            vd_uuid_text (&link.uuid, uuid),
            vd_uuid_text (&link.modification, modification),
            cid, image->size);
}
