# SPDX-License-Identifier: GPL-2.0
# What a user types; the work is done by the scripts in tools/.  The module's own
# makefile is Kbuild.

DIST ?= trixie-backports
export DIST

.PHONY: all module run shell test test-long bench profile check fmt docs rustdoc clean clean-cache help
all: module

ifdef KDIR
module:
	@bash tools/build-kdir.sh "$(KDIR)"
else
module:
	@bash tools/make.sh module
endif

run shell test test-long bench profile check fmt docs rustdoc:
	@bash tools/make.sh $@

clean:
	@rm -rf out

clean-cache:
	@bash tools/make.sh clean-cache

help:
	@bash tools/make.sh help
