/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "rounding.h"
#include "vmdk-esx.h"

/* A run ends after so many tables that had to be pinned (each may be a read
 * of its own), or directory entries that had to be looked at.
 */
#define MAX_TABLES 16
#define MAX_GDES 4096

static uint64_t
ngrains (const struct vmdk_extent *x, uint64_t grain)
{
  return div_round_up (x->size, grain);
}

uint64_t
esx_ngdes (const struct vmdk_extent *x, uint64_t grain)
{
  return div_round_up (ngrains (x, grain), ESX_GTES);
}

static uint64_t
entry_of (const struct esx_map *m, const struct vd_table_pin *pin, uint32_t i)
{
  uint64_t e = vd_table_entry (pin, i * m->kind->width);

  /* Both halves are in one page, as its size is even. */
  if (m->kind->width == 2)
    e |= (uint64_t) vd_table_entry (pin, i * 2 + 1) << 32;
  return e;
}

/* The table that a directory entry means: 0 and *ret 0 for none, or the
 * reason why it is damaged.
 */
static int
find_table (struct vd_ctx *ctx, const struct esx_map *m, uint64_t table,
            uint64_t *ret_entry, uint64_t *ret, const char **ret_reason)
{
  uint64_t n = min_u64 (ESX_GTES, m->ngrains - table * ESX_GTES);
  struct vd_table_pin pin;
  int r;

  r = vd_table_pin (ctx, m->gd, table * m->kind->width, &pin);
  if (r < 0)
    return r;
  *ret_entry = entry_of (m, &pin, 0);
  vd_table_unpin (m->gd, &pin);

  *ret = 0;
  *ret_reason = NULL;
  if (*ret_entry == 0)
    return 0;
  *ret_reason = m->kind->table_at (m, *ret_entry, ret);
  if (!*ret_reason && (*ret > m->file_size ||
                       n * m->kind->width * 4 > m->file_size - *ret))
    *ret_reason = "grain directory entry points beyond the end of the file";
  return 0;
}

/* struct vd_table_pieces: only tables that find_table found are asked for. */
static int
where (struct vd_ctx *ctx, void *opaque, uint64_t piece, uint64_t *ret)
{
  const struct esx_map *m = opaque;
  const char *reason;
  uint64_t entry;
  int r;

  r = find_table (ctx, m, piece, &entry, ret, &reason);
  if (r == 0 && reason)
    r = vd_error (ctx, EIO, "%s: %s (%" PRIu64 ")", m->store->name, reason,
                  entry);
  return r;
}

int
esx_open (struct vd_ctx *ctx, struct vmdk_extent *x,
          const struct vmdk_extent_ops *ops, const struct esx_map *how,
          uint64_t gd)
{
  struct esx_map *m = malloc (sizeof *m);
  struct vd_table_pieces pieces = { .entries = ESX_GTES * how->kind->width,
                                    .where = where, .opaque = m };
  int r;

  if (!m)
    return vd_error (ctx, ENOMEM, "%s: no memory for an extent",
                     x->image->name);
  *m = *how;
  m->store = x->store;
  m->ngrains = ngrains (x, m->grain);
  m->gd = m->gt = NULL;
  x->priv = m;
  r = vd_table_new (ctx, x->store, gd,
                    esx_ngdes (x, m->grain) * m->kind->width,
                    x->table_memory / 4, &m->gd);
  if (r == 0)
    r = vd_table_new_pieces (ctx, x->store, m->ngrains * m->kind->width,
                             &pieces, x->table_memory - x->table_memory / 4,
                             &m->gt);
  if (r < 0) {
    esx_close (x);
    return r;
  }
  x->grain = m->grain;
  snprintf (x->no_write, sizeof x->no_write, "%s", m->kind->read_only);
  x->ops = ops;
  return 0;
}

void
esx_close (struct vmdk_extent *x)
{
  struct esx_map *m = x->priv;

  if (!m)
    return;
  vd_table_free (m->gd);
  vd_table_free (m->gt);
  free (m);
  x->priv = NULL;
}

/* ---- locate ------------------------------------------------------------ */

/* Where a walk over grains is: in this table, which is pinned, or all of
 * which is as run says.
 */
struct cursor {
  bool valid, pinned;
  uint64_t table;
  struct vd_table_pin pin;
  uint64_t first;               /* grain of the pin's first entry */
  struct vd_run run;
  unsigned tables, gdes;        /* that were looked at */
};

