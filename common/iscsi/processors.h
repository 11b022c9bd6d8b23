/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What Linux tells of processors: how busy this process and the host are, and
 * where the clients run.  All can be called from any thread; without /proc
 * nothing is known.
 */

#ifndef VDKIT_ISCSI_PROCESSORS_H
#define VDKIT_ISCSI_PROCESSORS_H

#include <stdint.h>

/* CPU time that all threads of the process have used, in microseconds, or -1.
 */
extern int64_t vd_iscsi_cpu_time (void);

/* Time that the host's processors have had nothing to do, all together, in
 * microseconds, or -1.  (proc(5), /proc/stat: idle and iowait.)
 */
extern int64_t vd_iscsi_idle_time (void);

/* A process of this host has connected, or a connection of it ends.  As many
 * are known as are of use, so a process may be missing, but who has come must
 * leave.
 */
extern void vd_iscsi_client_came (int64_t pid);
extern void vd_iscsi_client_left (int64_t pid);

/* The processor on which most of the clients run, home if it is one of those;
 * -1: none does.  What counts of a client is its main thread, so a client that
 * sends from others has no influence.  now is that of vd_iscsi_now.
 */
extern int vd_iscsi_client_processor (int64_t now, int home);

#endif /* VDKIT_ISCSI_PROCESSORS_H */
