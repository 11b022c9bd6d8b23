/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The box of an image: what its names may reach, with openat2 and without,
 * and the folder of the simulated disk.
 */

#include <config.h>

#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A kernel whose openat2 fails as the test wants it. */
static int openat2_error;
static unsigned openat2_calls;

static long
test_syscall (long number, int folder, const char *path, void *how,
              size_t size)
{
  openat2_calls++;
  if (openat2_error) {
    errno = openat2_error;
    return -1;
  }
  return syscall (number, folder, path, how, size);
}

#define syscall test_syscall
#include "../../common/io/folder.c"
#undef syscall

#include "sim.h"

/* unit_dir/
 *   box/          the image's folder
 *   box/sub/deep/
 *   other/        not allowed unless a test says so
 *   otherwise/    begins like other
 *   other-link -> other
 */
static struct vd_folder *box;

static void
make_link (const char *target, const char *name)
{
  assert_int_equal (symlink (target, unit_path (name)), 0);
}

static int
setup (void **state)
{
  static const char *const folders[] = {
    "box", "box/sub", "box/sub/deep", "other", "other/sub", "otherwise",
  };
  struct sockaddr_un sa = { .sun_family = AF_UNIX };
  size_t i;
  int fd;

  if (unit_setup (state) != 0)
    return -1;
  for (i = 0; i < sizeof folders / sizeof folders[0]; ++i)
    assert_int_equal (mkdir (unit_path (folders[i]), 0700), 0);
  unit_file ("box/disk.vmdk", 1, 'd');
  unit_file ("box/plain", 1, 'p');
  unit_file ("box/sub/inner", 1, 'i');
  unit_file ("box/nbd:unix:x", 1, 'n');
  unit_file ("box/json:{}", 1, 'j');
  unit_file ("box/back\\slash", 1, 'b');
  unit_file ("box/new\nline", 1, 'l');
  unit_file ("box/...", 1, '3');
  unit_file ("outside", 1, 'o');
  unit_file ("other/file", 1, 'f');
  unit_file ("other/sub/file", 1, 's');
  unit_file ("otherwise/file", 1, 'w');

  make_link ("plain", "box/link-in");
  make_link ("sub/../sub/./inner", "box/link-dots");
  make_link ("../plain", "box/sub/link-up-in");
  make_link ("sub", "box/link-folder");
  make_link ("../outside", "box/link-out");
  make_link ("sub/../../outside", "box/link-out-dots");
  make_link (unit_path ("box/plain"), "box/link-absolute");
  make_link (unit_path ("other/file"), "box/link-other");
  make_link ("..", "box/link-parent");
  make_link ("/proc/self/fd/0", "box/link-magic");
  make_link ("loop", "box/loop");
  make_link ("missing", "box/link-missing");
  make_link ("other", "other-link");
  make_link ("../otherwise/file", "other/link-out");
  make_link ("sub/file", "other/link-in");

  assert_int_equal (mkfifo (unit_path ("box/fifo"), 0600), 0);
  assert_int_equal (mkfifo (unit_path ("other/fifo"), 0600), 0);
  fd = socket (AF_UNIX, SOCK_STREAM, 0);
  snprintf (sa.sun_path, sizeof sa.sun_path, "%s", unit_path ("box/socket"));
  assert_int_equal (bind (fd, (struct sockaddr *) &sa, sizeof sa), 0);
  close (fd);
  return 0;
}

static struct vd_folder *
folder (const struct vd_policy *policy)
{
  struct vd_folder *f;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_folder_of (ctx, unit_path ("box/disk.vmdk"), policy,
                                VD_LOCK_AUTO, &f));
  return f;
}

/* The name opens, and holds this byte. */
static void
opens (struct vd_folder *f, const char *name, bool device, char byte)
{
  struct vd_store *st;
  struct stat sb;
  char c = 0;
  UNIT_CTX (ctx);

  assert_ok (ctx, vd_folder_stat (ctx, f, name, device, &sb));
  assert_ok (ctx, vd_folder_open (ctx, f, name, false, device, NULL, &st));
  assert_true (vd_file_is (st, &sb));
  assert_ok (ctx, vd_store_pread (ctx, st, &c, 1, 0));
  assert_int_equal (c, byte);
  vd_store_close (st);
}

