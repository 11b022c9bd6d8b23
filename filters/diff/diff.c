/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nbdkit-diff-filter: differencing images on top of whatever the layer below
 * serves (rules 5).  Here are nbdkit's callbacks.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "below.h"
#include "cleanup.h"
#include "disk.h"
#include "parse.h"
#include "stack.h"

#define NBD_NAME_MAX 4096       /* bytes; the protocol's */

static void log_line (enum vd_log_level level, const char *text);

static struct stack stack = STACK_INIT (log_line);

static void
log_line (enum vd_log_level level, const char *text)
{
  disk_log ("diff", level, text);
}

/* ---- parameters ------------------------------------------------------- */

static void
diff_load (void)
{
  stack.loads++;
}

static void
diff_unload (void)
{
  if (--stack.loads == 0)
    stack_free (&stack);
}

static int
add_file (const char *value)
{
  if (parse_add_string (&stack.params.files,
                        parse_path (nbdkit_absolute_path, "diff", value)) == -1)
    return -1;
  stack.params.n++;
  return 0;
}

/* 1: taken, 0: not one of ours, -1: error. */
static int
config (struct stack_params *p, const char *key, const char *value)
{
  bool off;
  int r;

  if (strcmp (key, "diff") == 0)
    return add_file (value) == -1 ? -1 : 1;
  if (strcmp (key, "diff-create") == 0) {
    if (!vd_format_by_name (value) || !vd_format_by_name (value)->create) {
      nbdkit_error ("diff-create=%s: must be 'vdi' or 'vmdk'", value);
      return -1;
    }
    p->create = value;
    return 1;
  }
  if (strcmp (key, "diff-base-export") == 0) {
    if (strlen (value) > NBD_NAME_MAX) {
      nbdkit_error ("diff-base-export=%.40s...: is longer than %d bytes, the "
                    "most that the name of an export can have", value,
                    NBD_NAME_MAX);
      return -1;
    }
    p->base_export = value;
    return 1;
  }
  if (strcmp (key, "diff-readonly") == 0)
    r = parse_bool (&p->readonly, key, value);
  else if (strcmp (key, "diff-write") == 0)
    r = parse_word (&p->require, key, value, "auto", "require");
  else if (strcmp (key, "diff-lock") == 0) {
    r = parse_word (&off, key, value, "auto", "off");
    if (r == 0)
      p->lock = off ? VD_LOCK_OFF : VD_LOCK_AUTO;
  }
  else if (strcmp (key, "diff-exports") == 0)
    r = parse_word (&p->no_exports, key, value, "all", "none");
  else if (strcmp (key, "honor-zeroes") == 0)
    r = parse_bool (&p->honor_zeroes, key, value);
  else if (strcmp (key, "honor-same") == 0)
    r = parse_bool (&p->honor_same, key, value);
  else if (strcmp (key, "force-link") == 0)
    r = parse_bool (&p->force_link, key, value);
  else
    return 0;
  return r == -1 ? -1 : 1;
}

static int
diff_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
             const char *key, const char *value)
{
  int r = config (&stack.params, key, value);

  if (r == 0)
    return next (nxdata, key, value);
  if (r == 1 && strcmp (key, "diff") != 0)
    return parse_once (&stack.params.given, key, value);
  return r == 1 ? 0 : -1;
}

#define diff_config_help                                                      \
  "diff=FILE                 (required) A differencing image on top of what\n"\
  "                          is below; repeatable, from the base up.\n"       \
  "diff-create=vdi|vmdk      The last diff= is a new image, made now.\n"      \
  "diff-exports=all|none     Each image is an export too (all).\n"            \
  "diff-base-export=NAME     Export of the layer below (\"\").\n"             \
  "diff-readonly=true|false  Never write, whoever connects (false).\n"        \
  "diff-write=auto|require   If the top cannot be written, serve it read-\n"  \
  "                          only (auto), or refuse to start (require).\n"    \
  "diff-lock=auto|off        Lock the images as qemu does (auto).\n"          \
  "honor-zeroes=true|false   Store zeroes that are written (false).\n"        \
  "honor-same=true|false     Store data that change nothing (false).\n"       \
  "force-link=true|false     A wrong link between images is a warning only\n" \
  "                          (false)."

static int
diff_config_complete (nbdkit_next_config_complete *next,
                      nbdkit_backend *nxdata)
{
  const struct stack_params *p = &stack.params;

  /* The outermost instance, which is the first to be called, has all. */
  if (p->n < stack.loads) {
    nbdkit_error ("diff=FILE is missing: the filter is used %u times, and "
                  "there are %zu diff= parameters", stack.loads, p->n);
    return -1;
  }
  if (p->readonly && p->require) {
    nbdkit_error ("diff-readonly=true and diff-write=require contradict "
                  "each other");
    return -1;
  }
  return stack_add (&stack, nxdata) == -1 ? -1 : next (nxdata);
}

static int
diff_get_ready (int thread_model)
{
  (void) thread_model;
  return stack_get_ready (&stack);
}

