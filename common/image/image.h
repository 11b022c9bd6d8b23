/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The core's interface to doors, chains and operations: open an image of any
 * format, read and write it.
 *
 * Units are bytes.  Functions return 0 or a negative errno after vd_error;
 * ret parameters are set on success only.  The I/O calls may be made from
 * any number of threads at once; close must not run while I/O calls on the same
 * image are under way, end_session not while writing ones are.
 */

#ifndef VDKIT_IMAGE_H
#define VDKIT_IMAGE_H

#include "format.h"

/* ---- opening ---------------------------------------------------------- */

enum vd_write {
  VD_WRITE_NO,                  /* VD's READONLY: nothing is ever written */
  VD_WRITE_TRY,                 /* VD's NORMAL: read-only if it must be */
  VD_WRITE_REQUIRE,
};

struct vd_open {
  enum vd_write write;
  enum vd_lock lock;
  bool honor_zeroes;
  bool honor_same;
  bool drop_gaps;               /* what is written to the gaps of a disk that
                                   is made of partitions (ZERO extents of a
                                   VMDK) succeeds and is forgotten */
  bool info;                    /* metadata only: differencing images open
                                   without a parent, and cannot be read */
  int fd;                       /* > 0: a descriptor (O_PATH will do) of what
                                   path was looked up as: this is opened,
                                   whatever path means now */
  const struct vd_format *format;       /* NULL: found by content */
  const struct vd_policy *policy;       /* which files the image may name;
                                   NULL: those beside it; outlives it */
  size_t table_memory;          /* 0: default (16 MiB) */
  struct vd_open_limit *open_limit;     /* io/lazy.h, for several images, which
                                   it outlives; NULL: one for this image */
  const struct vd_parent *parent;       /* for a differencing image; copied */
  bool stacked;                 /* use parent also if the image names none */
  vd_log_fn log;                /* for the image's own thread */
};

/* Open path with the format found by its content.
 * -EBUSY: locked by another process.  -EMEDIUMTYPE: not an image that we
 * know.  -EUNATCH: a differencing image and no parent given (the message
 * names its UUID).  -ENOTSUP: a variant that we do not do.  -EIO: damaged.
 * With VD_WRITE_TRY an image that cannot be written is opened read-only with
 * a warning; vd_image_writable tells.
 */
extern int vd_image_open (struct vd_ctx *ctx, const char *path,
                          const struct vd_open *how, struct vd_image **ret);

/* The same over a store, which then belongs to the image (it is closed also
 * on failure).  how->lock is ignored.
 */
extern int vd_image_open_store (struct vd_ctx *ctx, struct vd_store *store,
                                const struct vd_open *how,
                                struct vd_image **ret);

/* The same with a folder for the files that it names, which then belongs to
 * the image too.
 */
extern int vd_image_open_folder (struct vd_ctx *ctx, struct vd_store *store,
                                 struct vd_folder *folder,
                                 const struct vd_open *how,
                                 struct vd_image **ret);

/* A second, writable image over the same file as a read-only one: takes the
 * writer's lock and reads header and map again.  old stays valid for its
 * readers, and is closed by the caller when there are none.
 * Errors as vd_image_open; old then still has its lock.  how->write is
 * VD_WRITE_TRY or VD_WRITE_REQUIRE.  With TRY, after a warning that says why:
 * -EROFS if the image must stay read-only, -EAGAIN if only other readers keep
 * us from writing, which may pass.
 */
extern int vd_image_reopen_write (struct vd_ctx *ctx, struct vd_image *old,
                                  const struct vd_open *how,
                                  struct vd_image **ret);

/* Ends the session (see below), stops the image's thread, closes the files
 * and frees everything, errors or not; the first error is returned.
 * NULL is fine.
 */
extern int vd_image_close (struct vd_ctx *ctx, struct vd_image *image);