static void
fails (struct vd_folder *f, const char *name, bool device, int err,
       const char *text)
{
  struct vd_store *st;
  struct stat sb;
  UNIT_CTX (ctx);

  alarm (10);
  assert_fails (ctx, vd_folder_open (ctx, f, name, false, device, NULL, &st),
                err, text);
  assert_fails (ctx, vd_folder_open (ctx, f, name, true, device, NULL, &st),
                err, text);
  if (err == EACCES)
    assert_fails (ctx, vd_folder_stat (ctx, f, name, device, &sb), err, text);
  alarm (0);
}

#define ALLOW "allow-paths="

static void
inside (struct vd_folder *f)
{
  opens (f, "plain", false, 'p');
  opens (f, "./plain", false, 'p');
  opens (f, ".//./plain", false, 'p');
  opens (f, "sub/inner", false, 'i');
  opens (f, "sub//./inner", false, 'i');
  opens (f, "nbd:unix:x", false, 'n');
  opens (f, "json:{}", false, 'j');
  opens (f, "back\\slash", false, 'b');
  opens (f, "...", false, '3');
  opens (f, "link-in", false, 'p');
  opens (f, "link-dots", false, 'i');
  opens (f, "sub/link-up-in", false, 'p');
  opens (f, "link-folder/inner", false, 'i');
  opens (f, "link-folder/link-up-in", false, 'p');
}

static void
outside (struct vd_folder *f)
{
  char name[5000];

  fails (f, "", false, EINVAL, "no name");
  fails (f, "new\nline", false, EINVAL, "new\\x0aline");
  fails (f, "plain\x7f", false, EINVAL, "control");
  fails (f, "plain\r", false, EINVAL, "control");

  fails (f, "..", false, EACCES, ALLOW);
  fails (f, "../outside", false, EACCES, ALLOW);
  fails (f, "../box/plain", false, EACCES, ALLOW);
  fails (f, "sub/../plain", false, EACCES, ALLOW);
  fails (f, "sub/..", false, EACCES, ALLOW);
  fails (f, "/..", false, EACCES, ALLOW);
  fails (f, "/", false, EACCES, ALLOW);
  fails (f, "/etc/passwd", false, EACCES, ALLOW);
  fails (f, "/does/not/exist", false, EACCES, ALLOW);
  fails (f, "../does/not/exist", false, EACCES, ALLOW);
  fails (f, unit_path ("box/plain"), false, EACCES, ALLOW);
  fails (f, "link-out", false, EACCES, ALLOW);
  fails (f, "link-out-dots", false, EACCES, ALLOW);
  fails (f, "link-absolute", false, EACCES, ALLOW);
  fails (f, "link-other", false, EACCES, ALLOW);
  fails (f, "link-parent/outside", false, EACCES, ALLOW);
  fails (f, "link-parent/box/plain", false, EACCES, ALLOW);
  fails (f, "link-magic", false, EACCES, ALLOW);
  fails (f, "/proc/self/fd/0", false, EACCES, ALLOW);
  fails (f, "/dev/null", false, EACCES, ALLOW);
  fails (f, "/dev/null", true, EACCES, "raw-disk=");
  fails (f, "/etc/passwd", true, EACCES, "raw-disk=");

  fails (f, ".", false, EISDIR, "directory");
  fails (f, "sub", false, EISDIR, "directory");
  fails (f, "sub/", false, EISDIR, "directory");
  fails (f, "link-folder", false, EISDIR, "directory");
  fails (f, "plain/", false, ENOTDIR, "plain/");
  fails (f, "plain/x", false, ENOTDIR, "plain/x");
  fails (f, "link-in/", false, ENOTDIR, "link-in/");
  fails (f, "fifo", false, EINVAL, "neither");
  fails (f, "fifo", true, EINVAL, "neither");
  fails (f, "socket", false, EINVAL, "neither");
  fails (f, "missing", false, ENOENT, "box/missing");
  fails (f, "link-missing", false, ENOENT, "link-missing");
  fails (f, "loop", false, ELOOP, "loop");
  fails (f, "nbd://127.0.0.1:1/x", false, ENOENT, "nbd:");
  fails (f, "C:\\disk.vmdk", false, ENOENT, "C:\\x5cdisk");

  memset (name, 'x', sizeof name);
  name[sizeof name - 1] = '\0';
  fails (f, name, false, ENAMETOOLONG, "xxx");
  name[300] = '\0';
  fails (f, name, false, ENAMETOOLONG, "xxx");
}

