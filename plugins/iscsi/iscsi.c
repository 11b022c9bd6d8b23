/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nbdkit-iscsi-plugin: a LUN of an iSCSI target.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "cleanup.h"
#include "connect.h"
#include "disk.h"
#include "lun.h"
#include "parse.h"
#include "processors.h"

/* -D iscsi.log=N: messages of libiscsi, 1 (errors) to 10 (all). */
NBDKIT_DLL_PUBLIC int iscsi_debug_log = 0;

static void log_line (enum vd_log_level level, const char *text);
static void log_library (int level, const char *text);

static struct vd_lun_open how = {
  .address = VD_ISCSI_ADDRESS_INIT,
  .timeout_ms = VD_LUN_TIMEOUT_MS,
  .keepalive_ms = VD_LUN_KEEPALIVE_MS,
  .sessions = 1,
  .read_split = VD_LUN_READ_SPLIT,
  .write_split = VD_LUN_WRITE_SPLIT,
  .gather = true,
  .coalesce = true,
  .log = log_line,
  .lib_log = log_library,
};

/* The one LUN, for all connections: from the first .open to .cleanup. */
static pthread_mutex_t lun_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vd_store *lun;

struct handle {
  struct vd_store *lun;
  uint64_t size;                /* stays for this connection */
  int64_t client;               /* its process, if that is on this host, or 0
                                 */
  char description[512];
};

static void
log_line (enum vd_log_level level, const char *text)
{
  disk_log ("iscsi", level, text);
}

static void
log_library (int level, const char *text)
{
  nbdkit_debug ("libiscsi: %d: %s", level, text);
}

/* The end of a request that failed, see plugins/lib/disk.c. */
static int
fail (const struct vd_ctx *ctx, int r)
{
  disk_report (ctx, r);
  errno = r == -EPERM || r == -EROFS || r == -ENOMEM || r == -ENOSPC
    ? -r : EIO;
  return -1;
}

/* ---- parameters -------------------------------------------------------- */

static int
replace (char **field, const char *value)
{
  char *copy = strdup (value);

  if (copy == NULL) {
    nbdkit_error ("strdup: %m");
    return -1;
  }
  free (*field);
  *field = copy;
  return 0;
}

static int
read_secret (char **field, const char *value)
{
  char *secret;

  if (nbdkit_read_password (value, &secret) == -1)
    return -1;
  if (*field)
    explicit_bzero (*field, strlen (*field));
  free (*field);
  *field = secret;
  return 0;
}

/* Seconds, with a fraction; or milliseconds with "ms" behind. */
static int
parse_time (const char *key, const char *value, unsigned min, unsigned *ret)
{
  char *end;
  double t;

  errno = 0;
  t = strtod (value, &end);
  if (strcmp (end, "ms") != 0) {
    t *= 1000;
    if (strcmp (end, "s") == 0)
      end++;
  }
  else
    end += 2;
  if (end == value || *end != '\0' || errno != 0 || !(t >= min)
      || t > 24 * 3600 * 1000.0) {
    nbdkit_error ("%s: '%s' is not a time of %u ms to one day, in seconds or "
                  "with ms behind", key, value, min);
    return -1;
  }
  *ret = t;
  return 0;
}

static int
parse_split (uint32_t *ret, const char *key, const char *value)
{
  uint64_t size;

  if (parse_size (&size, key, value) == -1)
    return -1;
  if (size < 65536 || size > 32 * 1024 * 1024) {
    nbdkit_error ("%s=%s: must be from 64K to 32M", key, value);
    return -1;
  }
  *ret = size;
  return 0;
}

/* The pieces override the URL wherever it stands. */
static char *url, *portal, *target, *lun_text;

static char **given;            /* keys, of what can be given once: all */

