/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "below.h"
#include "cleanup.h"
#include "lazy.h"
#include "machine.h"
#include "owners.h"
#include "parse.h"
#include "stack.h"

/* ---- the instances ----------------------------------------------------- */

int
stack_add (struct stack *s, nbdkit_backend *backend)
{
  const struct stack_params *p = &s->params;
  struct instance *in;
  unsigned k = s->n;

  if (k == 0) {
    s->instances = calloc (s->loads, sizeof s->instances[0]);
    if (!s->instances) {
      nbdkit_error ("calloc: %m");
      return -1;
    }
  }
  in = &s->instances[k];
  in->backend = backend;
  in->disk = (struct disk) DISK_INIT (s->log);
  in->disk.level_exports = !p->no_exports;
  in->innermost = k == s->loads - 1;
  if (in->innermost) {
    in->first = 0;
    in->n = p->n - (s->loads - 1);
  }
  else {
    in->first = p->n - 1 - k;
    in->n = 1;
  }
  s->n++;
  return 0;
}

struct instance *
stack_find (struct stack *s, nbdkit_backend *backend)
{
  unsigned k;

  for (k = 0; k < s->n; ++k)
    if (s->instances[k].backend == backend)
      return &s->instances[k];
  return NULL;
}

void
stack_free (struct stack *s)
{
  parse_free_strings (s->params.files);
  parse_free_strings (s->params.given);
  free (s->instances);
  vd_owner_pool_free (s->pool);
  vd_open_limit_free (s->open_limit);
}

bool
stack_has_chain (struct stack *s, const struct instance *in)
{
  LOCK_SCOPE (&s->lock);
  return in->disk.chain != NULL;
}

/* ---- opening ----------------------------------------------------------- */

static int
report (const struct vd_ctx *ctx, int r)
{
  if (r >= 0)
    return 0;
  disk_report (ctx, r);
  return -1;
}

static int
open_instance (struct stack *s, struct instance *in)
{
  const struct stack_params *p = &s->params;
  bool top = in == &s->instances[0];
  const struct vd_chain_open how = {
    .how = {
      .write = top && p->require ? VD_WRITE_REQUIRE : VD_WRITE_NO,
      .lock = p->lock,
      .honor_zeroes = p->honor_zeroes,
      .honor_same = p->honor_same,
      .open_limit = s->open_limit,
      .log = s->log,
    },
    .below = &diff_below,
    .pool = s->pool,
    .force_link = p->force_link,
  };
  struct vd_chain *chain;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, s->log);
  r = vd_chain_open (&ctx, (const char *const *) &p->files[in->first], in->n,
                     &how, &chain);
  if (r == 0) {
    r = vd_check_settings (&ctx, chain, &in->disk.spoils);
    if (r < 0) {
      struct vd_ctx quiet;

      vd_ctx_init (&quiet, NULL);
      vd_chain_close (&quiet, chain);
    }
  }
  if (r < 0)
    return report (&ctx, r);
  in->disk.chain = chain;
  /* Only the outermost is ever written. */
  in->disk.decided = !top || p->readonly || p->require;
  disk_warn_of_children (&in->disk);
  return 0;
}

static struct vd_chain_open
link_how (const struct stack *s)
{
  return (struct vd_chain_open) { .force_link = s->params.force_link };
}

/* The innermost first, each checked against those below it. */
static int
open_instances (struct stack *s)
{
  const struct vd_chain_open how = link_how (s);
  struct vd_ctx ctx;
  unsigned k;

  for (k = s->n; k-- > 0;) {
    struct instance *in = &s->instances[k];

    if (open_instance (s, in) == -1)
      return -1;
    if (in->innermost)
      continue;
    vd_ctx_init (&ctx, s->log);
    if (report (&ctx, vd_chain_stack (&ctx, in->disk.chain,
                                      s->instances[k + 1].disk.chain,
                                      &how)) == -1)
      return -1;
  }
  return 0;
}

/* ---- a new image on top ------------------------------------------------ */

static const char *
new_file (const struct stack *s)
{
  return s->params.files[s->params.n - 1];
}

/* The image under the top one, if that is one of ours; NULL: the layer below
 * the filter.
 */