static void
test_box (void **state)
{
  (void) state;
  openat2_calls = 0;
  inside (box);
  outside (box);
  assert_true (openat2_calls > 0);
}

static void
test_box_without_openat2 (void **state)
{
  static const int errors[] = { ENOSYS, EPERM, EAGAIN };
  char deep[1000] = "";
  size_t i;

  (void) state;
  for (i = 0; i < 3; ++i) {
    openat2_error = errors[i];
    inside (box);
    outside (box);
  }
  /* As many descriptors as there are folders on the way: bounded. */
  for (i = 0; i < 100; ++i)
    strcat (deep, "dir/");
  strcat (deep, "f");
  {
    char path[5000];

    strcpy (path, unit_path ("box"));
    for (i = 0; i < 70; ++i) {
      strcat (path, "/dir");
      assert_int_equal (mkdir (path, 0700), 0);
    }
  }
  fails (box, deep, false, ENAMETOOLONG, "dir/dir");
  openat2_error = 0;
  fails (box, deep, false, ENOENT, "dir/dir");
}

/* No descriptor stays open, whatever happened. */
static void
test_no_leaks (void **state)
{
  int before, after, i;

  (void) state;
  before = dup (0);
  close (before);
  for (i = 0; i < 2; ++i) {
    openat2_error = i ? ENOSYS : 0;
    inside (box);
    outside (box);
  }
  openat2_error = 0;
  after = dup (0);
  close (after);
  assert_int_equal (before, after);
}

