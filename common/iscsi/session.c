/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "cleanup.h"
#include "connect.h"
#include "gather.h"
#include "rounding.h"
#include "session.h"

/* Bits of a group's word. */
#define LEAD 1u                 /* this one has the lead, or is given it */
#define DONE 2u                 /* the last thing: the group may be gone */
#define ASLEEP 4u               /* or about to: wake it */

#define MAX_ATTENTIONS 30       /* unit attentions in a row */
#define MAX_FEW 5               /* tries after an aborted command */
#define SLOW_MS 60000           /* a living target may take so long for some */
#define YIELD_LIMIT_MS 3        /* others do more than what we wait for */
#define YIELD_PAUSE_MS 1000
#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS 2000
#define BACKOFF_IDLE_MS 10000   /* when nobody waits */

struct list {
  struct vd_scsi_cmd *first, *last;
};

struct vd_iscsi_session {
  const struct vd_iscsi_settings *settings;
  uint32_t isid;
  unsigned index;

  /* Commands on their way in, last first. */
  _Atomic (struct vd_scsi_cmd *) submitted;
  _Atomic unsigned running;     /* threads in vd_iscsi_run */
  _Atomic int64_t no_yield;     /* until then */

  pthread_mutex_t lock;         /* for all down to "the thread" */
  struct iscsi_context *ctx;    /* NULL: not connected */
  bool broken;                  /* to be torn down outside callbacks */
  bool tearing;                 /* callbacks tell of that */
  bool has_lead;
  bool polls_out;               /* who has the lead waits for room to write */
  unsigned generation;          /* of ctx */
  bool pinged;                  /* and nothing heard since */
  int64_t heard, ping_sent;     /* when */
  struct list waiting;          /* not sent, or to be sent again */
  struct list flying;           /* sent */
  struct vd_scsi_group *finished; /* to be told after the lock is released */
  uint32_t block_size;
  char last_error[512];

  int lead_kick;                /* eventfd: the leader should look again */

  /* The thread. */
  pthread_t thread;
  int thread_kick;              /* eventfd */
  _Atomic bool stop;
  pthread_mutex_t open_lock;
  pthread_cond_t open_cond;
  bool opened, open_failed;     /* under open_lock */
};

/* ---- small things ------------------------------------------------------ */

static void
append (struct list *l, struct vd_scsi_cmd *c)
{
  c->prev = l->last;
  c->next = NULL;
  *(l->last ? &l->last->next : &l->first) = c;
  l->last = c;
}

static void
take (struct list *l, struct vd_scsi_cmd *c)
{
  *(c->prev ? &c->prev->next : &l->first) = c->next;
  *(c->next ? &c->next->prev : &l->last) = c->prev;
  c->prev = c->next = NULL;
}

static void
kick (int fd)
{
  const uint64_t one = 1;

  (void) !write (fd, &one, sizeof one);
}

static void
swallow (int fd)
{
  uint64_t n;

  (void) !read (fd, &n, sizeof n);
}