static const char *
under_the_top (const struct stack *s)
{
  return s->params.n > 1 ? s->params.files[s->params.n - 2] : NULL;
}

static int
create_on (struct stack *s, uint64_t size, const struct vd_link *link,
           const char *name)
{
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, s->log);
  return report (&ctx, vd_chain_create_diff (&ctx, new_file (s),
                                             vd_format_by_name
                                             (s->params.create),
                                             s->params.lock, size, link,
                                             name));
}

/* Without its chain it is nothing, and in the way of the next attempt. */
static void
remove_new (struct stack *s)
{
  if (unlink (new_file (s)) == -1)
    nbdkit_error ("%s: was made and is of no use; unlink: %m", new_file (s));
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
create_top (struct stack *s)
{
  /* Not its metadata only, which lack the size of a VMDK. */
  const struct vd_open how = {
    .write = VD_WRITE_NO, .lock = s->params.lock, .log = s->log,
    .parent = &diff_below.disk, .stacked = true,
    .open_limit = s->open_limit,
  };
  const char *path = under_the_top (s);
  struct vd_image *image;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, s->log);
  if (report (&ctx, vd_image_open (&ctx, path, &how, &image)) == -1)
    return -1;
  r = create_on (s, image->size, &image->link, hint_to (path, new_file (s)));
  vd_image_close (&ctx, image);
  return r;
}

int
stack_get_ready (struct stack *s)
{
  if (s->ready)
    return 0;
  s->ready = true;
  disk_survive_file_size_limit ();
  disk_allow_many_files ();
  s->pool = vd_owner_pool_new (VD_OWNER_PAGES);
  s->open_limit = vd_open_limit_new (0);
  if (!s->pool || !s->open_limit) {
    nbdkit_error ("calloc: %m");
    return -1;
  }
  if (s->params.create && !under_the_top (s)) {
    if (access (new_file (s), F_OK) == 0) {
      nbdkit_error ("%s: exists already; diff-create= makes a new image",
                    new_file (s));
      return -1;
    }
    return 0;
  }
  if (s->params.create && create_top (s) == -1)
    return -1;
  if (open_instances (s) == 0)
    return 0;
  if (s->params.create)
    remove_new (s);
  return -1;
}

/* ---- the layer below, once it is known --------------------------------- */

static bool
same_link (const struct vd_link *a, const struct vd_link *b)
{
  return vd_uuid_equal (&a->uuid, &b->uuid) &&
    vd_uuid_equal (&a->modification, &b->modification) &&
    a->has_cid == b->has_cid && a->cid == b->cid;
}

/* Each connection has a layer below of its own, which could be another disk;
 * but what was said once is not said again.
 */
static int
check_base (struct stack *s, struct instance *in, const struct vd_link *link)
{
  const struct vd_chain_open how = link_how (s);
  struct vd_ctx ctx;

  vd_ctx_init (&ctx, s->log);
  if (in->base_checked && same_link (&in->base_link, link))
    return 0;
  if (vd_uuid_is_null (&link->uuid) && !link->has_cid)
    vd_debug (&ctx, "the layer below has no UUID to check the link to it by");
  else if (report (&ctx, vd_chain_check_below (&ctx, in->disk.chain, link,
                                               diff_below.name, &how)) == -1)
    return -1;
  in->base_checked = true;
  in->base_link = *link;
  return 0;
}

int
stack_first_client (struct stack *s, struct instance *in, uint64_t size,
                    const struct vd_link *link)
{
  LOCK_SCOPE (&s->lock);
  if (s->removed) {
    nbdkit_error ("%s: was removed, as its chain does not go with the layer "
                  "below; start nbdkit again with the right one", new_file (s));
    return -1;
  }
  if (!in->disk.chain) {
    if (create_on (s, size, link, NULL) == -1)
      return -1;
    if (open_instance (s, in) == -1) {
      remove_new (s);
      return -1;
    }
  }
  if (check_base (s, in, link) == 0)
    return 0;
  /* Nobody has had this chain yet, so there is nothing in the new image; and
   * there must not be from now on.
   */
  if (s->params.create && !in->base_checked) {
    remove_new (s);
    s->removed = true;
  }
  return -1;
}
