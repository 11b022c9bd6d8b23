/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "escape.h"
#include "machine.h"
#include "vbox.h"

#define MAX_ENTRIES 4096        /* of a folder (rules 6) */
#define MAX_CHAIN 250

/* An image beside the one in question. */
struct candidate {
  char *path;
  struct vd_uuid uuid;
  dev_t dev;
  ino_t ino;
};

struct place {
  char *folder;                 /* its real path */
  struct vd_folder *box;        /* names are looked up in here */
  struct vbox **settings;       /* the .vbox files in it */
  size_t nsettings;
  bool too_many;                /* entries, to look at all of them */
  bool listed;
  struct candidate *images;
  size_t nimages;
};

struct search {
  const struct vd_search *how;
  struct place *places;         /* the image's folder, the machine's, those
                                   that are allowed, those of the parents */
  size_t nplaces;
};

void
vd_paths_free (char **paths)
{
  size_t i;

  for (i = 0; paths && paths[i]; ++i)
    free (paths[i]);
  free (paths);
}

static int
no_memory (struct vd_ctx *ctx)
{
  return vd_error (ctx, ENOMEM, "no memory to look for parents");
}

/* ---- folders ------------------------------------------------------------ */

static bool
has_suffix (const char *name, const char *suffix)
{
  size_t n = strlen (name), m = strlen (suffix);

  return n > m && strcasecmp (name + n - m, suffix) == 0;
}

/* Call fn for the regular files of a folder that end so; links count if they
 * do not lead out of the box.
 */
static int
list_folder (struct vd_ctx *ctx, const struct search *s, struct place *p,
             const char *const *suffixes,
             int (*fn) (struct vd_ctx *ctx, const struct search *s,
                        struct place *p, const char *path,
                        const struct stat *sb))
{
  struct dirent *d;
  unsigned n = 0;
  DIR *dir = opendir (p->folder);
  int r = 0;

  if (!dir) {
    vd_debug (ctx, "%s: cannot be listed: %m", p->folder);
    return 0;
  }
  while (r == 0 && (d = readdir (dir))) {
    const char *const *suffix;
    CLEANUP_FREE char *path = NULL;
    struct vd_ctx quiet;
    struct stat sb;

    if (++n > MAX_ENTRIES + 2) {
      p->too_many = true;       /* which matters if a parent is not found */
      break;
    }
    for (suffix = suffixes; *suffix && !has_suffix (d->d_name, *suffix);
         ++suffix)
      ;
    if (!*suffix)
      continue;
    if (asprintf (&path, "%s/%s", p->folder, d->d_name) == -1) {
      path = NULL;
      r = no_memory (ctx);
      break;
    }
    vd_ctx_init (&quiet, NULL);
    if (vd_folder_stat (&quiet, p->box, d->d_name, false, &sb) == 0 &&
        S_ISREG (sb.st_mode))
      r = fn (ctx, s, p, path, &sb);
  }
  closedir (dir);
  return r;
}

static int
add_settings (struct vd_ctx *ctx, const struct search *s, struct place *p,
              const char *path, const struct stat *sb)
{
  struct vbox *v, **settings;
  int r;

  (void) s;
  (void) sb;
  r = vbox_read (ctx, path, &v);
  if (r < 0) {
    /* One that cannot be read is not a reason to refuse an image that may
     * not even be in it.
     */
    vd_warning (ctx, "%s; ignored", ctx->message);
    ctx->error = 0;
    return 0;
  }
  settings = realloc (p->settings, (p->nsettings + 1) * sizeof settings[0]);
  if (!settings) {
    vbox_free (v);
    return no_memory (ctx);
  }
  p->settings = settings;
  settings[p->nsettings++] = v;
  return 0;
}

/* Look into this folder, too, if we do not yet. */
static int
add_place (struct vd_ctx *ctx, struct search *s, const char *folder)
{
  static const char *const suffixes[] = { ".vbox", NULL };
  CLEANUP_FREE char *inside = NULL;
  struct place *places, *p;
  size_t i;
  int r;

  for (i = 0; i < s->nplaces; ++i)
    if (strcmp (s->places[i].folder, folder) == 0)
      return 0;
  places = realloc (s->places, (s->nplaces + 1) * sizeof places[0]);
  if (!places)
    return no_memory (ctx);
  s->places = places;
  p = &places[s->nplaces];
  memset (p, 0, sizeof *p);
  p->folder = strdup (folder);
  if (!p->folder || asprintf (&inside, "%s/x", folder) == -1) {
    inside = NULL;
    free (p->folder);
    return no_memory (ctx);
  }
  s->nplaces++;
  r = vd_folder_of (ctx, inside, s->how->policy, VD_LOCK_OFF, &p->box);
  return r < 0 ? r : list_folder (ctx, s, p, suffixes, add_settings);
}