static void
leave (const struct esx_map *m, struct cursor *c)
{
  if (c->valid && c->pinned)
    vd_table_unpin (m->gt, &c->pin);
  c->valid = false;
}

static void
bad (struct vd_run *run, const char *reason, uint64_t value)
{
  run->kind = VD_RUN_BAD;
  run->mode = VD_MODE_DENY;
  run->error = EIO;
  run->reason = reason;
  run->value = value;
}

/* Not BAD, and not to be written either. */
static void
good (const struct vmdk_extent *x, struct vd_run *run, enum vd_run_kind kind)
{
  const struct esx_map *m = x->priv;

  run->kind = kind;
  run->mode = VD_MODE_DENY;
  run->error = EPERM;
  run->reason = x->access == VMDK_RW ? m->kind->read_only
    : "the extent is RDONLY";
  run->value = x->number;
}

/* Move to the table of a grain. */
static int
enter (struct vd_ctx *ctx, const struct vmdk_extent *x, struct cursor *c,
       uint64_t grain)
{
  const struct esx_map *m = x->priv;
  uint64_t table = grain / ESX_GTES, entry, position;
  const char *reason;
  int r;

  if (c->valid && c->table == table)
    return 0;
  leave (m, c);
  c->gdes++;
  r = find_table (ctx, m, table, &entry, &position, &reason);
  if (r < 0)
    return r;
  c->run = (struct vd_run) { 0 };
  c->pinned = false;
  if (reason)
    bad (&c->run, reason, entry);
  else if (entry == 0)
    good (x, &c->run, VD_RUN_PARENT);
  else {
    c->tables++;
    r = vd_table_pin (ctx, m->gt, grain * m->kind->width, &c->pin);
    if (r < 0)
      return r;
    c->pinned = true;
    c->first = grain;
  }
  c->table = table;
  c->valid = true;
  return 0;
}

/* The run at offset: to the end of its grain, or of a table that has only one
 * kind.
 */
static int
run_at (struct vd_ctx *ctx, const struct vmdk_extent *x, struct cursor *c,
        uint64_t offset, uint64_t len, struct vd_run *ret)
{
  const struct esx_map *m = x->priv;
  uint64_t grain = offset / m->grain, in = offset % m->grain;
  uint64_t entry, position = 0;
  enum vd_run_kind kind;
  const char *reason;
  int r;

  r = enter (ctx, x, c, grain);
  if (r < 0)
    return r;
  if (!c->pinned) {
    *ret = c->run;
    ret->length = min_u64 (len, (c->table + 1) * ESX_GTES * m->grain - offset);
    return 0;
  }

  assert ((grain - c->first + 1) * m->kind->width <= c->pin.count);
  entry = entry_of (m, &c->pin, grain - c->first);
  reason = m->kind->grain_at (m, entry, &kind, &position);
  *ret = (struct vd_run) { .length = min_u64 (len, m->grain - in) };
  if (!reason && kind == VD_RUN_DATA) {
    position += in;
    if (position >= m->file_size)
      reason = "grain table entry points beyond the end of the file";
    else {
      ret->store = m->store;
      ret->position = position;
      ret->length = min_u64 (ret->length, m->file_size - position);
    }
  }
  if (reason)
    bad (ret, reason, entry);
  else
    good (x, ret, kind);
  return 0;
}

static bool
continues (const struct vd_run *run, const struct vd_run *next)
{
  if (run->kind != next->kind || run->reason != next->reason ||
      run->value != next->value)
    return false;
  return run->kind != VD_RUN_DATA ||
    run->position + run->length == next->position;
}

int
esx_locate (struct vd_ctx *ctx, struct vmdk_extent *x,
            uint64_t offset, uint64_t len, enum vd_locate what,
            struct vd_run *ret)
{
  struct cursor c = { .valid = false };
  struct vd_run run, next;
  int r;

  (void) what;
  r = run_at (ctx, x, &c, offset, len, &run);
  if (r < 0)
    return r;
  while (run.length < len && c.tables <= MAX_TABLES && c.gdes <= MAX_GDES) {
    if (run_at (ctx, x, &c, offset + run.length, len - run.length,
                &next) < 0) {
      /* What is known so far is an answer; the next call will fail. */
      ctx->error = 0;
      break;
    }
    if (!continues (&run, &next))
      break;
    run.length += next.length;
  }
  leave (x->priv, &c);
  *ret = run;
  return 0;
}
