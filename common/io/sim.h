/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A simulated disk, for crash and fault tests.  It holds any number of files,
 * records every write, zero, truncate and sync on them in one log, and can
 * build what a power cut would leave: any prefix of the log; and of what was
 * not synced before the cut any subset, in any order, torn at 512-byte
 * sectors (rules O1).  It can also fail the n-th call.
 *
 * For tests only; one thread at a time may drive replay and fault settings,
 * the stores themselves are as thread-safe as any.
 */

#ifndef VDKIT_SIM_H
#define VDKIT_SIM_H

#include "folder.h"
#include "store.h"

struct vd_sim;

extern struct vd_sim *vd_sim_new (void);        /* NULL: out of memory */
extern void vd_sim_free (struct vd_sim *sim);

/* Open a file of the simulated disk, made empty if it is not there.  The
 * store must be closed before vd_sim_free.
 */
extern int vd_sim_open (struct vd_ctx *ctx, struct vd_sim *sim,
                        const char *name, bool writable,
                        struct vd_store **ret);

/* The simulated disk as the folder of an image.  Names are the names of its
 * files, whatever they look like; there are no locks and no policy.  What
 * happens to names is not in the log: a file that was made is there (empty)
 * and one that was removed is not in all that vd_sim_prefix and
 * vd_sim_power_cut build.  Open, stat, create, remove and sync count as calls
 * for vd_sim_fail_at.  Close it before vd_sim_free.
 */
extern int vd_sim_folder (struct vd_ctx *ctx, struct vd_sim *sim,
                          struct vd_folder **ret);

/* Is there a file of that name? */
extern bool vd_sim_exists (const struct vd_sim *sim, const char *name);

/* A second simulated disk whose files have the present content, all of it
 * durable, and an empty log.
 */
extern struct vd_sim *vd_sim_clone (const struct vd_sim *sim);

/* Number of records in the log.  A cut position n, 0 <= n <= this number,
 * means: power failed when n records had been issued.
 */
extern size_t vd_sim_log_length (const struct vd_sim *sim);

/* The disk after a power cut at n, with all that was issued before it in
 * place (as after kill -9, where the page cache survives).
 */
extern struct vd_sim *vd_sim_prefix (const struct vd_sim *sim, size_t n);

/* The disk after a power cut at n: what a sync covered before n is there; of
 * each later record each 512-byte sector is there or not, and the size of
 * each file is any it had since its last sync, as drawn from *seed
 * (deterministic).
 */
extern struct vd_sim *vd_sim_power_cut (const struct vd_sim *sim, size_t n,
                                        uint64_t *seed);

/* A marker in the log, to be found again with vd_sim_last_mark: the test
 * notes "flush number k returned here".  It is a record like the others.
 */
extern void vd_sim_mark (struct vd_sim *sim, uint64_t value);

/* The largest value of a mark among the first n records, 0 if none. */
extern uint64_t vd_sim_last_mark (const struct vd_sim *sim, size_t n);

/* From now on the n-th call (1 is the next one) of any store or folder
 * operation but close fails once with -err, having done nothing and left no
 * record; err 0: no fault.  With sticky all later ones fail too.
 * vd_sim_fault_hit says whether it has happened.
 */
extern void vd_sim_fail_at (struct vd_sim *sim, uint64_t n, int err,
                            bool sticky);
extern bool vd_sim_fault_hit (const struct vd_sim *sim);

#endif /* VDKIT_SIM_H */
