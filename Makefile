# SPDX-License-Identifier: GPL-2.0
# What a user types; the work is done by the scripts in tools/.  The module's own
# makefile is Kbuild.

DIST ?= trixie-backports
export DIST
export DESTDIR RELEASE

.PHONY: all module run shell test test-long bench profile check fmt docs rustdoc clean clean-cache help
.PHONY: deb test-deb matrix install uninstall
all: module

ifdef KDIR
module:
	@bash tools/build-kdir.sh "$(KDIR)"
else
module:
	@bash tools/make.sh module
endif

run shell test test-long bench profile check fmt docs rustdoc deb test-deb matrix:
	@bash tools/make.sh $@

install uninstall:
	@bash tools/install.sh $@ "$(KDIR)"

clean:
	@rm -rf out

clean-cache:
	@bash tools/make.sh clean-cache

help:
	@bash tools/make.sh help