static void
test_allow (void **state)
{
  char other[4200], trailing[4300], dots[4300], link[4200], name[4300];
  const char *allow[] = { other, NULL };
  struct vd_policy policy = { .allow_paths = allow };
  struct vd_folder *f = folder (&policy);
  int i;

  (void) state;
  strcpy (other, unit_path ("other"));
  strcpy (link, unit_path ("other-link"));
  snprintf (trailing, sizeof trailing, "%s//", other);
  snprintf (dots, sizeof dots, "%s/../other/.", other);

  for (i = 0; i < 2; ++i) {
    openat2_error = i ? ENOSYS : 0;

    allow[0] = other;
    inside (f);
    opens (f, unit_path ("other/file"), false, 'f');
    opens (f, unit_path ("other/sub/file"), false, 's');
    opens (f, unit_path ("other/sub/../file"), false, 'f');
    opens (f, unit_path ("other/link-in"), false, 's');
    opens (f, "../other/file", false, 'f');
    opens (f, "sub/../../other/file", false, 'f');
    opens (f, "link-other", false, 'f');
    opens (f, unit_path ("other-link/file"), false, 'f');
    fails (f, unit_path ("other"), false, EACCES, ALLOW);
    fails (f, unit_path ("other/missing"), false, ENOENT, "missing");
    fails (f, unit_path ("other/fifo"), false, EINVAL, "neither");
    fails (f, unit_path ("other/sub"), false, EISDIR, "directory");
    fails (f, unit_path ("other/link-out"), false, EACCES, ALLOW);
    fails (f, unit_path ("otherwise/file"), false, EACCES, ALLOW);
    fails (f, unit_path ("other/../otherwise/file"), false, EACCES, ALLOW);
    fails (f, unit_path ("other/../outside"), false, EACCES, ALLOW);
    fails (f, unit_path ("outside"), false, EACCES, ALLOW);
    fails (f, "../outside", false, EACCES, ALLOW);
    fails (f, "link-out", false, EACCES, ALLOW);
    fails (f, "/etc/passwd", false, EACCES, ALLOW);
    fails (f, unit_path ("other/file\n"), false, EINVAL, "control");

    /* However it is written. */
    allow[0] = trailing;
    opens (f, unit_path ("other/file"), false, 'f');
    fails (f, unit_path ("otherwise/file"), false, EACCES, ALLOW);
    allow[0] = dots;
    opens (f, unit_path ("other/file"), false, 'f');
    fails (f, unit_path ("otherwise/file"), false, EACCES, ALLOW);

    /* A link to a folder is as good as the folder. */
    allow[0] = link;
    opens (f, unit_path ("other-link/file"), false, 'f');
    opens (f, unit_path ("other/file"), false, 'f');
    opens (f, unit_path ("other-link/sub/file"), false, 's');
    fails (f, unit_path ("other-link/missing"), false, ENOENT, "missing");
    fails (f, unit_path ("other-link/link-out"), false, EACCES, ALLOW);
    fails (f, unit_path ("other-link/../outside"), false, EACCES, ALLOW);

    /* The folder itself, so that its absolute names are allowed. */
    snprintf (name, sizeof name, "%s", unit_path ("box"));
    allow[0] = name;
    opens (f, unit_path ("box/plain"), false, 'p');
    opens (f, "link-absolute", false, 'p');
    opens (f, "../box/plain", false, 'p');
    fails (f, "link-out", false, EACCES, ALLOW);

    /* A link out of it into another part of what is allowed. */
    allow[0] = unit_dir;
    opens (f, "link-out", false, 'o');
    opens (f, "link-other", false, 'f');
    allow[0] = "/";
    opens (f, unit_path ("outside"), false, 'o');

    /* Allowing a file, or what is not there, allows nothing. */
    allow[0] = "/does/not/exist";
    fails (f, "/does/not/exist/x", false, EACCES, ALLOW);
    inside (f);
  }
  openat2_error = 0;
  vd_folder_close (f);
}

static void
test_strict (void **state)
{
  const char *allow[] = { "/", NULL };
  char outside_path[4200];
  const char *disks[] = { outside_path, NULL };
  struct vd_policy policy = {
    .allow_paths = allow, .raw_disks = disks, .any_raw_disk = true,
    .strict = true,
  };
  struct vd_folder *f = folder (&policy);

  (void) state;
  strcpy (outside_path, unit_path ("outside"));
  opens (f, "plain", false, 'p');
  opens (f, "link-in", false, 'p');
  fails (f, "sub/inner", false, EACCES, "strict=true");
  fails (f, "./plain", false, EACCES, "strict=true");
  fails (f, "..", false, EACCES, "strict=true");
  fails (f, "link-out", true, EACCES, "strict=true");
  fails (f, outside_path, false, EACCES, "strict=true");
  fails (f, outside_path, true, EACCES, "strict=true");
  fails (f, "/etc/passwd", true, EACCES, "strict=true");
  vd_folder_close (f);
}

