# SPDX-License-Identifier: GPL-2.0
#
# The part of the selftests' Makefile that kselftest's lib.mk knows. cargo has
# built the programs in OUTPUT by the time this is read.

TEST_GEN_PROGS := modinfo observe close_report syscalls psdev churn storm memory fuzz nomem
# No test: make bench runs it.
TEST_GEN_FILES := bench
TEST_FILES := control-c.list control-disarmed.list
OVERRIDE_TARGETS := 1

include $(KSRC)/tools/testing/selftests/lib.mk
