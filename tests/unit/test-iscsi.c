/* SPDX-License-Identifier: BSD-3-Clause
 *
 * iSCSI: addresses; and, with VDKIT_ISCSI_URL naming a LUN that may be
 * overwritten (iscsi-threads.bats starts a target and sets it), many threads on
 * one LUN whose connection is being lost.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "coalesce.h"
#include "gather.h"
#include "lun.h"
#include "processors.h"

static void
test_portal (void **state)
{
  static const struct { const char *text, *host, *port; } good[] = {
    { "host", "host", NULL }, { "host:1", "host", "1" },
    { "[::1]", "::1", NULL }, { "[fe80::1%eth0]:99", "fe80::1%eth0", "99" },
    { "::1", "::1", NULL },
  };
  static const char *const bad[] = {
    "", ":1", "host:", "host:0", "host:65536", "host:1x", "[::1", "[]",
    "[::1]x", "ho st", "a/b",
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof good / sizeof good[0]; i++) {
    UNIT_CTX (ctx);
    struct vd_iscsi_address a = VD_ISCSI_ADDRESS_INIT;

    assert_ok (ctx, vd_iscsi_parse_portal (ctx, good[i].text, &a));
    assert_string_equal (a.host, good[i].host);
    if (good[i].port)
      assert_string_equal (a.port, good[i].port);
    else
      assert_null (a.port);
    vd_iscsi_address_free (&a);
  }
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    UNIT_CTX (ctx);
    struct vd_iscsi_address a = VD_ISCSI_ADDRESS_INIT;

    assert_fails (ctx, vd_iscsi_parse_portal (ctx, bad[i], &a), EINVAL,
                  "portal");
    vd_iscsi_address_free (&a);
  }
}

static void
test_url (void **state)
{
  struct vd_iscsi_address a = VD_ISCSI_ADDRESS_INIT;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_iscsi_parse_url (ctx, "iscsi://al%40ice@[::1]:5/"
                                      "iqn.a%3ab/300", &a));
  assert_string_equal (a.user, "al@ice");
  assert_string_equal (a.host, "::1");
  assert_string_equal (a.port, "5");
  assert_string_equal (a.target, "iqn.a:b");
  assert_int_equal (a.lun, 0x412c);
  assert_int_equal (vd_iscsi_lun_number (a.lun), 300);
  assert_fails (ctx, vd_iscsi_parse_url (ctx, "iscsi://a:b@h/iqn.x/1", &a),
                EINVAL, "password=");
  assert_fails (ctx, vd_iscsi_parse_url (ctx, "iscsi://a%b@h/iqn.x/1", &a),
                EINVAL, "password=");
  assert_fails (ctx, vd_iscsi_parse_url (ctx, "iscsi://h/iqn.%0/1", &a),
                EINVAL, "hexadecimal");
  assert_fails (ctx, vd_iscsi_parse_url (ctx, "iscsi://h/iqn.%00/1", &a),
                EINVAL, "hexadecimal");
  assert_fails (ctx, vd_iscsi_parse_url (ctx, "iscsi://h/iqn.x/1?a", &a),
                EINVAL, "?");
  vd_iscsi_address_free (&a);
}

static void
test_lun (void **state)
{
  struct vd_iscsi_address a = VD_ISCSI_ADDRESS_INIT;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_iscsi_parse_lun (ctx, "255", &a));
  assert_int_equal (a.lun, 255);
  assert_ok (ctx, vd_iscsi_parse_lun (ctx, "0x3fff", &a));
  assert_int_equal (a.lun, 0x7fff);
  assert_ok (ctx, vd_iscsi_parse_lun (ctx, "enc281474976710656", &a));
  assert_int_equal (a.lun, 1);
  assert_fails (ctx, vd_iscsi_parse_lun (ctx, "65537", &a), EINVAL, "16383");
  assert_fails (ctx, vd_iscsi_parse_lun (ctx, "enc1", &a), EINVAL, "level");
  assert_fails (ctx, vd_iscsi_parse_lun (ctx, "", &a), EINVAL, "number");
}

/* ---- threads ------------------------------------------------------------ */