static void
diff_cleanup (nbdkit_backend *backend)
{
  struct instance *in = stack_find (&stack, backend);

  if (in && in->disk.chain)
    disk_cleanup (&in->disk);
}

/* ---- connections ------------------------------------------------------ */

struct handle {
  struct instance *in;
  size_t level;
  bool pass;                    /* the layer below, or a level of it */
  bool wants_write;
  bool writable;
  char description[512];
};

/* The base is an export under the UUID that its child knows it by. */
static const char *
base_name (const struct instance *in, char buffer[VD_UUID_TEXT])
{
  const struct vd_uuid *parent =
    &vd_chain_image (in->disk.chain, 0)->link.parent;

  return vd_uuid_is_null (parent) ? NULL : vd_uuid_text (parent, buffer);
}

static int
diff_list_exports (nbdkit_next_list_exports *next, nbdkit_backend *nxdata,
                   int readonly, int is_tls, struct nbdkit_exports *exports)
{
  struct instance *in = stack_find (&stack, nxdata);
  CLEANUP_FREE struct nbdkit_exports *lower = NULL;
  char uuid[VD_UUID_TEXT];
  const char *name;
  size_t i;

  (void) is_tls;
  /* The image is made for the first client. */
  if (!stack_has_chain (&stack, in))
    return nbdkit_add_export (exports, "", NULL);
  if (disk_list_exports (&in->disk, exports) == -1)
    return -1;
  if (!in->disk.level_exports)
    return 0;
  if (in->innermost) {
    name = base_name (in, uuid);
    return name ? nbdkit_add_export (exports, name, NULL) : 0;
  }

  /* The levels of the instances below. */
  lower = nbdkit_exports_new ();
  if (!lower || next (nxdata, readonly, lower) == -1) {
    nbdkit_exports_free (lower);
    lower = NULL;
    return -1;
  }
  for (i = 0; i < nbdkit_exports_count (lower); ++i) {
    const struct nbdkit_export e = nbdkit_get_export (lower, i);

    if (*e.name && nbdkit_add_export (exports, e.name, e.description) == -1) {
      nbdkit_exports_free (lower);
      lower = NULL;
      return -1;
    }
  }
  nbdkit_exports_free (lower);
  lower = NULL;
  return 0;
}

static const char *
diff_default_export (nbdkit_next_default_export *next, nbdkit_backend *nxdata,
                     int readonly, int is_tls)
{
  (void) next;
  (void) nxdata;
  (void) readonly;
  (void) is_tls;
  return "";                    /* the top, whatever the base calls its own */
}

/* Which view does the client want, and which export of the layer below goes
 * with it?  NULL: there is no such export.
 */
static const char *
choose (struct handle *h, const char *name)
{
  const struct instance *in = h->in;
  char uuid[VD_UUID_TEXT];
  const char *base;

  if (!stack_has_chain (&stack, in))
    return *name ? NULL : stack.params.base_export;
  if (disk_find_level (&h->in->disk, name, &h->level))
    return in->innermost ? stack.params.base_export : "";
  if (!in->disk.level_exports)
    return NULL;
  h->pass = true;
  if (!in->innermost)
    return name;                /* the next instance knows it, or nobody */
  base = base_name (in, uuid);
  return base && strcmp (name, base) == 0 ? stack.params.base_export : NULL;
}

static void *
diff_open (nbdkit_next_open *next, nbdkit_context *context,
           int readonly, const char *exportname, int is_tls)
{
  struct handle *h = calloc (1, sizeof *h);
  const char *lower;

  (void) is_tls;
  if (!h) {
    nbdkit_error ("calloc: %m");
    return NULL;
  }
  h->in = stack_find (&stack, nbdkit_context_get_backend (context));
  lower = choose (h, exportname);
  if (!lower) {
    nbdkit_error ("there is no export '%s'; see nbdinfo --list", exportname);
    goto fail;
  }
  /* What is below is never written, whatever the client may do. */
  if (next (context, 1, lower) == -1)
    goto fail;
  h->wants_write = !readonly && !h->pass && !stack.params.readonly &&
    *exportname == '\0';
  return h;

 fail:
  free (h);
  return NULL;
}

static void
diff_close (void *handle)
{
  struct handle *h = handle;

  if (h->writable)
    disk_remove_writer (&h->in->disk);
  free (h);
}

/* Here is the first place where it can be read what the layer below says of
 * itself.
 */
static int
diff_prepare (nbdkit_next *next, void *handle, int readonly)
{
  struct handle *h = handle;
  int64_t size = next->get_size (next);
  struct vd_link link;
  int r;

  (void) readonly;
  if (size == -1)
    return -1;
  if (h->pass)
    return 0;
  if (h->in->innermost) {
    diff_below_link (next, &link);
    if (stack_first_client (&stack, h->in, size, &link) == -1)
      return -1;
  }
  if (h->wants_write) {
    r = disk_add_writer (&h->in->disk);
    if (r == -1)
      return -1;
    h->writable = r;
  }
  return 0;
}

/* ---- what a connection can do ----------------------------------------- */

