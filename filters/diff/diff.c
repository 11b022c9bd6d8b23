/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nbdkit-diff-filter: differencing images on top of whatever the layer below
 * serves (rules 5).
 *
 * The filter may be stacked.  The outermost instance sees every diff= first
 * and keeps them in a list of the module; the innermost instance gets the
 * first ones, each outer one the next.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nbdkit-filter.h>

#include "cleanup.h"
#include "disk.h"
#include "parse.h"
#include "rounding.h"

/* Requests to the layer below are cut at this size. */
#define MAX_REQUEST (32 * 1024 * 1024)

static void log_line (enum vd_log_level level, const char *text);

/* ---- parameters ------------------------------------------------------- */

static struct {
  char **files;                 /* base first; absolute */
  size_t n;
  bool readonly;
  bool require;
  enum vd_lock lock;
  bool honor_zeroes, honor_same;
  bool force_link;
  bool no_exports;
  const char *base_export;
  const char *create;           /* format of a new image on top, or NULL */
} params = { .lock = VD_LOCK_AUTO, .base_export = "" };

struct instance {
  nbdkit_backend *backend;
  size_t first, n;              /* its part of params.files */
  struct disk disk;
  bool innermost;
};

static struct instance *instances;      /* outermost first */
static unsigned ninstances;             /* .load calls */
static unsigned ncomplete;              /* .config_complete calls */
static bool ready;                      /* the files are open */

/* While nbdkit serves, a chain comes only to an instance whose image is made
 * for the first client.
 */
static pthread_mutex_t create_lock = PTHREAD_MUTEX_INITIALIZER;

static bool
has_chain (const struct instance *in)
{
  LOCK_SCOPE (&create_lock);
  return in->disk.chain != NULL;
}

static void
log_line (enum vd_log_level level, const char *text)
{
  disk_log ("diff", level, text);
}

static void
diff_load (void)
{
  ninstances++;
}

static void
diff_unload (void)
{
  if (--ninstances > 0)
    return;
  parse_free_strings (params.files);
  free (instances);
}

static int
add_file (const char *value)
{
  if (parse_add_string (&params.files, nbdkit_absolute_path (value)) == -1)
    return -1;
  params.n++;
  return 0;
}