static void
test_raw_disk (void **state)
{
  char disk[4200], link[4200];
  const char *disks[] = { "/does/not/exist", disk, NULL };
  struct vd_policy policy = { .raw_disks = disks };
  struct vd_folder *f = folder (&policy);

  (void) state;
  strcpy (disk, unit_path ("outside"));
  strcpy (link, unit_path ("disk-link"));
  make_link ("outside", "disk-link");

  /* The one that is listed, by whatever name. */
  opens (f, disk, true, 'o');
  opens (f, link, true, 'o');
  opens (f, "../outside", true, 'o');
  opens (f, "link-out", true, 'o');
  fails (f, disk, false, EACCES, ALLOW);
  fails (f, unit_path ("other/file"), true, EACCES, "raw-disk=");
  fails (f, "/does/not/exist", true, ENOENT, "/does/not/exist");
  fails (f, "/does/not/exist/either", true, EACCES, "raw-disk=");
  fails (f, "/dev/null", true, EACCES, "raw-disk=");
  disks[1] = link;
  opens (f, disk, true, 'o');
  opens (f, link, true, 'o');
  disks[0] = NULL;
  fails (f, link, true, EACCES, "raw-disk=");

  policy.raw_disks = NULL;
  policy.any_raw_disk = true;
  opens (f, disk, true, 'o');
  opens (f, unit_path ("other/file"), true, 'f');
  fails (f, disk, false, EACCES, ALLOW);
  fails (f, "/does/not/exist", true, ENOENT, "/does/not/exist");
  fails (f, "/dev/null", true, EINVAL, "neither");
  fails (f, unit_path ("other/fifo"), true, EINVAL, "neither");
  vd_folder_close (f);
}

/* Device nodes with nothing behind them: who opens one gets ENXIO. */
static void
test_nodes (void **state)
{
  char node[4200];
  const char *allow[] = { unit_dir, NULL }, *disks[] = { node, NULL };
  struct vd_policy policy = { .allow_paths = allow };
  struct vd_folder *f;

  (void) state;
  strcpy (node, unit_path ("other/block"));
  if (mknod (node, S_IFBLK | 0600, makedev (240, 77)) == -1 ||
      mknod (unit_path ("box/block"), S_IFBLK | 0600,
             makedev (240, 77)) == -1 ||
      mknod (unit_path ("box/block-2"), S_IFBLK | 0600,
             makedev (240, 78)) == -1 ||
      mknod (unit_path ("box/char"), S_IFCHR | 0600, makedev (240, 77)) == -1)
    skip ();

  f = folder (&policy);
  fails (box, "block", false, EACCES, "block device");
  fails (box, "block", true, EACCES, "raw-disk=");
  fails (box, "char", false, EINVAL, "neither");
  fails (box, "char", true, EINVAL, "neither");
  fails (f, node, false, EACCES, "block device");
  fails (f, node, true, EACCES, "raw-disk=");

  /* The same device by another node, but not another device. */
  policy.raw_disks = disks;
  fails (f, node, true, ENXIO, "other/block");
  fails (f, "block", true, ENXIO, "box/block");
  fails (f, "block", false, EACCES, "block device");
  fails (f, "block-2", true, EACCES, "raw-disk=");
  fails (f, "char", true, EINVAL, "neither");
  policy.raw_disks = NULL;
  policy.any_raw_disk = true;
  fails (f, "block-2", true, ENXIO, "block-2");
  policy.strict = true;
  fails (f, "block-2", true, EACCES, "strict=true");
  vd_folder_close (f);
}

static void
test_folder_of (void **state)
{
  char old[4096];
  struct vd_folder *f;
  UNIT_CTX (ctx);

  (void) state;
  assert_fails (ctx, vd_folder_of (ctx, unit_path ("no/where"), NULL,
                                   VD_LOCK_AUTO, &f), ENOENT, "no");
  assert_fails (ctx, vd_folder_of (ctx, unit_path ("outside/x"), NULL,
                                   VD_LOCK_AUTO, &f), ENOTDIR, "outside");

  /* Relative to the current folder, and still there after it changed. */
  assert_non_null (getcwd (old, sizeof old));
  assert_int_equal (chdir (unit_path ("box")), 0);
  assert_ok (ctx, vd_folder_of (ctx, "disk.vmdk", NULL, VD_LOCK_AUTO, &f));
  assert_int_equal (chdir ("/"), 0);
  opens (f, "plain", false, 'p');
  assert_int_equal (chdir (old), 0);
  vd_folder_close (f);

  /* By a link to the folder: its real folder counts. */
  make_link ("box", "box-link");
  assert_ok (ctx, vd_folder_of (ctx, unit_path ("box-link/disk.vmdk"), NULL,
                                VD_LOCK_AUTO, &f));
  opens (f, "plain", false, 'p');
  fails (f, "link-out", false, EACCES, unit_path ("box"));
  vd_folder_close (f);
  vd_folder_close (NULL);
}

