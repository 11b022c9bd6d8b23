/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Logging in, with a limit on the time.
 */

#ifndef VDKIT_ISCSI_CONNECT_H
#define VDKIT_ISCSI_CONNECT_H

#include <stdbool.h>
#include <stdint.h>

#include "session.h"

struct iscsi_context;

struct vd_iscsi_connect {
  const struct vd_iscsi_settings *settings;
  uint32_t isid;
  unsigned index;
  bool discovery;               /* no target: only to ask which there are */
  uint32_t expect_block_size;   /* 0: any */
  int64_t deadline;             /* of vd_iscsi_now */
  /* Called every 100 ms or so; true: give up. */
  bool (*tick) (void *opaque);
  void *opaque;
};

/* Milliseconds of a clock that is never set. */
extern int64_t vd_iscsi_now (void);

/* Returns a context that is logged in, or NULL, and then why (escaped). */
extern struct iscsi_context *
vd_iscsi_connect (const struct vd_iscsi_connect *c, char *why, size_t size);

/* Call fn for each target of the portal and each of its addresses (escaped):
 * the target and the LUN of the settings are not used.  -EIO after vd_error.
 */
extern int
vd_iscsi_discover (struct vd_ctx *ctx, const struct vd_iscsi_settings *settings,
                   void (*fn) (void *opaque, const char *target,
                               const char *portal), void *opaque);

/* What libiscsi says about the last failure, on one line (escaped). */
extern void vd_iscsi_error_text (struct iscsi_context *ctx, char *buf,
                                 size_t size);

/* Log out, for at most that long, and destroy it. */
extern void vd_iscsi_disconnect (struct iscsi_context *ctx, unsigned ms);

#endif /* VDKIT_ISCSI_CONNECT_H */
