/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "processors.h"

/* Each costs the reading of a file, 50 times a second. */
#define MAX_CLIENTS 4

/* In milliseconds: a thread that has used no CPU time for so long sleeps, and
 * where it did that last is of no interest.
 */
#define ASLEEP 200

/* One for each connection. */
struct client {
  int64_t pid;                  /* 0: none */
  uint64_t used;                /* CPU time of its main thread, in ticks */
  int64_t since;                /* when it became that */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct client clients[MAX_CLIENTS];

int64_t
vd_iscsi_cpu_time (void)
{
  struct timespec t;

  if (clock_gettime (CLOCK_PROCESS_CPUTIME_ID, &t) != 0)
    return -1;
  return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The beginning of a file of /proc, as a string; false: there is none. */
static bool
read_start (const char *path, char *buf, size_t size)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  ssize_t n;

  if (fd == -1)
    return false;
  n = read (fd, buf, size - 1);
  close (fd);
  if (n <= 0)
    return false;
  buf[n] = '\0';
  return true;
}

int64_t
vd_iscsi_idle_time (void)
{
  const long hz = sysconf (_SC_CLK_TCK);
  uint64_t idle, iowait;
  char buf[256];

  if (hz <= 0 || !read_start ("/proc/stat", buf, sizeof buf)
      || sscanf (buf, "cpu %*u %*u %*u %" SCNu64 " %" SCNu64, &idle,
                 &iowait) != 2)
    return -1;
  return (idle + iowait) * (1000000 / hz);
}

static struct client *
find_client (int64_t pid)
{
  size_t i;

  for (i = 0; i < MAX_CLIENTS; i++)
    if (clients[i].pid == pid)
      return &clients[i];
  return NULL;
}

void
vd_iscsi_client_came (int64_t pid)
{
  LOCK_SCOPE (&lock);
  struct client *c = find_client (0);

  if (c)
    *c = (struct client) { .pid = pid };
}

void
vd_iscsi_client_left (int64_t pid)
{
  LOCK_SCOPE (&lock);
  struct client *c = find_client (pid);

  if (c)
    c->pid = 0;
}

/* Where the main thread of a client ran last, or -1: it sleeps.  In proc(5),
 * /proc/PID/stat, utime and stime are the 14th and 15th fields, and processor
 * is the 39th; the 2nd may have anything in it but ends with the last
 * parenthesis.
 */
static int
processor_of (struct client *c, int64_t now)
{
  char path[64], buf[1024];
  const char *p;
  uint64_t user, system;
  int i, cpu;

  snprintf (path, sizeof path, "/proc/%" PRIi64 "/stat", c->pid);
  if (!read_start (path, buf, sizeof buf))
    return -1;
  p = strrchr (buf, ')');
  for (i = 2; p && i < 14; i++)
    p = strchr (p + 1, ' ');
  if (!p || sscanf (p, "%" SCNu64 " %" SCNu64, &user, &system) != 2)
    return -1;
  if (user + system != c->used) {
    c->used = user + system;
    c->since = now;
  }
  for (; p && i < 39; i++)
    p = strchr (p + 1, ' ');
  if (!p || sscanf (p, "%d", &cpu) != 1 || now - c->since >= ASLEEP)
    return -1;
  return cpu;
}

int
vd_iscsi_client_processor (int64_t now, int home)
{
  LOCK_SCOPE (&lock);
  unsigned votes[CPU_SETSIZE] = { 0 };
  int best = -1;
  size_t i;

  for (i = 0; i < MAX_CLIENTS; i++) {
    int cpu = clients[i].pid ? processor_of (&clients[i], now) : -1;

    if (cpu < 0 || cpu >= CPU_SETSIZE)
      continue;
    votes[cpu]++;
    if (best == -1 || votes[cpu] > votes[best]
        || (votes[cpu] == votes[best] && cpu == home))
      best = cpu;
  }
  return best;
}
