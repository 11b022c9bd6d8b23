/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a format is to the core, and an image to a format.
 *
 * A format (common/vdi, common/vmdk, ...) fills one struct vd_format.  It
 * includes this header and those of io and utils, nothing else: it never
 * calls the engine, a chain or another format.  It answers one question,
 * "where is this byte range" (locate), and, if it can be written, implements
 * the writing verbs.  Everything else (partial blocks, zero and same-data
 * detection, locking, the order in which things reach the disk, extents) is
 * done once, above, by the engine in common/image.
 *
 * Units are bytes.  Functions return 0 or a negative errno after vd_error.
 */

#ifndef VDKIT_FORMAT_H
#define VDKIT_FORMAT_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../io/file.h"
#include "../io/folder.h"
#include "../io/partitions.h"
#include "../io/store.h"
#include "../io/table.h"
#include "../utils/uuid.h"

struct vd_image;
struct vd_engine;
struct vd_sink;

/* ---- where a byte range is ------------------------------------------- */

enum vd_run_kind {
  VD_RUN_PARENT,                /* not here: ask the parent, else zeroes */
  VD_RUN_ZERO,                  /* zeroes whatever the parent holds */
  VD_RUN_DATA,                  /* stored as is at store, position */
  VD_RUN_PACKED,                /* stored compressed: unpack the block */
  VD_RUN_BAD,                   /* damaged, or no access: error, reason */
};

enum vd_run_mode {
  VD_MODE_IN_PLACE,             /* DATA: may be overwritten where it is */
  VD_MODE_ALLOC,                /* a write must reserve and commit */
  VD_MODE_DENY,                 /* a write fails with error, reason */
  VD_MODE_DROP,                 /* ZERO: a write succeeds and is forgotten */
};

struct vd_run {
  enum vd_run_kind kind;
  enum vd_run_mode mode;
  uint64_t length;              /* >= 1, at most what was asked */
  struct vd_store *store;       /* DATA */
  uint64_t position;            /* DATA: in store */
  uint64_t block;               /* PACKED: disk offset where it starts */
  int error;                    /* BAD, DENY: errno > 0 */
  const char *reason;           /* BAD, DENY: static text */
  uint64_t value;               /* BAD, DENY: the value that was wrong */
};

enum vd_locate {
  VD_LOCATE_READ,               /* no I/O but for a table page */
  VD_LOCATE_MAP,                /* also ask for holes a target knows of */
};

/* ---- writing ---------------------------------------------------------- */

enum vd_state {
  VD_STATE_ZERO,
  VD_STATE_DATA,
};

/* A place for a block's data, reserved and not yet named by any entry. */
struct vd_place {
  struct vd_store *store;
  uint64_t position;            /* of the block's first byte */
  uint64_t value;               /* the format's own (an index, a sector) */
  bool fresh;                   /* reads as zeroes; else rests of old data */
};

/* ---- metadata --------------------------------------------------------- */

struct vd_geometry {
  uint32_t cylinders, heads, sectors;   /* all 0: not set */
};

#define VD_CID_NONE UINT32_MAX

/* How images know each other: VirtualBox by UUIDs, VMware by content IDs and
 * a file name.
 */
struct vd_link {
  struct vd_uuid uuid;          /* null: none */
  struct vd_uuid modification;
  struct vd_uuid parent;
  struct vd_uuid parent_modification;
  bool has_cid;                 /* then the rest counts */
  uint32_t cid;
  uint32_t parent_cid;          /* VD_CID_NONE: no parent */
  const char *parent_hint;      /* NULL: none; in the format's priv */
};

/* What vd_image_set_meta changes; NULL members stay as they are. */
struct vd_meta_change {
  const struct vd_uuid *uuid;
  const struct vd_uuid *modification;
  const struct vd_uuid *parent;
  const struct vd_uuid *parent_modification;
  const char *comment;
  const struct vd_geometry *lchs;
};

/* A disk of the host that a new image stands for. */
struct vd_raw {
  /* What the user wants. */
  const char *device;           /* path, absolute; the image names it so */
  const struct vd_raw_choice {
    unsigned number;
    bool readonly;
  } *choices;                   /* of its partitions */
  size_t nchoices;              /* 0: all of the disk, as it is */
  bool relative;                /* name the partitions' own devices */
  const char *boot_sector;      /* path of a file; NULL: the disk's own */
  const struct vd_policy *policy;       /* with which the image will be opened;
                                   NULL: none */

