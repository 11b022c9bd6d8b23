/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "params.h"
#include "parse.h"

/* "taken", or the error. */
static int
taken (int r)
{
  return r == -1 ? -1 : 1;
}

/* What can be a disk of the host: checked again when the image names it. */
static char *
parse_raw_disk (const char *key, const char *value)
{
  char *path = parse_path (nbdkit_absolute_path, key, value);
  struct stat sb;

  if (!path)
    return NULL;
  if (stat (path, &sb) == -1)
    nbdkit_error ("%s=%s: %m; must be 'allow', or a disk that is there", key,
                  value);
  else if (!S_ISBLK (sb.st_mode) && !S_ISREG (sb.st_mode))
    nbdkit_error ("%s=%s: is not a disk: must be a block device, a regular "
                  "file, or 'allow'", key, value);
  else
    return path;
  free (path);
  return NULL;
}

static int
config_files (struct params *p, const char *key, const char *value)
{
  if (strcmp (key, "allow-paths") == 0)
    return taken (parse_add_string (&p->allow_paths,
                                    parse_folder (key, value)));
  if (strcmp (key, "raw-disk") == 0) {
    if (strcmp (value, "allow") == 0) {
      p->policy.any_raw_disk = true;
      return 1;
    }
    return taken (parse_add_string (&p->raw_disks,
                                    parse_raw_disk (key, value)));
  }
  if (strcmp (key, "strict") == 0)
    return taken (parse_bool (&p->policy.strict, key, value));
  return 0;
}

/* "1,5,7r" */
static int
set_partitions (struct params *p, const char *value)
{
  const char *at = value;
  struct vd_raw_choice *choices;
  unsigned long number;
  char *end;
  size_t n = 0;

  free (p->choices);
  p->choices = NULL;
  do {
    errno = 0;
    number = *at >= '0' && *at <= '9' ? strtoul (at, &end, 10) : 0;
    if (number == 0 || errno || number > INT_MAX)
      goto bad;
    choices = realloc (p->choices, (n + 1) * sizeof choices[0]);
    if (choices == NULL) {
      nbdkit_error ("realloc: %m");
      return -1;
    }
    p->choices = choices;
    choices[n++] = (struct vd_raw_choice) { number, *end == 'r' };
    at = *end == 'r' ? end + 1 : end;
  } while (*at++ == ',');
  if (at[-1] != '\0')
    goto bad;
  p->raw.choices = p->choices;
  p->raw.nchoices = n;
  return 0;

 bad:
  nbdkit_error ("partitions=%s: must be numbers of partitions like 1,5,7r, "
                "where r means that it cannot be written", value);
  return -1;
}

static int
config_device (struct params *p, const char *key, const char *value)
{
  int r;

  if (strcmp (key, "device") == 0) {
    free (p->device);
    p->device = parse_path (nbdkit_absolute_path, key, value);
    return p->device ? 1 : -1;
  }
  if (strcmp (key, "partitions") == 0)
    r = set_partitions (p, value);
  else if (strcmp (key, "relative") == 0)
    r = parse_bool (&p->raw.relative, key, value);
  else if (strcmp (key, "boot-sector") == 0) {
    free (p->boot_sector);
    p->boot_sector = parse_path (nbdkit_absolute_path, key, value);
    r = p->boot_sector ? 0 : -1;
  }
  else
    return 0;
  p->needs_device = key;
  return taken (r);
}

static int
config_vmdk (struct params *p, const char *key, const char *value)
{
  if (strcmp (key, "adapter") == 0) {
    p->how.adapter = value;
    return 1;
  }
  if (strcmp (key, "hw-version") == 0)
    /* The core takes 0 for "default"; typed by a user it is a mistake. */
    return taken (parse_number (&p->how.hw_version, key, value, 1, 999));
  return config_device (p, key, value);
}

static int
config_blocks (struct params *p, const char *key, const char *value)
{
  if (strcmp (key, "block-size") == 0)
    return taken (parse_size (&p->how.block_size, key, value));
  if (strcmp (key, "data-alignment") == 0)
    return taken (parse_size (&p->how.alignment, key, value));
  return 0;
}

static int
config_create (struct params *p, const char *key, const char *value)
{
  if (strcmp (key, "size") == 0) {
    p->have_size = true;
    return taken (parse_size (&p->how.size, key, value));
  }
  if (strcmp (key, "comment") == 0) {
    p->how.comment = value;
    return 1;
  }
  if (strcmp (key, "force") == 0)
    return taken (parse_bool (&p->how.force, key, value));
  if (strcmp (key, "uuid") == 0) {
    /* A null UUID would mean "choose one" to the core. */
    if (!vd_uuid_parse (value, &p->how.link.uuid)
        || vd_uuid_is_null (&p->how.link.uuid)) {
      nbdkit_error ("uuid=%s: not a UUID that an image can have", value);
      return -1;
    }
    return 1;
  }
  return 0;
}