#define THREADS 16
#define ROUNDS 400
#define SPAN (256 * 1024)       /* of each thread */

struct worker {
  pthread_t thread;
  struct vd_store *st;
  unsigned number;
  uint8_t want[SPAN];
  char failure[1200];
};

static void *
work (void *opaque)
{
  struct worker *w = opaque;
  unsigned seed = w->number, i, j;
  uint64_t base = (uint64_t) w->number * SPAN;
  static _Thread_local uint8_t got[SPAN];

  for (i = 0; i < ROUNDS; i++) {
    uint32_t at = (unsigned) rand_r (&seed) % (SPAN - 20000);
    uint32_t len = 1 + (unsigned) rand_r (&seed) % 20000;
    struct vd_ctx ctx;
    int r;

    vd_ctx_init (&ctx, NULL);
    if (i % 2) {
      for (j = 0; j < len; j++)
        w->want[at + j] = i + j;
      r = vd_store_pwrite (&ctx, w->st, w->want + at, len, base + at, 0);
    }
    else
      r = vd_store_pread (&ctx, w->st, got, len, base + at);
    if (r == 0 && i % 50 == 49)
      r = vd_lun_flush (&ctx, w->st);
    if (r < 0) {
      snprintf (w->failure, sizeof w->failure, "%s", ctx.message);
      return NULL;
    }
    if (i > 0 && i % 2 == 0 && memcmp (got, w->want + at, len) != 0) {
      snprintf (w->failure, sizeof w->failure, "round %u: wrong data", i);
      return NULL;
    }
  }
  return NULL;
}

static void
test_threads (void **state)
{
  const char *url = getenv ("VDKIT_ISCSI_URL");
  static struct worker workers[THREADS];
  struct vd_lun_open how = {
    .address = VD_ISCSI_ADDRESS_INIT, .timeout_ms = 20000,
    .keepalive_ms = 100, .sessions = 2, .write_split = VD_LUN_WRITE_SPLIT,
    .read_split = VD_LUN_READ_SPLIT, .gather = true, .coalesce = true,
  };
  struct vd_store *st;
  UNIT_CTX (ctx);
  unsigned i;

  (void) state;
  if (url == NULL)
    return;                     /* iscsi-threads.bats starts a target */
  signal (SIGPIPE, SIG_IGN);
  assert_ok (ctx, vd_iscsi_parse_url (ctx, url, &how.address));
  assert_ok (ctx, vd_lun_open (ctx, &how, &st));
  for (i = 0; i < THREADS; i++) {
    workers[i].number = i;
    workers[i].st = st;
    assert_ok (ctx, vd_store_pwrite (ctx, st, workers[i].want, SPAN,
                                     (uint64_t) i * SPAN, 0));
  }
  for (i = 0; i < THREADS; i++)
    assert_int_equal (pthread_create (&workers[i].thread, NULL, work,
                                      &workers[i]), 0);
  for (i = 0; i < THREADS; i++)
    pthread_join (workers[i].thread, NULL);
  vd_store_close (st);
  vd_iscsi_address_free (&how.address);
  for (i = 0; i < THREADS; i++)
    if (workers[i].failure[0])
      fail_msg ("thread %u: %s", i, workers[i].failure);
}