static int64_t
diff_get_size (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  if (h->pass)
    return next->get_size (next);
  return vd_chain_size (h->in->disk.chain, h->level);
}

static const char *
diff_export_description (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  if (h->pass)
    return next->export_description (next);
  vd_image_description (vd_chain_image (h->in->disk.chain, h->level),
                        h->description, sizeof h->description);
  return h->description;
}

static int
diff_block_size (nbdkit_next *next, void *handle, uint32_t *minimum,
                 uint32_t *preferred, uint32_t *maximum)
{
  struct handle *h = handle;

  if (h->pass)
    return next->block_size (next, minimum, preferred, maximum);
  *minimum = 1;
  *preferred = 4096;
  *maximum = UINT32_MAX;
  return 0;
}

static int
diff_can_write (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  (void) next;
  return h->writable;
}

static int
diff_can_always (nbdkit_next *next, void *handle)
{
  (void) next;
  (void) handle;
  return 1;
}

static int
diff_can_zero (nbdkit_next *next, void *handle)
{
  (void) next;
  (void) handle;
  return NBDKIT_ZERO_NATIVE;
}

static int
diff_can_fua (nbdkit_next *next, void *handle)
{
  (void) next;
  (void) handle;
  return NBDKIT_FUA_NATIVE;
}

static int
diff_can_extents (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->pass ? next->can_extents (next) : 1;
}

static int
diff_can_cache (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->pass ? next->can_cache (next) : NBDKIT_CACHE_NATIVE;
}

static int
diff_can_multi_conn (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->pass ? next->can_multi_conn (next) : 1;
}

/* ---- data ------------------------------------------------------------- */

static int
result (int r, int *err)
{
  if (r == -1)
    *err = errno;
  return r;
}

static int
diff_pread (nbdkit_next *next, void *handle, void *buf, uint32_t count,
            uint64_t offset, uint32_t flags, int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;

  if (h->pass)
    return next->pread (next, buf, count, offset, flags, err);
  return result (disk_pread (&h->in->disk, &b, h->level, buf, count,
                             offset), err);
}

static int
diff_pwrite (nbdkit_next *next, void *handle, const void *buf,
             uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;

  return result (disk_pwrite (&h->in->disk, &b, buf, count, offset, flags),
                 err);
}

static int
diff_flush (nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;

  (void) flags;
  if (h->pass)
    return 0;                   /* it is read-only */
  return result (disk_flush (&h->in->disk, &b, h->writable), err);
}

static int
diff_trim (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
           uint32_t flags, int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;

  return result (disk_trim (&h->in->disk, &b, count, offset, flags), err);
}

static int
diff_zero (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
           uint32_t flags, int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;

  return result (disk_zero (&h->in->disk, &b, count, offset, flags), err);
}

static int
diff_extents (nbdkit_next *next, void *handle, uint32_t count,
              uint64_t offset, uint32_t flags, struct nbdkit_extents *extents,
              int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;
  int r;

  if (h->pass)
    return next->extents (next, count, offset, flags, extents, err);
  b.end = offset + count;
  r = disk_extents (&h->in->disk, &b, h->level, count, offset, flags, extents);
  diff_below_done (&b);
  return result (r, err);
}

static int
diff_cache (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
            uint32_t flags, int *err)
{
  struct below b = BELOW_INIT (next);
  struct handle *h = handle;

  if (h->pass)
    return next->cache (next, count, offset, flags, err);
  return result (disk_cache (&h->in->disk, &b, h->level, count, offset),
                 err);
}

static struct nbdkit_filter filter = {
  .name               = "diff",
  .longname           = "vdkit diff filter",
  .description        = "Differencing images (VDI, VMDK) over any layer",
  .load               = diff_load,
  .unload             = diff_unload,
  .config             = diff_config,
  .config_complete    = diff_config_complete,
  .config_help        = diff_config_help,
  .get_ready          = diff_get_ready,
  .cleanup            = diff_cleanup,
  .list_exports       = diff_list_exports,
  .default_export     = diff_default_export,
  .open               = diff_open,
  .close              = diff_close,
  .prepare            = diff_prepare,
  .get_size           = diff_get_size,
  .export_description = diff_export_description,
  .block_size         = diff_block_size,
  .can_write          = diff_can_write,
  .can_flush          = diff_can_always,
  .can_trim           = diff_can_always,
  .can_zero           = diff_can_zero,
  .can_fast_zero      = diff_can_always,
  .can_extents        = diff_can_extents,
  .can_fua            = diff_can_fua,
  .can_multi_conn     = diff_can_multi_conn,
  .can_cache          = diff_can_cache,
  .pread              = diff_pread,
  .pwrite             = diff_pwrite,
  .flush              = diff_flush,
  .trim               = diff_trim,
  .zero               = diff_zero,
  .extents            = diff_extents,
  .cache              = diff_cache,
};

/* nbdkit looks this up by name; its header does not declare it. */
extern struct nbdkit_filter *filter_init (void);

NBDKIT_REGISTER_FILTER (filter)
