/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which sectors of a sparse extent's file are taken by grains: to find grains
 * that overlap.  Grains may begin at any sector (vmdk-format 5.3), but
 * neighbours nearly always have the same distance from a multiple of the
 * grain size, so a bit for each is enough, and a number more only where they
 * do not.  Memory is used only around grains.  Not thread-safe.
 */

#ifndef VDKIT_VMDK_PLACES_H
#define VDKIT_VMDK_PLACES_H

#include <stdint.h>

struct vmdk_places;

/* For grains of this many sectors, a power of two.  NULL: out of memory. */
extern struct vmdk_places *vmdk_places_new (uint32_t grain);
extern void vmdk_places_free (struct vmdk_places *places);

/* The grain at this sector: 1, or 0 if it overlaps one that was taken before,
 * or -ENOMEM.
 */
extern int vmdk_places_take (struct vmdk_places *places, uint32_t sector);

#endif /* VDKIT_VMDK_PLACES_H */