  /* What was found: vd_image_create sees to it, .check_create comes first. */
  struct vd_store *store;       /* the device, only to be read */
  uint64_t size;                /* a multiple of 512 */
  struct vd_partitions partitions;      /* with choices; they are all there,
                                   and none is an extended one */
  uint8_t boot[446];            /* of the file: the code in a boot sector */
  size_t boot_length;
};

struct vd_create {
  uint64_t size;                /* of the disk; 0: of raw->device */
  const char *variant;          /* NULL: the format's default */
  uint64_t block_size;          /* 0: default */
  uint64_t alignment;           /* of the data area, 0: default */
  bool force;                   /* allow what other tools may not read */
  const char *comment;          /* NULL: none */
  struct vd_geometry lchs, pchs;
  const char *adapter;          /* VMDK: adapter type, NULL: default */
  unsigned hw_version;          /* VMDK: 0: default */
  struct vd_link link;          /* null uuid and modification: random;
                                   a parent makes it a differencing image */
  const struct vd_raw *raw;     /* NULL: none; not all formats can */
  bool differencing;            /* also if the parent has no name to be known
                                   by (a raw disk); not all formats can */
};

/* ---- the image -------------------------------------------------------- */

/* What lies below a differencing image. */
struct vd_parent {
  uint64_t size;                /* beyond it everything reads as zeroes */
  void *opaque;
  int (*pread) (struct vd_ctx *ctx, void *opaque,
                void *buf, size_t len, uint64_t offset);
  /* As vd_image_extents; the range lies inside size. */
  int (*extents) (struct vd_ctx *ctx, void *opaque,
                  uint64_t offset, uint64_t len, bool one,
                  int (*fn) (void *fn_opaque, uint64_t offset, uint64_t len,
                             unsigned type),
                  void *fn_opaque);
};

struct vd_image {
  /* Set by the core before .open. */
  const struct vd_format *format;
  const char *name;             /* for messages */
  struct vd_store *store;       /* the file that was named */
  struct vd_folder *folder;     /* for files that it names; NULL: none */
  bool other_writer;            /* .open passes this to vd_folder_open */
  bool info;                    /* metadata only: no locate will be called,
                                   other files need not be opened */
  bool strict;                  /* refuse what OpenStack's gate refuses */
  bool write;                   /* opened for writing, if .open agrees */
  bool drop_gaps;               /* of vd_open */
  size_t table_memory;          /* bytes for table pages */
  struct vd_open_limit *open_limit;     /* of vd_open */

  /* Set by .open. */
  void *priv;
  uint64_t size;                /* of the disk */
  uint32_t block_size;          /* preferred, for hints and lock ranges; no
                                   block is larger */
  bool has_zero;                /* can store an explicit ZERO state */
  bool differencing;            /* needs a parent */
  bool fixed;                   /* all of it is allocated: cannot be a
                                   difference */
  bool front_to_back;           /* empty, and written through the sink */
  struct vd_link link;
  struct vd_geometry lchs;
  const char *comment;          /* NULL: none; not escaped; in priv */
  const char *variant;          /* "dynamic", "custom", ...: static text, or
                                   in priv and not escaped */
  char no_write[256];           /* why it must not be written; "": it may */

  /* Every file with data or tables of the image, store included.  .open adds
   * those it opens itself; the core syncs and closes them all.
   */
  struct vd_store **stores;
  size_t nstores;

  struct vd_engine *engine;     /* the core's own */
};

/* For .open: a file more.  It belongs to the image from now on, also if this
 * fails for want of memory (it is closed then).
 */
static inline int
vd_image_add_store (struct vd_ctx *ctx, struct vd_image *image,
                    struct vd_store *store)
{
  struct vd_store **stores =
    realloc (image->stores, (image->nstores + 1) * sizeof stores[0]);

  if (!stores) {
    vd_store_close (store);
    return vd_error (ctx, ENOMEM, "%s: no memory for its files", image->name);
  }
  image->stores = stores;
  stores[image->nstores++] = store;
  return 0;
}

/* ---- the format ------------------------------------------------------- */

/* A configuration key as VD's backend info has it, for --dump-plugin. */
struct vd_format_key {
  const char *name;
  const char *value;            /* default, "" if none */
};

struct vd_format {
  const char *name;             /* lower case, as in messages: "vdi" */
  const char *capabilities;     /* "uuid,create-fixed,...", vd-semantics 3.3 */
  const char *extensions;       /* "vdi" */
  const struct vd_format_key *keys;     /* ends with a NULL name */

