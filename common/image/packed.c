/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Decoded blocks of compressed images, in bounded memory and shared by all
 * connections.  Several threads decode different blocks at once; one that
 * wants a block which another is decoding waits for that block only.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "engine.h"
#include "rounding.h"

#define CACHE_BYTES (16 * 1024 * 1024)
#define NR_SHARDS 16

enum entry_state { LOADING, READY, FAILED };

struct entry {
  struct entry *next;           /* in its bucket */
  struct entry *newer, *older;  /* in the shard's list of use */
  uint64_t block;
  size_t length;
  enum entry_state state;
  unsigned users;               /* who may look at data without the lock */
  char *data;
};

/* Buckets are few: a shard holds some tens of blocks. */
#define NR_BUCKETS 64

struct shard {
  pthread_mutex_t lock;
  pthread_cond_t loaded;
  struct entry *buckets[NR_BUCKETS];
  struct entry *newest, *oldest;
  size_t bytes;
};

struct vd_packed_cache {
  struct shard shards[NR_SHARDS];
};

int
vd_packed_init (struct vd_ctx *ctx, struct vd_image *image)
{
  struct vd_packed_cache *c = calloc (1, sizeof *c);
  unsigned i;

  if (!c)
    return vd_error (ctx, ENOMEM, "%s: no memory for decoded blocks",
                     image->name);
  for (i = 0; i < NR_SHARDS; ++i) {
    pthread_mutex_init (&c->shards[i].lock, NULL);
    pthread_cond_init (&c->shards[i].loaded, NULL);
  }
  image->engine->packed = c;
  return 0;
}

static void
free_entry (struct entry *en)
{
  free (en->data);
  free (en);
}

void
vd_packed_free (struct vd_packed_cache *c)
{
  unsigned i;

  if (!c)
    return;
  for (i = 0; i < NR_SHARDS; ++i) {
    struct shard *s = &c->shards[i];
    struct entry *en, *older;

    for (en = s->newest; en; en = older) {
      older = en->older;
      free_entry (en);
    }
    pthread_cond_destroy (&s->loaded);
    pthread_mutex_destroy (&s->lock);
  }
  free (c);
}

static unsigned
hash (uint64_t block)
{
  return (block >> 12) * UINT64_C (0x9e3779b97f4a7c15) >> 40;
}

static struct entry **
find (struct shard *s, uint64_t block)
{
  struct entry **p = &s->buckets[hash (block) / NR_SHARDS % NR_BUCKETS];

  while (*p && (*p)->block != block)
    p = &(*p)->next;
  return p;
}

static void
unlink_use (struct shard *s, struct entry *en)
{
  *(en->newer ? &en->newer->older : &s->newest) = en->older;
  *(en->older ? &en->older->newer : &s->oldest) = en->newer;
}

static void
link_newest (struct shard *s, struct entry *en)
{
  en->newer = NULL;
  en->older = s->newest;
  *(s->newest ? &s->newest->newer : &s->oldest) = en;
  s->newest = en;
}

/* Take an entry out of the shard: nobody new finds it. */
static void
detach (struct shard *s, struct entry *en)
{
  *find (s, en->block) = en->next;
  unlink_use (s, en);
  s->bytes -= en->length;
}

static void
make_room (struct shard *s)
{
  struct entry *en = s->oldest, *newer;

  for (; en && s->bytes > CACHE_BYTES / NR_SHARDS; en = newer) {
    newer = en->newer;
    if (en->users == 0) {
      detach (s, en);
      free_entry (en);
    }
  }
}

static struct entry *
new_entry (struct shard *s, struct entry **bucket_end, uint64_t block,
           size_t length)
{
  struct entry *en = calloc (1, sizeof *en);

  if (en)
    en->data = malloc (length);
  if (!en || !en->data) {
    free (en);
    return NULL;
  }
  en->block = block;
  en->length = length;
  en->state = LOADING;
  *bucket_end = en;
  link_newest (s, en);
  s->bytes += length;
  return en;
}

/* Get the block's entry, decoded, with a use counted.  The lock is held on
 * entry and return.
 */
static int
get (struct vd_ctx *ctx, struct vd_image *image, struct shard *s,
     uint64_t block, size_t length, struct entry **ret)
{
  struct entry *en, **p;
  int r = 0;

 again:
  p = find (s, block);
  en = *p;
  if (en) {
    en->users++;
    while (en->state == LOADING)
      pthread_cond_wait (&s->loaded, &s->lock);
    if (en->state == FAILED) {
      /* The one who failed has reported it in its own request; try again
       * for a message of ours.
       */
      if (--en->users == 0)
        free_entry (en);
      goto again;
    }
    unlink_use (s, en);
    link_newest (s, en);
    *ret = en;
    return 0;
  }

  en = new_entry (s, p, block, length);
  if (!en)
    return vd_error (ctx, ENOMEM, "%s: no memory to decode a block",
                     image->name);
  en->users = 1;
  make_room (s);
  pthread_mutex_unlock (&s->lock);
  r = image->format->unpack (ctx, image, block, en->data);
  pthread_mutex_lock (&s->lock);
  en->state = r < 0 ? FAILED : READY;
  pthread_cond_broadcast (&s->loaded);
  if (r < 0) {
    /* The last of those who wait frees it. */
    detach (s, en);
    if (--en->users == 0)
      free_entry (en);
    return r;
  }
  *ret = en;
  return 0;
}

int
vd_packed_pread (struct vd_ctx *ctx, struct vd_image *image,
                 uint64_t block, void *buf, size_t len, uint64_t offset)
{
  struct vd_packed_cache *c = image->engine->packed;
  struct shard *s = &c->shards[hash (block) % NR_SHARDS];
  uint64_t start, length;
  struct entry *en = NULL;
  int r;

  image->format->block_at (image, block, &start, &length);

  /* Who wants all of it needs no copy, and sequential readers (nbdcopy,
   * conversion) come back for nothing.
   */
  if (offset == block && len == length)
    return image->format->unpack (ctx, image, block, buf);

  LOCK_SCOPE (&s->lock);
  r = get (ctx, image, s, block, length, &en);
  if (r < 0)
    return r;
  pthread_mutex_unlock (&s->lock);
  memcpy (buf, en->data + (offset - block), len);
  pthread_mutex_lock (&s->lock);
  en->users--;
  make_room (s);
  return 0;
}