/* The folder of this image (a real path), and the machine's. */
static int
add_places_of (struct vd_ctx *ctx, struct search *s, const char *path)
{
  CLEANUP_FREE char *folder = strdup (path);
  char *slash;
  int r;

  if (!folder)
    return no_memory (ctx);
  slash = strrchr (folder, '/');
  *slash = '\0';
  r = add_place (ctx, s, folder[0] ? folder : "/");
  if (r < 0)
    return r;
  slash = strrchr (folder, '/');
  if (!slash || strcmp (slash + 1, "Snapshots") != 0)
    return 0;
  *slash = '\0';
  return add_place (ctx, s, folder[0] ? folder : "/");
}

/* Where linked clones have their parents. */
static int
add_allowed_places (struct vd_ctx *ctx, struct search *s)
{
  const char *const *allowed =
    s->how->policy ? s->how->policy->allow_paths : NULL;
  int r = 0;

  for (; r == 0 && allowed && *allowed; ++allowed) {
    CLEANUP_FREE char *real = realpath (*allowed, NULL);
    struct stat sb;

    if (real && stat (real, &sb) == 0 && S_ISDIR (sb.st_mode))
      r = add_place (ctx, s, real);
  }
  return r;
}

/* The place that is the folder of this image; add_places_of was there. */
static const struct place *
place_of (const struct search *s, const char *path)
{
  size_t n = strrchr (path, '/') - path, i;

  if (n == 0)
    n = 1;                      /* the root */
  for (i = 0; i < s->nplaces; ++i)
    if (strlen (s->places[i].folder) == n &&
        strncmp (s->places[i].folder, path, n) == 0)
      return &s->places[i];
  return &s->places[0];
}

static void
free_search (struct search *s)
{
  size_t i, j;

  for (i = 0; i < s->nplaces; ++i) {
    struct place *p = &s->places[i];

    for (j = 0; j < p->nsettings; ++j)
      vbox_free (p->settings[j]);
    for (j = 0; j < p->nimages; ++j)
      free (p->images[j].path);
    free (p->settings);
    free (p->images);
    free (p->folder);
    vd_folder_close (p->box);
  }
  free (s->places);
}

/* ---- what an image says ------------------------------------------------- */

/* Metadata only: no lock, no extents. */
static int
read_image (struct vd_ctx *ctx, const struct search *s, const char *path,
            struct vd_image **ret)
{
  const struct vd_open how = {
    .write = VD_WRITE_NO, .lock = VD_LOCK_OFF, .info = true,
    .policy = s->how->policy,
  };

  return vd_image_open (ctx, path, &how, ret);
}

static int
add_candidate (struct vd_ctx *ctx, const struct search *s, struct place *p,
               const char *path, const struct stat *sb)
{
  struct candidate *images;
  struct vd_image *image;
  struct vd_ctx quiet;
  int r = 0;

  vd_ctx_init (&quiet, NULL);
  if (read_image (&quiet, s, path, &image) < 0)
    return 0;
  if (!vd_uuid_is_null (&image->link.uuid)) {
    images = realloc (p->images, (p->nimages + 1) * sizeof images[0]);
    if (images) {
      p->images = images;
      images += p->nimages;
      images->uuid = image->link.uuid;
      images->dev = sb->st_dev;
      images->ino = sb->st_ino;
      images->path = strdup (path);
    }
    if (images && images->path)
      p->nimages++;
    else
      r = no_memory (ctx);
  }
  vd_image_close (&quiet, image);
  return r;
}

static int
list_images (struct vd_ctx *ctx, struct search *s)
{
  static const char *const suffixes[] = { ".vdi", ".vmdk", NULL };
  size_t i;
  int r;

  for (i = 0; i < s->nplaces; ++i) {
    struct place *p = &s->places[i];

    if (p->listed)
      continue;
    p->listed = true;
    r = list_folder (ctx, s, p, suffixes, add_candidate);
    if (r < 0)
      return r;
  }
  return 0;
}

/* ---- finding one parent ------------------------------------------------- */

/* The real path of a name that an image or a settings file in this place
 * gives, if it may be opened; 0: found, 1: not there, or not allowed.
 */
static int
resolve (struct vd_ctx *ctx, const struct place *p, const char *name,
         char **ret)
{
  CLEANUP_FREE char *joined = NULL;
  struct vd_ctx quiet;
  struct stat sb;

  vd_ctx_init (&quiet, ctx->log);
  if (vd_folder_stat (&quiet, p->box, name, false, &sb) < 0) {
    vd_debug (ctx, "%s", quiet.message);
    return 1;
  }
  if (!S_ISREG (sb.st_mode))
    return 1;
  if (name[0] == '/')
    *ret = realpath (name, NULL);
  else if (asprintf (&joined, "%s/%s", p->folder, name) == -1)
    joined = NULL;
  else
    *ret = realpath (joined, NULL);
  return *ret ? 0 : 1;
}

