/* SPDX-License-Identifier: BSD-3-Clause */

#ifndef VDKIT_INLINE_H
#define VDKIT_INLINE_H

/* For the few functions between a small request and its system call.  A
 * processor that is guarded against speculation has forgotten, after a system
 * call, where the calls around it return to, and each level costs 5 to 10 ns.
 */
#define VD_INLINE inline __attribute__ ((__always_inline__))

#endif /* VDKIT_INLINE_H */
