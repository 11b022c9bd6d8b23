/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The body of a plugin that serves one image: included once by each
 * plugins/NAME/NAME.c, which defines before
 *
 *   PLUGIN_NAME          of the plugin and of the format, a string
 *   PLUGIN_LONGNAME, PLUGIN_DESCRIPTION
 *   PLUGIN_HELP          for --help, from params.h
 *   PLUGIN_KEYS          enum params_keys: which parameters it takes
 *
 * All state is the one static object here: the library has none, as two
 * plugins and filters of this collection may be in one process.
 */

#ifndef VDKIT_SERVED_PLUGIN_H
#define VDKIT_SERVED_PLUGIN_H

#include "served.h"

static void log_line (enum vd_log_level level, const char *text);

static struct served served = SERVED_INIT (PLUGIN_NAME, log_line, PLUGIN_KEYS);

static void
log_line (enum vd_log_level level, const char *text)
{
  disk_log (PLUGIN_NAME, level, text);
}

static int
plugin_config (const char *key, const char *value)
{
  int r = params_config (&served.params, key, value);

  if (r == 0) {
    nbdkit_error ("unknown parameter '%s'", key);
    return -1;
  }
  return r == 1 ? 0 : -1;
}

static int
plugin_config_complete (void)
{
  return params_complete (&served.params);
}

static void
plugin_dump (void)
{
  served_dump_plugin (&served);
}

static int
plugin_get_ready (void)
{
  return served_get_ready (&served);
}

static int
plugin_list_exports (int readonly, int is_tls, struct nbdkit_exports *exports)
{
  (void) readonly;
  (void) is_tls;
  return served_list_exports (&served, exports);
}

static void *
plugin_open (int readonly)
{
  return served_open (&served, readonly);
}

static void
plugin_cleanup (void)
{
  served_cleanup (&served);
}

static void
plugin_unload (void)
{
  served_unload (&served);
}

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static struct nbdkit_plugin plugin = {
  .name            = PLUGIN_NAME,
  .longname        = PLUGIN_LONGNAME,
  .version         = PACKAGE_VERSION,
  .description     = PLUGIN_DESCRIPTION,
  .config          = plugin_config,
  .config_complete = plugin_config_complete,
  .config_help     = PLUGIN_HELP,
  .dump_plugin     = plugin_dump,
  .get_ready       = plugin_get_ready,
  .list_exports    = plugin_list_exports,
  .open            = plugin_open,
  .cleanup         = plugin_cleanup,
  .unload          = plugin_unload,
  SERVED_CALLBACKS,
};

/* nbdkit looks this up by name; its header does not declare it. */
extern struct nbdkit_plugin *plugin_init (void);

NBDKIT_REGISTER_PLUGIN (plugin)

#endif /* VDKIT_SERVED_PLUGIN_H */
