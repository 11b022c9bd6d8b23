/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A chain between nbdkit and the core, for plugins and filters alike: who may
 * write and when a session ends, the exports, the requests.
 *
 * Functions that can fail return -1 after nbdkit_error, with errno set to
 * what the client is to get, unless a comment says otherwise.  next is the
 * layer below in a filter, and NULL in a plugin.
 *
 * This is compiled against nbdkit's plugin header; what it uses is common to
 * plugins and filters.
 */

#ifndef VDKIT_DISK_H
#define VDKIT_DISK_H

#include <pthread.h>
#include <stdbool.h>

#include "chain.h"

struct nbdkit_exports;
struct nbdkit_extents;

struct disk {
  vd_log_fn log;
  struct vd_chain *chain;       /* set by the door; disk_cleanup closes it */
  bool level_exports;           /* each image is an export */

  pthread_mutex_t lock;         /* for what follows */
  bool decided;                 /* writable or not: no more attempts */
  unsigned writers;             /* connections that may write */
  char *spoils;                 /* of vd_find_chain, until it is said; malloc */
};

#define DISK_INIT(log_fn)                       \
  {                                             \
    .log = (log_fn),                            \
    .level_exports = true,                      \
    .lock = PTHREAD_MUTEX_INITIALIZER,          \
  }

/* A vd_log_fn for the plugin or filter of that name calls this. */
extern void disk_log (const char *name, enum vd_log_level level,
                      const char *text);

/* Say what happened.  r is what a core function returned. */
extern void disk_report (const struct vd_ctx *ctx, int r);

/* A write beyond the limit on the size of files (ulimit -f) is an error like
 * a full disk, and no reason to end.
 */
extern void disk_survive_file_size_limit (void);

/* Descriptors name thousands of files, and the usual limit for a process is
 * 1024: raise it as far as may be.  What cannot be is no error.
 */
extern void disk_allow_many_files (void);

/* If the disk can be written, and others are on top of it: say so, once.  A
 * door that opens for writing by itself calls this; disk_add_writer does.
 */
extern void disk_warn_of_children (struct disk *d);

/* A connection that may write: 1 if it can (then disk_remove_writer must
 * follow), 0 if the disk is read-only, -1 on error.
 */
extern int disk_add_writer (struct disk *d);
extern void disk_remove_writer (struct disk *d);

extern void disk_cleanup (struct disk *d);

/* "" and, if level_exports, the names of all levels. */
extern int disk_list_exports (struct disk *d, struct nbdkit_exports *exports);
/* False: no such export (nothing is reported). */
extern bool disk_find_level (struct disk *d, const char *name, size_t *ret);

extern int disk_pread (struct disk *d, void *next, size_t level, void *buf,
                       uint32_t count, uint64_t offset);
extern int disk_pwrite (struct disk *d, void *next, const void *buf,
                        uint32_t count, uint64_t offset, uint32_t flags);
/* writer: the connection was added with disk_add_writer. */
extern int disk_flush (struct disk *d, void *next, bool writer);
extern int disk_trim (struct disk *d, void *next, uint32_t count,
                      uint64_t offset, uint32_t flags);
extern int disk_zero (struct disk *d, void *next, uint32_t count,
                      uint64_t offset, uint32_t flags);
extern int disk_extents (struct disk *d, void *next, size_t level,
                         uint32_t count, uint64_t offset, uint32_t flags,
                         struct nbdkit_extents *extents);
extern int disk_cache (struct disk *d, void *next, size_t level,
                       uint32_t count, uint64_t offset);

#endif /* VDKIT_DISK_H */
