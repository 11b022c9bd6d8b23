/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the parts of writing a hosted sparse extent share: vmdk-hosted-write.c
 * (opening, sessions, entries), -scan.c (is it safe?), -places.c (where grains
 * go), -tables.c (grain tables that are not there).
 */

#ifndef VDKIT_VMDK_HOSTED_WRITER_H
#define VDKIT_VMDK_HOSTED_WRITER_H

#include "vmdk-hosted.h"

/* A pair of tables that is named in memory only. */
struct new_table {
  uint64_t piece;
  uint32_t sector, copy;
};

struct hosted_writer {
  /* lock may be taken under either of the others. */
  pthread_mutex_t table_lock;   /* making of grain tables */
  pthread_mutex_t grow_lock;    /* changes of the file's size */
  pthread_mutex_t lock;         /* the rest; no I/O is done under it */

  bool repair;                  /* copies differ, which is to be mended */

  uint64_t end;                 /* sectors; nothing behind it is in use */
  _Atomic uint64_t grown_from;  /* bytes; from here on the file was made by
                                   growing */
  uint32_t *given_back;         /* places in front of end */
  size_t ngiven_back;

  uint64_t tables_next, tables_end;     /* sectors: space for tables */
  struct new_table *new_tables;
  size_t nnew_tables;
};

/* vmdk-hosted-scan.c: look at all tables.  If something makes writing
 * dangerous x->no_write says what, and *ret is of no use.
 */
struct hosted_scanned {
  uint64_t end;                 /* as in hosted_writer */
  bool repair;
};
extern int hosted_scan (struct vd_ctx *ctx, struct vmdk_extent *x,
                        struct hosted_scanned *ret);

/* Bring the copies of the tables together after a crash (rules O10).  While
 * this goes on readers see the same as before, as they compare, too.
 */
extern int hosted_repair (struct vd_ctx *ctx, struct vmdk_extent *x);

/* vmdk-hosted-places.c: n grains in a row behind all that is in use. */
extern int hosted_append (struct vd_ctx *ctx, struct hosted *hs, uint64_t n,
                          uint64_t *ret);
/* The file behind what is in use is named by no entry, on disk or in memory:
 * cut it off.  It reads as zeroes when the file grows again.
 */
extern int hosted_cut_tail (struct vd_ctx *ctx, struct hosted *hs);

/* vmdk-hosted-tables.c: an entry of this table is about to be set: see that
 * there is one.
 */
extern int hosted_need_table (struct vd_ctx *ctx, struct hosted *hs,
                              uint64_t piece);

#endif /* VDKIT_VMDK_HOSTED_WRITER_H */
