/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The layer below the filter, as the lowest part of a chain.
 */

#ifndef VDKIT_BELOW_H
#define VDKIT_BELOW_H

#include <nbdkit-filter.h>

#include "chain.h"

/* What a request needs to reach it: ctx->next is one of these. */
struct below {
  nbdkit_next *next;            /* of the connection */

  /* For extents.  A chain asks for one piece after another, and each question
   * may have to travel: so the first one is about all up to the end of the
   * request, and the answer is kept.
   */
  uint64_t end;                 /* of the client's request; 0: do not */
  struct nbdkit_extents *known; /* NULL: nothing is */
  size_t i;                     /* where we are in it */
};

#define BELOW_INIT(next_layer) { .next = (next_layer) }

/* At the end of a request for extents. */
extern void diff_below_done (struct below *b);

/* Its size and link are not known before a client comes. */
extern const struct vd_below diff_below;

/* What the layer below says of itself in its export description; nulls where
 * it says nothing.  Only once a connection is prepared.
 */
extern void diff_below_link (nbdkit_next *next, struct vd_link *ret);

#endif /* VDKIT_BELOW_H */
