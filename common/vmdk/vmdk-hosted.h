/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Hosted sparse extents ("KDMV", vmdk-format 5 and 6): the header, its
 * checks, and the tables.  Plain extents are written by vmdk-hosted-write.c,
 * compressed ones (streams) are read by vmdk-stream.c.
 */

#ifndef VDKIT_VMDK_HOSTED_H
#define VDKIT_VMDK_HOSTED_H

#include <pthread.h>
#include <stdatomic.h>

#include "table.h"
#include "vmdk-extent.h"

#define HOSTED_HEADER 512
#define HOSTED_MAGIC 0x564d444bu        /* "KDMV" */

#define HOSTED_FLAG_NEWLINES (1u << 0)
#define HOSTED_FLAG_REDUNDANT (1u << 1)
#define HOSTED_FLAG_ZEROED (1u << 2)
#define HOSTED_FLAG_COMPRESSED (1u << 16)
#define HOSTED_FLAG_MARKERS (1u << 17)

#define HOSTED_GD_AT_END UINT64_MAX

struct hosted_header {
  uint32_t version;
  uint32_t flags;
  uint64_t capacity;            /* sectors */
  uint64_t grain;               /* sectors */
  uint64_t descriptor_offset, descriptor_size;  /* sectors */
  uint32_t gtes;                /* per grain table */
  uint64_t rgd_offset, gd_offset;       /* sectors */
  uint64_t overhead;            /* sectors */
  bool unclean;
  uint16_t compression;
};

/* Decode and check (vmdk-format 5.7, column RULE); file_size in bytes.  -EIO,
 * -ENOTSUP with file, field and value.  nominal: sectors of the extent line,
 * or 0 if not known yet (probing for the embedded descriptor).
 */
extern int hosted_header_parse (struct vd_ctx *ctx, const char *name,
                                const uint8_t *sector, uint64_t file_size,
                                uint64_t nominal, struct hosted_header *ret);
extern void hosted_header_encode (const struct hosted_header *h,
                                  uint8_t *sector);

/* Number of grain tables, and their size in sectors. */
extern uint64_t hosted_ngts (const struct hosted_header *h);
static inline uint32_t
hosted_gt_sectors (const struct hosted_header *h)
{
  return h->gtes * 4 / VMDK_SECTOR;
}

/* Does a grain directory at this sector lie in the file? */
extern bool hosted_directory_fits (const struct hosted_header *h,
                                   uint64_t offset, uint64_t file_size);

/* uncleanShutdown as it is in the file now. */
extern int hosted_read_unclean (struct vd_ctx *ctx, struct vd_store *store,
                                bool *ret);

/* Change uncleanShutdown in the file, and nothing else.  Does not sync. */
extern int hosted_write_unclean (struct vd_ctx *ctx, struct vd_store *store,
                                 bool unclean);

/* Where things go in a new sparse extent (vmdk-format 5.2), all in sectors.
 * descriptor_sectors 0: none.  -EFBIG.
 */
extern int hosted_layout (struct vd_ctx *ctx, const char *name,
                          uint64_t capacity, uint64_t descriptor_sectors,
                          struct hosted_header *ret);

/* Write a new, empty sparse extent: tables (both copies), then, after a sync,
 * the header sector (rules O16).  descriptor: text for the embedded
 * descriptor or NULL.  The store is empty.
 */
extern int hosted_create (struct vd_ctx *ctx, struct vd_store *store,
                          const struct hosted_header *h,
                          const char *descriptor, size_t len);

/* Sectors, end not included. */
struct hosted_range {
  uint64_t start, end;
};

/* The open extent.  What readers need is constant after open, but for the
 * tables, compare and file_size.  It does not point to its vmdk_extent, which
 * may move while the image is opened.
 */
struct hosted {
  /* All that nearly every request needs, side by side. */
  struct vd_store *store;
  struct vd_table *gt;          /* grain tables: sectors of grains */
  uint64_t grain_bytes;
  _Atomic uint64_t file_size;
  uint64_t plain_from;          /* from this sector on no metadata is in the
                                   way of plain grains */
  unsigned grain_shift;         /* log2 of grain_bytes */
  unsigned table_shift;         /* log2 of what a grain table covers, bytes */

  uint64_t size;                /* of the extent, bytes */
  struct hosted_header h;
  uint64_t gt_bytes;
  uint64_t ngrains, ngts;       /* that the capacity needs */

  /* Where no grain can be: in front of floor, or in an area, which is a
   * directory with those tables that stand in order behind it.
   */
  uint64_t floor;
  struct hosted_range descriptor;
  struct hosted_range directories[2];
  struct hosted_range areas[2];