static void
test_create (void **state)
{
  struct vd_store *st, *other;
  struct vd_folder *f;
  struct stat sb;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_folder_create (ctx, box, "made", &st));
  assert_int_equal (stat (unit_path ("box/made"), &sb), 0);
  assert_int_equal (sb.st_mode & 0777, 0600);
  assert_ok (ctx, vd_store_pwrite (ctx, st, "m", 1, 0, 0));
  assert_ok (ctx, vd_folder_sync (ctx, box));
  assert_fails (ctx, vd_folder_create (ctx, box, "made", &other), EEXIST,
                "made");
  assert_fails (ctx, vd_folder_create (ctx, box, "link-missing", &other),
                EEXIST, "link-missing");
  /* Locked by the writer. */
  assert_fails (ctx, vd_folder_open (ctx, box, "made", false, false, NULL,
                                     &other), EBUSY, "made");
  vd_store_close (st);
  opens (box, "made", false, 'm');

  assert_ok (ctx, vd_folder_again (ctx, box, NULL, 0, &f));
  assert_ok (ctx, vd_folder_remove (ctx, f, "made"));
  vd_folder_close (f);
  assert_fails (ctx, vd_folder_remove (ctx, box, "made"), ENOENT, "made");
}

/* Opening for writing what is open read-only. */
static void
test_inherit (void **state)
{
  struct vd_store *a, *b, *w, *other, *list[2];
  struct vd_folder *again;
  bool writer = true;
  UNIT_CTX (ctx);

  (void) state;
  assert_ok (ctx, vd_folder_open (ctx, box, "plain", false, false, NULL, &a));
  assert_ok (ctx, vd_folder_open (ctx, box, "sub/inner", false, false, NULL,
                                  &b));
  /* A reader is in the way of anybody else. */
  assert_fails (ctx, vd_folder_open (ctx, box, "plain", true, false, &writer,
                                     &w), EBUSY, "plain");
  assert_false (writer);

  list[0] = b;
  list[1] = a;
  assert_ok (ctx, vd_folder_again (ctx, box, list, 2, &again));
  assert_ok (ctx, vd_folder_open (ctx, again, "link-in", true, false, NULL,
                                  &w));
  assert_true (w->writable);
  /* The name does not matter, and reading needs no inheritance. */
  assert_ok (ctx, vd_folder_open (ctx, again, "sub/inner", false, false,
                                  NULL, &other));
  vd_store_close (other);
  writer = false;
  assert_fails (ctx, vd_folder_open (ctx, box, "plain", false, false, &writer,
                                     &other), EBUSY, "plain");
  assert_true (writer);

  assert_ok (ctx, vd_file_relock (ctx, a, VD_LOCK_AUTO));
  vd_store_close (w);
  assert_fails (ctx, vd_folder_open (ctx, box, "plain", true, false, &writer,
                                     &w), EBUSY, "plain");
  assert_false (writer);

  /* Others' readers are not inherited. */
  assert_ok (ctx, vd_folder_open (ctx, box, "plain", false, false, NULL,
                                  &other));
  assert_fails (ctx, vd_folder_open (ctx, again, "plain", true, false,
                                     &writer, &w), EBUSY, "plain");
  vd_store_close (other);
  assert_ok (ctx, vd_folder_open (ctx, again, "plain", true, false, NULL,
                                  &w));
  vd_store_close (w);
  vd_folder_close (again);
  vd_store_close (a);
  vd_store_close (b);
}

/* Somebody swaps a link while we look: the answer is always one of the two
 * that are right.
 */
