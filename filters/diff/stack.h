/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The instances of the filter: it may be stacked, and then they share out the
 * diff= parameters.  The outermost instance sees every parameter first and
 * keeps them all; the innermost instance gets the first files, each outer one
 * the next (rules 5).
 *
 * Functions return -1 after nbdkit_error.
 */

#ifndef VDKIT_STACK_H
#define VDKIT_STACK_H

#include <nbdkit-filter.h>

#include "disk.h"

struct stack_params {
  char **files;                 /* base first; absolute */
  size_t n;
  bool readonly;
  bool require;
  enum vd_lock lock;
  bool honor_zeroes, honor_same;
  bool force_link;
  bool no_exports;
  const char *base_export;
  const char *create;           /* format of a new image on top, or NULL */
  char **given;                 /* keys, of what can be given once */
};

struct instance {
  nbdkit_backend *backend;
  size_t first, n;              /* its part of the files */
  struct disk disk;
  bool innermost;

  bool base_checked;            /* with this link; under the stack's lock */
  struct vd_link base_link;
};

struct stack {
  struct stack_params params;
  vd_log_fn log;
  unsigned loads;               /* how often the filter is on the command
                                   line */
  unsigned n;                   /* instances so far: .config_complete calls */
  struct instance *instances;   /* outermost first */
  bool ready;                   /* the files are open */
  struct vd_owner_pool *pool;   /* of all chains */
  struct vd_open_limit *open_limit;     /* likewise */
  bool removed;                 /* the new image is; under the lock */

  /* While nbdkit serves, a chain comes only to an instance whose image is made
   * for the first client.
   */
  pthread_mutex_t lock;
};

#define STACK_INIT(log_fn)                                              \
  {                                                                     \
    .params = { .lock = VD_LOCK_AUTO, .base_export = "" },              \
    .log = (log_fn),                                                    \
    .lock = PTHREAD_MUTEX_INITIALIZER,                                  \
  }

/* The next instance; called outermost first, with the pointer that later tells
 * the instances apart.
 */
extern int stack_add (struct stack *s, nbdkit_backend *backend);
extern struct instance *stack_find (struct stack *s, nbdkit_backend *backend);

/* Open all files, and check the links between them, where messages still
 * reach the terminal.  But a new image on the layer below has to wait for the
 * first client: before, nothing is known of that layer.  All is done in the
 * first call.
 */
extern int stack_get_ready (struct stack *s);

extern bool stack_has_chain (struct stack *s, const struct instance *in);

/* A client has come, and says that of the layer below: make the new image that
 * waits for this, and check the link.
 */
extern int stack_first_client (struct stack *s, struct instance *in,
                               uint64_t size, const struct vd_link *link);

extern void stack_free (struct stack *s);

#endif /* VDKIT_STACK_H */