static int
config (const char *key, const char *value)
{
  struct vd_iscsi_address *a = &how.address;
  struct vd_ctx ctx;

  if (strcmp (key, "url") == 0)
    return replace (&url, value);
  if (strcmp (key, "portal") == 0)
    return replace (&portal, value);
  if (strcmp (key, "target") == 0)
    return replace (&target, value);
  if (strcmp (key, "lun") == 0)
    return replace (&lun_text, value);
  if (strcmp (key, "initiator-name") == 0)
    return replace (&a->initiator, value);
  if (strcmp (key, "user") == 0)
    return replace (&a->user, value);
  if (strcmp (key, "password") == 0)
    return read_secret (&a->password, value);
  if (strcmp (key, "target-user") == 0)
    return replace (&a->target_user, value);
  if (strcmp (key, "target-password") == 0)
    return read_secret (&a->target_password, value);
  if (strcmp (key, "header-digest") == 0) {
    vd_ctx_init (&ctx, log_line);
    if (vd_iscsi_parse_digest (&ctx, value, &a->digest) == 0)
      return 0;
    nbdkit_error ("%s", ctx.message);
    return -1;
  }
  if (strcmp (key, "write-split") == 0)
    return parse_split (&how.write_split, key, value);
  if (strcmp (key, "read-split") == 0)
    return parse_split (&how.read_split, key, value);
  if (strcmp (key, "timeout") == 0)
    return parse_time (key, value, 500, &how.timeout_ms);
  if (strcmp (key, "keepalive") == 0)
    return parse_time (key, value, 0, &how.keepalive_ms);
  if (strcmp (key, "sessions") == 0)
    return parse_number (&how.sessions, key, value, 1, VD_LUN_MAX_SESSIONS);
  if (strcmp (key, "gather") == 0)
    return parse_bool (&how.gather, key, value);
  if (strcmp (key, "coalesce") == 0)
    return parse_bool (&how.coalesce, key, value);
  nbdkit_error ("unknown parameter '%s'", key);
  return -1;
}

static bool
is_secret (const char *key)
{
  return strcmp (key, "password") == 0 || strcmp (key, "target-password") == 0
    || strcmp (key, "url") == 0;        /* others put passwords in there */
}

static int
iscsi_config (const char *key, const char *value)
{
  if (config (key, value) == -1)
    return -1;
  return parse_once (&given, key, is_secret (key) ? NULL : value);
}

static int
iscsi_config_complete (void)
{
  struct vd_iscsi_address *a = &how.address;
  char *user = a->user;
  struct vd_ctx ctx;
  int r = 0;

  vd_ctx_init (&ctx, log_line);
  a->user = NULL;
  if (url)
    r = vd_iscsi_parse_url (&ctx, url, a);
  if (user) {
    free (a->user);
    a->user = user;
  }
  if (r == 0 && portal) {
    free (a->port);
    a->port = NULL;
    r = vd_iscsi_parse_portal (&ctx, portal, a);
  }
  if (r == 0 && lun_text)
    r = vd_iscsi_parse_lun (&ctx, lun_text, a);
  if (r < 0) {
    nbdkit_error ("%s", ctx.message);
    return -1;
  }
  if (target && replace (&a->target, target) == -1)
    return -1;
  r = vd_iscsi_check_address (&ctx, a);
  if (r == -ENOENT)             /* list_targets will say so */
    return 0;
  if (r < 0) {
    nbdkit_error ("%s", ctx.message);
    return -1;
  }
  return 0;
}

#define HELP                                                                  \
  "url=URL                   iscsi://[USER@]HOST[:PORT]/TARGET/LUN.\n"        \
  "                          'url=' can be left out.\n"                       \
  "portal=HOST[:PORT]        Address of the target, instead of a URL.\n"      \
  "target=NAME               Name of the target (iqn., eui. or naa.).\n"      \
  "lun=N|encN                Number of the LUN (0).\n"                        \
  "initiator-name=NAME       The name to log in with (made from the name of\n"\
  "                          this host).\n"                                   \
  "user=NAME                 CHAP: user.\n"                                   \
  "password=SECRET           CHAP: password; -, +FILE or -FD read it.\n"      \
  "target-user=NAME          Mutual CHAP: what the target must call itself.\n"\
  "target-password=SECRET    Mutual CHAP: the password of the target.\n"      \
  "header-digest=none|crc32c|none-crc32c|crc32c-none\n"                       \
  "                          Checksums of headers (none-crc32c).\n"           \
  "timeout=SECONDS           A request fails after so long (10).\n"           \
  "keepalive=SECONDS         Ping an idle target so often; 0: never (5).\n"   \
  "read-split=SIZE           Largest single read (64K).\n"                    \
  "write-split=SIZE          Largest single write (1M).\n"                    \
  "sessions=N                Log in so many times (1).\n"                     \
  "gather=true|false         Keep the threads on one processor as long as\n"  \
  "                          that is enough (true).\n"                        \
  "coalesce=true|false       Under load, take answers together (true)."

/* Capabilities and keys are those of VirtualBox's back end. */
static void
iscsi_dump_plugin (void)
{
  printf ("vdkit_version=%s\n", PACKAGE_VERSION);
  printf ("iscsi_capabilities=async,config,tcpnet\n");
  printf ("iscsi_extensions=\n");
  printf ("iscsi_config=TargetName=,LUN=0,TargetAddress=,InitiatorName=,"
          "InitiatorUsername=,InitiatorSecret=,TargetUsername=,TargetSecret=,"
          "WriteSplit=262144,Timeout=10000,HostIPStack=1,"
          "DumpMalformedPackets=0\n");
  printf ("iscsi_max_sessions=%d\n", VD_LUN_MAX_SESSIONS);
}

