/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/parser.h>
#include <libxml/tree.h>

#include "cleanup.h"
#include "file.h"
#include "vbox.h"

#define MAX_DEPTH 512           /* of elements; libxml2 has a limit too */

static bool
is_element (const xmlNode *node, const char *name)
{
  return node->type == XML_ELEMENT_NODE &&
    xmlStrcmp (node->name, BAD_CAST name) == 0;
}

static bool
has_encryption (const xmlNode *disk)
{
  const xmlNode *node;

  for (node = disk->children; node; node = node->next) {
    xmlChar *name;
    bool crypt;

    if (!is_element (node, "Property"))
      continue;
    name = xmlGetProp ((xmlNode *) node, BAD_CAST "name");
    crypt = name && strncmp ((char *) name, "CRYPT/", 6) == 0;
    xmlFree (name);
    if (crypt)
      return true;
  }
  return false;
}

static int
add_disk (struct vd_ctx *ctx, struct vbox *v, xmlNode *node,
          const struct vd_uuid *parent, struct vd_uuid *ret_uuid)
{
  xmlChar *uuid = xmlGetProp (node, BAD_CAST "uuid");
  xmlChar *location = xmlGetProp (node, BAD_CAST "location");
  struct vbox_disk *disks;
  int r = 0;

  memset (ret_uuid, 0, sizeof *ret_uuid);
  if (!uuid || !location || !vd_uuid_parse ((char *) uuid, ret_uuid))
    goto out;                   /* iSCSI media have no location */
  disks = realloc (v->disks, (v->n + 1) * sizeof disks[0]);
  if (disks) {
    v->disks = disks;
    disks[v->n].uuid = *ret_uuid;
    disks[v->n].parent = *parent;
    disks[v->n].encrypted = has_encryption (node);
    disks[v->n].location = strdup ((char *) location);
  }
  if (!disks || !disks[v->n].location)
    r = vd_error (ctx, ENOMEM, "%s: no memory", v->path);
  else
    v->n++;
 out:
  xmlFree (uuid);
  xmlFree (location);
  return r;
}

/* HardDisk elements lie in MediaRegistry, nested as the images are stacked. */
static int
collect (struct vd_ctx *ctx, struct vbox *v, xmlNode *node,
         const struct vd_uuid *parent, unsigned depth)
{
  int r;

  if (depth > MAX_DEPTH)
    return vd_error (ctx, EIO, "%s: elements are nested more than %d deep",
                     v->path, MAX_DEPTH);
  for (node = node->children; node; node = node->next) {
    struct vd_uuid uuid = *parent;

    if (is_element (node, "HardDisk")) {
      r = add_disk (ctx, v, node, parent, &uuid);
      if (r < 0)
        return r;
    }
    if (node->type == XML_ELEMENT_NODE) {
      r = collect (ctx, v, node, &uuid, depth + 1);
      if (r < 0)
        return r;
    }
  }
  return 0;
}

static int
parse (struct vd_ctx *ctx, struct vbox *v, const char *text, size_t len)
{
  const struct vd_uuid none = { { 0 } };
  xmlNode *root;
  xmlDoc *doc;
  int r;

  doc = xmlReadMemory (text, len, NULL, NULL,
                       XML_PARSE_NONET | XML_PARSE_NOERROR |
                       XML_PARSE_NOWARNING);
  if (!doc)
    return vd_error (ctx, EIO, "%s: is not well-formed XML", v->path);
  root = xmlDocGetRootElement (doc);
  if (doc->intSubset || doc->extSubset)
    r = vd_error (ctx, EIO, "%s: has a document type (DOCTYPE), which "
                  "VirtualBox never writes: refused", v->path);
  else if (!root || !is_element (root, "VirtualBox"))
    r = vd_error (ctx, EIO, "%s: is not a VirtualBox settings file: its root "
                  "element is not VirtualBox", v->path);
  else
    r = collect (ctx, v, root, &none, 0);
  xmlFreeDoc (doc);
  return r;
}

static int
read_file (struct vd_ctx *ctx, const char *path, int fd, char **ret,
           size_t *ret_len)
{
  CLEANUP_FREE char *text = NULL;
  struct vd_store *store;
  uint64_t size = 0;
  int r;

  r = vd_file_open_fd (ctx, path, fd, false, VD_LOCK_OFF, NULL, &store);
  if (r < 0)
    return r;
  r = vd_store_get_size (ctx, store, &size);
  if (r == 0 && size > VBOX_MAX)
    r = vd_error (ctx, EFBIG, "%s: is larger than %d bytes", path, VBOX_MAX);
  if (r == 0) {
    text = malloc (size + 1);
    r = text ? vd_store_pread (ctx, store, text, size, 0)
      : vd_error (ctx, ENOMEM, "%s: no memory", path);
  }
  vd_store_close (store);
  if (r < 0)
    return r;
  *ret = text;
  text = NULL;
  *ret_len = size;
  return 0;
}

int
vbox_read (struct vd_ctx *ctx, const char *path, int fd, struct vbox **ret)
{
  CLEANUP_FREE char *text = NULL;
  struct vbox *v;
  size_t len = 0;
  int r;

  r = read_file (ctx, path, fd, &text, &len);
  if (r < 0)
    return r;
  v = calloc (1, sizeof *v);
  if (v)
    v->path = strdup (path);
  if (!v || !v->path) {
    free (v);
    return vd_error (ctx, ENOMEM, "%s: no memory", path);
  }
  r = parse (ctx, v, text, len);
  if (r < 0) {
    vbox_free (v);
    return r;
  }
  *ret = v;
  return 0;
}

void
vbox_free (struct vbox *v)
{
  size_t i;

  if (!v)
    return;
  for (i = 0; i < v->n; ++i)
    free (v->disks[i].location);
  free (v->disks);
  free (v->path);
  free (v);
}

const struct vbox_disk *
vbox_find (const struct vbox *v, const struct vd_uuid *uuid)
{
  size_t i;

  for (i = 0; i < v->n; ++i)
    if (vd_uuid_equal (&v->disks[i].uuid, uuid))
      return &v->disks[i];
  return NULL;
}
