/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The thread of an iSCSI session: it connects, and connects again, pings the
 * target, and sees to the time limits, so that requests need not.
 */

#include <config.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "cleanup.h"
#include "connect.h"
#include "rounding.h"
#include "session-private.h"

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS 2000
#define BACKOFF_IDLE_MS 10000   /* when nobody waits */

static void
ping_done (struct iscsi_context *ctx, int status, void *data, void *opaque)
{
  struct vd_iscsi_session *s = opaque;

  (void) ctx;
  (void) data;
  if (status != SCSI_STATUS_GOOD)
    return;
  s->heard = vd_iscsi_now ();
  s->pinged = false;
}

/* With the lock: ask whether the target is there. */
static void
ping (struct vd_iscsi_session *s, int64_t now)
{
  int64_t silence = now - s->heard;

  if (s->ctx == NULL || s->pinged)
    return;
  if (!(s->flying.first && silence >= s->settings->timeout_ms / 4)
      && !(s->settings->keepalive_ms && silence >= s->settings->keepalive_ms))
    return;
  s->pinged = true;
  s->ping_sent = now;
  if (iscsi_nop_out_async (s->ctx, ping_done, NULL, 0, s) != 0
      || iscsi_service (s->ctx, POLLOUT) < 0)
    s->broken = true;
}

/* While the thread is connecting. */
static bool
connecting_tick (void *opaque)
{
  struct vd_iscsi_session *s = opaque;

  if (atomic_load (&s->stop))
    return true;
  pthread_mutex_lock (&s->lock);
  vd_iscsi_session_collect (s);
  vd_iscsi_session_expire (s, vd_iscsi_now ());
  vd_iscsi_session_release (s, NULL);
  return false;
}

/* Returns whether there is a connection now. */
static bool
connect_now (struct vd_iscsi_session *s)
{
  const unsigned limit = s->settings->timeout_ms;
  struct vd_iscsi_connect how = {
    .settings = s->settings, .isid = s->isid, .index = s->index,
    .tick = connecting_tick, .opaque = s,
  };
  char why[512] = "";
  struct iscsi_context *ctx;

  pthread_mutex_lock (&s->lock);
  how.expect_block_size = s->block_size;
  vd_iscsi_session_release (s, NULL);
  /* A second try must be possible before the requests give up. */
  how.deadline = vd_iscsi_now ()
    + (how.expect_block_size ? max_u64 (limit / 2, 1000) : limit);
  ctx = vd_iscsi_connect (&how, why, sizeof why);
  pthread_mutex_lock (&s->lock);
  if (ctx) {
    s->ctx = ctx;
    s->generation++;
    s->broken = false;
    s->pinged = false;
    s->heard = vd_iscsi_now ();
    s->last_error[0] = '\0';
    vd_iscsi_session_work (s, 0);
  }
  else
    snprintf (s->last_error, sizeof s->last_error, "%s", why);
  vd_iscsi_session_release (s, NULL);
  return ctx != NULL;
}

static void
tell_opener (struct vd_iscsi_session *s, bool connected)
{
  LOCK_SCOPE (&s->open_lock);
  if (!s->opened && !s->open_failed) {
    *(connected ? &s->opened : &s->open_failed) = true;
    pthread_cond_signal (&s->open_cond);
  }
}

/* With the lock: when to look again. */
static int
next_look (struct vd_iscsi_session *s, int64_t now)
{
  int64_t ms = 1000, eighth = max_u64 (s->settings->timeout_ms / 8, 10);
  const struct vd_scsi_cmd *c;

  if (s->flying.first || s->waiting.first || s->pinged)
    ms = min_u64 (ms, eighth);
  for (c = s->waiting.first; s->ctx && c; c = c->next)
    if (c->not_before > 0)
      ms = c->not_before > now ? min_u64 (ms, c->not_before - now) : 0;
  return ms;
}

/* The work that a connection needs beside requests.  Returns when to look
 * again, in milliseconds; ret_up: there is one, ret_wanted: somebody waits.
 */
static int
look_after (struct vd_iscsi_session *s, bool *ret_up, bool *ret_wanted)
{
  int64_t now = vd_iscsi_now ();
  int ms;

  pthread_mutex_lock (&s->lock);
  if (s->ctx && !s->has_lead) {
    /* Pings of the target, and the end of the connection. */
    struct pollfd pfd = { .fd = iscsi_get_fd (s->ctx), .events = POLLIN };

    vd_iscsi_session_work (s, poll (&pfd, 1, 0) > 0 ? pfd.revents : 0);
  }
  else
    vd_iscsi_session_work (s, 0);
  vd_iscsi_session_expire (s, now);
  ping (s, now);
  if (s->broken)
    vd_iscsi_session_tear_down (s);
  *ret_up = s->ctx != NULL;
  *ret_wanted = s->waiting.first != NULL;
  ms = next_look (s, now);
  vd_iscsi_session_release (s, NULL);
  return ms;
}

static void
pause_thread (struct vd_iscsi_session *s, int64_t ms)
{
  struct pollfd pfd = { .fd = s->thread_kick, .events = POLLIN };

  if (poll (&pfd, 1, ms) > 0)
    vd_iscsi_swallow (s->thread_kick);
}

void *
vd_iscsi_session_thread (void *opaque)
{
  struct vd_iscsi_session *s = opaque;
  int64_t backoff = BACKOFF_FIRST_MS, next_try = INT64_MIN / 2;

  while (!atomic_load (&s->stop)) {
    bool up, wanted, connected;
    int ms = look_after (s, &up, &wanted);
    int64_t now = vd_iscsi_now ();

    if (up) {
      backoff = BACKOFF_FIRST_MS;
      pause_thread (s, ms);
      continue;
    }
    /* Longer if nobody is waiting; but who comes then is served soon. */
    if (now < next_try + (wanted ? 0 : BACKOFF_IDLE_MS)) {
      int64_t wait = next_try + (wanted ? 0 : BACKOFF_IDLE_MS) - now;

      pause_thread (s, wanted && ms < wait ? ms : wait);
      continue;
    }
    connected = connect_now (s);
    tell_opener (s, connected);
    if (connected)
      continue;
    next_try = vd_iscsi_now () + backoff;
    backoff = min_u64 (2 * backoff, BACKOFF_MAX_MS);
  }
  return NULL;
}
