# SPDX-License-Identifier: BSD-3-Clause
# Included by every Makefile.am.

AM_CPPFLAGS = \
	-I$(top_builddir) \
	-I$(top_srcdir)/common/utils \
	-I$(top_srcdir)/common/io \
	-I$(top_srcdir)/common/image \
	-I$(top_srcdir)/common/vdi \
	-I$(top_srcdir)/common/vmdk \
	-I$(top_srcdir)/common/chain \
	-I$(top_srcdir)/common/machine \
	-I$(top_srcdir)/common/iscsi \
	$(NULL)
AM_CFLAGS = -std=gnu11 -pthread $(WARN_CFLAGS) $(SANITIZE_CFLAGS)
AM_LDFLAGS = -pthread $(SANITIZE_CFLAGS)

NULL =

# Man pages of section 1.
SUFFIXES = .pod .1
.pod.1:
	$(AM_V_GEN)$(POD2MAN) --section 1 --center "Virtual disks for nbdkit" \
	  --release "$(PACKAGE_STRING)" --utf8 --errors=die $< $@-t && mv $@-t $@
CLEANFILES = *.1-t