static void
futex_wait (_Atomic uint32_t *word, uint32_t value)
{
  syscall (SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void
futex_wake (_Atomic uint32_t *word)
{
  syscall (SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Set bits and wake the thread if it sleeps.  After DONE the word may be gone
 * before it is woken, and who has its memory then wakes for nothing, which
 * futexes allow.
 */
static void
tell (_Atomic uint32_t *word, uint32_t bits)
{
  if (atomic_fetch_or (word, bits) & ASLEEP)
    futex_wake (word);
}

static bool
changes (const struct vd_scsi_cmd *c)
{
  return c->what == VD_SCSI_WRITE || c->what == VD_SCSI_UNMAP
    || c->what == VD_SCSI_WRITE_SAME || c->what == VD_SCSI_FLUSH;
}

/* Some commands take a while, and are no reason to suspect the target. */
static bool
slow (const struct vd_scsi_cmd *c)
{
  return c->what == VD_SCSI_FLUSH || c->what == VD_SCSI_UNMAP
    || c->what == VD_SCSI_WRITE_SAME;
}

/* ---- with the lock: results -------------------------------------------- */

/* c is in no list any more. */
static void
finish (struct vd_iscsi_session *s, struct vd_scsi_cmd *c, int error,
        bool no_answer)
{
  struct vd_scsi_group *g = c->group;

  c->error = error;
  c->no_answer = no_answer;
  if (--g->pending == 0) {
    g->next = s->finished;
    s->finished = g;
  }
}

/* The answer of c is there and judged: again, or done. */
static void
decide (struct vd_iscsi_session *s, struct vd_scsi_cmd *c)
{
  int64_t now = vd_iscsi_now ();

  take (&s->flying, c);
  c->tries++;
  switch (vd_scsi_judge (&c->result)) {
  case VD_SCSI_GOOD:
    finish (s, c, 0, false);
    return;
  case VD_SCSI_AGAIN:
    if (c->tries < MAX_ATTENTIONS) {
      c->not_before = 0;
      append (&s->waiting, c);
      return;
    }
    break;
  case VD_SCSI_FEW:
    if (c->tries >= MAX_FEW)
      break;
    /* Fall through. */
  case VD_SCSI_LATER:
    if (now - c->start < s->settings->timeout_ms) {
      /* 8 ms, doubled each time, and not all at once. */
      c->not_before = now + (8 << min_u64 (c->tries - 1, 7))
        + ((uintptr_t) c >> 6) % 8;
      append (&s->waiting, c);
      kick (s->thread_kick);
      return;
    }
    break;
  case VD_SCSI_FAILED:
    break;
  }
  finish (s, c, vd_scsi_errno (&c->result, changes (c)), false);
}

static void
command_done (struct iscsi_context *ctx, int status, void *data, void *opaque)
{
  struct vd_scsi_cmd *c = opaque;
  struct vd_iscsi_session *s = c->session;
  struct scsi_task *task = c->task;

  (void) ctx;
  (void) data;
  /* The library calls back from within the call that sends, if at all, only
   * after we know the task; but a task is not ours to free then.
   */
  if (task == NULL)
    return;
  c->task = NULL;
  if (s->tearing || status == SCSI_STATUS_CANCELLED
      || status == SCSI_STATUS_ERROR || status == SCSI_STATUS_TIMEOUT) {
    /* It stays among those that are flying, and will be sent again. */
    s->broken = true;
    scsi_free_scsi_task (task);
    return;
  }

  s->heard = vd_iscsi_now ();
  s->pinged = false;
  c->result = (struct vd_scsi_result) {
    .status = status,
    .key = task->sense.key,
    .ascq = task->sense.ascq,
  };
  if (c->what == VD_SCSI_READ || c->what == VD_SCSI_WRITE)
    c->result.short_data = task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL;
  else if (c->in && task->datain.data && task->datain.size > 0) {
    c->in_len = min_u64 (task->datain.size, c->in_size);
    memcpy (c->in, task->datain.data, c->in_len);
  }
  scsi_free_scsi_task (task);
  decide (s, c);
}

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

/* ---- with the lock: sending -------------------------------------------- */

/* One block of zeroes: a block is 64 KiB at most. */
static uint8_t zeroes[65536];

static struct scsi_task *
send_io (struct vd_iscsi_session *s, struct vd_scsi_cmd *c)
{
  const int lun = s->settings->address.lun;
  struct scsi_iovec *iov = (struct scsi_iovec *) &c->data;

  if (c->what == VD_SCSI_READ)
    return c->ten
      ? iscsi_read10_iov_task (s->ctx, lun, c->lba, c->data.iov_len,
                               c->block_size, 0, 0, 0, 0, 0, command_done, c,
                               iov, 1)
      : iscsi_read16_iov_task (s->ctx, lun, c->lba, c->data.iov_len,
                               c->block_size, 0, 0, 0, 0, 0, command_done, c,
                               iov, 1);
  return c->ten
    ? iscsi_write10_iov_task (s->ctx, lun, c->lba, NULL, c->data.iov_len,
                              c->block_size, 0, 0, c->fua, 0, 0, command_done,
                              c, iov, 1)
    : iscsi_write16_iov_task (s->ctx, lun, c->lba, NULL, c->data.iov_len,
                              c->block_size, 0, 0, c->fua, 0, 0, command_done,
                              c, iov, 1);
}

static struct scsi_task *
send_other (struct vd_iscsi_session *s, struct vd_scsi_cmd *c)
{
  const int lun = s->settings->address.lun;
  struct unmap_list list = { .lba = c->lba, .num = c->blocks };

  switch (c->what) {
  case VD_SCSI_FLUSH:
    return c->ten
      ? iscsi_synchronizecache10_task (s->ctx, lun, 0, 0, 0, 0,
                                       command_done, c)
      : iscsi_synchronizecache16_task (s->ctx, lun, 0, 0, 0, 0,
                                       command_done, c);
  case VD_SCSI_UNMAP:
    return iscsi_unmap_task (s->ctx, lun, 0, 0, &list, 1, command_done, c);
  case VD_SCSI_WRITE_SAME:
    return iscsi_writesame16_task (s->ctx, lun, c->lba, zeroes, c->block_size,
                                   c->blocks, 0, c->unmap, 0, 0,
                                   command_done, c);
  case VD_SCSI_LBA_STATUS:
    return iscsi_get_lba_status_task (s->ctx, lun, c->lba, c->in_size,
                                      command_done, c);
  case VD_SCSI_CAPACITY16:
    return iscsi_readcapacity16_task (s->ctx, lun, command_done, c);
  case VD_SCSI_CAPACITY10:
    return iscsi_readcapacity10_task (s->ctx, lun, 0, 0, command_done, c);
  case VD_SCSI_INQUIRY:
    return iscsi_inquiry_task (s->ctx, lun, c->page >= 0,
                               c->page >= 0 ? c->page : 0, 255,
                               command_done, c);
  case VD_SCSI_MODE_SENSE:
    return iscsi_modesense6_task (s->ctx, lun, 1, 0, 0x3f, 0, 255,
                                  command_done, c);
  default:
    return NULL;
  }
}

/* Queue what is waiting with libiscsi and write as much as the socket takes.
 */
static void
send_waiting (struct vd_iscsi_session *s)
{
  struct vd_scsi_cmd *c, *next;
  int64_t now = 0;
  bool sent = false;

  if (s->ctx == NULL || s->broken || s->waiting.first == NULL)
    return;
  now = vd_iscsi_now ();
  for (c = s->waiting.first; c; c = next) {
    next = c->next;
    if (c->not_before > now)
      continue;
    take (&s->waiting, c);
    append (&s->flying, c);
    c->sent = now;
    c->in_len = 0;
    c->task = c->what == VD_SCSI_READ || c->what == VD_SCSI_WRITE
      ? send_io (s, c) : send_other (s, c);
    if (c->task == NULL) {
      s->broken = true;
      return;
    }
    sent = true;
  }
  if (sent && iscsi_service (s->ctx, POLLOUT) < 0)
    s->broken = true;
}

/* Move what was submitted to the end of what waits, in order. */
static void
collect (struct vd_iscsi_session *s)
{
  struct vd_scsi_cmd *c, *next, *reversed = NULL;

  for (c = atomic_exchange (&s->submitted, NULL); c; c = next) {
    next = c->next;
    c->next = reversed;
    reversed = c;
  }
  if (reversed && s->ctx == NULL)
    kick (s->thread_kick);
  for (c = reversed; c; c = next) {
    next = c->next;
    append (&s->waiting, c);
  }
}

/* Give up a connection.  What was on its way waits for the next one. */
static void
tear_down (struct vd_iscsi_session *s)
{
  struct iscsi_context *ctx = s->ctx;
  struct vd_scsi_cmd *c;

  s->broken = false;
  if (ctx == NULL)
    return;
  if (s->last_error[0] == '\0')
    vd_iscsi_error_text (ctx, s->last_error, sizeof s->last_error);
  s->ctx = NULL;
  s->tearing = true;
  iscsi_destroy_context (ctx);
  s->tearing = false;
  s->broken = false;
  while ((c = s->flying.last) != NULL) {
    take (&s->flying, c);
    /* Not called back: nobody else knows the task. */
    if (c->task)
      scsi_free_scsi_task (c->task);
    c->task = NULL;
    c->not_before = 0;
    /* In front, in order. */
    c->next = s->waiting.first;
    c->prev = NULL;
    *(c->next ? &c->next->prev : &s->waiting.last) = c;
    s->waiting.first = c;
  }
  kick (s->lead_kick);
  kick (s->thread_kick);
}

/* Somebody must look at the socket if anything is on its way. */
static _Atomic uint32_t *
appoint (struct vd_iscsi_session *s)
{
  struct vd_scsi_cmd *c;

  if (s->has_lead || s->ctx == NULL)
    return NULL;
  /* The one that came last: he will have to wait longest, and every change of
   * the leader wakes somebody.
   */
  for (c = s->flying.last; c; c = c->prev)
    if (c->group->pending > 0) {
      s->has_lead = true;
      return &c->group->word;
    }
  return NULL;
}

/* Do what can be done now; revents of the socket, or 0. */
static void
work (struct vd_iscsi_session *s, int revents)
{
  if (revents && s->ctx && !s->broken
      && (iscsi_service (s->ctx, revents) < 0
          || (revents & (POLLERR | POLLHUP | POLLNVAL))))
    s->broken = true;
  collect (s);
  send_waiting (s);
  if (s->broken)
    tear_down (s);
}

static bool
wants_to_write (struct vd_iscsi_session *s)
{
  return s->ctx && (iscsi_which_events (s->ctx) & POLLOUT);
}

/* Release the lock, tell who is done, and look after what came meanwhile: who
 * submits and finds the lock taken relies on that.  Returns whether the caller
 * has the lead; for may be NULL.
 */
static bool
release (struct vd_iscsi_session *s, struct vd_scsi_group *want)
{
  bool lead = false;

  for (;;) {
    struct vd_scsi_group *g = s->finished, *next;
    _Atomic uint32_t *leader = NULL;

    s->finished = NULL;
    if (want && !s->has_lead && s->ctx && want->pending > 0)
      s->has_lead = lead = true;
    leader = appoint (s);
    /* Who polls does not know that the socket is full. */
    if (s->has_lead && !leader && !lead && !s->polls_out && wants_to_write (s))
      kick (s->lead_kick);
    /* The leader does not go before it is told to: DONE comes from here. */
    if (leader)
      tell (leader, LEAD);
    pthread_mutex_unlock (&s->lock);
    for (; g; g = next) {
      next = g->next;
      tell (&g->word, DONE);
    }
    if (atomic_load (&s->submitted) == NULL
        || pthread_mutex_trylock (&s->lock) != 0)
      return lead;
    work (s, 0);
  }
}

/* ---- who waits --------------------------------------------------------- */

/* Poll for all until the group is done or the connection lost.  LEAD has been
 * cleared from the word.
 */
static void
lead (struct vd_iscsi_session *s, struct vd_scsi_group *g)
{
  pthread_mutex_lock (&s->lock);
  for (;;) {
    struct pollfd pfd[2] = { { .fd = s->lead_kick, .events = POLLIN } };
    unsigned generation = s->generation;
    int n;

    if (s->ctx == NULL || g->pending == 0) {
      s->has_lead = false;
      s->polls_out = false;
      release (s, NULL);
      return;
    }
    pfd[1].fd = iscsi_get_fd (s->ctx);
    pfd[1].events = iscsi_which_events (s->ctx);
    n = pfd[1].events ? 2 : 1;
    s->polls_out = (pfd[1].events & POLLOUT) != 0;
    release (s, NULL);

    n = poll (pfd, n, 1000);
    if (n > 0 && pfd[0].revents)
      swallow (s->lead_kick);
    pthread_mutex_lock (&s->lock);
    /* What was polled may be another connection's descriptor by now. */
    work (s, n > 0 && generation == s->generation ? pfd[1].revents : 0);
  }
}

static void
wait_for (struct vd_iscsi_session *s, struct vd_scsi_group *g, bool leading)
{
  for (;;) {
    uint32_t w = atomic_load (&g->word);

    if (leading || (w & LEAD)) {
      atomic_fetch_and (&g->word, ~LEAD);
      lead (s, g);
      leading = false;
      continue;
    }
    if (w & DONE)
      return;
    if (!(w & ASLEEP)) {
      if (!atomic_compare_exchange_weak (&g->word, &w, w | ASLEEP))
        continue;
      w |= ASLEEP;
    }
    futex_wait (&g->word, w);
    atomic_fetch_and (&g->word, ~ASLEEP);
  }
}

/* Let others submit before what there is is sent, so that whoever comes back
 * first does it for all: the lock is taken and the target woken once.  (Each
 * command is still a send of its own, by libiscsi.)
 */
static void
let_others_submit (struct vd_iscsi_session *s, int64_t now)
{
  if (atomic_load (&s->running) < 2 || now < atomic_load (&s->no_yield))
    return;
  sched_yield ();
  /* Another process has this processor. */
  if (vd_iscsi_now () - now >= YIELD_LIMIT_MS)
    atomic_store (&s->no_yield, now + YIELD_PAUSE_MS);
}

void
vd_iscsi_run (struct vd_iscsi_session *s, struct vd_scsi_cmd *cmds, unsigned n)
{
  struct vd_scsi_group g = { .pending = n };
  int64_t now = vd_iscsi_now ();
  struct vd_scsi_cmd *head;
  bool leading = false;
  unsigned i;

  if (n == 0)
    return;
  if (s->settings->gather
      && (cmds[0].what == VD_SCSI_READ || cmds[0].what == VD_SCSI_WRITE))
    vd_iscsi_gather (now);
  atomic_fetch_add (&s->running, 1);
  for (i = 0; i < n; i++) {
    struct vd_scsi_cmd *c = &cmds[i];

    c->error = 0;
    c->no_answer = c->stalled = false;
    c->in_len = 0;
    c->result = (struct vd_scsi_result) { 0 };
    c->group = &g;
    c->session = s;
    c->task = NULL;
    c->start = now;
    c->not_before = 0;
    c->tries = c->stalls = 0;
    c->prev = NULL;
    c->next = i > 0 ? &cmds[i - 1] : NULL;
  }
  /* The last comes first. */
  head = atomic_load_explicit (&s->submitted, memory_order_relaxed);
  do
    cmds[0].next = head;
  while (!atomic_compare_exchange_weak (&s->submitted, &head, &cmds[n - 1]));

  let_others_submit (s, now);
  if (atomic_load (&s->submitted) != NULL
      && pthread_mutex_trylock (&s->lock) == 0) {
    work (s, 0);
    leading = release (s, &g);
  }
  wait_for (s, &g, leading);
  atomic_fetch_sub (&s->running, 1);
}

/* ---- the thread -------------------------------------------------------- */

/* With the lock: fail what has waited too long.  Memory of a command that
 * flies is libiscsi's as long as there is the connection.
 */
static void
expire (struct vd_iscsi_session *s, int64_t now)
{
  const int64_t limit = s->settings->timeout_ms;
  struct vd_scsi_cmd *c, *next;
  const bool alive = s->ctx && now - s->heard < limit / 2;

  for (c = s->flying.first; c; c = c->next) {
    if (slow (c) && alive && now - c->start < SLOW_MS)
      continue;
    if (now - c->start >= limit || now - c->sent >= limit / 2) {
      c->stalled = c->once && (s->heard > c->sent || ++c->stalls == 2);
      snprintf (s->last_error, sizeof s->last_error,
                "the target did not answer a command");
      s->broken = true;
      break;
    }
  }
  if (s->ctx && s->pinged && now - s->ping_sent >= limit / 4 + 1) {
    snprintf (s->last_error, sizeof s->last_error,
              "the target has not been heard of for %" PRIi64 " ms",
              now - s->heard);
    s->broken = true;
  }
  if (s->broken)
    tear_down (s);
  for (c = s->waiting.first; c; c = next) {
    next = c->next;
    if (now - c->start >= limit || c->stalled) {
      take (&s->waiting, c);
      if (c->result.status != 0)
        finish (s, c, vd_scsi_errno (&c->result, changes (c)), false);
      else
        finish (s, c, EIO, true);
    }
  }
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
  collect (s);
  expire (s, vd_iscsi_now ());
  release (s, NULL);
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
  release (s, NULL);
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
    work (s, 0);
  }
  else
    snprintf (s->last_error, sizeof s->last_error, "%s", why);
  release (s, NULL);
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

    work (s, poll (&pfd, 1, 0) > 0 ? pfd.revents : 0);
  }
  else
    work (s, 0);
  expire (s, now);
  ping (s, now);
  if (s->broken)
    tear_down (s);
  *ret_up = s->ctx != NULL;
  *ret_wanted = s->waiting.first != NULL;
  ms = next_look (s, now);
  release (s, NULL);
  return ms;
}

static void
pause_thread (struct vd_iscsi_session *s, int64_t ms)
{
  struct pollfd pfd = { .fd = s->thread_kick, .events = POLLIN };

  if (poll (&pfd, 1, ms) > 0)
    swallow (s->thread_kick);
}

static void *
session_thread (void *opaque)
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

/* ---- life -------------------------------------------------------------- */

static void
free_session (struct vd_iscsi_session *s)
{
  if (s->lead_kick != -1)
    close (s->lead_kick);
  if (s->thread_kick != -1)
    close (s->thread_kick);
  pthread_cond_destroy (&s->open_cond);
  pthread_mutex_destroy (&s->open_lock);
  pthread_mutex_destroy (&s->lock);
  free (s);
}

int
vd_iscsi_session_open (struct vd_ctx *ctx,
                       const struct vd_iscsi_settings *settings,
                       const char *name, uint32_t isid, unsigned index,
                       struct vd_iscsi_session **ret)
{
  struct vd_iscsi_session *s = calloc (1, sizeof *s);
  int r;

  if (s == NULL)
    return vd_error (ctx, ENOMEM, "%s: no memory for a session", name);
  s->settings = settings;
  s->isid = isid;
  s->index = index;
  pthread_mutex_init (&s->lock, NULL);
  pthread_mutex_init (&s->open_lock, NULL);
  pthread_cond_init (&s->open_cond, NULL);
  s->lead_kick = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  s->thread_kick = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (s->lead_kick == -1 || s->thread_kick == -1) {
    r = vd_error (ctx, errno, "%s: eventfd: %s", name, strerror (errno));
    free_session (s);
    return r;
  }
  r = pthread_create (&s->thread, NULL, session_thread, s);
  if (r != 0) {
    r = vd_error (ctx, r, "%s: a thread: %s", name, strerror (r));
    free_session (s);
    return r;
  }

  pthread_mutex_lock (&s->open_lock);
  while (!s->opened && !s->open_failed)
    pthread_cond_wait (&s->open_cond, &s->open_lock);
  pthread_mutex_unlock (&s->open_lock);
  if (s->open_failed) {
    char why[512];

    vd_iscsi_last_error (s, why, sizeof why);
    r = vd_error (ctx, EIO, "%s: cannot log in: %s", name, why);
    vd_iscsi_session_close (s);
    return r;
  }
  *ret = s;
  return 0;
}

void
vd_iscsi_session_close (struct vd_iscsi_session *s)
{
  if (s == NULL)
    return;
  atomic_store (&s->stop, true);
  kick (s->thread_kick);
  pthread_join (s->thread, NULL);
  assert (s->flying.first == NULL && s->waiting.first == NULL);
  if (s->ctx && !s->broken)
    vd_iscsi_disconnect (s->ctx, 500);
  else if (s->ctx)
    iscsi_destroy_context (s->ctx);
  free_session (s);
}

void
vd_iscsi_session_expect (struct vd_iscsi_session *s, uint32_t block_size)
{
  LOCK_SCOPE (&s->lock);
  s->block_size = block_size;
}

void
vd_iscsi_last_error (struct vd_iscsi_session *s, char *buf, size_t size)
{
  LOCK_SCOPE (&s->lock);
  snprintf (buf, size, "%s", s->last_error);
}
