/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "escape.h"
#include "parent.h"

struct seeker {
  struct places *places;
  char refused[VD_REMARK];      /* why the name that was given for the parent
                                   is not followed; empty: none, or it is not
                                   there */
};

/* The file of a name that an image or a settings file in this place gives, if
 * it may be opened; 0: found, 1: not there, or not allowed.
 */
static int
resolve (struct vd_ctx *ctx, struct seeker *s, const struct place *p,
         const char *name, struct found *ret)
{
  struct vd_ctx quiet;
  struct stat sb;
  int r;

  vd_ctx_init (&quiet, ctx->log);
  r = vd_folder_find (&quiet, p->box, name, false, &ret->fd, &ret->path);
  if (vd_is_shortage (r))
    return vd_error (ctx, -r, "%s", quiet.message);
  if (r < 0) {
    vd_debug (ctx, "%s", quiet.message);
    if (r == -EACCES && !s->refused[0])
      snprintf (s->refused, sizeof s->refused, "%s", quiet.message);
    return 1;
  }
  if (fstat (ret->fd, &sb) == 0 && S_ISREG (sb.st_mode))
    return 0;
  vd_found_free (ret);
  return 1;
}

/* Also by its last part alone, beside the image: the hint may be a path of
 * the host where the snapshot was made (vmdk-format 10.4).
 */
static int
by_name (struct vd_ctx *ctx, struct seeker *s, const struct place *p,
         const char *name, struct found *ret)
{
  const char *last = name + strlen (name);
  int r = resolve (ctx, s, p, name, ret);

  if (r != 1)
    return r;
  while (last > name && last[-1] != '/' && last[-1] != '\\')
    last--;
  if (last == name || !*last)
    return 1;
  return resolve (ctx, s, p, last, ret);
}

static bool
has_uuid (const struct seeker *s, const struct found *f,
          const struct vd_uuid *uuid)
{
  struct vd_image *image;
  struct vd_ctx quiet;
  bool same;

  vd_ctx_init (&quiet, NULL);
  if (vd_found_read (&quiet, s->places->policy, f, &image) < 0)
    return true;                /* the opening will say what is wrong */
  same = vd_uuid_is_null (&image->link.uuid) ||
    vd_uuid_equal (&image->link.uuid, uuid);
  vd_image_close (&quiet, image);
  return same;
}

/* A name that leads to another image is worth less than the UUID. */
static int
by_name_and_uuid (struct vd_ctx *ctx, struct seeker *s,
                  const struct place *p, const char *name,
                  const struct vd_uuid *uuid, struct found *ret)
{
  int r = by_name (ctx, s, p, name, ret);

  if (r == 0 && !vd_uuid_is_null (uuid) && !has_uuid (s, ret, uuid)) {
    vd_debug (ctx, "%s: is not the image that is looked for", ret->path);
    vd_found_free (ret);
    r = 1;
  }
  return r;
}

static int
by_settings (struct vd_ctx *ctx, struct seeker *s,
             const struct vd_uuid *uuid, struct found *ret)
{
  size_t i, j;
  int r = 1;

  for (i = 0; r == 1 && i < s->places->n; ++i) {
    const struct place *p = &s->places->list[i];

    for (j = 0; r == 1 && j < p->nsettings; ++j) {
      const struct vbox_disk *d = vbox_find (p->settings[j], uuid);

      if (!d)
        continue;
      p->box->namer = p->settings[j]->path;
      r = by_name_and_uuid (ctx, s, p, d->location, uuid, ret);
      p->box->namer = NULL;
    }
  }
  return r;
}

/* The candidate once more, as a file. */
static int
find_again (struct vd_ctx *ctx, const struct place *p,
            const struct candidate *c, struct found *ret)
{
  struct stat sb;
  int r = vd_folder_find (ctx, p->box, c->name, false, &ret->fd, &ret->path);

  if (r < 0)
    return r;
  if (fstat (ret->fd, &sb) == 0 && sb.st_dev == c->dev && sb.st_ino == c->ino)
    return 0;
  vd_found_free (ret);
  return vd_error (ctx, ESTALE, "%s/%s: was replaced while it was opened",
                   p->folder, c->name);
}

