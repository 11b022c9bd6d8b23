/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "rounding.h"

/* More than a test or a fuzzer's input needs; a hostile header must not make
 * us ask for terabytes.
 */
#define MEMORY_MAX (UINT64_C (1) << 30)

struct memory {
  struct vd_store st;
  pthread_rwlock_t lock;        /* covers all below */
  uint8_t *data;                /* bytes from size to capacity are zero */
  size_t size, capacity;
};

static const struct vd_store_ops memory_ops;

static struct memory *
memory_of (struct vd_store *st)
{
  assert (st->ops == &memory_ops);
  return (struct memory *) st;
}

/* Called with the lock held for writing. */
static int
resize (struct vd_ctx *ctx, struct memory *m, uint64_t size)
{
  if (size > MEMORY_MAX)
    return vd_error (ctx, ENOSPC,
                     "%s: %" PRIu64 " bytes are too many for a store in "
                     "memory", m->st.name, size);
  if (size > m->capacity) {
    size_t capacity = max_u64 (size, 2 * (uint64_t) m->capacity);
    uint8_t *data = realloc (m->data, capacity);

    if (data == NULL)
      return vd_error (ctx, ENOMEM, "%s: out of memory", m->st.name);
    memset (data + m->capacity, 0, capacity - m->capacity);
    m->data = data;
    m->capacity = capacity;
  }
  if (size < m->size)
    memset (m->data + size, 0, m->size - size);
  m->size = size;
  return 0;
}

static int
memory_get_size (struct vd_ctx *ctx, struct vd_store *st, uint64_t *ret)
{
  struct memory *m = memory_of (st);

  (void) ctx;
  pthread_rwlock_rdlock (&m->lock);
  *ret = m->size;
  pthread_rwlock_unlock (&m->lock);
  return 0;
}

static int
memory_preadv (struct vd_ctx *ctx, struct vd_store *st,
               struct iovec *iov, int niov, uint64_t offset)
{
  struct memory *m = memory_of (st);
  int i, r = 0;

  pthread_rwlock_rdlock (&m->lock);
  for (i = 0; i < niov; ++i) {
    if (iov[i].iov_len == 0)
      continue;
    if (offset > m->size || iov[i].iov_len > m->size - offset) {
      r = vd_error (ctx, EIO, "%s: read of %zu bytes at offset %" PRIu64
                    ": the file ends at %zu",
                    st->name, iov[i].iov_len, offset, m->size);
      break;
    }
    memcpy (iov[i].iov_base, m->data + offset, iov[i].iov_len);
    offset += iov[i].iov_len;
  }
  pthread_rwlock_unlock (&m->lock);
  return r;
}

static int
memory_pwritev (struct vd_ctx *ctx, struct vd_store *st,
                struct iovec *iov, int niov, uint64_t offset, unsigned flags)
{
  struct memory *m = memory_of (st);
  int i, r = 0;

  (void) flags;
  pthread_rwlock_wrlock (&m->lock);
  for (i = 0; i < niov; ++i) {
    if (iov[i].iov_len == 0)
      continue;
    if (offset + iov[i].iov_len > m->size) {
      r = resize (ctx, m, offset + iov[i].iov_len);
      if (r < 0)
        break;
    }
    memcpy (m->data + offset, iov[i].iov_base, iov[i].iov_len);
    offset += iov[i].iov_len;
  }
  pthread_rwlock_unlock (&m->lock);
  return r;
}

static int
memory_zero (struct vd_ctx *ctx, struct vd_store *st,
             uint64_t offset, uint64_t len, bool punch)
{
  struct memory *m = memory_of (st);
  int r = 0;

  (void) punch;
  pthread_rwlock_wrlock (&m->lock);
  /* A file would let this pass; here it shows a mistake of the caller. */
  if (offset > m->size || len > m->size - offset)
    r = vd_error (ctx, EIO, "%s: zero of %" PRIu64 " bytes at offset %" PRIu64
                  ": the file ends at %zu", st->name, len, offset, m->size);
  else
    memset (m->data + offset, 0, len);
  pthread_rwlock_unlock (&m->lock);
  return r;
}

static int
memory_truncate (struct vd_ctx *ctx, struct vd_store *st, uint64_t size)
{
  struct memory *m = memory_of (st);
  int r;

  pthread_rwlock_wrlock (&m->lock);
  r = resize (ctx, m, size);
  pthread_rwlock_unlock (&m->lock);
  return r;
}

static int
memory_allocate (struct vd_ctx *ctx, struct vd_store *st,
                 uint64_t offset, uint64_t len)
{
  struct memory *m = memory_of (st);
  int r = 0;

  pthread_rwlock_wrlock (&m->lock);
  if (offset + len > m->size)
    r = resize (ctx, m, offset + len);
  pthread_rwlock_unlock (&m->lock);
  return r;
}

static int
memory_sync (struct vd_ctx *ctx, struct vd_store *st)
{
  (void) ctx;
  (void) st;
  return 0;
}

static void
memory_close (struct vd_store *st)
{
  struct memory *m = memory_of (st);

  pthread_rwlock_destroy (&m->lock);
  free (m->data);
  free (m);
}

static const struct vd_store_ops memory_ops = {
  .kind = "memory",
  .get_size = memory_get_size,
  .preadv = memory_preadv,
  .pwritev = memory_pwritev,
  .zero = memory_zero,
  .truncate = memory_truncate,
  .allocate = memory_allocate,
  .sync = memory_sync,
  .close = memory_close,
};

int
vd_memory_open (struct vd_ctx *ctx, const char *name,
                const void *data, size_t size, bool writable,
                struct vd_store **ret)
{
  struct memory *m = calloc (1, sizeof *m);
  int r;

  if (m == NULL || vd_store_init (&m->st, &memory_ops, name, writable) < 0) {
    free (m);
    return vd_error (ctx, ENOMEM, "%s: out of memory", name);
  }
  pthread_rwlock_init (&m->lock, NULL);
  r = resize (ctx, m, size);
  if (r < 0) {
    vd_store_close (&m->st);
    return r;
  }
  if (data && size)
    memcpy (m->data, data, size);
  *ret = &m->st;
  return 0;
}

const uint8_t *
vd_memory_data (struct vd_store *st, size_t *ret_size)
{
  struct memory *m = memory_of (st);
  const uint8_t *data;

  pthread_rwlock_rdlock (&m->lock);
  data = m->data;
  *ret_size = m->size;
  pthread_rwlock_unlock (&m->lock);
  return data;
}