  /* Does this file look like one of ours?  head holds the first n bytes
   * (512, or all the file has).  No I/O.
   */
  bool (*probe) (const uint8_t *head, size_t n);

  /* Parse image->store.  On failure everything allocated is freed. */
  int (*open) (struct vd_ctx *ctx, struct vd_image *image);
  /* Free priv.  Does no I/O; stores are closed by the core. */
  void (*close) (struct vd_image *image);

  /* Write a new image into an empty store, in the order of rules O16.  name
   * is the store's name in folder; further files go there too, and are
   * removed again on failure.  folder is NULL where there can be none.
   */
  int (*create) (struct vd_ctx *ctx, struct vd_store *store,
                 struct vd_folder *folder, const char *name,
                 const struct vd_create *how);
  /* Check how without doing anything (before the file is made). */
  int (*check_create) (struct vd_ctx *ctx, const struct vd_create *how);

  /* Start and length of the block that holds offset.  The length may reach
   * beyond the end of the disk.  NULL: the image has no blocks that could be
   * allocated.
   */
  void (*block_at) (const struct vd_image *image, uint64_t offset,
                    uint64_t *ret_start, uint64_t *ret_length);

  /* The state of the bytes from offset on, at most len (>= 1, inside the
   * disk): the longest run that is cheap to know.  Damage is a BAD run, not
   * an error; an error means that a table could not be read.
   */
  int (*locate) (struct vd_ctx *ctx, struct vd_image *image,
                 uint64_t offset, uint64_t len, enum vd_locate what,
                 struct vd_run *ret);

  /* PACKED: decode the block that starts there into buf (its whole length).
   * Thread-safe.
   */
  int (*unpack) (struct vd_ctx *ctx, struct vd_image *image,
                 uint64_t block, void *buf);

  /* Before the first stored byte of a session, durable on return: new
   * modification UUID (rules O3).
   */
  int (*begin_session) (struct vd_ctx *ctx, struct vd_image *image);

  /* Find a place that no live, queued or on-disk entry names, and make the
   * file cover the whole block.  -ENOSPC.  Thread-safe.
   */
  int (*reserve) (struct vd_ctx *ctx, struct vd_image *image,
                  uint64_t block, struct vd_place *ret);
  /* Give a place back; nothing ever named it. */
  void (*abandon) (struct vd_image *image, uint64_t block,
                   const struct vd_place *place);

  /* The block's new state, visible to readers on return.  place is NULL for
   * ZERO.  The caller holds the block exclusively and queues the change.
   * A failure leaves the old state.
   */
  int (*commit) (struct vd_ctx *ctx, struct vd_image *image,
                 uint64_t block, enum vd_state state,
                 const struct vd_place *place, uint64_t *ret_value);

  /* Flush round (rules O6).  write_tables is step (b): what must be durable
   * before entries are; called only if there are changes.  write_map is step
   * (d): these changes, sorted by block; where a block stands twice the last
   * one counts.  The engine syncs after each.
   */
  int (*write_tables) (struct vd_ctx *ctx, struct vd_image *image);
  int (*write_map) (struct vd_ctx *ctx, struct vd_image *image,
                    const struct vd_change *changes, size_t n);

  /* All entries are durable, no request is under way: tidy up (rules O14).
   * The engine syncs after it.
   */
  int (*end_session) (struct vd_ctx *ctx, struct vd_image *image);

  /* Change metadata outside of a session; the engine syncs after it. */
  int (*set_meta) (struct vd_ctx *ctx, struct vd_image *image,
                   const struct vd_meta_change *change);

  /* Formats that are written once, front to back (streamOptimized), have a
   * sink in place of reserve and commit.  put gets whole blocks (the last
   * one cut at the end of the disk) that are not all zeroes, one call at a
   * time, ascending; it may return before the block is stored.  finish makes
   * the file complete and durable; from then on locate finds what was put,
   * and no sooner is it asked.  close without finish leaves the file marked
   * as incomplete.  Used for images that set front_to_back.
   */
  struct vd_sink *(*sink_open) (struct vd_ctx *ctx, struct vd_image *image);
  int (*sink_put) (struct vd_ctx *ctx, struct vd_sink *sink,
                   uint64_t block, const void *buf, size_t len);
  int (*sink_finish) (struct vd_ctx *ctx, struct vd_sink *sink);
  void (*sink_close) (struct vd_sink *sink);    /* without finish: abort */
};

#endif /* VDKIT_FORMAT_H */
