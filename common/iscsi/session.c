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
#include "processors.h"
#include "rounding.h"
#include "session-private.h"

/* Bits of a group's word. */
#define LEAD 1u                 /* this one has the lead, or is given it */
#define DONE 2u                 /* the last thing: the group may be gone */
#define ASLEEP 4u               /* or about to: wake it */

#define MAX_ATTENTIONS 30       /* unit attentions in a row */
#define MAX_FEW 5               /* tries after an aborted command */
#define SLOW_MS 60000           /* a living target may take so long for some */
#define YIELD_LIMIT_MS 3        /* others do more than what we wait for */
#define YIELD_PAUSE_MS 1000
#define COALESCE_LEVEL 2        /* of messages, as libiscsi counts */

/* ---- small things ------------------------------------------------------ */

static void
append (struct vd_scsi_list *l, struct vd_scsi_cmd *c)
{
  c->prev = l->last;
  c->next = NULL;
  *(l->last ? &l->last->next : &l->first) = c;
  l->last = c;
}

static void
take (struct vd_scsi_list *l, struct vd_scsi_cmd *c)
{
  *(c->prev ? &c->prev->next : &l->first) = c->next;
  *(c->next ? &c->next->prev : &l->last) = c->prev;
  c->prev = c->next = NULL;
}

void
vd_iscsi_kick (int fd)
{
  const uint64_t one = 1;

  (void) !write (fd, &one, sizeof one);
}

void
vd_iscsi_swallow (int fd)
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
      vd_iscsi_kick (s->thread_kick);
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
  s->answers++;
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

void
vd_iscsi_session_collect (struct vd_iscsi_session *s)
{
  struct vd_scsi_cmd *c, *next, *reversed = NULL;

  for (c = atomic_exchange (&s->submitted, NULL); c; c = next) {
    next = c->next;
    c->next = reversed;
    reversed = c;
  }
  if (reversed && s->ctx == NULL)
    vd_iscsi_kick (s->thread_kick);
  for (c = reversed; c; c = next) {
    next = c->next;
    append (&s->waiting, c);
  }
}

void
vd_iscsi_session_tear_down (struct vd_iscsi_session *s)
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
  vd_iscsi_kick (s->lead_kick);
  vd_iscsi_kick (s->thread_kick);
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

void
vd_iscsi_session_work (struct vd_iscsi_session *s, int revents)
{
  if (revents && s->ctx && !s->broken
      && (iscsi_service (s->ctx, revents) < 0
          || (revents & (POLLERR | POLLHUP | POLLNVAL))))
    s->broken = true;
  vd_iscsi_session_collect (s);
  send_waiting (s);
  if (s->broken)
    vd_iscsi_session_tear_down (s);
}

static bool
wants_to_write (struct vd_iscsi_session *s)
{
  return s->ctx && (iscsi_which_events (s->ctx) & POLLOUT);
}

bool
vd_iscsi_session_release (struct vd_iscsi_session *s,
                          struct vd_scsi_group *want)
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
      vd_iscsi_kick (s->lead_kick);
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
    vd_iscsi_session_work (s, 0);
  }
}

/* ---- with the lock: time limits ---------------------------------------- */

/* Memory of a command that flies is libiscsi's as long as there is the
 * connection.
 */
void
vd_iscsi_session_expire (struct vd_iscsi_session *s, int64_t now)
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
    vd_iscsi_session_tear_down (s);
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

/* ---- who waits --------------------------------------------------------- */

static void
decide_on_pauses (struct vd_iscsi_session *s, int64_t now, unsigned in_flight)
{
  struct vd_coalesce *c = &s->coalesce;
  const unsigned slice = c->slice;
  const int64_t used = vd_iscsi_cpu_time ();
  char text[80];

  if (used < 0)
    return;
  vd_coalesce_decide (c, now, used, s->answers, in_flight);
  if (s->settings->log_level < COALESCE_LEVEL)
    return;
  if (slice == 0 && c->slice)
    snprintf (text, sizeof text, "trying to take answers together, every %u us",
              c->tried);
  else if (slice && c->slice == 0)
    snprintf (text, sizeof text, "answers are taken %s (%" PRIu64 " and %"
              PRIu64 " per second)", c->pause ? "together" : "as they come",
              c->rate[1] * 2 / slice, c->rate[0] * 2 / slice);
  else
    return;
  s->settings->lib_log (COALESCE_LEVEL, text);
}

/* With the lock: for how long answers are left to come, in microseconds. */
static unsigned
current_pause (struct vd_iscsi_session *s)
{
  const unsigned in_flight = atomic_load (&s->running);
  const struct vd_scsi_cmd *c = s->flying.first;
  const int64_t now = vd_iscsi_now ();

  if (!s->settings->coalesce)
    return 0;
  if (now >= s->coalesce.next)
    decide_on_pauses (s, now, in_flight);
  return in_flight >= VD_COALESCE_FLIGHT && c
    && c->data.iov_len <= VD_COALESCE_BYTES ? s->coalesce.pause : 0;
}

/* Without the lock: wait for the socket, or, with a pause, for the end of that
 * and then take the socket for readable.  The target's answers wake nobody
 * meanwhile; lead_kick does.
 */
static bool
wait_for_socket (struct pollfd pfd[2], unsigned pause)
{
  const struct timespec t = { .tv_nsec = pause * 1000L };

  if (pause == 0)
    return poll (pfd, pfd[1].events ? 2 : 1, 1000) > 0;
  if (ppoll (pfd, 1, &t, NULL) < 0)
    return false;
  pfd[1].revents = POLLIN;
  return true;
}

/* Poll for all until the group is done or the connection lost.  LEAD has been
 * cleared from the word.
 */
static void
lead (struct vd_iscsi_session *s, struct vd_scsi_group *g)
{
  bool in_vain = false;         /* the last pause: nothing had come */

  pthread_mutex_lock (&s->lock);
  for (;;) {
    struct pollfd pfd[2] = { { .fd = s->lead_kick, .events = POLLIN } };
    unsigned generation = s->generation, pause;
    uint64_t answers = s->answers;
    bool ready;

    if (s->ctx == NULL || g->pending == 0) {
      s->has_lead = false;
      s->polls_out = false;
      vd_iscsi_session_release (s, NULL);
      return;
    }
    pfd[1].fd = iscsi_get_fd (s->ctx);
    pfd[1].events = iscsi_which_events (s->ctx);
    s->polls_out = (pfd[1].events & POLLOUT) != 0;
    pause = in_vain || pfd[1].events != POLLIN ? 0 : current_pause (s);
    vd_iscsi_session_release (s, NULL);

    ready = wait_for_socket (pfd, pause);
    if (ready && pfd[0].revents)
      vd_iscsi_swallow (s->lead_kick);
    pthread_mutex_lock (&s->lock);
    /* What was polled may be another connection's descriptor by now. */
    vd_iscsi_session_work (s, ready && generation == s->generation
                           ? pfd[1].revents : 0);
    in_vain = pause > 0 && s->answers == answers;
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
    vd_iscsi_session_work (s, 0);
    leading = vd_iscsi_session_release (s, &g);
  }
  wait_for (s, &g, leading);
  atomic_fetch_sub (&s->running, 1);
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
  r = pthread_create (&s->thread, NULL, vd_iscsi_session_thread, s);
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
  vd_iscsi_kick (s->thread_kick);
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
