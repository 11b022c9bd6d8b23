/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A VMDK image: the descriptor and its extents, end to end.
 */

#ifndef VDKIT_VMDK_PRIVATE_H
#define VDKIT_VMDK_PRIVATE_H

#include "vmdk-descriptor.h"
#include "vmdk-extent.h"

struct vd_lazy;
struct vd_open_limit;

struct vmdk {
  struct vmdk_descriptor *descriptor;
  uint64_t descriptor_offset;   /* in image->store, bytes */
  uint64_t descriptor_room;     /* bytes; 0: a text file of its own */

  struct vmdk_extent *extents;
  size_t nextents;

  /* Constant-time look-up: index[offset >> shift] is the first extent that
   * may hold the offset.
   */
  uint32_t *index;
  unsigned shift;

  uint64_t grain;               /* bytes, of an embedded extent */
  struct vd_open_limit *limit;  /* the image's, or one of our own */
  size_t kept;                  /* files that count there and stay open */
  struct vd_lazy *lazy;         /* the others; NULL: there are none */
};

/* vmdk-open.c: does it describe a disk of the host? */
extern bool vmdk_is_device_type (const struct vmdk *vmdk);

/* vmdk-files.c: open what the extents of a descriptor of its own name, and set
 * their stores, which are the image's.  The extents are described already.
 */
extern int vmdk_open_files (struct vd_ctx *ctx, struct vd_image *image);

/* vmdk-lock.c: does VMware say that it has the file of that name (as in the
 * image; NULL: the image's own) open?  -EBUSY if the image is open for
 * writing, with a message that says what to do; else a warning.
 */
extern int vmdk_check_lock_folder (struct vd_ctx *ctx, struct vd_image *image,
                                   const char *name);

/* vmdk-create.c */
extern int vmdk_check_create (struct vd_ctx *ctx,
                              const struct vd_create *how);
extern int vmdk_create (struct vd_ctx *ctx, struct vd_store *store,
                        struct vd_folder *folder, const char *name,
                        const struct vd_create *how);

/* vmdk-session.c: the descriptor's CID and UUID, in place (rules O3, O15) */
extern int vmdk_begin_session (struct vd_ctx *ctx, struct vd_image *image);
extern int vmdk_end_session (struct vd_ctx *ctx, struct vd_image *image);
extern int vmdk_set_meta (struct vd_ctx *ctx, struct vd_image *image,
                          const struct vd_meta_change *change);

/* vmdk-stream-write.c: the sink of a stream that is being made */
extern struct vd_sink *vmdk_sink_open (struct vd_ctx *ctx,
                                       struct vd_image *image);
extern int vmdk_sink_put (struct vd_ctx *ctx, struct vd_sink *sink,
                          uint64_t block, const void *buf, size_t len);
extern int vmdk_sink_finish (struct vd_ctx *ctx, struct vd_sink *sink);
extern void vmdk_sink_close (struct vd_sink *sink);

#endif /* VDKIT_VMDK_PRIVATE_H */
