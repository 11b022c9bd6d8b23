/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An on-disk array of little-endian 32-bit entries (a VDI block map, a VMDK
 * grain table), read page by page when first needed and kept in bounded
 * memory.
 *
 * Small tables end up wholly in memory and are then read without any lock.
 * A table larger than its memory is kept in pages that come and go; a page
 * that a caller has pinned, or that holds an entry not yet written back,
 * stays.
 *
 * Entries are loaded with acquire and stored with release semantics: who sees
 * a new entry sees what was done before it was set.
 */

#ifndef VDKIT_TABLE_H
#define VDKIT_TABLE_H

#include "store.h"

struct vd_table;

/* A table of n entries at offset of st.  The caller has checked that it lies
 * in the store.  memory: bytes that may be used for pages (a few pages are
 * always allowed).  Does no I/O.
 */
extern int vd_table_new (struct vd_ctx *ctx, struct vd_store *st,
                         uint64_t offset, uint64_t n, size_t memory,
                         struct vd_table **ret);

/* A table that lies in the store in pieces (the grain tables of a VMDK). */
struct vd_table_pieces {
  uint32_t entries;             /* in a piece, a power of two */

  /* Where a piece begins in the store, in bytes; 0: it is not there, and
   * all its entries are 0.  Called without a lock, or with the lock of other
   * pieces' pages held; must not use this table.
   */
  int (*where) (struct vd_ctx *ctx, void *opaque, uint64_t piece,
                uint64_t *ret);

  /* A piece was read, and nobody has seen it yet: check or correct its
   * entries (in disk order).  May be NULL.
   */
  int (*loaded) (struct vd_ctx *ctx, void *opaque, uint64_t piece,
                 uint32_t *entries);

  void *opaque;
};

/* As vd_table_new.  The pieces are checked to lie in the store when they are
 * read.
 */
extern int vd_table_new_pieces (struct vd_ctx *ctx, struct vd_store *st,
                                uint64_t n,
                                const struct vd_table_pieces *pieces,
                                size_t memory, struct vd_table **ret);

extern void vd_table_free (struct vd_table *t);

/* Some entries, held in memory until vd_table_unpin. */
struct vd_table_pin {
  const _Atomic uint32_t *entries;      /* little-endian */
  uint32_t count;                       /* >= 1 */
  void *page;                           /* private */
};

/* Pin entries from index on, as many as the page holds (at most to the end
 * of the table).  I/O only if the page is not in memory.
 */
extern int vd_table_pin (struct vd_ctx *ctx, struct vd_table *t,
                         uint64_t index, struct vd_table_pin *pin);
extern void vd_table_unpin (struct vd_table *t, struct vd_table_pin *pin);

/* Entry i of a pin, in host order. */
extern uint32_t vd_table_entry (const struct vd_table_pin *pin, uint32_t i);

/* One entry, in host order. */
extern int vd_table_get (struct vd_ctx *ctx, struct vd_table *t,
                         uint64_t index, uint32_t *ret);

/* One entry, in host order, if that needs neither a lock nor I/O; false: ask
 * vd_table_get.
 */
extern bool vd_table_peek (const struct vd_table *t, uint64_t index,
                           uint32_t *ret);

/* Set an entry in memory.  Its page stays in memory until vd_table_write has
 * written the change; every set must be followed by one change there.
 */
extern int vd_table_set (struct vd_ctx *ctx, struct vd_table *t,
                         uint64_t index, uint32_t value);

struct vd_table_change {
  uint64_t index;
  uint32_t value;
};

/* Write these entries, and nothing that is newer in memory, into the sectors
 * as they are on disk (rules O6 d).  Sorted by index; where an index stands
 * more than once the last one counts.  Does not sync.
 */
extern int vd_table_write (struct vd_ctx *ctx, struct vd_table *t,
                           const struct vd_table_change *changes, size_t n);

/* The same for a second copy of a table, of which no entry is ever set in
 * memory.
 */
extern int vd_table_write_copy (struct vd_ctx *ctx, struct vd_table *t,
                                const struct vd_table_change *changes,
                                size_t n);

/* An entry that is set in memory and must reach the disk, as the engine keeps
 * it.
 */
struct vd_change {
  uint64_t block;               /* disk offset where the block starts */
  uint64_t value;               /* as the format's commit returned it */
};

/* vd_table_write of the entries of blocks of 2^shift bytes, and
 * vd_table_write_copy to a second copy (NULL: there is none).  Sorted by block;
 * where one stands more than once the last one counts.  Needs no memory.
 */
extern int vd_table_write_changes (struct vd_ctx *ctx, struct vd_table *t,
                                   struct vd_table *copy, unsigned shift,
                                   const struct vd_change *changes, size_t n);

/* Read the table from the first entry to the last, in big pieces, without
 * keeping more of it than memory allows.  fn gets host-order entries; a
 * negative return ends the scan and is returned.
 */
extern int vd_table_scan (struct vd_ctx *ctx, struct vd_table *t,
                          int (*fn) (struct vd_ctx *ctx, void *opaque,
                                     uint64_t index, const uint32_t *entries,
                                     size_t n),
                          void *opaque);

#endif /* VDKIT_TABLE_H */
