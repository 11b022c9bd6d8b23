/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nbdkit-vdi-plugin: VirtualBox disk images.
 */

#include <config.h>

#include "served.h"

static void log_line (enum vd_log_level level, const char *text);

static struct served disk = SERVED_INIT ("vdi", log_line);

static void
log_line (enum vd_log_level level, const char *text)
{
  served_log (disk.name, level, text);
}

static int
vdi_config (const char *key, const char *value)
{
  int r = params_config (&disk.params, key, value);

  if (r == 0) {
    nbdkit_error ("unknown parameter '%s'", key);
    return -1;
  }
  return r == 1 ? 0 : -1;
}

static int
vdi_config_complete (void)
{
  return params_complete (&disk.params);
}

static void
vdi_dump_plugin (void)
{
  served_dump_plugin (&disk);
}

static int
vdi_get_ready (void)
{
  return served_get_ready (&disk);
}

static void *
vdi_open (int readonly)
{
  return served_open (&disk, readonly);
}

static void
vdi_cleanup (void)
{
  served_cleanup (&disk);
}

static void
vdi_unload (void)
{
  served_unload (&disk);
}

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static struct nbdkit_plugin plugin = {
  .name            = "vdi",
  .longname        = "vdkit VDI plugin",
  .version         = PACKAGE_VERSION,
  .description     = "Serve VirtualBox disk images (VDI)",
  .config          = vdi_config,
  .config_complete = vdi_config_complete,
  .config_help     = PARAMS_HELP ("dynamic|fixed"),
  .dump_plugin     = vdi_dump_plugin,
  .get_ready       = vdi_get_ready,
  .open            = vdi_open,
  .cleanup         = vdi_cleanup,
  .unload          = vdi_unload,
  SERVED_CALLBACKS,
};

NBDKIT_REGISTER_PLUGIN (plugin)
