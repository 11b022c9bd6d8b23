/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "connect.h"
#include "escape.h"
#include "rounding.h"

#define TICK_MS 100

int64_t
vd_iscsi_now (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- steps ------------------------------------------------------------- */

/* What a callback of libiscsi leaves behind. */
struct step {
  bool done;
  int status;
  int socket_error;             /* errno, when the connection failed */
  uint32_t block_size;
};

static void
step_done (struct iscsi_context *ctx, int status, void *data, void *opaque)
{
  struct step *step = opaque;

  (void) ctx;
  (void) data;
  step->done = true;
  step->status = status;
}

static void
capacity_done (struct iscsi_context *ctx, int status, void *data, void *opaque)
{
  struct step *step = opaque;
  struct scsi_task *task = data;

  step_done (ctx, status, data, opaque);
  if (status == SCSI_STATUS_GOOD && task->datain.data
      && task->datain.size >= 12) {
    const uint8_t *p = task->datain.data + 8;

    step->block_size = (uint32_t) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
  }
}

/* Drive the connection until the step is done: 0.  -ETIMEDOUT, -ECANCELED
 * when told to give up, -EIO when the connection is broken.
 */
static int
drive (struct iscsi_context *ctx, struct step *step, int64_t deadline,
       bool (*tick) (void *), void *opaque)
{
  while (!step->done) {
    struct pollfd pfd = { .fd = iscsi_get_fd (ctx) };
    int64_t left = deadline - vd_iscsi_now ();
    int n;

    if (left <= 0)
      return -ETIMEDOUT;
    pfd.events = iscsi_which_events (ctx);
    if (pfd.events == 0)
      pfd.fd = -1;
    n = poll (&pfd, 1, min_u64 (left, TICK_MS));
    if (tick && tick (opaque))
      return -ECANCELED;
    /* libiscsi's text about this is lost in others. */
    if (n > 0 && (pfd.revents & (POLLERR | POLLHUP))) {
      socklen_t len = sizeof step->socket_error;

      getsockopt (pfd.fd, SOL_SOCKET, SO_ERROR, &step->socket_error, &len);
      if (step->socket_error)
        return -EIO;
    }
    if (iscsi_service (ctx, n > 0 ? pfd.revents : 0) < 0)
      return step->done ? 0 : -EIO;
  }
  return 0;
}

/* ---- one address ------------------------------------------------------- */

/* What libiscsi says is not always understood. */
static const char *
login_hint (const char *text)
{
  static const struct { const char *number, *hint; } hints[] = {
    { "(513)", "the target refuses the user or the password (CHAP)" },
    { "(514)", "the target does not allow this initiator" },
    { "(515)", "there is no target of that name" },
    { "(516)", "the target has been removed" },
    { "(769)", "the target is not available" },
  };
  size_t i;

  for (i = 0; i < sizeof hints / sizeof hints[0]; i++)
    if (strstr (text, hints[i].number))
      return hints[i].hint;
  if (strstr (text, "CHAP_R") || strstr (text, "CHAP_N"))
    return "the target does not prove to know target-password";
  if (strstr (text, "LOGICAL_UNIT_NOT_SUPPORTED"))
    return "the target has no such LUN";
  return NULL;
}

void
vd_iscsi_error_text (struct iscsi_context *ctx, char *buf, size_t size)
{
  const char *text = iscsi_get_error (ctx);
  char line[400], *p;

  snprintf (line, sizeof line, "%s",
            text && *text ? text : "the connection was lost");
  for (p = line; *p; p++)
    if (*p == '\n' || *p == '\r')
      *p = ' ';
  while (p > line && p[-1] == ' ')
    *--p = '\0';
  vd_escape (line, strlen (line), buf, size);
}

static void
explain (struct iscsi_context *ctx, const char *portal, int r,
         const struct step *step, char *why, size_t size)
{
  const char *hint;
  char shown[400];

  if (r == -ETIMEDOUT) {
    snprintf (why, size, "%s: no answer in time", portal);
    return;
  }
  if (step->socket_error) {
    snprintf (why, size, "%s: %s", portal, strerror (step->socket_error));
    return;
  }
  vd_iscsi_error_text (ctx, shown, sizeof shown);
  hint = login_hint (shown);
  if (hint)
    snprintf (why, size, "%s: %s (%s)", portal, hint, shown);
  else
    snprintf (why, size, "%s: %s", portal, shown);
}

static struct iscsi_context *
make_context (const struct vd_iscsi_connect *c)
{
  static const enum iscsi_header_digest digests[] = {
    [VD_ISCSI_DIGEST_NONE] = ISCSI_HEADER_DIGEST_NONE,
    [VD_ISCSI_DIGEST_NONE_CRC32C] = ISCSI_HEADER_DIGEST_NONE_CRC32C,
    [VD_ISCSI_DIGEST_CRC32C_NONE] = ISCSI_HEADER_DIGEST_CRC32C_NONE,
    [VD_ISCSI_DIGEST_CRC32C] = ISCSI_HEADER_DIGEST_CRC32C,
  };
  const struct vd_iscsi_settings *s = c->settings;
  const struct vd_iscsi_address *a = &s->address;
  struct iscsi_context *ctx = iscsi_create_context (a->initiator);

  if (ctx == NULL)
    return NULL;
  if (s->lib_log && s->log_level > 0) {
    iscsi_set_log_fn (ctx, s->lib_log);
    iscsi_set_log_level (ctx, s->log_level);
  }
  /* Its own reconnecting may end in another's file descriptor, and its time
   * limits in another's memory.
   */
  iscsi_set_noautoreconnect (ctx, 1);
  iscsi_set_timeout (ctx, 0);
  /* The same ISID again makes the target drop what is left of the old
   * session.
   */
  if (iscsi_set_isid_random (ctx, c->isid, c->index) != 0
      || (!c->discovery && iscsi_set_targetname (ctx, a->target) != 0)
      || iscsi_set_session_type (ctx, c->discovery ? ISCSI_SESSION_DISCOVERY
                                 : ISCSI_SESSION_NORMAL) != 0
      || iscsi_set_header_digest (ctx, digests[a->digest]) != 0
      || (a->user && iscsi_set_initiator_username_pwd (ctx, a->user,
                                                       a->password) != 0)
      || (a->target_user
          && iscsi_set_target_username_pwd (ctx, a->target_user,
                                            a->target_password) != 0)) {
    iscsi_destroy_context (ctx);
    return NULL;
  }
  return ctx;
}

/* The target may have been replaced: writing to where blocks of another size
 * were would be fatal.
 */
static int
check_block_size (struct iscsi_context *ctx, const struct vd_iscsi_connect *c,
                  int64_t deadline, const char *portal, char *why, size_t size)
{
  struct step step = { 0 };
  struct scsi_task *task;
  int r;

  if (c->expect_block_size == 0)
    return 0;
  task = iscsi_readcapacity16_task (ctx, c->settings->address.lun,
                                    capacity_done, &step);
  if (task == NULL) {
    snprintf (why, size, "%s: no memory", portal);
    return -ENOMEM;
  }
  r = drive (ctx, &step, deadline, c->tick, c->opaque);
  if (r < 0) {
    explain (ctx, portal, r, &step, why, size);
    /* The task belongs to what is still queued: destroying the context calls
     * back, while step is there.
     */
    iscsi_scsi_cancel_all_tasks (ctx);
  }
  else if (step.block_size != 0 && step.block_size != c->expect_block_size) {
    snprintf (why, size, "%s: the LUN has come back with blocks of %u bytes "
              "instead of %u", portal, step.block_size, c->expect_block_size);
    r = -EIO;
  }
  scsi_free_scsi_task (task);
  return r;
}

/* There is no LUN to ask in a discovery session, so this is TCP and login only.
 */
static int
log_in_to_discover (struct iscsi_context *ctx,
                    const struct vd_iscsi_connect *c, const char *portal,
                    int64_t deadline, struct step *step)
{
  int r = -EIO;

  if (iscsi_connect_async (ctx, portal, step_done, step) == 0)
    r = drive (ctx, step, deadline, c->tick, c->opaque);
  if (r < 0 || step->status != SCSI_STATUS_GOOD)
    return r;
  *step = (struct step) { 0 };
  if (iscsi_login_async (ctx, step_done, step) != 0)
    return -EIO;
  return drive (ctx, step, deadline, c->tick, c->opaque);
}

static struct iscsi_context *
connect_to (const struct vd_iscsi_connect *c, const char *portal,
            int64_t deadline, int *ret_r, char *why, size_t size)
{
  struct iscsi_context *ctx = make_context (c);
  struct step step = { 0 };
  int r;

  if (ctx == NULL) {
    snprintf (why, size, "%s: no memory for a session", portal);
    *ret_r = -ENOMEM;
    return NULL;
  }
  r = -EIO;
  if (c->discovery)
    r = log_in_to_discover (ctx, c, portal, deadline, &step);
  else if (iscsi_full_connect_async (ctx, portal, c->settings->address.lun,
                                     step_done, &step) == 0)
    r = drive (ctx, &step, deadline, c->tick, c->opaque);
  if (r == 0 && step.status != SCSI_STATUS_GOOD)
    r = -EIO;
  if (r < 0) {
    explain (ctx, portal, r, &step, why, size);
    /* Destroying the context forgets what libiscsi keeps while it connects,
     * unless it is told that the socket failed.
     */
    if (!step.done)
      iscsi_service (ctx, POLLERR);
  }
  else
    r = check_block_size (ctx, c, deadline, portal, why, size);
  *ret_r = r;
  if (r == 0)
    return ctx;
  iscsi_destroy_context (ctx);
  return NULL;
}

/* ---- all addresses ----------------------------------------------------- */

/* "address:port" in numbers. */
static int
portal_text (const struct addrinfo *ai, char *buf, size_t size)
{
  char host[NI_MAXHOST], port[NI_MAXSERV];

  if (getnameinfo (ai->ai_addr, ai->ai_addrlen, host, sizeof host, port,
                   sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return -EIO;
  snprintf (buf, size, strchr (host, ':') ? "[%s]:%s" : "%s:%s", host, port);
  return 0;
}

/* Resolved here, as libiscsi tries the first address only. */
struct iscsi_context *
vd_iscsi_connect (const struct vd_iscsi_connect *c, char *why, size_t size)
{
  const struct vd_iscsi_address *a = &c->settings->address;
  const struct addrinfo hints = {
    .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
  };
  struct addrinfo *list, *ai;
  struct iscsi_context *ctx = NULL;
  unsigned left = 0;
  int r;

  r = getaddrinfo (a->host, a->port ? a->port : "3260", &hints, &list);
  if (r != 0) {
    snprintf (why, size, "%s: %s", a->host, gai_strerror (r));
    return NULL;
  }
  snprintf (why, size, "%s: no address", a->host);
  for (ai = list; ai; ai = ai->ai_next)
    left++;
  for (ai = list; ai && ctx == NULL; ai = ai->ai_next, left--) {
    char portal[NI_MAXHOST + NI_MAXSERV + 4];
    int64_t now = vd_iscsi_now ();

    if (portal_text (ai, portal, sizeof portal) < 0)
      continue;
    ctx = connect_to (c, portal, now + (c->deadline - now) / left, &r,
                      why, size);
    if (r == -ECANCELED)
      break;
  }
  freeaddrinfo (list);
  return ctx;
}

void
vd_iscsi_disconnect (struct iscsi_context *ctx, unsigned ms)
{
  struct step step = { 0 };

  if (iscsi_logout_async (ctx, step_done, &step) == 0)
    drive (ctx, &step, vd_iscsi_now () + ms, NULL, NULL);
  iscsi_destroy_context (ctx);
}

/* ---- which targets are there -------------------------------------------- */

struct found {
  struct step step;
  void (*fn) (void *opaque, const char *target, const char *portal);
  void *opaque;
};

static void
discovery_done (struct iscsi_context *ctx, int status, void *data,
                void *opaque)
{
  struct found *found = opaque;
  const struct iscsi_discovery_address *a;
  const struct iscsi_target_portal *p;

  step_done (ctx, status, data, &found->step);
  if (status != SCSI_STATUS_GOOD)
    return;
  for (a = data; a; a = a->next)
    for (p = a->portals; p; p = p->next) {
      char target[VD_ISCSI_NAME_MAX * 4 + 1], portal[300];

      vd_escape (a->target_name, strlen (a->target_name), target,
                 sizeof target);
      vd_escape (p->portal, strlen (p->portal), portal, sizeof portal);
      found->fn (found->opaque, target, portal);
    }
}

int
vd_iscsi_discover (struct vd_ctx *ctx, const struct vd_iscsi_settings *settings,
                   void (*fn) (void *opaque, const char *target,
                               const char *portal), void *opaque)
{
  const struct vd_iscsi_connect how = {
    .settings = settings, .discovery = true,
    .deadline = vd_iscsi_now () + settings->timeout_ms,
  };
  struct found found = { .fn = fn, .opaque = opaque };
  char why[512] = "";
  struct iscsi_context *iscsi = vd_iscsi_connect (&how, why, sizeof why);
  int r = -EIO;

  if (iscsi == NULL)
    return vd_error (ctx, EIO, "the targets of %s cannot be listed: %s",
                     settings->address.host, why);
  if (iscsi_discovery_async (iscsi, discovery_done, &found) == 0)
    r = drive (iscsi, &found.step, how.deadline, NULL, NULL);
  if (r == 0 && found.step.status == SCSI_STATUS_GOOD) {
    vd_iscsi_disconnect (iscsi, 500);
    return 0;
  }
  explain (iscsi, settings->address.host, r, &found.step, why, sizeof why);
  iscsi_destroy_context (iscsi);
  return vd_error (ctx, EIO, "the targets of %s cannot be listed: %s",
                   settings->address.host, why);
}