static int
by_listing (struct vd_ctx *ctx, struct places *s, const char *child,
            const struct vd_uuid *uuid, struct found *ret)
{
  const struct candidate *first = NULL;
  const struct place *place = NULL;
  char text[VD_UUID_TEXT];
  size_t i, j;
  int r;

  r = vd_places_list_images (ctx, s);
  if (r < 0)
    return r;
  for (i = 0; i < s->n; ++i) {
    for (j = 0; j < s->list[i].nimages; ++j) {
      const struct candidate *c = &s->list[i].images[j];

      if (!vd_uuid_equal (&c->uuid, uuid) ||
          (first && first->dev == c->dev && first->ino == c->ino))
        continue;
      if (first)
        return vd_error (ctx, ENOTUNIQ, "%s: its parent is the image with "
                         "UUID %s, and two files have it: %s/%s and %s/%s; "
                         "say which with parent=FILE", child,
                         vd_uuid_text (uuid, text), place->folder,
                         first->name, s->list[i].folder, c->name);
      first = c;
      place = &s->list[i];
    }
  }
  return first ? find_again (ctx, place, first, ret) : 1;
}

/* The folders, for a message. */
static void
list_places (const struct places *s, char *ret, size_t size)
{
  size_t n = 0, i;

  *ret = '\0';
  for (i = 0; i < s->n && n < size; ++i)
    n += snprintf (ret + n, size - n, "%s%s", i > 0 ? ", " : "",
                   s->list[i].folder);
  if (n >= size)
    strcpy (ret + size - 4, "...");
}

/* What was in the way, for a message: each begins with a semicolon. */
static void
list_obstacles (const struct seeker *s, char *ret, size_t size)
{
  const struct place *worst = NULL;
  unsigned unread = 0;
  size_t n = 0, i;

  *ret = '\0';
  for (i = 0; i < s->places->n; ++i) {
    const struct place *p = &s->places->list[i];

    unread += p->unread;
    if (p->unread && (!worst || p->unread_rank > worst->unread_rank))
      worst = p;
  }
  if (unread == 1)
    n = snprintf (ret, size, "; a file there that cannot be read may be it: "
                  "%s", worst->unread_why);
  else if (unread)
    n = snprintf (ret, size, "; one of %u files there that cannot be read may "
                  "be it, such as %s", unread, worst->unread_why);
  if (s->refused[0] && n < size)
    snprintf (ret + n, size - n, "; %s", s->refused);
}

static int
not_found (struct vd_ctx *ctx, const struct seeker *s,
           const struct vd_image *child)
{
  const struct vd_link *l = &child->link;
  char what[400], uuid[VD_UUID_TEXT], hint[256] = "", places[VD_REMARK];
  char more[100] = "", obstacles[2 * VD_REMARK + 100];
  unsigned too_big = 0;
  size_t i;

  for (i = 0; i < s->places->n; ++i) {
    if (s->places->list[i].too_many)
      return vd_error (ctx, EFBIG, "%s: is a differencing image, and %s has "
                       "more than %d entries, which is too many to look for "
                       "its parent in; name it with parent=FILE",
                       child->name, s->places->list[i].folder,
                       VD_PLACE_ENTRIES);
    too_big += s->places->list[i].too_big;
  }
  list_places (s->places, places, sizeof places);
  list_obstacles (s, obstacles, sizeof obstacles);
  if (too_big)
    snprintf (more, sizeof more, " (but not at %u files, of which more than "
              "%d KiB would have to be read)", too_big, VD_PLACE_READ / 1024);
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
                   "there%s; name it with parent=FILE, put it there, or allow "
                   "its folder with allow-paths=DIR%s", child->name, what,
                   places, more, obstacles);
}

int
vd_find_parent (struct vd_ctx *ctx, struct places *places,
                const struct place *p, const struct vd_image *child,
                struct found *ret)
{
  const struct vd_link *l = &child->link;
  struct seeker s = { .places = places };
  bool uuid = !vd_uuid_is_null (&l->parent);
  int r = 1;

  /* A hint is relative to the folder of the image that it is in. */
  if (l->parent_hint)
    r = by_name_and_uuid (ctx, &s, p, l->parent_hint, &l->parent, ret);
  if (r == 1 && uuid)
    r = by_settings (ctx, &s, &l->parent, ret);
  if (r == 1 && uuid)
    r = by_listing (ctx, places, child->name, &l->parent, ret);
  return r == 1 ? not_found (ctx, &s, child) : r;
}