/* Also by its last part alone, beside the image: the hint may be a path of
 * the host where the snapshot was made (vmdk-format 10.4).
 */
static int
by_name (struct vd_ctx *ctx, const struct place *p, const char *name,
         char **ret)
{
  const char *last = name + strlen (name);

  if (resolve (ctx, p, name, ret) == 0)
    return 0;
  while (last > name && last[-1] != '/' && last[-1] != '\\')
    last--;
  if (last == name || !*last)
    return 1;
  return resolve (ctx, p, last, ret);
}

static bool
has_uuid (const struct search *s, const char *path,
          const struct vd_uuid *uuid)
{
  struct vd_image *image;
  struct vd_ctx quiet;
  bool same;

  vd_ctx_init (&quiet, NULL);
  if (read_image (&quiet, s, path, &image) < 0)
    return true;                /* the opening will say what is wrong */
  same = vd_uuid_is_null (&image->link.uuid) ||
    vd_uuid_equal (&image->link.uuid, uuid);
  vd_image_close (&quiet, image);
  return same;
}

/* A name that leads to another image is worth less than the UUID. */
static int
by_name_and_uuid (struct vd_ctx *ctx, const struct search *s,
                  const struct place *p, const char *name,
                  const struct vd_uuid *uuid, char **ret)
{
  int r = by_name (ctx, p, name, ret);

  if (r == 0 && !vd_uuid_is_null (uuid) && !has_uuid (s, *ret, uuid)) {
    vd_debug (ctx, "%s: is not the image that is looked for", *ret);
    free (*ret);
    *ret = NULL;
    r = 1;
  }
  return r;
}

static int
by_settings (struct vd_ctx *ctx, const struct search *s,
             const struct vd_uuid *uuid, char **ret)
{
  size_t i, j;

  for (i = 0; i < s->nplaces; ++i) {
    const struct place *p = &s->places[i];

    for (j = 0; j < p->nsettings; ++j) {
      const struct vbox_disk *d = vbox_find (p->settings[j], uuid);

      if (d && by_name_and_uuid (ctx, s, p, d->location, uuid, ret) == 0)
        return 0;
    }
  }
  return 1;
}

static int
by_listing (struct vd_ctx *ctx, struct search *s, const char *child,
            const struct vd_uuid *uuid, char **ret)
{
  const struct candidate *first = NULL;
  char text[VD_UUID_TEXT];
  size_t i, j;
  int r;

  r = list_images (ctx, s);
  if (r < 0)
    return r;
  for (i = 0; i < s->nplaces; ++i) {
    for (j = 0; j < s->places[i].nimages; ++j) {
      const struct candidate *c = &s->places[i].images[j];

      if (!vd_uuid_equal (&c->uuid, uuid) ||
          (first && first->dev == c->dev && first->ino == c->ino))
        continue;
      if (first)
        return vd_error (ctx, ENOTUNIQ, "%s: its parent is the image with "
                         "UUID %s, and two files have it: %s and %s; say "
                         "which with parent=FILE", child,
                         vd_uuid_text (uuid, text), first->path, c->path);
      first = c;
    }
  }
  if (!first)
    return 1;
  *ret = realpath (first->path, NULL);
  return *ret ? 0 : 1;
}

static int
not_found (struct vd_ctx *ctx, const struct search *s,
           const struct vd_image *child)
{
  const struct vd_link *l = &child->link;
  char what[400], uuid[VD_UUID_TEXT], hint[256] = "", places[1024] = "";
  size_t n = 0, i;

  for (i = 0; i < s->nplaces; ++i) {
    if (s->places[i].too_many)
      return vd_error (ctx, EFBIG, "%s: is a differencing image, and %s has "
                       "more than %d entries, which is too many to look for "
                       "its parent in; name it with parent=FILE",
                       child->name, s->places[i].folder, MAX_ENTRIES);
    if (n < sizeof places)
      n += snprintf (places + n, sizeof places - n, "%s%s",
                     i > 0 ? ", " : "", s->places[i].folder);
  }
  if (l->parent_hint)
    vd_escape (l->parent_hint, strlen (l->parent_hint), hint, sizeof hint);
  if (!vd_uuid_is_null (&l->parent))
    snprintf (what, sizeof what, "UUID %s%s%s",
              vd_uuid_text (&l->parent, uuid), hint[0] ? ", file " : "", hint);
  else if (hint[0])
    snprintf (what, sizeof what, "file %s", hint);
  else if (l->has_cid && l->parent_cid != VD_CID_NONE)
    snprintf (what, sizeof what, "it says the CID only, %08" PRIx32,
              l->parent_cid);
  else
    return vd_error (ctx, EUNATCH, "%s: is a differencing image, and names no "
                     "parent; say what it is on with parent=FILE",
                     child->name);
  return vd_error (ctx, EUNATCH, "%s: is a differencing image, and its parent "
                   "was not found: %s; looked in %s and the .vbox files "
                   "there; name it with parent=FILE, put it there, or allow "
                   "its folder with allow-paths=DIR", child->name, what,
                   places);
}

