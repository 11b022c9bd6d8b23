/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The disk that a plugin process serves, whatever its format: between nbdkit's
 * callbacks and the core.
 *
 * A plugin has one static struct served, passes it to the functions that have
 * no handle, and puts SERVED_CALLBACKS into its struct nbdkit_plugin for those
 * that have one: see served-plugin.h.
 */

#ifndef VDKIT_SERVED_H
#define VDKIT_SERVED_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "disk.h"

#include "params.h"

struct served {
  const char *name;             /* of the plugin and of the format */
  struct params params;
  struct disk disk;             /* its chain: from .get_ready to .cleanup */
};

#define SERVED_INIT(n, log_fn, keys)                    \
  {                                                     \
    .name = (n),                                        \
    .params = PARAMS_INIT (keys),                       \
    .disk = DISK_INIT (log_fn),                         \
  }

/* Like the callbacks of the same names. */
extern void served_dump_plugin (const struct served *d);
extern int served_get_ready (struct served *d);
extern int served_list_exports (struct served *d,
                                struct nbdkit_exports *exports);
extern void *served_open (struct served *d, int readonly);
extern void served_cleanup (struct served *d);
extern void served_unload (struct served *d);

/* These are callbacks. */
extern void served_close (void *handle);
extern const char *served_export_description (void *handle);
extern int64_t served_get_size (void *handle);
extern int served_block_size (void *handle, uint32_t *minimum,
                              uint32_t *preferred, uint32_t *maximum);
extern int served_can_write (void *handle);
extern int served_is_rotational (void *handle);
extern int served_can_fua (void *handle);
extern int served_can_multi_conn (void *handle);
extern int served_can_cache (void *handle);
extern int served_can (void *handle);
extern int served_pread (void *handle, void *buf, uint32_t count,
                         uint64_t offset, uint32_t flags);
extern int served_pwrite (void *handle, const void *buf, uint32_t count,
                          uint64_t offset, uint32_t flags);
extern int served_flush (void *handle, uint32_t flags);
extern int served_trim (void *handle, uint32_t count, uint64_t offset,
                        uint32_t flags);
extern int served_zero (void *handle, uint32_t count, uint64_t offset,
                        uint32_t flags);
extern int served_extents (void *handle, uint32_t count, uint64_t offset,
                           uint32_t flags, struct nbdkit_extents *extents);
extern int served_cache (void *handle, uint32_t count, uint64_t offset,
                         uint32_t flags);

#define SERVED_CALLBACKS                                \
  .magic_config_key   = "file",                         \
  .close              = served_close,                   \
  .export_description = served_export_description,      \
  .get_size           = served_get_size,                \
  .block_size         = served_block_size,              \
  .can_write          = served_can_write,               \
  .can_flush          = served_can,                     \
  .is_rotational      = served_is_rotational,           \
  .can_trim           = served_can,                     \
  .can_zero           = served_can,                     \
  .can_fast_zero      = served_can,                     \
  .can_extents        = served_can,                     \
  .can_fua            = served_can_fua,                 \
  .can_multi_conn     = served_can_multi_conn,          \
  .can_cache          = served_can_cache,               \
  .pread              = served_pread,                   \
  .pwrite             = served_pwrite,                  \
  .flush              = served_flush,                   \
  .trim               = served_trim,                    \
  .zero               = served_zero,                    \
  .extents            = served_extents,                 \
  .cache              = served_cache,                   \
  .errno_is_preserved = 1

#endif /* VDKIT_SERVED_H */