static int
diff_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
             const char *key, const char *value)
{
  bool off;

  if (strcmp (key, "diff") == 0)
    return add_file (value);
  if (strcmp (key, "diff-create") == 0) {
    if (!vd_format_by_name (value) || !vd_format_by_name (value)->create) {
      nbdkit_error ("diff-create=%s: must be 'vdi' or 'vmdk'", value);
      return -1;
    }
    params.create = value;
    return 0;
  }
  if (strcmp (key, "diff-readonly") == 0)
    return parse_bool (&params.readonly, value);
  if (strcmp (key, "diff-write") == 0)
    return parse_word (&params.require, key, value, "auto", "require");
  if (strcmp (key, "diff-lock") == 0) {
    if (parse_word (&off, key, value, "auto", "off") == -1)
      return -1;
    params.lock = off ? VD_LOCK_OFF : VD_LOCK_AUTO;
    return 0;
  }
  if (strcmp (key, "diff-exports") == 0)
    return parse_word (&params.no_exports, key, value, "all", "none");
  if (strcmp (key, "diff-base-export") == 0) {
    params.base_export = value;
    return 0;
  }
  if (strcmp (key, "honor-zeroes") == 0)
    return parse_bool (&params.honor_zeroes, value);
  if (strcmp (key, "honor-same") == 0)
    return parse_bool (&params.honor_same, value);
  if (strcmp (key, "force-link") == 0)
    return parse_bool (&params.force_link, value);
  return next (nxdata, key, value);
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

/* Called outermost first, with the pointer that later tells the instances
 * apart.
 */
static int
diff_config_complete (nbdkit_next_config_complete *next,
                      nbdkit_backend *nxdata)
{
  struct instance *in;
  unsigned k = ncomplete++;

  if (k == 0) {
    if (params.n < ninstances) {
      nbdkit_error ("diff=FILE is missing: the filter is used %u times, and "
                    "there are %zu diff= parameters", ninstances, params.n);
      return -1;
    }
    if (params.readonly && params.require) {
      nbdkit_error ("diff-readonly=true and diff-write=require contradict "
                    "each other");
      return -1;
    }
    instances = calloc (ninstances, sizeof instances[0]);
    if (!instances) {
      nbdkit_error ("calloc: %m");
      return -1;
    }
  }
  in = &instances[k];
  in->backend = nxdata;
  in->disk = (struct disk) DISK_INIT (log_line);
  in->disk.level_exports = !params.no_exports;
  in->innermost = k == ninstances - 1;
  if (in->innermost) {
    in->first = 0;
    in->n = params.n - (ninstances - 1);
  }
  else {
    in->first = params.n - 1 - k;
    in->n = 1;
  }
  return next (nxdata);
}

/* ---- the layer below -------------------------------------------------- */

/* What requests to the layer below must be aligned to, and how much one may
 * ask for.
 */
static int
lower_limits (nbdkit_next *next, uint64_t *ret_align, uint64_t *ret_max)
{
  uint32_t minimum, preferred, maximum;

  if (next->block_size (next, &minimum, &preferred, &maximum) == -1)
    return -1;
  *ret_align = minimum ? minimum : 1;
  *ret_max = MAX_REQUEST;
  if (maximum != 0 && maximum < MAX_REQUEST)
    *ret_max = max_u64 (round_down (maximum, *ret_align), *ret_align);
  return 0;
}

/* How much of [offset, offset + len) fits in one request, aligned as it must
 * be.
 */
static uint64_t
lower_piece (uint64_t align, uint64_t max, uint64_t size,
             uint64_t offset, uint64_t len)
{
  uint64_t end = round_down (offset, align) + max;

  return min_u64 (min_u64 (len, size - offset), end - offset);
}

static int
lower_error (struct vd_ctx *ctx, int err, uint64_t offset)
{
  return vd_error (ctx, err > 0 ? err : EIO,
                   "the layer below failed at offset %llu: %s",
                   (unsigned long long) offset, strerror (err));
}

/* One request, inside the size; what is not aligned goes through a buffer. */
static int
lower_read (struct vd_ctx *ctx, nbdkit_next *next, uint64_t align,
            uint64_t size, char *buf, uint32_t len, uint64_t offset)
{
  uint64_t start = round_down (offset, align);
  uint64_t end = min_u64 (round_up (offset + len, align), size);
  CLEANUP_FREE char *bounce = NULL;
  int err = 0;

  if (start == offset && end == offset + len) {
    if (next->pread (next, buf, len, offset, 0, &err) == -1)
      return lower_error (ctx, err, offset);
    return 0;
  }
  bounce = malloc (end - start);
  if (!bounce)
    return vd_error (ctx, ENOMEM, "no memory to read the layer below");
  if (next->pread (next, bounce, end - start, start, 0, &err) == -1)
    return lower_error (ctx, err, start);
  memcpy (buf, bounce + (offset - start), len);
  return 0;
}

static int
lower_size (struct vd_ctx *ctx, nbdkit_next *next, uint64_t *ret)
{
  int64_t size = next->get_size (next);

  if (size == -1)
    return vd_error (ctx, EIO, "the size of the layer below is not known");
  *ret = size;
  return 0;
}

static int
below_pread (struct vd_ctx *ctx, void *opaque, void *buf, size_t len,
             uint64_t offset)
{
  nbdkit_next *next = ctx->next;
  uint64_t size = 0, align = 1, max = MAX_REQUEST, n;
  char *p = buf;
  int r;

  (void) opaque;
  r = lower_size (ctx, next, &size);
  if (r < 0)
    return r;
  if (lower_limits (next, &align, &max) == -1)
    return vd_error (ctx, EIO, "the layer below has no block size");
  for (; len > 0 && offset < size; p += n, offset += n, len -= n) {
    n = lower_piece (align, max, size, offset, len);
    r = lower_read (ctx, next, align, size, p, n, offset);
    if (r < 0)
      return r;
  }
  memset (p, 0, len);           /* beyond its end */
  return 0;
}

/* What the layer says of one piece, handed on. */
static int
lower_extents (struct vd_ctx *ctx, nbdkit_next *next, uint64_t align,
               uint64_t size, uint64_t offset, uint32_t len, bool one,
               int (*fn) (void *, uint64_t, uint64_t, unsigned),
               void *fn_opaque, uint64_t *ret_done)
{
  uint64_t start = round_down (offset, align);
  uint64_t end = min_u64 (round_up (offset + len, align), size);
  struct nbdkit_extents *exts;
  int r = 0, err = 0;
  size_t i;

  exts = nbdkit_extents_new (start, end);
  if (!exts)
    return vd_error (ctx, ENOMEM, "no memory for the extents of the layer "
                     "below");
  if (next->extents (next, end - start, start,
                     one ? NBDKIT_FLAG_REQ_ONE : 0, exts, &err) == -1)
    r = lower_error (ctx, err, start);
  *ret_done = 0;
  for (i = 0; r == 0 && i < nbdkit_extents_count (exts); ++i) {
    struct nbdkit_extent e = nbdkit_get_extent (exts, i);
    uint64_t from = max_u64 (e.offset, offset);
    uint64_t to = min_u64 (e.offset + e.length, offset + len);

    if (from >= to)
      continue;
    r = fn (fn_opaque, from, to - from,
            (e.type & NBDKIT_EXTENT_HOLE ? VD_EXTENT_HOLE : 0) |
            (e.type & NBDKIT_EXTENT_ZERO ? VD_EXTENT_ZERO : 0));
    *ret_done = to - offset;
  }
  nbdkit_extents_free (exts);
  return r;
}

static int
below_extents (struct vd_ctx *ctx, void *opaque, uint64_t offset,
               uint64_t len, bool one,
               int (*fn) (void *, uint64_t, uint64_t, unsigned),
               void *fn_opaque)
{
  nbdkit_next *next = ctx->next;
  uint64_t size = 0, align = 1, max = MAX_REQUEST, n;
  int can, r;

  (void) opaque;
  r = lower_size (ctx, next, &size);
  if (r < 0)
    return r;
  can = next->can_extents (next);
  if (can == -1 || lower_limits (next, &align, &max) == -1)
    return vd_error (ctx, EIO, "the layer below does not say what it can do");
  for (; len > 0 && offset < size; offset += n, len -= n) {
    n = lower_piece (align, max, size, offset, len);
    r = can ? lower_extents (ctx, next, align, size, offset, n, one, fn,
                             fn_opaque, &n)
      : fn (fn_opaque, offset, n, 0);
    if (r != 0 || one)
      return r;
    if (n == 0)
      return vd_error (ctx, EIO, "the layer below knows no extents at "
                       "offset %llu", (unsigned long long) offset);
  }
  return len > 0 ? fn (fn_opaque, offset, len,
                       VD_EXTENT_HOLE | VD_EXTENT_ZERO) : 0;
}

/* Its size and link are not known before a client comes; beyond its end it
 * reads as zeroes.
 */
static const struct vd_below below = {
  .disk = {
    .size = INT64_MAX,
    .pread = below_pread,
    .extents = below_extents,
  },
  .name = "the layer below",
};

/* ---- opening ---------------------------------------------------------- */

static int
open_instance (struct instance *in, bool top)
{
  const struct vd_chain_open how = {
    .how = {
      .write = top && params.require ? VD_WRITE_REQUIRE : VD_WRITE_NO,
      .lock = params.lock,
      .honor_zeroes = params.honor_zeroes,
      .honor_same = params.honor_same,
      .log = log_line,
    },
    .below = &below,
    .force_link = params.force_link,
  };
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_chain_open (&ctx, (const char *const *) &params.files[in->first],
                     in->n, &how, &in->disk.chain);
  if (r < 0) {
    disk_report (&ctx, r);
    return -1;
  }
  /* Only the outermost is ever written. */
  in->disk.decided = !top || params.readonly || params.require;
  return 0;
}

/* The image under the top one, if that is one of ours; NULL: the layer below
 * the filter.
 */
static const char *
under_the_top (void)
{
  return params.n > 1 ? params.files[params.n - 2] : NULL;
}

static int
create_on (uint64_t size, const struct vd_link *link, const char *name)
{
  const char *path = params.files[params.n - 1];
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_chain_create_diff (&ctx, path, vd_format_by_name (params.create),
                            params.lock, size, link, name);
  if (r < 0) {
    disk_report (&ctx, r);
    return -1;
  }
  return 0;
}

/* How the new image names its parent: by the bare name if that is beside it.
 */
static const char *
hint_to (const char *parent, const char *child)
{
  size_t n = strrchr (parent, '/') + 1 - parent;

  if (strncmp (parent, child, n) == 0 && !strchr (child + n, '/'))
    return parent + n;
  return parent;
}

/* Make the new top image where what it is on is one of our images. */
static int
create_top (void)
{
  /* Not its metadata only, which lack the size of a VMDK. */
  const struct vd_open how = {
    .write = VD_WRITE_NO, .lock = params.lock, .log = log_line,
    .parent = &below.disk, .stacked = true,
  };
  const char *path = under_the_top ();
  struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_image_open (&ctx, path, &how, &image);
  if (r < 0) {
    disk_report (&ctx, r);
    return -1;
  }
  r = create_on (image->size, &image->link,
                 hint_to (path, params.files[params.n - 1]));
  vd_image_close (&ctx, image);
  return r;
}

/* The links between the instances' images. */
static int
check_instances (void)
{
  const struct vd_chain_open how = {
    .how = { .log = log_line }, .force_link = params.force_link,
  };
  struct vd_ctx ctx;
  unsigned k;
  int r;

  for (k = 0; k + 1 < ninstances; ++k) {
    const struct vd_chain *lower = instances[k + 1].disk.chain;
    const struct vd_image *image =
      vd_chain_image (lower, vd_chain_length (lower) - 1);

    vd_ctx_init (&ctx, log_line);
    r = vd_chain_check_below (&ctx, instances[k].disk.chain, &image->link,
                              image->name, &how);
    if (r < 0) {
      disk_report (&ctx, r);
      return -1;
    }
  }
  return 0;
}

/* Called for each instance; all is done in the first call, where messages
 * still reach the terminal.  But a new image on the layer below has to wait
 * for the first client: before, nothing is known of that layer.
 */
static int
diff_get_ready (int thread_model)
{
  unsigned k;

  (void) thread_model;
  if (ready)
    return 0;
  ready = true;
  disk_survive_file_size_limit ();
  disk_allow_many_files ();
  if (params.create && !under_the_top ()) {
    if (access (params.files[0], F_OK) == 0) {
      nbdkit_error ("%s: exists already; diff-create= makes a new image",
                    params.files[0]);
      return -1;
    }
    return 0;
  }
  if (params.create && create_top () == -1)
    return -1;
  for (k = ninstances; k-- > 0;)
    if (open_instance (&instances[k], k == 0) == -1)
      return -1;
  return check_instances ();
}

static struct instance *
instance_of (nbdkit_backend *backend)
{
  unsigned k;

  for (k = 0; k < ninstances; ++k)
    if (instances[k].backend == backend)
      return &instances[k];
  return NULL;
}

static void
diff_cleanup (nbdkit_backend *backend)
{
  struct instance *in = instance_of (backend);

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
  struct instance *in = instance_of (nxdata);
  CLEANUP_FREE struct nbdkit_exports *lower = NULL;
  char uuid[VD_UUID_TEXT];
  const char *name;
  size_t i;

  (void) is_tls;
  if (!has_chain (in))          /* the image is made for the first client */
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

  if (!has_chain (in))
    return *name ? NULL : params.base_export;
  if (disk_find_level (&h->in->disk, name, &h->level))
    return in->innermost ? params.base_export : "";
  if (!in->disk.level_exports)
    return NULL;
  h->pass = true;
  if (!in->innermost)
    return name;                /* the next instance knows it, or nobody */
  base = base_name (in, uuid);
  return base && strcmp (name, base) == 0 ? params.base_export : NULL;
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
  h->in = instance_of (nbdkit_context_get_backend (context));
  lower = choose (h, exportname);
  if (!lower) {
    nbdkit_error ("there is no export '%s'; see nbdinfo --list", exportname);
    goto fail;
  }
  /* What is below is never written, whatever the client may do. */
  if (next (context, 1, lower) == -1)
    goto fail;
  h->wants_write = !readonly && !h->pass && !params.readonly &&
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

/* The value of key in the description of the layer below (hostile text);
 * false if it is not there.
 */
static bool
described (const char *text, const char *key, char *out, size_t size)
{
  size_t n = strlen (key), len;

  if (strncmp (text, "vdkit1 ", 7) != 0)
    return false;
  for (text += 6; text; text = strchr (text + 1, ' ')) {
    if (strncmp (text + 1, key, n) != 0 || text[1 + n] != '=')
      continue;
    text += n + 2;
    len = strcspn (text, " ");
    if (len >= size)
      return false;
    memcpy (out, text, len);
    out[len] = '\0';
    return true;
  }
  return false;
}

/* What the layer below says of itself; nulls where it says nothing. */
static void
read_link (nbdkit_next *next, struct vd_link *ret)
{
  const char *text = next->export_description (next);
  char value[64];

  *ret = (struct vd_link) { .parent_cid = VD_CID_NONE };
  if (!text)
    return;
  if (described (text, "uuid", value, sizeof value))
    vd_uuid_parse (value, &ret->uuid);
  if (described (text, "muuid", value, sizeof value))
    vd_uuid_parse (value, &ret->modification);
  if (described (text, "cid", value, sizeof value))
    ret->has_cid = vd_cid_parse (value, &ret->cid);
}

static int
check_base (const struct instance *in, const struct vd_link *link)
{
  const struct vd_chain_open how = {
    .how = { .log = log_line }, .force_link = params.force_link,
  };
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  if (vd_uuid_is_null (&link->uuid) && !link->has_cid) {
    vd_debug (&ctx, "the layer below has no UUID to check the link to it by");
    return 0;
  }
  r = vd_chain_check_below (&ctx, in->disk.chain, link, below.name, &how);
  if (r < 0) {
    disk_report (&ctx, r);
    return -1;
  }
  return 0;
}

/* The first client of a new image on the layer below. */
static int
create_on_base (struct instance *in, uint64_t size,
                const struct vd_link *link)
{
  LOCK_SCOPE (&create_lock);
  if (in->disk.chain)
    return 0;
  if (create_on (size, link, NULL) == -1)
    return -1;
  return open_instance (in, true);
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
    read_link (next, &link);
    if (!has_chain (h->in) && create_on_base (h->in, size, &link) == -1)
      return -1;
    if (check_base (h->in, &link) == -1)
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
  struct handle *h = handle;

  if (h->pass)
    return next->pread (next, buf, count, offset, flags, err);
  return result (disk_pread (&h->in->disk, next, h->level, buf, count,
                             offset), err);
}

static int
diff_pwrite (nbdkit_next *next, void *handle, const void *buf,
             uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  struct handle *h = handle;

  return result (disk_pwrite (&h->in->disk, next, buf, count, offset, flags),
                 err);
}

static int
diff_flush (nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
  struct handle *h = handle;

  (void) flags;
  if (h->pass)
    return 0;                   /* it is read-only */
  return result (disk_flush (&h->in->disk, next, h->writable), err);
}

static int
diff_trim (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
           uint32_t flags, int *err)
{
  struct handle *h = handle;

  return result (disk_trim (&h->in->disk, next, count, offset, flags), err);
}

static int
diff_zero (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
           uint32_t flags, int *err)
{
  struct handle *h = handle;

  return result (disk_zero (&h->in->disk, next, count, offset, flags), err);
}

static int
diff_extents (nbdkit_next *next, void *handle, uint32_t count,
              uint64_t offset, uint32_t flags, struct nbdkit_extents *extents,
              int *err)
{
  struct handle *h = handle;

  if (h->pass)
    return next->extents (next, count, offset, flags, extents, err);
  return result (disk_extents (&h->in->disk, next, h->level, count, offset,
                               flags, extents), err);
}

static int
diff_cache (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
            uint32_t flags, int *err)
{
  struct handle *h = handle;

  if (h->pass)
    return next->cache (next, count, offset, flags, err);
  return result (disk_cache (&h->in->disk, next, h->level, count, offset),
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