static void
test_race (void **state)
{
  char link[4200], temporary[4200];
  struct vd_store *st;
  unsigned good = 0, refused = 0;
  int i, pid, status;
  char c;
  UNIT_CTX (ctx);

  (void) state;
  strcpy (link, unit_path ("box/swapped"));
  strcpy (temporary, unit_path ("box/swapping"));
  make_link ("plain", "box/swapped");
  pid = fork ();
  assert_true (pid >= 0);
  if (pid == 0) {
    for (;;) {
      if (symlink ("../outside", temporary) || rename (temporary, link) ||
          symlink ("plain", temporary) || rename (temporary, link))
        _exit (1);
    }
  }
  for (i = 0; i < 4000; ++i) {
    int r;

    openat2_error = i & 1 ? ENOSYS : 0;
    r = vd_folder_open (ctx, box, "swapped", false, false, NULL, &st);
    if (r == 0) {
      assert_ok (ctx, vd_store_pread (ctx, st, &c, 1, 0));
      assert_int_equal (c, 'p');
      vd_store_close (st);
      good++;
    }
    else {
      assert_int_equal (r, -EACCES);
      refused++;
    }
  }
  openat2_error = 0;
  kill (pid, SIGKILL);
  waitpid (pid, &status, 0);
  assert_true (WIFSIGNALED (status));
  print_message ("opened %u, refused %u\n", good, refused);
}

static void
test_sim_folder (void **state)
{
  struct vd_sim *sim = vd_sim_new (), *cut;
  struct vd_folder *f, *again;
  struct vd_store *st, *other;
  struct stat sb;
  char c = 0;
  UNIT_CTX (ctx);

  (void) state;
  assert_non_null (sim);
  assert_ok (ctx, vd_sim_folder (ctx, sim, &f));
  assert_fails (ctx, vd_folder_open (ctx, f, "a", true, false, NULL, &st),
                ENOENT, "a");
  assert_false (vd_sim_exists (sim, "a"));
  assert_ok (ctx, vd_folder_create (ctx, f, "a", &st));
  assert_true (vd_sim_exists (sim, "a"));
  assert_fails (ctx, vd_folder_create (ctx, f, "a", &other), EEXIST, "a");
  assert_ok (ctx, vd_store_pwrite (ctx, st, "xy", 2, 0, 0));
  assert_ok (ctx, vd_folder_stat (ctx, f, "a", false, &sb));
  assert_int_equal (sb.st_size, 2);
  assert_true (S_ISREG (sb.st_mode));
  assert_true (vd_file_is (st, &sb));

  assert_ok (ctx, vd_folder_again (ctx, f, NULL, 0, &again));
  assert_ok (ctx, vd_folder_open (ctx, again, "a", false, false, NULL,
                                  &other));
  assert_true (vd_file_is (other, &sb));
  assert_false (other->writable);
  assert_ok (ctx, vd_store_pread (ctx, other, &c, 1, 1));
  assert_int_equal (c, 'y');
  vd_folder_close (again);

  /* A removed file lives as long as it is open. */
  assert_ok (ctx, vd_folder_remove (ctx, f, "a"));
  assert_fails (ctx, vd_folder_remove (ctx, f, "a"), ENOENT, "a");
  assert_ok (ctx, vd_store_pread (ctx, other, &c, 1, 0));
  assert_int_equal (c, 'x');
  vd_store_close (other);
  vd_store_close (st);
  assert_ok (ctx, vd_folder_create (ctx, f, "a", &st));
  assert_false (vd_file_is (st, &sb));
  assert_ok (ctx, vd_store_pwrite (ctx, st, "z", 1, 0, 0));

  cut = vd_sim_clone (sim);
  assert_non_null (cut);
  assert_ok (ctx, vd_sim_open (ctx, cut, "a", false, &other));
  assert_ok (ctx, vd_store_pread (ctx, other, &c, 1, 0));
  assert_int_equal (c, 'z');
  vd_store_close (other);
  vd_sim_free (cut);
  cut = vd_sim_prefix (sim, 0);
  assert_non_null (cut);
  assert_true (vd_sim_exists (cut, "a"));
  vd_sim_free (cut);

  vd_sim_fail_at (sim, 1, EIO, true);
  assert_fails (ctx, vd_folder_open (ctx, f, "a", true, false, NULL, &other),
                EIO, "open");
  assert_fails (ctx, vd_folder_stat (ctx, f, "a", false, &sb), EIO, "stat");
  assert_fails (ctx, vd_folder_create (ctx, f, "b", &other), EIO, "create");
  assert_fails (ctx, vd_folder_remove (ctx, f, "a"), EIO, "remove");
  assert_fails (ctx, vd_folder_sync (ctx, f), EIO, "sync");
  vd_sim_fail_at (sim, 0, 0, false);
  assert_false (vd_sim_exists (sim, "b"));
  assert_ok (ctx, vd_folder_sync (ctx, f));
  assert_fails (ctx, vd_file_reopen_write (ctx, st, VD_LOCK_AUTO, NULL,
                                           &other), ENOTSUP, "a");
  assert_ok (ctx, vd_file_relock (ctx, st, VD_LOCK_AUTO));
  vd_store_close (st);
  vd_folder_close (f);
  vd_sim_free (sim);
}

