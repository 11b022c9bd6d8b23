/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "escape.h"
#include "limit.h"
#include "machine.h"
#include "vbox.h"

/* rules 6 */
#define MAX_ENTRIES 4096        /* of a folder */
#define MAX_READ 65536          /* bytes of a file that nobody has named */

#define REMARK 400              /* bytes of a text for a message */

/* A name of ours that may mean something else by the time when it is used: so
 * the file is kept with it (O_PATH), and what counts is the file.
 */
struct found {
  char *path;                   /* real */
  int fd;
};

/* An image beside the one in question. */
struct candidate {
  char *name;                   /* in its place */
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
  unsigned too_big;             /* files in which too much would have to be
                                   read */
  unsigned unread;              /* images that could not be read, */
  int unread_rank;              /* and the one that looks most like an image: */
  char unread_why[REMARK];
  bool listed;
  struct candidate *images;
  size_t nimages;
};

struct search {
  const struct vd_policy *policy;
  struct place *places;         /* the image's folder, the machine's, those
                                   that are allowed, those of the parents */
  size_t nplaces;
  char refused[REMARK];         /* why the name that was given for the parent
                                   is not followed; empty: none, or it is not
                                   there */
};

static void
found_free (struct found *f)
{
  free (f->path);
  if (f->fd > 0)
    close (f->fd);
  *f = (struct found) { 0 };
}