static int
find_parent (struct vd_ctx *ctx, struct search *s, const char *path,
             const struct vd_image *child, char **ret)
{
  const struct vd_link *l = &child->link;
  bool uuid = !vd_uuid_is_null (&l->parent);
  int r = 1;

  /* A hint is relative to the folder of the image that it is in. */
  if (l->parent_hint)
    r = by_name_and_uuid (ctx, s, place_of (s, path), l->parent_hint,
                          &l->parent, ret);
  if (r == 1 && uuid)
    r = by_settings (ctx, s, &l->parent, ret);
  if (r == 1 && uuid)
    r = by_listing (ctx, s, child->name, &l->parent, ret);
  return r == 1 ? not_found (ctx, s, child) : r;
}

/* ---- the chain ----------------------------------------------------------- */

static int
check_encrypted (struct vd_ctx *ctx, const struct search *s,
                 const struct vd_image *image)
{
  size_t i, j;

  for (i = 0; i < s->nplaces; ++i) {
    for (j = 0; j < s->places[i].nsettings; ++j) {
      const struct vbox_disk *d =
        vbox_find (s->places[i].settings[j], &image->link.uuid);

      if (d && d->encrypted)
        return vd_error (ctx, ENOTSUP, "%s: is encrypted, as %s says (CRYPT/ "
                         "properties); decrypt it with VirtualBox first",
                         image->name, s->places[i].settings[j]->path);
    }
  }
  return 0;
}

/* Look at the last path (the lowest image so far): 1 if *ret_parent is below
 * it, 0 if it is the base.
 */
static int
step (struct vd_ctx *ctx, struct search *s, char **down, size_t n,
      char **ret_parent)
{
  struct vd_image *image;
  struct vd_ctx quiet;
  size_t i;
  int r;

  *ret_parent = NULL;
  r = add_places_of (ctx, s, down[n - 1]);
  if (r == 0 && n == 1)
    r = add_allowed_places (ctx, s);
  if (r == 0)
    r = read_image (ctx, s, down[n - 1], &image);
  if (r < 0)
    return r;
  r = check_encrypted (ctx, s, image);
  if (s->how->alone)
    ;
  else if (r == 0 && n == 1 && s->how->parent) {
    *ret_parent = realpath (s->how->parent, NULL);
    if (!*ret_parent)
      r = vd_error (ctx, errno, "%s: %m", s->how->parent);
  }
  else if (r == 0 && image->differencing)
    r = find_parent (ctx, s, down[n - 1], image, ret_parent);
  for (i = 0; r == 0 && *ret_parent && i < n; ++i)
    if (strcmp (down[i], *ret_parent) == 0)
      r = vd_error (ctx, ELOOP, "%s: its parent would be %s, which is above "
                    "it already: a circle", image->name, *ret_parent);
  vd_ctx_init (&quiet, NULL);
  vd_image_close (&quiet, image);
  if (r < 0) {
    free (*ret_parent);
    return r;
  }
  return *ret_parent != NULL;
}

int
vd_find_chain (struct vd_ctx *ctx, const char *path,
               const struct vd_search *how, char ***ret, size_t *ret_n)
{
  struct search s = { .how = how };
  char **paths = calloc (MAX_CHAIN + 1, sizeof paths[0]), *parent;
  size_t n = 0, i;
  int r;

  if (!paths)
    return no_memory (ctx);
  paths[n++] = realpath (path, NULL);
  if (!paths[0]) {
    r = vd_error (ctx, errno, "%s: %m", path);
    goto out;
  }
  while ((r = step (ctx, &s, paths, n, &parent)) == 1) {
    if (n == MAX_CHAIN) {
      free (parent);
      r = vd_error (ctx, ELOOP, "%s: has more than %d images below it", path,
                    MAX_CHAIN - 1);
      break;
    }
    paths[n++] = parent;
  }
  /* Found from the top down, wanted from the base up. */
  for (i = 0; r == 0 && i < n / 2; ++i) {
    char *t = paths[i];

    paths[i] = paths[n - 1 - i];
    paths[n - 1 - i] = t;
  }

 out:
  free_search (&s);
  if (r < 0) {
    vd_paths_free (paths);
    return r;
  }
  *ret = paths;
  *ret_n = n;
  return 0;
}
