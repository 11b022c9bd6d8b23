/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "escape.h"
#include "limit.h"
#include "places.h"

void
vd_found_free (struct found *f)
{
  free (f->path);
  if (f->fd > 0)
    close (f->fd);
  *f = (struct found) { 0 };
}

int
vd_places_no_memory (struct vd_ctx *ctx)
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
list_folder (struct vd_ctx *ctx, struct place *p,
             const char *const *suffixes,
             int (*fn) (struct vd_ctx *ctx, struct place *p,
                        const char *name, int fd, const struct stat *sb))
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

    if (++n > VD_PLACE_ENTRIES + 2) {
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
  char shown[VD_REMARK], *path;

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
    return vd_places_no_memory (ctx);
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
    return vd_places_no_memory (ctx);
  }
  p->settings = settings;
  settings[p->nsettings++] = v;
  return 0;
}

/* Look into the folder that holds this file (a real path, and what it stands
 * for if that was looked up already), too, if we do not yet.
 */
int
vd_places_add (struct vd_ctx *ctx, struct places *s, const char *inside,
               int fd, struct place **ret)
{
  static const char *const suffixes[] = { ".vbox", NULL };
  size_t n = strrchr (inside, '/') - inside, i;
  struct place *places, *p;
  int r;

  if (n == 0)
    n = 1;                      /* the root */
  for (i = 0; i < s->n; ++i) {
    p = *ret = &s->list[i];
    if (strlen (p->folder) == n && strncmp (p->folder, inside, n) == 0)
      return 0;
  }
  places = realloc (s->list, (s->n + 1) * sizeof places[0]);
  if (!places)
    return vd_places_no_memory (ctx);
  s->list = places;
  p = *ret = &places[s->n];
  memset (p, 0, sizeof *p);
  p->folder = strndup (inside, n);
  if (!p->folder)
    return vd_places_no_memory (ctx);
  s->n++;
  if (fd > 0)
    r = vd_folder_of_fd (ctx, inside, fd, s->policy, VD_LOCK_OFF, &p->box);
  else
    r = vd_folder_of (ctx, inside, s->policy, VD_LOCK_OFF, &p->box);
  return r < 0 ? r : list_folder (ctx, p, suffixes, add_settings);
}

/* The folder of this image, and the machine's. */
int
vd_places_add_of (struct vd_ctx *ctx, struct places *s, const char *path,
                  int fd)
{
  CLEANUP_FREE char *folder = NULL;
  struct place *p;
  const char *last;
  int up, r;

  r = vd_places_add (ctx, s, path, fd, &p);
  if (r < 0)
    return r;
  last = strrchr (p->folder, '/') + 1;
  if (strcmp (last, "Snapshots") != 0)
    return 0;
  folder = strdup (p->folder);
  if (!folder)
    return vd_places_no_memory (ctx);
  r = vd_folder_find (ctx, p->box, ".", false, &up, NULL);
  if (r == 0) {
    r = vd_places_add (ctx, s, folder, up, &p);
    close (up);
  }
  return r;
}

/* Where linked clones have their parents. */
int
vd_places_add_allowed (struct vd_ctx *ctx, struct places *s)
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
      return vd_places_no_memory (ctx);
    }
    r = vd_places_add (ctx, s, inside, -1, &p);
  }
  return r;
}

void
vd_places_free (struct places *s)
{
  size_t i, j;

  for (i = 0; i < s->n; ++i) {
    struct place *p = &s->list[i];

    for (j = 0; j < p->nsettings; ++j)
      vbox_free (p->settings[j]);
    for (j = 0; j < p->nimages; ++j)
      free (p->images[j].name);
    free (p->settings);
    free (p->images);
    free (p->folder);
    vd_folder_close (p->box);
  }
  free (s->list);
}

/* ---- what an image says ------------------------------------------------- */

/* Metadata only: no lock, no extents. */
int
vd_found_read (struct vd_ctx *ctx, const struct vd_policy *policy,
               const struct found *f, struct vd_image **ret)
{
  const struct vd_open how = {
    .write = VD_WRITE_NO, .lock = VD_LOCK_OFF, .info = true,
    .policy = policy, .fd = f->fd,
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
    return vd_places_no_memory (ctx);
  r = vd_file_open_fd (ctx, path, fd, false, VD_LOCK_OFF, NULL, &file);
  if (r == 0)
    r = vd_limit_new (ctx, file, VD_PLACE_READ, &limited);
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
add_candidate (struct vd_ctx *ctx, struct place *p, const char *name,
               int fd, const struct stat *sb)
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
      r = vd_places_no_memory (ctx);
  }
  vd_image_close (&quiet, image);
  return r;
}

int
vd_places_list_images (struct vd_ctx *ctx, struct places *s)
{
  static const char *const suffixes[] = { ".vdi", ".vmdk", NULL };
  size_t i;
  int r;

  for (i = 0; i < s->n; ++i) {
    struct place *p = &s->list[i];

    if (p->listed)
      continue;
    p->listed = true;
    r = list_folder (ctx, p, suffixes, add_candidate);
    if (r < 0)
      return r;
  }
  return 0;
}