void
vd_files_free (struct vd_files *files)
{
  size_t i;

  for (i = 0; i < files->n; ++i) {
    free (files->paths[i]);
    close (files->fds[i]);
  }
  free (files->paths);
  free (files->fds);
  free (files->spoils);
  *files = (struct vd_files) { 0 };
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
 * do not lead out of the box.  fd is the file, and not fn's.
 */
static int
list_folder (struct vd_ctx *ctx, struct place *p, const char *const *suffixes,
             int (*fn) (struct vd_ctx *ctx, struct place *p, const char *name,
                        int fd, const struct stat *sb))
{
  struct dirent *d;
  unsigned n = 0;
  DIR *dir = opendir (p->folder);
  int r = dir ? 0 : -errno;

  if (vd_is_shortage (r))
    return vd_error (ctx, -r, "%s: list: %m", p->folder);
  if (!dir) {
    vd_debug (ctx, "%s: cannot be listed: %m", p->folder);
    return 0;
  }
  while (r == 0 && (d = readdir (dir))) {
    const char *const *suffix;
    struct vd_ctx quiet;
    struct stat sb;
    int fd;

    if (++n > MAX_ENTRIES + 2) {
      p->too_many = true;       /* which matters if a parent is not found */
      break;
    }
    for (suffix = suffixes; *suffix && !has_suffix (d->d_name, *suffix);
         ++suffix)
      ;
    if (!*suffix)
      continue;
    vd_ctx_init (&quiet, NULL);
    r = vd_folder_find (&quiet, p->box, d->d_name, false, &fd, NULL);
    if (vd_is_shortage (r)) {
      vd_error (ctx, -r, "%s", quiet.message);
      break;
    }
    if (r < 0) {
      r = 0;
      continue;
    }
    if (fstat (fd, &sb) == 0 && S_ISREG (sb.st_mode))
      r = fn (ctx, p, d->d_name, fd, &sb);
    close (fd);
  }
  closedir (dir);
  return r;
}

/* What a file of a folder is called in messages; NULL: no memory. */
static char *
shown_path (const struct place *p, const char *name)
{
  char shown[REMARK], *path;

  vd_escape (name, strlen (name), shown, sizeof shown);
  return asprintf (&path, "%s/%s", p->folder, shown) == -1 ? NULL : path;
}

static int
add_settings (struct vd_ctx *ctx, struct place *p, const char *name, int fd,
              const struct stat *sb)
{
  CLEANUP_FREE char *path = shown_path (p, name);
  struct vbox *v, **settings;
  int r;

  (void) sb;
  if (!path)
    return no_memory (ctx);
  r = vbox_read (ctx, path, fd, &v);
  if (vd_is_shortage (r))
    return r;
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

/* Look into the folder that holds this file (a real path, and what it stands
 * for if that was looked up already), too, if we do not yet.
 */
static int
add_place (struct vd_ctx *ctx, struct search *s, const char *inside, int fd,
           struct place **ret)
{
  static const char *const suffixes[] = { ".vbox", NULL };
  size_t n = strrchr (inside, '/') - inside, i;
  struct place *places, *p;
  int r;

  if (n == 0)
    n = 1;                      /* the root */
  for (i = 0; i < s->nplaces; ++i) {
    p = *ret = &s->places[i];
    if (strlen (p->folder) == n && strncmp (p->folder, inside, n) == 0)
      return 0;
  }
  places = realloc (s->places, (s->nplaces + 1) * sizeof places[0]);
  if (!places)
    return no_memory (ctx);
  s->places = places;
  p = *ret = &places[s->nplaces];
  memset (p, 0, sizeof *p);
  p->folder = strndup (inside, n);
  if (!p->folder)
    return no_memory (ctx);
  s->nplaces++;
  if (fd > 0)
    r = vd_folder_of_fd (ctx, inside, fd, s->policy, VD_LOCK_OFF, &p->box);
  else
    r = vd_folder_of (ctx, inside, s->policy, VD_LOCK_OFF, &p->box);
  return r < 0 ? r : list_folder (ctx, p, suffixes, add_settings);
}

/* The folder of this image, and the machine's. */
static int
add_places_of (struct vd_ctx *ctx, struct search *s, const char *path, int fd)
{
  CLEANUP_FREE char *folder = NULL;
  struct place *p;
  const char *last;
  int up, r;

  r = add_place (ctx, s, path, fd, &p);
  if (r < 0)
    return r;
  last = strrchr (p->folder, '/') + 1;
  if (strcmp (last, "Snapshots") != 0)
    return 0;
  folder = strdup (p->folder);
  if (!folder)
    return no_memory (ctx);
  r = vd_folder_find (ctx, p->box, ".", false, &up, NULL);
  if (r == 0) {
    r = add_place (ctx, s, folder, up, &p);
    close (up);
  }
  return r;
}

/* Where linked clones have their parents. */
static int
add_allowed_places (struct vd_ctx *ctx, struct search *s)
{
  const char *const *allowed = s->policy ? s->policy->allow_paths : NULL;
  int r = 0;

  for (; r == 0 && allowed && *allowed; ++allowed) {
    CLEANUP_FREE char *real = realpath (*allowed, NULL);
    CLEANUP_FREE char *inside = NULL;
    struct place *p;
    struct stat sb;

    if (!real || stat (real, &sb) == -1 || !S_ISDIR (sb.st_mode))
      continue;
    if (asprintf (&inside, "%s/x", real[1] ? real : "") == -1) {
      inside = NULL;
      return no_memory (ctx);
    }
    r = add_place (ctx, s, inside, -1, &p);
  }
  return r;
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
      free (p->images[j].name);
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
read_image (struct vd_ctx *ctx, const struct search *s,
            const struct found *f, struct vd_image **ret)
{
  const struct vd_open how = {
    .write = VD_WRITE_NO, .lock = VD_LOCK_OFF, .info = true,
    .policy = s->policy, .fd = f->fd,
  };

  return vd_image_open (ctx, f->path, &how, ret);
}

/* The same for a file of which nothing is known: only a little is read. */
static int
read_candidate (struct vd_ctx *ctx, const struct place *p, const char *name,
                int fd, struct vd_image **ret)
{
  const struct vd_open how = { .write = VD_WRITE_NO, .info = true };
  CLEANUP_FREE char *path = shown_path (p, name);
  struct vd_store *file, *limited;
  int r;

  if (!path)
    return no_memory (ctx);
  r = vd_file_open_fd (ctx, path, fd, false, VD_LOCK_OFF, NULL, &file);
  if (r == 0)
    r = vd_limit_new (ctx, file, MAX_READ, &limited);
  return r < 0 ? r : vd_image_open_store (ctx, limited, &how, ret);
}

/* Is a file of this name data of a VMDK, and no image by itself? */
static bool
is_extent_name (const char *name)
{
  static const char *const kinds[] = {
    "flat", "delta", "sesparse", "rdm", "rdmp", "ctk", "pt", NULL,
  };
  const char *kind = strrchr (name, '-'), *const *k;
  size_t n;

  if (!has_suffix (name, ".vmdk") || !kind++)
    return false;
  n = strcspn (kind, ".");
  for (k = kinds; *k; ++k)
    if (strlen (*k) == n && strncmp (*k, kind, n) == 0)
      return true;
  return (kind[0] == 's' || kind[0] == 'f') && n >= 4 &&
    strspn (kind + 1, "0123456789") == n - 1;
}

/* Perhaps it is the one that is looked for; then its damage is what the user
 * wants to hear of.
 */
static void
note_unread (struct place *p, const char *name, int r, const char *why)
{
  bool other = r == -EMEDIUMTYPE || r == -ENOTSUP;
  int rank = r == -EIO ? 3 : other ? 1 : 2;

  if (other && is_extent_name (name))
    return;
  p->unread++;
  if (rank <= p->unread_rank)
    return;
  p->unread_rank = rank;
  snprintf (p->unread_why, sizeof p->unread_why, "%s", why);
}

static int
add_candidate (struct vd_ctx *ctx, struct place *p, const char *name, int fd,
               const struct stat *sb)
{
  struct candidate *images;
  struct vd_image *image;
  struct vd_ctx quiet;
  int r;

  vd_ctx_init (&quiet, NULL);
  r = read_candidate (&quiet, p, name, fd, &image);
  if (vd_is_shortage (r))
    return vd_error (ctx, -r, "%s", quiet.message);
  if (r < 0) {
    vd_debug (ctx, "%s", quiet.message);
    if (r == -EFBIG)
      p->too_big++;             /* which matters likewise */
    else
      note_unread (p, name, r, quiet.message);
    return 0;
  }
  if (!vd_uuid_is_null (&image->link.uuid)) {
    images = realloc (p->images, (p->nimages + 1) * sizeof images[0]);
    if (images) {
      p->images = images;
      images += p->nimages;
      images->uuid = image->link.uuid;
      images->dev = sb->st_dev;
      images->ino = sb->st_ino;
      images->name = strdup (name);
    }
    if (images && images->name)
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
    r = list_folder (ctx, p, suffixes, add_candidate);
    if (r < 0)
      return r;
  }
  return 0;
}

/* ---- finding one parent ------------------------------------------------- */

/* The file of a name that an image or a settings file in this place gives, if
 * it may be opened; 0: found, 1: not there, or not allowed.
 */
static int
resolve (struct vd_ctx *ctx, struct search *s, const struct place *p,
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
  found_free (ret);
  return 1;
}

/* Also by its last part alone, beside the image: the hint may be a path of
 * the host where the snapshot was made (vmdk-format 10.4).
 */
static int
by_name (struct vd_ctx *ctx, struct search *s, const struct place *p,
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
has_uuid (const struct search *s, const struct found *f,
          const struct vd_uuid *uuid)
{
  struct vd_image *image;
  struct vd_ctx quiet;
  bool same;

  vd_ctx_init (&quiet, NULL);
  if (read_image (&quiet, s, f, &image) < 0)
    return true;                /* the opening will say what is wrong */
  same = vd_uuid_is_null (&image->link.uuid) ||
    vd_uuid_equal (&image->link.uuid, uuid);
  vd_image_close (&quiet, image);
  return same;
}

/* A name that leads to another image is worth less than the UUID. */
static int
by_name_and_uuid (struct vd_ctx *ctx, struct search *s,
                  const struct place *p, const char *name,
                  const struct vd_uuid *uuid, struct found *ret)
{
  int r = by_name (ctx, s, p, name, ret);

  if (r == 0 && !vd_uuid_is_null (uuid) && !has_uuid (s, ret, uuid)) {
    vd_debug (ctx, "%s: is not the image that is looked for", ret->path);
    found_free (ret);
    r = 1;
  }
  return r;
}

static int
by_settings (struct vd_ctx *ctx, struct search *s,
             const struct vd_uuid *uuid, struct found *ret)
{
  size_t i, j;
  int r = 1;

  for (i = 0; r == 1 && i < s->nplaces; ++i) {
    const struct place *p = &s->places[i];

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
  found_free (ret);
  return vd_error (ctx, ESTALE, "%s/%s: was replaced while it was opened",
                   p->folder, c->name);
}

static int
by_listing (struct vd_ctx *ctx, struct search *s, const char *child,
            const struct vd_uuid *uuid, struct found *ret)
{
  const struct candidate *first = NULL;
  const struct place *place = NULL;
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
                         "UUID %s, and two files have it: %s/%s and %s/%s; "
                         "say which with parent=FILE", child,
                         vd_uuid_text (uuid, text), place->folder,
                         first->name, s->places[i].folder, c->name);
      first = c;
      place = &s->places[i];
    }
  }
  return first ? find_again (ctx, place, first, ret) : 1;
}

/* The folders, for a message. */
static void
list_places (const struct search *s, char *ret, size_t size)
{
  size_t n = 0, i;

  *ret = '\0';
  for (i = 0; i < s->nplaces && n < size; ++i)
    n += snprintf (ret + n, size - n, "%s%s", i > 0 ? ", " : "",
                   s->places[i].folder);
  if (n >= size)
    strcpy (ret + size - 4, "...");
}

/* What was in the way, for a message: each begins with a semicolon. */
static void
list_obstacles (const struct search *s, char *ret, size_t size)
{
  const struct place *worst = NULL;
  unsigned unread = 0;
  size_t n = 0, i;

  *ret = '\0';
  for (i = 0; i < s->nplaces; ++i) {
    const struct place *p = &s->places[i];

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
not_found (struct vd_ctx *ctx, const struct search *s,
           const struct vd_image *child)
{
  const struct vd_link *l = &child->link;
  char what[400], uuid[VD_UUID_TEXT], hint[256] = "", places[REMARK];
  char more[100] = "", obstacles[2 * REMARK + 100];
  unsigned too_big = 0;
  size_t i;

  for (i = 0; i < s->nplaces; ++i) {
    if (s->places[i].too_many)
      return vd_error (ctx, EFBIG, "%s: is a differencing image, and %s has "
                       "more than %d entries, which is too many to look for "
                       "its parent in; name it with parent=FILE",
                       child->name, s->places[i].folder, MAX_ENTRIES);
    too_big += s->places[i].too_big;
  }
  list_places (s, places, sizeof places);
  list_obstacles (s, obstacles, sizeof obstacles);
  if (too_big)
    snprintf (more, sizeof more, " (but not at %u files, of which more than "
              "%d KiB would have to be read)", too_big, MAX_READ / 1024);
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

static int
find_parent (struct vd_ctx *ctx, struct search *s, const struct place *p,
             const struct vd_image *child, struct found *ret)
{
  const struct vd_link *l = &child->link;
  bool uuid = !vd_uuid_is_null (&l->parent);
  int r = 1;

  s->refused[0] = '\0';
  /* A hint is relative to the folder of the image that it is in. */
  if (l->parent_hint)
    r = by_name_and_uuid (ctx, s, p, l->parent_hint, &l->parent, ret);
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

/* Who writes to an image changes what those on top of it read.  Settings are
 * not proof (the snapshots may be gone), and whoever writes may mean it: so
 * this is for a warning.
 */
static int
find_children (struct vd_ctx *ctx, const struct search *s,
               const struct vd_image *image, char **ret)
{
  const struct vbox_disk *first = NULL;
  const char *settings = NULL;
  char shown[REMARK];
  size_t i, j, k;
  unsigned n = 0;

  *ret = NULL;
  if (vd_uuid_is_null (&image->link.uuid))
    return 0;
  for (i = 0; i < s->nplaces; ++i) {
    for (j = 0; j < s->places[i].nsettings; ++j) {
      const struct vbox *v = s->places[i].settings[j];

      for (k = 0; k < v->n; ++k) {
        if (!vd_uuid_equal (&v->disks[k].parent, &image->link.uuid))
          continue;
        n++;
        if (first)
          continue;
        first = &v->disks[k];
        settings = v->path;
      }
    }
  }
  if (!first)
    return 0;
  vd_escape (first->location, strlen (first->location), shown, sizeof shown);
  if (asprintf (ret, "%s: is opened for writing, but %s shows that it has "
                "children (%u, such as %s), which will not be right any more "
                "once it is written; serve the topmost image instead, or this "
                "one read-only", image->name, settings, n, shown) == -1) {
    *ret = NULL;
    return no_memory (ctx);
  }
  return 0;
}

/* A file that the user names. */
static int
find_named (struct vd_ctx *ctx, const char *path, struct found *ret)
{
  CLEANUP_FREE char *real = realpath (path, NULL);

  if (!real)
    return vd_error (ctx, errno, "%s: %m", path);
  ret->fd = open (real, O_PATH | O_CLOEXEC);
  if (ret->fd == -1)
    return vd_error (ctx, errno, "%s: open: %m", path);
  ret->path = real;
  real = NULL;
  return 0;
}

/* Look at the last file (the lowest image so far): 1 if *ret_parent is below
 * it, 0 if it is the base.
 */
static int
step (struct vd_ctx *ctx, struct search *s, const struct vd_search *how,
      struct vd_files *down, struct found *ret_parent)
{
  const struct found last = {
    .path = down->paths[down->n - 1], .fd = down->fds[down->n - 1],
  };
  struct place *place = NULL;
  struct vd_image *image;
  struct vd_ctx quiet;
  size_t i;
  int r;

  r = add_places_of (ctx, s, last.path, last.fd);
  if (r == 0 && down->n == 1)
    r = add_allowed_places (ctx, s);
  if (r == 0)                   /* the array may have moved */
    r = add_place (ctx, s, last.path, last.fd, &place);
  if (r == 0)
    r = read_image (ctx, s, &last, &image);
  if (r < 0)
    return r;
  r = check_encrypted (ctx, s, image);
  if (r == 0 && down->n == 1)
    r = find_children (ctx, s, image, &down->spoils);
  if (how->alone)
    ;
  else if (r == 0 && down->n == 1 && how->parent)
    r = find_named (ctx, how->parent, ret_parent);
  else if (r == 0 && image->differencing)
    r = find_parent (ctx, s, place, image, ret_parent);
  for (i = 0; r == 0 && ret_parent->path && i < down->n; ++i)
    if (strcmp (down->paths[i], ret_parent->path) == 0)
      r = vd_error (ctx, ELOOP, "%s: its parent would be %s, which is above "
                    "it already: a circle", image->name, ret_parent->path);
  vd_ctx_init (&quiet, NULL);
  vd_image_close (&quiet, image);
  if (r < 0) {
    found_free (ret_parent);
    return r;
  }
  return ret_parent->path != NULL;
}

static void
turn_round (struct vd_files *files)
{
  size_t i;

  for (i = 0; i < files->n / 2; ++i) {
    size_t j = files->n - 1 - i;
    char *path = files->paths[i];
    int fd = files->fds[i];

    files->paths[i] = files->paths[j];
    files->fds[i] = files->fds[j];
    files->paths[j] = path;
    files->fds[j] = fd;
  }
}

int
vd_find_chain (struct vd_ctx *ctx, const char *path,
               const struct vd_search *how, struct vd_files *ret)
{
  struct search s = { .policy = how->policy };
  struct vd_files files = {
    .paths = calloc (VD_CHAIN_MAX, sizeof files.paths[0]),
    .fds = calloc (VD_CHAIN_MAX, sizeof files.fds[0]),
  };
  struct found next = { 0 };
  int r;

  if (!files.paths || !files.fds)
    r = no_memory (ctx);
  else
    r = find_named (ctx, path, &next);
  if (r == 0)
    r = 1;
  while (r == 1) {
    if (files.n == VD_CHAIN_MAX) {
      found_free (&next);
      r = vd_error (ctx, ELOOP, "%s: has more than %d images below it", path,
                    VD_CHAIN_MAX - 1);
      break;
    }
    files.paths[files.n] = next.path;
    files.fds[files.n++] = next.fd;
    next = (struct found) { 0 };
    r = step (ctx, &s, how, &files, &next);
  }
  free_search (&s);
  if (r < 0) {
    vd_files_free (&files);
    return r;
  }
  /* Found from the top down, wanted from the base up. */
  turn_round (&files);
  *ret = files;
  return 0;
}

int
vd_check_settings (struct vd_ctx *ctx, const struct vd_chain *chain,
                   char **ret_spoils)
{
  const size_t n = vd_chain_length (chain);
  struct search s = { 0 };
  size_t i;
  int r = 0;

  *ret_spoils = NULL;
  for (i = 0; r == 0 && i < n; ++i) {
    const struct vd_image *image = vd_chain_image (chain, i);
    CLEANUP_FREE char *real = realpath (image->name, NULL);

    if (!real)
      r = vd_error (ctx, errno, "%s: %m", image->name);
    else
      r = add_places_of (ctx, &s, real, -1);
    if (r == 0)
      r = check_encrypted (ctx, &s, image);
  }
  if (r == 0)
    r = find_children (ctx, &s, vd_chain_image (chain, n - 1), ret_spoils);
  free_search (&s);
  return r;
}
