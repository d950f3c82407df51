/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust of this module tells C about itself: each function is a
 * tracepoint and a line for dynamic debug (trace.c).
 *
 * vfs/trace.rs makes safe functions of them, so all of them may be called from
 * anywhere, with anything: they take numbers and pointers that are valid for
 * reads, keep nothing, do not sleep, and change nothing.
 */
#ifndef _CODA_RS_PROBES_H
#define _CODA_RS_PROBES_H

#include <linux/types.h>

/* how a file was found to be modified */
enum coda_rs_how {
	CODA_RS_HOW_WRITE,
	CODA_RS_HOW_TRUNCATE,
	CODA_RS_HOW_STORE,
	CODA_RS_HOW_OTHER,
};

void coda_rs_upcall_begin(u32 unique, u32 opcode, u32 pid, const u32 (*fid)[4]);
void coda_rs_upcall_end(u32 unique, u32 opcode, const u32 (*fid)[4], u64 latency,
			int result);
void coda_rs_downcall(u32 opcode, const u32 (*fid)[4]);
void coda_rs_file_open(const u32 (*fid)[4], u32 flags, int result);
/* modified: 0 or 1; 2 for a file that was not open for writing */
void coda_rs_file_close(const u32 (*fid)[4], u32 flags, u32 modified);
void coda_rs_file_modified(const u32 (*fid)[4], u32 how);

#endif
