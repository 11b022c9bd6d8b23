/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "rounding.h"
#include "sim-private.h"

void
sim_lock (const struct vd_sim *sim)
{
  pthread_mutex_lock (&((struct vd_sim *) sim)->lock);
}

void
sim_unlock (const struct vd_sim *sim)
{
  pthread_mutex_unlock (&((struct vd_sim *) sim)->lock);
}

struct vd_sim *
vd_sim_new (void)
{
  struct vd_sim *sim = calloc (1, sizeof *sim);

  if (sim)
    pthread_mutex_init (&sim->lock, NULL);
  return sim;
}

void
vd_sim_free (struct vd_sim *sim)
{
  size_t i;

  if (sim == NULL)
    return;
  for (i = 0; i < sim->nfiles; ++i) {
    free (sim->files[i]->name);
    sim_free_content (&sim->files[i]->now);
    sim_free_content (&sim->files[i]->base);
    free (sim->files[i]);
  }
  free (sim->files);
  for (i = 0; i < sim->nlog; ++i)
    free (sim->log[i].data);
  free (sim->log);
  pthread_mutex_destroy (&sim->lock);
  free (sim);
}

struct sim_file *
sim_add_file (struct vd_sim *sim, const char *name)
{
  struct sim_file *file = calloc (1, sizeof *file);
  struct sim_file **files = realloc (sim->files,
                                     (sim->nfiles + 1) * sizeof *files);

  if (files)
    sim->files = files;
  if (file)
    file->name = strdup (name);
  if (files == NULL || file == NULL || file->name == NULL) {
    if (file)
      free (file->name);
    free (file);
    return NULL;
  }
  sim->files[sim->nfiles++] = file;
  return file;
}

struct sim_file *
sim_find_file (const struct vd_sim *sim, const char *name)
{
  size_t i;

  for (i = 0; i < sim->nfiles; ++i)
    if (!sim->files[i]->removed && strcmp (sim->files[i]->name, name) == 0)
      return sim->files[i];
  return NULL;
}

struct sim_record *
sim_add_record (struct vd_sim *sim)
{
  if (sim->nlog == sim->log_room) {
    size_t room = sim->log_room ? 2 * sim->log_room : 64;
    struct sim_record *log = realloc (sim->log, room * sizeof *log);

    if (log == NULL)
      return NULL;
    sim->log = log;
    sim->log_room = room;
  }
  memset (&sim->log[sim->nlog], 0, sizeof sim->log[0]);
  return &sim->log[sim->nlog++];
}

bool
vd_sim_exists (const struct vd_sim *sim, const char *name)
{
  bool found;

  sim_lock (sim);
  found = sim_find_file (sim, name) != NULL;
  sim_unlock (sim);
  return found;
}

size_t
vd_sim_log_length (const struct vd_sim *sim)
{
  size_t n;

  sim_lock (sim);
  n = sim->nlog;
  sim_unlock (sim);
  return n;
}

/* ---- marks and faults ------------------------------------------------- */

void
vd_sim_mark (struct vd_sim *sim, uint64_t value)
{
  struct sim_record *rec;

  sim_lock (sim);
  rec = sim_add_record (sim);
  /* Without it a test would pass that should not. */
  if (rec == NULL)
    abort ();
  rec->kind = SIM_MARK;
  rec->value = value;
  sim_unlock (sim);
}

uint64_t
vd_sim_last_mark (const struct vd_sim *sim, size_t n)
{
  uint64_t value = 0;
  size_t i;

  sim_lock (sim);
  for (i = 0; i < n && i < sim->nlog; ++i)
    if (sim->log[i].kind == SIM_MARK)
      value = max_u64 (value, sim->log[i].value);
  sim_unlock (sim);
  return value;
}

void
vd_sim_fail_at (struct vd_sim *sim, uint64_t n, int err, bool sticky)
{
  sim_lock (sim);
  sim->fail_in = err ? n : 0;
  sim->fail_err = err;
  sim->fail_sticky = sticky;
  sim->fail_hit = false;
  sim_unlock (sim);
}

bool
vd_sim_fault_hit (const struct vd_sim *sim)
{
  bool hit;

  sim_lock (sim);
  hit = sim->fail_hit;
  sim_unlock (sim);
  return hit;
}

int
sim_fault (struct vd_ctx *ctx, struct vd_sim *sim, const char *name,
           const char *what)
{
  if (sim->fail_in == 0 || --sim->fail_in > 0)
    return 0;
  sim->fail_hit = true;
  if (sim->fail_sticky)
    sim->fail_in = 1;
  return vd_error (ctx, sim->fail_err, "%s: simulated fault in %s",
                   name, what);
}
