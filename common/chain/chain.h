/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A chain: a base image (or a layer below, given as callbacks) and the
 * differencing images on top of it, of any formats and block sizes.
 *
 * All but the topmost image are read-only.  A view is the disk as of one
 * image: that image and all below it.  The top view can be written, if the
 * chain was opened so.
 *
 * Units are bytes.  Functions return 0 or a negative errno after vd_error.
 * I/O calls may be made from any number of threads at once.
 */

#ifndef VDKIT_CHAIN_H
#define VDKIT_CHAIN_H

#include "image.h"

#define VD_CHAIN_MAX 250        /* images */

struct vd_chain;
struct vd_owner_pool;

/* What is known of the layer below, to check the first image's link. */
struct vd_below {
  struct vd_parent disk;
  bool has_link;                /* false: a raw disk, a LUN */
  struct vd_link link;
  const char *name;             /* for messages */
};

struct vd_chain_open {
  /* For the topmost image; parent is ignored.  The images below it are opened
   * read-only with the same lock and policy.
   */
  struct vd_open how;
  /* Descriptors (O_PATH will do) of the files that the names were looked up
   * as, if they were: then these are opened, whatever the names mean by now.
   * NULL: none.  They stay the caller's.
   */
  const int *fds;
  const struct vd_below *below; /* NULL: none; copied but for the strings */
  struct vd_owner_pool *pool;   /* for several chains, which it outlives;
                                   NULL: one for this chain, of 16 MiB */
  bool force_link;              /* a wrong link is a warning only */
  bool alone;                   /* one image, without the parent that it may
                                   need: what it does not hold is zeroes */
};

/* Open these files, base first.  The links between them are checked: the
 * parent UUID must be the UUID of the image below, the parent CID its CID,
 * where there are any; -EUNATCH if not (or if the first needs a parent and
 * there is no layer below), -ELOOP if a file stands twice, -EINVAL for a
 * fixed image on top of another.  A parent modification UUID that does not
 * match is a warning: it goes stale when snapshots are deleted.
 *
 * Errors otherwise as vd_image_open, each naming its file.
 */
extern int vd_chain_open (struct vd_ctx *ctx, const char *const *paths,
                          size_t n, const struct vd_chain_open *how,
                          struct vd_chain **ret);

/* Open the topmost image for writing, once, as vd_image_reopen_write does;
 * readers go on meanwhile.  Errors as there.  Not from several threads.
 */
extern int vd_chain_reopen_write (struct vd_ctx *ctx, struct vd_chain *chain);

/* Ends the session, closes everything; the first error is returned. */
extern int vd_chain_close (struct vd_ctx *ctx, struct vd_chain *chain);

/* Check the base's link to the layer below, if that becomes known after the
 * chain was opened.  Of how only force_link counts.  -EUNATCH; -ELOOP if the
 * layer below has the UUID of an image of the chain.
 */
extern int vd_chain_check_below (struct vd_ctx *ctx,
                                 const struct vd_chain *chain,
                                 const struct vd_link *link, const char *name,
                                 const struct vd_chain_open *how);

/* The layer below this chain is another chain, which was opened before and is
 * closed after it (stacked filters): check the link between the two, and that
 * nothing stands twice in the whole stack.  Errors and messages as if all were
 * one chain.  Before the first request; of how only force_link counts.
 */
extern int vd_chain_stack (struct vd_ctx *ctx, struct vd_chain *chain,
                           struct vd_chain *under,
                           const struct vd_chain_open *how);

/* Its neighbours in the stack, or NULL. */
extern const struct vd_chain *vd_chain_under (const struct vd_chain *chain);
extern const struct vd_chain *vd_chain_over (const struct vd_chain *chain);

/* Make a new, empty differencing image at path, on top of a disk of this size
 * and link; name_below is the file name for VMware's hint, or NULL.  -EEXIST.
 */
extern int vd_chain_create_diff (struct vd_ctx *ctx, const char *path,
                                 const struct vd_format *format,
                                 enum vd_lock lock, uint64_t size,
                                 const struct vd_link *below,
                                 const char *name_below);

extern size_t vd_chain_length (const struct vd_chain *chain);

/* Image i, 0 is the base.  The top one changes with vd_chain_reopen_write. */
extern struct vd_image *vd_chain_image (const struct vd_chain *chain,
                                        size_t i);

extern bool vd_chain_writable (const struct vd_chain *chain);

/* ---- views: level i is image i and what is below it -------------------- */

extern uint64_t vd_chain_size (const struct vd_chain *chain, size_t level);

extern int vd_chain_pread (struct vd_ctx *ctx, struct vd_chain *chain,
                           size_t level, void *buf, size_t len,
                           uint64_t offset);
extern int vd_chain_extents (struct vd_ctx *ctx, struct vd_chain *chain,
                             size_t level, uint64_t offset, uint64_t len,
                             bool one,
                             int (*fn) (void *opaque, uint64_t offset,
                                        uint64_t len, unsigned type),
                             void *opaque);
extern int vd_chain_cache (struct vd_ctx *ctx, struct vd_chain *chain,
                           size_t level, uint64_t len, uint64_t offset);

/* What a level is called: by the UUID of its image (lower case, NULL: it has
 * none), and by the name of its file (without folders; NULL: another image of
 * the chain, or of the stack, has the same).
 */
extern const char *vd_chain_level_uuid (const struct vd_chain *chain,
                                        size_t level,
                                        char buffer[VD_UUID_TEXT]);
extern const char *vd_chain_level_file (const struct vd_chain *chain,
                                        size_t level);
extern bool vd_chain_find_level (const struct vd_chain *chain,
                                 const char *name, size_t *ret);

/* ---- the top view ------------------------------------------------------ */

extern int vd_chain_pwrite (struct vd_ctx *ctx, struct vd_chain *chain,
                            const void *buf, size_t len, uint64_t offset,
                            unsigned flags);
extern int vd_chain_zero (struct vd_ctx *ctx, struct vd_chain *chain,
                          uint64_t len, uint64_t offset, unsigned flags);
extern int vd_chain_trim (struct vd_ctx *ctx, struct vd_chain *chain,
                          uint64_t len, uint64_t offset, unsigned flags);
extern int vd_chain_flush (struct vd_ctx *ctx, struct vd_chain *chain);
extern int vd_chain_end_session (struct vd_ctx *ctx, struct vd_chain *chain);

#endif /* VDKIT_CHAIN_H */
