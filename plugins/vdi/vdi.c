/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nbdkit-vdi-plugin: VirtualBox disk images.
 */

#include <config.h>

#include "params.h"

#define PLUGIN_NAME "vdi"
#define PLUGIN_LONGNAME "vdkit VDI plugin"
#define PLUGIN_DESCRIPTION "Serve VirtualBox disk images (VDI)"
/* A VDI names no files, but its parents may be VMDKs. */
#define PLUGIN_HELP                                             \
  PARAMS_HELP ("dynamic|fixed") "\n" PARAMS_HELP_BLOCKS "\n"    \
  PARAMS_HELP_FILES
#define PLUGIN_KEYS (PARAMS_BLOCKS | PARAMS_FILES)

#include "served-plugin.h"