/* What a process needs, in percent of a processor, and where it should be. */
static void
test_gather (void **state)
{
  static const struct {
    int ms, percent, cpu, home, next;
  } steps[] = {
    { 0, 0, 3, -1, 30 },        /* nothing is known yet */
    { 30, 50, 3, 3, 60 },
    { 250, 95, 1, 3, 250 },     /* one is enough: stay */
    { 250, 96, 1, -1, 1000 },   /* it is not any more */
    { 1000, 130, 1, -1, 250 },
    { 250, 110, 1, -1, 250 },
    { 250, 109, 1, 1, 60 },     /* together they need less */
    { 250, 99, 1, -1, 2000 },   /* not enough */
    { 2000, 100, 0, 0, 60 },
    { 250, 99, 1, -1, 4000 },
    { 4500, 100, 1, 1, 60 },
    { 2000, 60, 1, 1, 250 },
    { 1999, 60, 1, 1, 250 },
    { 1, 60, 1, -1, 30 },       /* see where the scheduler goes */
    { 30, 60, 0, 0, 60 },
    { 250, 96, 0, -1, 1000 },   /* it was enough for a time: be quick again */
    { 1000, 60, 0, 0, 60 },
    { 250, 1, 0, 0, 250 },      /* a pause is no reason to go */
    { 3001, 50, 0, -1, 30 },    /* nobody was here: begin anew */
    { 30, 4, 0, -1, 250 },      /* nothing to do */
    { 250, 5, 2, 2, 60 },
  };
  struct vd_gather g = { .home = VD_GATHER_ANYWHERE };
  int64_t now = 1000000, used = 5000000;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    now += steps[i].ms;
    used += (int64_t) steps[i].ms * steps[i].percent * 10;
    vd_gather_decide (&g, now, used, -1, steps[i].cpu);
    if (g.home != steps[i].home)
      fail_msg ("step %zu: home is %d, not %d", i, g.home, steps[i].home);
    assert_int_equal (g.next - now, steps[i].next);
  }
}

/* What a process needs and how much is idle, in percent of a processor, where the
 * client runs, and where the threads go.
 */
static void
test_follow (void **state)
{
  static const struct {
    int ms, percent, idle, client, home;
  } steps[] = {
    { 0, 50, 0, 1, -1 },        /* no home to leave */
    { 30, 50, 99, 1, 1 },       /* of a processor is idle: there is no other */
    { 20, 50, 0, 0, 0 },
    { 20, 50, 0, -1, 0 },       /* it sleeps */
    { 210, 50, 120, 1, 0 },     /* there is one, the scheduler knows which */
    { 250, 50, -1, 1, 0 },      /* not known */
    { 250, 50, 0, 1, 0 },       /* since when? */
    { 250, 50, 98, 1, 1 },
    { 250, 96, 0, 0, -1 },      /* one is not enough */
  };
  struct vd_gather g = { .home = VD_GATHER_ANYWHERE };
  int64_t now = 1000000, used = 5000000, idle = 3000000;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    now += steps[i].ms;
    used += (int64_t) steps[i].ms * steps[i].percent * 10;
    if (steps[i].idle > 0)
      idle += (int64_t) steps[i].ms * steps[i].idle * 10;
    if (now >= g.next)
      vd_gather_decide (&g, now, used, steps[i].idle == -1 ? -1 : idle, 0);
    vd_gather_follow (&g, now, steps[i].client);
    if (g.home != steps[i].home)
      fail_msg ("step %zu: home is %d, not %d", i, g.home, steps[i].home);
    assert_int_equal (g.look - now, 20);
  }
}

/* What is known of this very process: it runs where it runs. */
static void
test_clients (void **state)
{
  const int64_t pid = getpid ();
  volatile unsigned n = 0;
  int cpu = -1, i;

  (void) state;
  assert_true (vd_iscsi_idle_time () >= 0);
  assert_int_equal (vd_iscsi_client_processor (1, 0), -1);
  vd_iscsi_client_came (pid);
  vd_iscsi_client_came (1 << 30);       /* there is none */
  for (i = 0; i < 1000 && cpu == -1; i++) {
    const clock_t start = clock ();

    while (clock () < start + CLOCKS_PER_SEC / 50)
      n++;
    cpu = vd_iscsi_client_processor (i + 1, 0);
  }
  assert_true (cpu >= 0);
  /* It seems to have slept for long; the counter may just have changed. */
  vd_iscsi_client_processor (1000000, 0);
  assert_int_equal (vd_iscsi_client_processor (1000300, 0), -1);
  vd_iscsi_client_left (pid);
  vd_iscsi_client_left (1 << 30);
  assert_int_equal (vd_iscsi_client_processor (1, 0), -1);
  for (i = 0; i < 100; i++)     /* more than are kept */
    vd_iscsi_client_came (pid);
  for (i = 0; i < 100; i++)
    vd_iscsi_client_left (pid);
  assert_int_equal (vd_iscsi_client_processor (1, 0), -1);
}

