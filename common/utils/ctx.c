/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "ctx.h"

int
vd_error (struct vd_ctx *ctx, int err, const char *fmt, ...)
{
  int saved = errno;
  va_list args;

  assert (err > 0);
  ctx->error = err;
  va_start (args, fmt);
  vsnprintf (ctx->message, sizeof ctx->message, fmt, args);
  va_end (args);
  errno = saved;
  return -err;
}

static void __attribute__ ((__format__ (__printf__, 3, 0)))
log_va (struct vd_ctx *ctx, enum vd_log_level level,
        const char *fmt, va_list args)
{
  int saved = errno;
  char text[VD_MESSAGE];

  if (ctx->log) {
    vsnprintf (text, sizeof text, fmt, args);
    ctx->log (level, text);
  }
  errno = saved;
}

void
vd_warning (struct vd_ctx *ctx, const char *fmt, ...)
{
  va_list args;

  va_start (args, fmt);
  log_va (ctx, VD_LOG_WARNING, fmt, args);
  va_end (args);
}

void
vd_debug (struct vd_ctx *ctx, const char *fmt, ...)
{
  va_list args;

  va_start (args, fmt);
  log_va (ctx, VD_LOG_DEBUG, fmt, args);
  va_end (args);
}