/* Can it be written (still: a stream cannot once it is complete)? */
extern bool vd_image_writable (const struct vd_image *image);

/* The known formats, ends with NULL. */
extern const struct vd_format *const vd_formats[];

/* By name, NULL if unknown.  Case does not matter. */
extern const struct vd_format *vd_format_by_name (const char *name);

/* By content.  NULL if unknown. */
extern const struct vd_format *vd_format_probe (const uint8_t *head,
                                                size_t n);

/* Create a new image file.  -EEXIST if there is one.  On failure nothing is
 * left behind.
 */
extern int vd_image_create (struct vd_ctx *ctx, const char *path,
                            const struct vd_format *format,
                            enum vd_lock lock, const struct vd_create *how);

/* ---- I/O -------------------------------------------------------------- */

/* The range lies inside image->size (the caller checks). */

#define VD_FUA 1u               /* durable on return */
#define VD_MAY_TRIM 2u          /* zero: may give the space back */
#define VD_FAST 4u              /* zero: -ENOTSUP at once if it would be no
                                   faster than writing */

extern int vd_image_pread (struct vd_ctx *ctx, struct vd_image *image,
                           void *buf, size_t len, uint64_t offset);
extern int vd_image_pwrite (struct vd_ctx *ctx, struct vd_image *image,
                            const void *buf, size_t len, uint64_t offset,
                            unsigned flags);
extern int vd_image_zero (struct vd_ctx *ctx, struct vd_image *image,
                          uint64_t len, uint64_t offset, unsigned flags);
extern int vd_image_trim (struct vd_ctx *ctx, struct vd_image *image,
                          uint64_t len, uint64_t offset, unsigned flags);

/* All that was completed before the call is durable when it returns. */
extern int vd_image_flush (struct vd_ctx *ctx, struct vd_image *image);

/* The block that holds offset, as the engine sees it: a write to any part of
 * it may allocate all of it.
 */
extern void vd_image_block_at (const struct vd_image *image, uint64_t offset,
                               uint64_t *ret_start, uint64_t *ret_length);

/* What of the range is in this image, and not its parent's?  All of it
 * (damage included): 1, nothing: 0, some: 2.
 */
extern int vd_image_holds (struct vd_ctx *ctx, struct vd_image *image,
                           uint64_t len, uint64_t offset);

extern int vd_image_cache (struct vd_ctx *ctx, struct vd_image *image,
                           uint64_t len, uint64_t offset);

#define VD_EXTENT_HOLE 1u       /* takes no space */
#define VD_EXTENT_ZERO 2u       /* reads as zeroes */

/* Call fn for ascending, adjoining extents from offset on, covering the range
 * (one: only the first, which may reach beyond len).  Damaged ranges are
 * data.  Neighbours of one type are merged.  A non-zero return of fn ends the
 * walk and is returned.
 */
extern int vd_image_extents (struct vd_ctx *ctx, struct vd_image *image,
                             uint64_t offset, uint64_t len, bool one,
                             int (*fn) (void *opaque, uint64_t offset,
                                        uint64_t len, unsigned type),
                             void *opaque);

/* A writing session lasts from the first stored byte to this call: flush,
 * then leave the file as tidy as its format can be (rules O14).  Idempotent;
 * the next write starts a new session.  No write may be under way.
 */
extern int vd_image_end_session (struct vd_ctx *ctx, struct vd_image *image);

/* ---- metadata --------------------------------------------------------- */

/* Durable on return.  -EROFS unless the image is writable, -EBUSY inside a
 * session.
 */
extern int vd_image_set_meta (struct vd_ctx *ctx, struct vd_image *image,
                              const struct vd_meta_change *change);

/* What the layer above an NBD server is told about an image: rules 5.
 * "vdkit1 uuid=... muuid=... size=..."
 */
extern void vd_image_description (const struct vd_image *image,
                                  char *buffer, size_t size);

#endif /* VDKIT_IMAGE_H */