/* ---- life ---------------------------------------------------------------- */

static void
list_target (void *opaque, const char *name, const char *address)
{
  unsigned *n = opaque;

  nbdkit_error ("  target=%s portal=%s", name, address);
  ++*n;
}

/* No target was given: say which there are, and fail. */
static int
list_targets (void)
{
  struct vd_iscsi_settings settings = {
    .address = how.address, .timeout_ms = how.timeout_ms,
    .log_level = how.log_level, .lib_log = how.lib_log,
  };
  char *initiator = NULL;
  unsigned n = 0;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  if (settings.address.initiator == NULL) {
    settings.address.initiator = initiator = vd_iscsi_default_initiator ();
    if (initiator == NULL) {
      nbdkit_error ("no memory for a name");
      return -1;
    }
  }
  nbdkit_error ("target= is missing; these are at %s:", how.address.host);
  r = vd_iscsi_discover (&ctx, &settings, list_target, &n);
  free (initiator);
  if (r < 0)
    disk_report (&ctx, r);
  else if (n == 0)
    nbdkit_error ("  none that %s may see", how.address.initiator
                  ? how.address.initiator : "this initiator");
  return -1;
}

/* Log in and out: what is wrong is said while there is a terminal.  nbdkit may
 * fork after this, which no thread survives.
 */
static int
iscsi_get_ready (void)
{
  struct vd_store *st;
  struct vd_ctx ctx;
  int r;

  how.log_level = iscsi_debug_log;
  if (how.address.target == NULL || *how.address.target == '\0')
    return list_targets ();
  vd_ctx_init (&ctx, log_line);
  r = vd_lun_open (&ctx, &how, &st);
  if (r < 0) {
    disk_report (&ctx, r);
    return -1;
  }
  if (vd_lun_info (st)->write_protected)
    vd_debug (&ctx, "%s: write protected; served read-only", st->name);
  vd_store_close (st);
  return 0;
}

/* nbdkit_peer_pid is an error for other sockets. */
static int64_t
client_process (void)
{
  struct sockaddr_storage addr;
  socklen_t size = sizeof addr;
  int64_t pid;

  if (nbdkit_peer_name ((struct sockaddr *) &addr, &size) == -1
      || addr.ss_family != AF_UNIX)
    return 0;
  pid = nbdkit_peer_pid ();
  return pid > 0 ? pid : 0;
}

static void *
iscsi_open (int readonly)
{
  struct handle *h = calloc (1, sizeof *h);
  const struct vd_lun_info *info;
  struct vd_ctx ctx;
  int r = 0;

  (void) readonly;
  if (h == NULL) {
    nbdkit_error ("calloc: %m");
    return NULL;
  }
  vd_ctx_init (&ctx, log_line);
  {
    LOCK_SCOPE (&lun_lock);
    if (lun == NULL)
      r = vd_lun_open (&ctx, &how, &lun);
    if (r == 0)
      r = vd_lun_refresh_size (&ctx, lun, &h->size);
  }
  if (r < 0) {
    disk_report (&ctx, r);
    free (h);
    errno = EIO;
    return NULL;
  }
  h->lun = lun;
  info = vd_lun_info (lun);
  snprintf (h->description, sizeof h->description, "iSCSI %s (%s %s)",
            lun->name, info->vendor, info->product);
  h->client = client_process ();
  if (h->client)
    vd_iscsi_client_came (h->client);
  return h;
}

static void
iscsi_close (void *handle)
{
  struct handle *h = handle;

  if (h->client)
    vd_iscsi_client_left (h->client);
  free (h);
}

static void
iscsi_cleanup (void)
{
  vd_store_close (lun);
  lun = NULL;
}

static void
iscsi_unload (void)
{
  vd_iscsi_address_free (&how.address);
  free (url);
  free (portal);
  free (target);
  free (lun_text);
  parse_free_strings (given);
}

/* ---- what a connection can do -------------------------------------------- */

static const char *
iscsi_export_description (void *handle)
{
  struct handle *h = handle;

  return h->description;
}

static int64_t
iscsi_get_size (void *handle)
{
  struct handle *h = handle;

  return h->size;
}

static int
iscsi_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                  uint32_t *maximum)
{
  struct handle *h = handle;
  const struct vd_lun_info *info = vd_lun_info (h->lun);

  *minimum = info->block_size;
  *preferred = info->preferred;
  *maximum = UINT32_MAX;
  return 0;
}

static int
iscsi_can_write (void *handle)
{
  struct handle *h = handle;

  return h->lun->writable;
}

