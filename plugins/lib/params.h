/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The parameters that every plugin of this collection takes.
 */

#ifndef VDKIT_PARAMS_H
#define VDKIT_PARAMS_H

#include <stdbool.h>

#include "file.h"
#include "format.h"

/* Parameters that only some plugins take. */
enum params_keys {
  PARAMS_BLOCKS = 1,            /* block-size, data-alignment, force */
  PARAMS_FILES = 2,             /* allow-paths, raw-disk, strict */
  PARAMS_VMDK = 4,              /* zero-extents, adapter, hw-version, device
                                   and what belongs to it */
};

struct params {
  unsigned keys;                /* of enum params_keys */
  char *file;                   /* absolute after params_complete */
  bool readonly;
  bool require;                 /* write=require */
  enum vd_lock lock;
  bool honor_zeroes;
  bool honor_same;

  /* Creating.  how.variant is NULL unless create= was given. */
  struct vd_create how;
  bool have_size;
  const char *needs_create;     /* a key that makes sense with create= only */
  struct vd_raw raw;            /* how.raw, once device= is known */
  const char *needs_device;     /* a key that makes sense with device= only */
  char *device;                 /* absolute */
  char *boot_sector;            /* absolute */
  struct vd_raw_choice *choices;

  /* Images below it. */
  bool no_chain;                /* chain=none */
  char *parent;                 /* absolute after params_complete, or NULL */
  bool force_link;
  bool single_link;
  bool drop_gaps;               /* zero-extents=drop */
  bool no_level_exports;        /* chain-exports=none */

  /* Which files the image may name; the arrays end with NULL. */
  struct vd_policy policy;
  char **allow_paths;           /* absolute */
  char **raw_disks;

  char **given;                 /* keys, of what can be given once; likewise */
};

#define PARAMS_INIT(k) { .keys = (k), .lock = VD_LOCK_AUTO }

/* Returns 1: taken, 0: not one of ours, -1: error (reported). */
extern int params_config (struct params *p, const char *key,
                          const char *value);

/* Check them against each other and make the file name absolute, as a daemon
 * goes to another folder.  -1: error (reported).
 */
extern int params_complete (struct params *p);

extern void params_free (struct params *p);

/* For config_help.  Every parameter has a line that starts with its key:
 * programs (virt-v2v, the bash completions) look for that.  A completion
 * reads the possible values here too.
 */
#define PARAMS_HELP(variants)                                                 \
  "file=FILE                 (required) The image. 'file=' can be left out.\n"\
  "readonly=true|false       Never write, whoever connects (false).\n"        \
  "write=auto|require        If the image cannot be written, serve it read-\n"\
  "                          only (auto), or refuse to start (require).\n"    \
  "lock=auto|off             Lock the image as qemu does (auto).\n"           \
  "honor-zeroes=true|false   Store zeroes that are written (false).\n"        \
  "honor-same=true|false     Store data that change nothing (false).\n"       \
  "chain=auto|none           Find the parents of a differencing image, or\n"  \
  "                          refuse it (auto).\n"                             \
  "parent=FILE               The parent of the image, instead of a search.\n" \
  "force-link=true|false     A wrong link between images is a warning only\n" \
  "                          (false).\n"                                      \
  "single-link=true|false    Serve a differencing image without its parent,\n"\
  "                          read-only (false).\n"                            \
  "chain-exports=all|none    Each image of a chain is an export too (all).\n" \
  "create=" variants "\n"                                                     \
  "                          Make a new image and serve it.\n"                \
  "size=SIZE                 With create=: size of the disk (required).\n"    \
  "comment=TEXT              With create=: text to store in the image.\n"     \
  "uuid=UUID                 With create=: UUID of the image (random).\n"     \
  "force=true|false          With create=: allow what other programs may\n"   \
  "                          not be able to read, or fill (false)."

#define PARAMS_HELP_BLOCKS                                                    \
  "block-size=SIZE           With create=: unit of allocation.\n"             \
  "data-alignment=SIZE       With create=: where data may start in the file."

#define PARAMS_HELP_FILES                                                     \
  "allow-paths=DIR           The image may name files in this folder too, not\n"\
  "                          only in its own (repeatable).\n"                 \
  "raw-disk=DEVICE|allow     The image may stand for this disk of the host,\n"\
  "                          or for any (repeatable).\n"                      \
  "strict=true|false         For images of strangers: refuse all but one\n"   \
  "                          self-contained file (false)."

#define PARAMS_HELP_VMDK                                                      \
  "zero-extents=refuse|drop  What is written between the partitions of a\n"   \
  "                          partitionedDevice is an error, or succeeds and\n"\
  "                          is forgotten (refuse).\n"                        \
  "adapter=ide|buslogic|lsilogic|legacyESX\n"                                 \
  "                          With create=: adapter type (ide).\n"             \
  "hw-version=N              With create=: virtual hardware version (4).\n"  \
  "device=DEVICE             With create=full-device or partitioned-device:\n"\
  "                          which disk of the host (see raw-disk=).\n"      \
  "partitions=N[r],...       With create=partitioned-device: which ones can\n"\
  "                          be seen (r: but not written).\n"                \
  "relative=true|false       With create=partitioned-device: name devices of\n"\
  "                          partitions, not that of the disk (false).\n"    \
  "boot-sector=FILE          With create=partitioned-device: boot code for\n"\
  "                          the copy of the first sector."

#endif /* VDKIT_PARAMS_H */
