/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the parts of the simulated disk share: sim.c has the disk, its log,
 * marks and faults; sim-content.c what a file holds and what a record does to
 * it; sim-store.c and sim-folder.c are the disk as the core sees it; sim-cut.c
 * builds what a power cut leaves.
 *
 * Everything but sim_lock, sim_unlock and sim_open_file is called with the
 * lock held, or on what no other thread knows yet.
 */

#ifndef VDKIT_SIM_PRIVATE_H
#define VDKIT_SIM_PRIVATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sim.h"

#define SIM_PAGE 4096u          /* holes come in these */
#define SIM_FILE_MAX (UINT64_C (1) << 30)

/* A growing array of bytes that knows which pages were ever written.  Bytes
 * from size to capacity are zero, and capacity is a multiple of SIM_PAGE.
 */
struct sim_content {
  uint8_t *data;
  bool *used;                   /* per page; false: a hole */
  size_t size, capacity;
};

struct sim_file {
  char *name;
  struct sim_content now;
  /* Before the first record of the log that is about this file.  Not there
   * (no copy is made) as long as there is none.
   */
  struct sim_content base;
  bool changed;
  bool removed;                 /* kept for the stores that have it open */
};

enum sim_kind {
  SIM_WRITE, SIM_ZERO, SIM_PUNCH, SIM_TRUNCATE, SIM_ALLOCATE, SIM_SYNC,
  SIM_MARK,
};

struct sim_record {
  enum sim_kind kind;
  struct sim_file *file;        /* not for MARK */
  uint64_t offset;              /* TRUNCATE: the new size */
  uint64_t len;
  uint8_t *data;                /* WRITE */
  bool fua;
  uint64_t value;               /* MARK */
};

struct vd_sim {
  pthread_mutex_t lock;         /* covers everything */
  struct sim_file **files;
  size_t nfiles;
  struct sim_record *log;
  size_t nlog, log_room;
  uint64_t fail_in;             /* calls until the fault, 0: none */
  int fail_err;
  bool fail_sticky, fail_hit;
};

/* ---- content: sim-content.c ------------------------------------------- */

/* Make the capacity at least size; false: too large, or out of memory. */
extern bool sim_reserve (struct sim_content *c, uint64_t size);

/* to is made, and empty if there is no memory: false. */
extern bool sim_copy_content (struct sim_content *to,
                              const struct sim_content *from);
extern void sim_free_content (struct sim_content *c);

/* The range lies in the capacity.  data NULL: zeroes. */
extern void sim_put (struct sim_content *c, uint64_t offset, uint64_t len,
                     const uint8_t *data);

/* size lies in the capacity. */
extern void sim_set_size (struct sim_content *c, uint64_t size);

/* Size after a record that found the file that big. */
extern uint64_t sim_size_after (const struct sim_record *rec, uint64_t size);

/* Do what the record says; false: out of memory. */
extern bool sim_apply (struct sim_content *c, const struct sim_record *rec);

/* ---- the disk: sim.c --------------------------------------------------- */

/* What is const to callers still has a lock. */
extern void sim_lock (const struct vd_sim *sim);
extern void sim_unlock (const struct vd_sim *sim);

/* An empty file; NULL: out of memory. */
extern struct sim_file *sim_add_file (struct vd_sim *sim, const char *name);

/* NULL: there is none, or it was removed. */
extern struct sim_file *sim_find_file (const struct vd_sim *sim,
                                       const char *name);

/* A record of zeroes at the end of the log; NULL: out of memory. */
extern struct sim_record *sim_add_record (struct vd_sim *sim);

/* Every operation begins here: it fails if a fault was set for it. */
extern int sim_fault (struct vd_ctx *ctx, struct vd_sim *sim,
                      const char *name, const char *what);

/* ---- the store: sim-store.c -------------------------------------------- */

/* Takes no lock; the file is the disk's. */
extern int sim_open_file (struct vd_ctx *ctx, struct vd_sim *sim,
                          const char *name, bool writable,
                          struct sim_file *file, struct vd_store **ret);

#endif /* VDKIT_SIM_PRIVATE_H */