static int
iscsi_can_trim (void *handle)
{
  struct handle *h = handle;

  return vd_lun_info (h->lun)->can_trim;
}

static int
iscsi_can_fast_zero (void *handle)
{
  struct handle *h = handle;

  return vd_lun_info (h->lun)->fast_zero;
}

static int
iscsi_can_extents (void *handle)
{
  struct handle *h = handle;

  return vd_lun_info (h->lun)->has_map;
}

static int
iscsi_is_rotational (void *handle)
{
  struct handle *h = handle;

  return vd_lun_info (h->lun)->rotational;
}

static int
iscsi_can_fua (void *handle)
{
  struct handle *h = handle;

  return vd_lun_info (h->lun)->fua ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_EMULATE;
}

/* A flush is for the LUN, whoever wrote. */
static int
iscsi_can_multi_conn (void *handle)
{
  (void) handle;
  return 1;
}

/* ---- data ---------------------------------------------------------------- */

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static int
iscsi_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
             uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  (void) flags;
  vd_ctx_init (&ctx, log_line);
  r = vd_store_pread (&ctx, h->lun, buf, count, offset);
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
iscsi_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_store_pwrite (&ctx, h->lun, buf, count, offset,
                       flags & NBDKIT_FLAG_FUA ? VD_STORE_FUA : 0);
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
iscsi_flush (void *handle, uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  (void) flags;
  vd_ctx_init (&ctx, log_line);
  r = vd_lun_flush (&ctx, h->lun);
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
iscsi_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_lun_trim (&ctx, h->lun, offset, count);
  if (r == 0 && (flags & NBDKIT_FLAG_FUA))
    r = vd_lun_flush (&ctx, h->lun);
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
iscsi_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_lun_zero (&ctx, h->lun, offset, count,
                   (flags & NBDKIT_FLAG_MAY_TRIM) != 0,
                   (flags & NBDKIT_FLAG_FAST_ZERO) != 0);
  if (r == -ENOTSUP && (flags & NBDKIT_FLAG_FAST_ZERO)) {
    errno = ENOTSUP;            /* an answer, not a failure */
    return -1;
  }
  if (r == 0 && (flags & NBDKIT_FLAG_FUA))
    r = vd_lun_flush (&ctx, h->lun);
  return r < 0 ? fail (&ctx, r) : 0;
}

static int
add_extent (void *opaque, uint64_t offset, uint64_t len, bool hole, bool zero)
{
  if (nbdkit_add_extent (opaque, offset, len,
                         (hole ? NBDKIT_EXTENT_HOLE : 0)
                         | (zero ? NBDKIT_EXTENT_ZERO : 0)) == -1)
    return errno != 0 ? -errno : -EIO;
  return 0;
}

static int
iscsi_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
               struct nbdkit_extents *extents)
{
  struct handle *h = handle;
  struct vd_ctx ctx;
  int r;

  vd_ctx_init (&ctx, log_line);
  r = vd_lun_extents (&ctx, h->lun, offset, count,
                      (flags & NBDKIT_FLAG_REQ_ONE) != 0, add_extent,
                      extents);
  return r < 0 ? fail (&ctx, r) : 0;
}

static struct nbdkit_plugin plugin = {
  .name               = "iscsi",
  .longname           = "vdkit iSCSI plugin",
  .version            = PACKAGE_VERSION,
  .description        = "Serve a LUN of an iSCSI target",
  .magic_config_key   = "url",
  .config             = iscsi_config,
  .config_complete    = iscsi_config_complete,
  .config_help        = HELP,
  .dump_plugin        = iscsi_dump_plugin,
  .get_ready          = iscsi_get_ready,
  .open               = iscsi_open,
  .close              = iscsi_close,
  .cleanup            = iscsi_cleanup,
  .unload             = iscsi_unload,
  .export_description = iscsi_export_description,
  .get_size           = iscsi_get_size,
  .block_size         = iscsi_block_size,
  .can_write          = iscsi_can_write,
  .can_trim           = iscsi_can_trim,
  .can_fast_zero      = iscsi_can_fast_zero,
  .can_extents        = iscsi_can_extents,
  .is_rotational      = iscsi_is_rotational,
  .can_fua            = iscsi_can_fua,
  .can_multi_conn     = iscsi_can_multi_conn,
  .pread              = iscsi_pread,
  .pwrite             = iscsi_pwrite,
  .flush              = iscsi_flush,
  .trim               = iscsi_trim,
  .zero               = iscsi_zero,
  .extents            = iscsi_extents,
  .errno_is_preserved = 1,
};

/* nbdkit looks this up by name; its header does not declare it. */
extern struct nbdkit_plugin *plugin_init (void);

NBDKIT_REGISTER_PLUGIN (plugin)