/* What a process needs, in percent of a processor, the answers in a second, and
 * what comes of it.
 */
static void
test_coalesce (void **state)
{
  static const struct {
    int ms, percent, rate, in_flight, pause, next;
  } steps[] = {
    { 0, 0, 0, 16, 0, 100 },    /* nothing is known yet */
    { 100, 49, 20000, 16, 0, 100 },     /* the target decides */
    { 100, 50, 0, 16, 0, 100 }, /* others than answers cost time */
    { 100, 50, 20000, 3, 0, 100 },      /* too few to wait for */
    { 100, 50, 20000, 4, 0, 40 },       /* a trial, first without */
    { 40, 50, 20000, 4, 14, 40 },
    { 40, 30, 20000, 4, 0, 40 },
    { 40, 30, 16000, 4, 14, 40 },
    { 40, 30, 24000, 4, 0, 40 },
    { 40, 30, 20000, 4, 14, 40 },
    { 40, 30, 19000, 4, 14, 4000 },     /* 63000 of 60000: good */
    { 4000, 30, 5000, 4, 0, 100 },      /* and now? */
    { 100, 60, 10000, 16, 0, 40 },
    { 40, 60, 10000, 16, 300, 40 },     /* never longer */
    { 40, 60, 10000, 16, 0, 40 },
    { 40, 60, 10000, 16, 300, 40 },
    { 40, 60, 10000, 16, 0, 40 },
    { 40, 60, 10000, 16, 300, 40 },
    { 40, 60, 11400, 16, 0, 1000 },     /* 31400 of 30000: not worth it */
    { 1000, 60, 40000, 16, 0, 40 },
    { 40, 60, 10000, 16, 78, 40 },
    { 40, 60, 10000, 16, 0, 40 },
    { 40, 60, 10000, 16, 78, 40 },
    { 40, 60, 10000, 16, 0, 40 },
    { 40, 60, 10000, 16, 78, 40 },
    { 40, 60, 9000, 16, 0, 2000 },      /* no good again */
    { 2000, 60, 40000, 16, 0, 40 },
    { 40, 60, 10000, 16, 78, 40 },
    { 40, 60, 8999, 16, 0, 4000 },      /* and so slow that it ends at once */
    { 4000, 60, 40000, 16, 0, 40 },
    { 40, 60, 10000, 16, 78, 40 },
    { 40, 60, 9000, 16, 0, 40 },
    { 40, 60, 10000, 16, 78, 40 },
    { 40, 60, 8900, 16, 0, 8000 },
    { 9001, 60, 20000, 16, 0, 100 },    /* nobody was here: begin anew */
    { 100, 60, 20000, 16, 0, 40 },
    { 40, 60, 10000, 16, 206, 40 },
    { 1041, 60, 20000, 16, 0, 100 },
    { 100, 60, 60000, 3, 0, 100 },
    { 100, 60, 60000, 4, 0, 100 },      /* Linux sleeps longer than that */
  };
  struct vd_coalesce c = { 0 };
  int64_t now = 1000000, used = 5000000, answers = 7000;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    now += steps[i].ms;
    used += (int64_t) steps[i].ms * steps[i].percent * 10;
    answers += (int64_t) steps[i].ms * steps[i].rate / 1000;
    vd_coalesce_decide (&c, now, used, answers, steps[i].in_flight);
    if ((int) c.pause != steps[i].pause)
      fail_msg ("step %zu: pause is %u, not %d", i, c.pause, steps[i].pause);
    if (c.next - now != steps[i].next)
      fail_msg ("step %zu: next is in %d", i, (int) (c.next - now));
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_follow),
    cmocka_unit_test (test_clients),
    cmocka_unit_test (test_coalesce),
    cmocka_unit_test (test_gather),
    cmocka_unit_test (test_portal),
    cmocka_unit_test (test_url),
    cmocka_unit_test (test_lun),
    cmocka_unit_test (test_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
