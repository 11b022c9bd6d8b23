/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The request context: what every call into the core carries.
 *
 * It holds what belongs to one request and to no image: the nbdkit layer
 * below (filters get it anew with every callback), where to log, and the
 * message of the failure, if there is one.  A context lives on the stack of
 * the thread that serves the request and is used by that thread only.
 */

#ifndef VDKIT_CTX_H
#define VDKIT_CTX_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

enum vd_log_level {
  VD_LOG_DEBUG,
  VD_LOG_WARNING,
};

/* Takes one line without a newline.  May be called from any thread. */
typedef void (*vd_log_fn) (enum vd_log_level level, const char *text);

#define VD_MESSAGE 2048         /* bytes: some name several paths */

struct vd_ctx {
  void *next;                   /* nbdkit layer below, only in filters */
  vd_log_fn log;                /* NULL: warnings and debug are dropped */
  int error;                    /* errno of the last vd_error, 0: none */
  char message[VD_MESSAGE];     /* its text, valid when error != 0 */
};

/* A fresh context.  The message buffer is deliberately left alone: a context
 * is made for every request.
 */
static inline void
vd_ctx_init (struct vd_ctx *ctx, vd_log_fn log)
{
  ctx->next = NULL;
  ctx->log = log;
  ctx->error = 0;
  ctx->message[0] = '\0';
}

/* Report a failure: keep the message (naming the file, the field and the
 * value that was wrong) in the context and return -err, so that callers can
 * write "return vd_error (ctx, EIO, ...)".  err must be > 0.  A later call
 * replaces the message of an earlier one.  errno is preserved.
 */
extern int vd_error (struct vd_ctx *ctx, int err, const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 3, 4)));

/* Was it the process, or the host, that had too little of something?  Then
 * nothing is known of the file in question: who looks for something must not
 * take it for absent.
 */
static inline bool
vd_is_shortage (int r)
{
  return r == -EMFILE || r == -ENFILE || r == -ENOMEM;
}

/* Something a user should know although the call goes on. */
extern void vd_warning (struct vd_ctx *ctx, const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 2, 3)));

/* Something only a developer wants to know. */
extern void vd_debug (struct vd_ctx *ctx, const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 2, 3)));

#endif /* VDKIT_CTX_H */
