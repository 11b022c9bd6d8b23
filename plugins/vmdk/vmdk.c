/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nbdkit-vmdk-plugin: VMware disk images.
 */

#include <config.h>

#include "params.h"

#define PLUGIN_NAME "vmdk"
#define PLUGIN_LONGNAME "vdkit VMDK plugin"
#define PLUGIN_DESCRIPTION "Serve VMware disk images (VMDK)"
#define PLUGIN_HELP                                                     \
  PARAMS_HELP ("sparse|flat|split-sparse|split-flat|vmfs|stream|"       \
               "full-device|partitioned-device") "\n"                   \
  PARAMS_HELP_FILES "\n" PARAMS_HELP_VMDK
#define PLUGIN_KEYS (PARAMS_FILES | PARAMS_VMDK)

#include "served-plugin.h"
