/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The places where a machine's images may be: folders with their .vbox files
 * and, once somebody asks for them, their images (vd-semantics 18.4, rules 6).
 * Private to common/machine; nothing here is thread-safe.
 */

#ifndef VDKIT_PLACES_H
#define VDKIT_PLACES_H

#include <sys/types.h>

#include "folder.h"
#include "image.h"
#include "vbox.h"

/* rules 6 */
#define VD_PLACE_ENTRIES 4096   /* of a folder */
#define VD_PLACE_READ 65536     /* bytes of a file that nobody has named */

#define VD_REMARK 400           /* bytes of a text for a message */

/* A name of ours that may mean something else by the time when it is used: so
 * the file is kept with it (O_PATH), and what counts is the file.
 */
struct found {
  char *path;                   /* real */
  int fd;
};

extern void vd_found_free (struct found *f);

/* An image that lies there. */
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
  unsigned unread;              /* images that could not be read, and */
  int unread_rank;              /* the one that looks most like an image: */
  char unread_why[VD_REMARK];
  bool listed;
  struct candidate *images;
  size_t nimages;
};

/* Zeroed at first, but for the policy; for vd_places_free. */
struct places {
  const struct vd_policy *policy;
  struct place *list;           /* the image's folder, the machine's, those
                                   that are allowed, those of the parents;
                                   adding may move them */
  size_t n;
};

/* What follows returns 0, or a negative errno with a message. */

/* -ENOMEM, for all who look for parents. */
extern int vd_places_no_memory (struct vd_ctx *ctx);

/* Look into the folder that holds this file (a real path, and what it stands
 * for if that was looked up already, or -1), too, if we do not yet.
 */
extern int vd_places_add (struct vd_ctx *ctx, struct places *s,
                          const char *inside, int fd, struct place **ret);

/* The same for the folder of this image, and the machine's. */
extern int vd_places_add_of (struct vd_ctx *ctx, struct places *s,
                             const char *path, int fd);

/* The same for the folders that the policy allows, where linked clones have
 * their parents.
 */
extern int vd_places_add_allowed (struct vd_ctx *ctx, struct places *s);

/* Fill the places' images, if that was not done yet. */
extern int vd_places_list_images (struct vd_ctx *ctx, struct places *s);

extern void vd_places_free (struct places *s);

/* What an image says; metadata only: no lock, no extents. */
extern int vd_found_read (struct vd_ctx *ctx, const struct vd_policy *policy,
                          const struct found *f, struct vd_image **ret);

#endif /* VDKIT_PLACES_H */