static int
config (struct params *p, const char *key, const char *value)
{
  bool off;
  int r;

  if (strcmp (key, "file") == 0) {
    /* Bare words are files too: a second one is a typing error, and to serve
     * the last one only would be a surprise.
     */
    if (p->file != NULL) {
      nbdkit_error ("only one file can be served, but there are '%s' and '%s'",
                    p->file, value);
      return -1;
    }
    p->file = strdup (value);
    if (p->file == NULL) {
      nbdkit_error ("strdup: %m");
      return -1;
    }
    return 1;
  }
  if (strcmp (key, "readonly") == 0)
    return taken (parse_bool (&p->readonly, key, value));
  if (strcmp (key, "write") == 0)
    return taken (parse_word (&p->require, key, value, "auto", "require"));
  if (strcmp (key, "lock") == 0) {
    r = taken (parse_word (&off, key, value, "auto", "off"));
    if (r == 1)
      p->lock = off ? VD_LOCK_OFF : VD_LOCK_AUTO;
    return r;
  }
  if (strcmp (key, "honor-zeroes") == 0)
    return taken (parse_bool (&p->honor_zeroes, key, value));
  if (strcmp (key, "honor-same") == 0)
    return taken (parse_bool (&p->honor_same, key, value));
  if (strcmp (key, "chain") == 0)
    return taken (parse_word (&p->no_chain, key, value, "auto", "none"));
  if (strcmp (key, "parent") == 0) {
    p->parent = parse_file (key, value);
    return p->parent ? 1 : -1;
  }
  if (strcmp (key, "force-link") == 0)
    return taken (parse_bool (&p->force_link, key, value));
  if (strcmp (key, "single-link") == 0)
    return taken (parse_bool (&p->single_link, key, value));
  if (strcmp (key, "chain-exports") == 0)
    return taken (parse_word (&p->no_level_exports, key, value,
                              "all", "none"));
  if (strcmp (key, "create") == 0) {
    p->how.variant = value;
    return 1;
  }

  if (p->keys & PARAMS_FILES) {
    r = config_files (p, key, value);
    if (r != 0)
      return r;
  }

  if ((p->keys & PARAMS_VMDK) && strcmp (key, "zero-extents") == 0)
    return taken (parse_word (&p->drop_gaps, key, value, "refuse", "drop"));

  r = config_create (p, key, value);
  if (r == 0 && (p->keys & PARAMS_BLOCKS))
    r = config_blocks (p, key, value);
  if (r == 0 && (p->keys & PARAMS_VMDK))
    r = config_vmdk (p, key, value);
  if (r == 1)
    p->needs_create = key;
  return r;
}

int
params_config (struct params *p, const char *key, const char *value)
{
  int r = config (p, key, value);

  if (r != 1 || strcmp (key, "file") == 0 ||
      strcmp (key, "allow-paths") == 0 || strcmp (key, "raw-disk") == 0)
    return r;
  return taken (parse_once (&p->given, key, value));
}

int
params_complete (struct params *p)
{
  char *path;

  if (p->file == NULL) {
    nbdkit_error ("the file= parameter is missing: which image?");
    return -1;
  }
  if (p->readonly && p->require) {
    nbdkit_error ("readonly=true and write=require contradict each other");
    return -1;
  }
  if (p->single_link && p->require) {
    nbdkit_error ("single-link=true and write=require contradict each other: "
                  "what would be written into a lone differencing image could "
                  "not be told from what is its parent's");
    return -1;
  }
  if (p->how.variant != NULL && !p->have_size && p->device == NULL) {
    nbdkit_error ("create=%s needs size=%s", p->how.variant,
                  p->keys & PARAMS_VMDK ?
                  ", or device= for a disk of the host" : "");
    return -1;
  }
  if (p->how.variant != NULL && p->parent) {
    nbdkit_error ("create= and parent= contradict each other: a new image has "
                  "no parent; to make a differencing image use --filter=diff "
                  "with diff-create=");
    return -1;
  }
  if (p->how.variant != NULL && p->policy.strict) {
    nbdkit_error ("create= and strict=true contradict each other: strict is "
                  "for images that others have made");
    return -1;
  }
  if (p->how.variant == NULL && p->needs_create != NULL) {
    nbdkit_error ("%s= can only be used together with create=",
                  p->needs_create);
    return -1;
  }
  if (p->needs_device != NULL && p->device == NULL) {
    nbdkit_error ("%s= can only be used together with device=, a disk of the "
                  "host", p->needs_device);
    return -1;
  }

  /* realpath also reports a file that is not there, in the right place. */
  path = parse_path (p->how.variant != NULL ? nbdkit_absolute_path
                     : nbdkit_realpath, "file", p->file);
  if (path == NULL)
    return -1;
  free (p->file);
  p->file = path;

  p->policy.allow_paths = (const char *const *) p->allow_paths;
  p->policy.raw_disks = (const char *const *) p->raw_disks;
  if (p->device) {
    p->raw.device = p->device;
    p->raw.boot_sector = p->boot_sector;
    p->raw.policy = &p->policy;
    p->how.raw = &p->raw;
  }
  if (p->single_link && p->parent) {
    nbdkit_error ("single-link=true and parent= contradict each other");
    return -1;
  }
  if (p->no_chain && p->parent) {
    nbdkit_error ("chain=none and parent= contradict each other");
    return -1;
  }
  /* A stranger's image could name a private neighbour as its parent. */
  if (p->policy.strict) {
    p->no_chain = true;
    if (p->parent) {
      nbdkit_error ("strict=true and parent= contradict each other");
      return -1;
    }
  }
  if (p->policy.strict && (p->allow_paths || p->raw_disks ||
                           p->policy.any_raw_disk)) {
    nbdkit_error ("strict=true and allow-paths= or raw-disk= contradict each "
                  "other");
    return -1;
  }
  return 0;
}

void
params_free (struct params *p)
{
  free (p->file);
  p->file = NULL;
  free (p->parent);
  free (p->device);
  free (p->boot_sector);
  free (p->choices);
  parse_free_strings (p->allow_paths);
  parse_free_strings (p->raw_disks);
  parse_free_strings (p->given);
}