  struct vd_table *gd;          /* grain directory: sectors of tables */
  struct vd_table *rgd, *rgt;   /* the redundant copies; NULL: none */
  bool use_redundant;           /* the primary directory is lost: gd and gt
                                   are the copies */
  _Atomic bool compare;         /* tables with their copies when read */
  _Atomic bool warned;          /* of copies that differ */
  struct hosted_writer *w;      /* vmdk-hosted-write.c; NULL: read-only */
};

enum hosted_table_state {
  HOSTED_TABLE_ABSENT,
  HOSTED_TABLE_PRESENT,
  HOSTED_TABLE_BAD,
};

/* Can a grain table begin at this sector? */
extern bool hosted_table_ok (const struct hosted *hs, uint64_t sector);

/* Can a grain begin at this sector, as far as metadata is concerned? */
extern bool hosted_grain_ok (const struct hosted *hs, uint64_t sector);

/* Bytes of grain number index that lie inside the extent. */
extern uint64_t hosted_grain_valid (const struct hosted *hs, uint64_t index);

/* Where grain table number piece is: in the primary copy if that is sound,
 * else in the other one.
 */
extern int hosted_table_state (struct vd_ctx *ctx, struct hosted *hs,
                               uint64_t piece,
                               enum hosted_table_state *ret_state,
                               uint32_t *ret_sector);

/* Grain table number piece and its copy, in disk order, are not the same:
 * put into table what counts (rules O10), entry by entry.
 */
extern void hosted_resolve (const struct hosted *hs, uint64_t piece,
                            uint32_t *table, const uint32_t *copy);

/* Writing (vmdk-hosted-writer.h says which file has what).
 * hosted_writer_open is called at the end of vmdk_hosted_open if x->write and
 * nothing forbids it.  May set x->no_write.
 */
extern int hosted_writer_open (struct vd_ctx *ctx, struct vmdk_extent *x);
extern void hosted_writer_close (struct hosted *hs);
extern int hosted_begin_session (struct vd_ctx *ctx, struct vmdk_extent *x);
extern int hosted_reserve (struct vd_ctx *ctx, struct vmdk_extent *x,
                           uint64_t block, struct vd_place *ret);
extern void hosted_abandon (struct vmdk_extent *x, uint64_t block,
                            const struct vd_place *place);
extern int hosted_commit (struct vd_ctx *ctx, struct vmdk_extent *x,
                          uint64_t block, enum vd_state state,
                          const struct vd_place *place, uint64_t *ret_value);
extern int hosted_write_tables (struct vd_ctx *ctx, struct vmdk_extent *x);
extern int hosted_write_map (struct vd_ctx *ctx, struct vmdk_extent *x,
                             const struct vd_change *changes, size_t n);
extern int hosted_end_session (struct vd_ctx *ctx, struct vmdk_extent *x);

/* vmdk-stream.c.  The entry of a compressed grain and its unpacking; the
 * footer, if the header points there: fills gd_offset and the rest of h.
 */
extern int stream_read_footer (struct vd_ctx *ctx, const char *name,
                               struct vd_store *store, uint64_t file_size,
                               uint64_t nominal, struct hosted_header *h);
extern int stream_check_strict (struct vd_ctx *ctx, const char *name,
                                struct vd_store *store, uint64_t file_size,
                                const struct hosted_header *h);
extern int stream_unpack (struct vd_ctx *ctx, struct vmdk_extent *x,
                          uint64_t block, void *buf);

/* vmdk-stream-write.c: streams that hold no grain yet.  A new one is ended
 * like any other, so that it is a complete image of zeroes; the sink takes
 * the end away again before the first grain.  create_end: the file holds
 * header and descriptor, and is overhead sectors long.  Durable on return.
 */
extern int stream_create_end (struct vd_ctx *ctx, struct vd_store *store,
                              const struct hosted_header *h);
/* Is it one of ours (those of others are never changed) and without grains?
 * h is the header as it stands in the first sector.
 */
extern int stream_is_empty (struct vd_ctx *ctx, const char *name,
                            struct vd_store *store, uint64_t file_size,
                            const struct hosted_header *h, bool *ret);

/* ---- markers (vmdk-format 6.1) ---------------------------------------- */

/* Bytes in a marker.  A grain's has no type, its data follows at byte 12; the
 * others are sectors of their own.
 */
#define MARKER_VALUE 0          /* grain: its sector; else payload sectors */
#define MARKER_SIZE 8           /* grain: bytes of data; else 0 */
#define MARKER_TYPE 12
#define MARKER_GRAIN_DATA 12

#define MARKER_EOS 0
#define MARKER_GT 1
#define MARKER_GD 2
#define MARKER_FOOTER 3
#define MARKER_PROGRESS 4

#endif /* VDKIT_VMDK_HOSTED_H */