static int
setup_box (void **state)
{
  if (setup (state) != 0)
    return -1;
  box = folder (NULL);
  return 0;
}

/* What is in a folder of the box, and nothing of what is not in the box. */
static void
test_first_in (void **state)
{
  static const char *const nothing[] = {
    "missing", "plain", "fifo", "socket", "sub/deep", "link-out",
    "link-parent", "link-magic", "loop", "..", "../other", "", "a\nb",
    "/etc", "plain/x",
  };
  static const struct vd_policy strict = { .strict = true };
  struct vd_folder *f = folder (NULL), *gate = folder (&strict);
  char *name = (char *) "x";
  size_t i;
  UNIT_CTX (ctx);

  (void) state;
  for (i = 0; i < sizeof nothing / sizeof nothing[0]; ++i) {
    ctx->message[0] = '\0';
    assert_ok (ctx, vd_folder_first_in (ctx, f, nothing[i], &name));
    assert_null (name);
    assert_string_equal (ctx->message, "");
  }
  unit_file ("box/sub/deep/one", 1, '1');
  assert_ok (ctx, vd_folder_first_in (ctx, f, "sub/deep", &name));
  assert_string_equal (name, "one");
  free (name);
  assert_ok (ctx, vd_folder_first_in (ctx, f, "link-folder/deep", &name));
  assert_string_equal (name, "one");
  free (name);
  assert_ok (ctx, vd_folder_first_in (ctx, gate, "sub/deep", &name));
  assert_null (name);
  assert_int_equal (unlink (unit_path ("box/sub/deep/one")), 0);
  vd_folder_close (f);
  vd_folder_close (gate);

  /* A folder that knows of none. */
  {
    static const struct vd_folder_ops ops = { .close = NULL };
    struct vd_folder none = { .ops = &ops };

    assert_ok (ctx, vd_folder_first_in (ctx, &none, "x", &name));
    assert_null (name);
  }
}

static int
teardown_box (void **state)
{
  vd_folder_close (box);
  return unit_teardown (state);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_box),
    cmocka_unit_test (test_box_without_openat2),
    cmocka_unit_test (test_no_leaks),
    cmocka_unit_test (test_allow),
    cmocka_unit_test (test_strict),
    cmocka_unit_test (test_raw_disk),
    cmocka_unit_test (test_nodes),
    cmocka_unit_test (test_folder_of),
    cmocka_unit_test (test_create),
    cmocka_unit_test (test_inherit),
    cmocka_unit_test (test_race),
    cmocka_unit_test (test_sim_folder),
    cmocka_unit_test (test_first_in),
  };

  return cmocka_run_group_tests (tests, setup_box, teardown_box);
}
