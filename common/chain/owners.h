/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which image of a chain owns each part of the disk, so that a read does not
 * have to ask every image from the top down.
 *
 * The disk is cut into units (powers of two).  For each a byte says which
 * image owns all of it, or that it is mixed, or not known yet.  An index
 * belongs to one view of one chain; it is filled by those who look, and read
 * without locks.  What is known is kept in a pool, which all indexes of a
 * process may share: however many there are, they take no more memory than
 * that, and take it from each other.
 */

#ifndef VDKIT_OWNERS_H
#define VDKIT_OWNERS_H

#include <stdint.h>

#include "ctx.h"

/* What owner_of answers, beside the number of an image. */
#define OWNER_NOBODY 252        /* all zeroes: not in any image */
#define OWNER_BELOW 253         /* the layer below the chain */
#define OWNER_MIXED 254         /* several, or damage: ask from the top */
#define OWNERS_MAX 252          /* so many images can be told apart */

/* ---- the pool ---------------------------------------------------------- */

struct vd_owner_pool;

/* Units that a page of the pool has: about so many bytes are taken for each
 * page when it is first needed.
 */
#define VD_OWNER_PAGE_UNITS 4096
#define VD_OWNER_PAGES 4096     /* a good number of pages: 16 MiB */

/* NULL: out of memory.  It must outlive its indexes. */
extern struct vd_owner_pool *vd_owner_pool_new (size_t pages);
extern void vd_owner_pool_free (struct vd_owner_pool *pool); /* or NULL */

/* ---- an index ---------------------------------------------------------- */

struct vd_owners;

/* block_size: the smallest of the images.  NULL: out of memory. */
extern struct vd_owners *vd_owners_new (struct vd_owner_pool *pool,
                                        uint64_t size, uint32_t block_size);
extern void vd_owners_free (struct vd_owners *o);

/* Who owns the bytes from offset on?  *ret_len, at most len, is how many in a
 * row have the same answer.  find is called for a unit that is not known, and
 * may do I/O; it returns one of the answers or a negative errno.
 * Thread-safe.
 */
extern int vd_owners_get (struct vd_ctx *ctx, struct vd_owners *o,
                          uint64_t offset, uint64_t len,
                          int (*find) (struct vd_ctx *ctx, void *opaque,
                                       uint64_t offset, uint64_t len),
                          void *opaque, uint64_t *ret_len);

/* The range was written in the image numbered top: whoever is told now that
 * another one owns it is told wrong.  Call it when the write is done and
 * before it is reported.  Thread-safe, and cheap where top owns it already.
 */
extern void vd_owners_forget (struct vd_owners *o, uint64_t offset,
                              uint64_t len, unsigned top);

#endif /* VDKIT_OWNERS_H */
