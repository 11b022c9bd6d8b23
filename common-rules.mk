# SPDX-License-Identifier: BSD-3-Clause
# Included by every Makefile.am.

AM_CPPFLAGS = \
	-I$(top_builddir) \
	-I$(top_srcdir)/common/utils \
	-I$(top_srcdir)/common/io \
	-I$(top_srcdir)/common/image \
	-I$(top_srcdir)/common/vdi \
	$(NULL)
AM_CFLAGS = -std=gnu11 -pthread $(WARN_CFLAGS) $(SANITIZE_CFLAGS)
AM_LDFLAGS = -pthread $(SANITIZE_CFLAGS)

NULL =
