/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Scoped clean-up, after the example of nbdkit and systemd.
 */

#ifndef VDKIT_CLEANUP_H
#define VDKIT_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>

static inline void
cleanup_free_ (void *p)
{
  free (*(void **) p);
}
#define CLEANUP_FREE __attribute__ ((__cleanup__ (cleanup_free_)))

static inline void
cleanup_mutex_ (pthread_mutex_t **p)
{
  pthread_mutex_unlock (*p);
}
#define CONCAT2_(a, b) a ## b
#define CONCAT_(a, b) CONCAT2_ (a, b)

/* Hold a mutex until the end of the enclosing scope. */
#define LOCK_SCOPE(m)                                                   \
  __attribute__ ((__cleanup__ (cleanup_mutex_), __unused__))            \
  pthread_mutex_t *CONCAT_ (lock_scope_, __COUNTER__) =                 \
    (pthread_mutex_lock (m), (m))

#endif /* VDKIT_CLEANUP_H */
