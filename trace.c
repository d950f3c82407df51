// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints, which take C to define, and the same lines for dynamic debug.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/array_size.h>
#include <linux/printk.h>

#define CREATE_TRACE_POINTS
#include "trace.h"

static const char *opcode_name(u32 opcode)
{
#define CODA_RS_ELEMENT(number, name) [number] = name
	static const char *const names[] = { CODA_RS_OPCODES(CODA_RS_ELEMENT) };

	if (opcode >= ARRAY_SIZE(names) || !names[opcode])
		return "?";
	return names[opcode];
}

#define FID_ARGS (*fid)[0], (*fid)[1], (*fid)[2], (*fid)[3]

void coda_rs_upcall_begin(u32 unique, u32 opcode, u32 pid, const u32 (*fid)[4])
{
	trace_coda_upcall_begin(unique, opcode, pid, fid);
	pr_debug("coda_upcall_begin: unique=%u opcode=%s pid=%u fid=" FID_FORMAT "\n",
		 unique, opcode_name(opcode), pid, FID_ARGS);
}

void coda_rs_upcall_end(u32 unique, u32 opcode, const u32 (*fid)[4], u64 latency,
			int result)
{
	trace_coda_upcall_end(unique, opcode, fid, latency, result);
	pr_debug("coda_upcall_end: unique=%u opcode=%s fid=" FID_FORMAT
		 " latency_ns=%llu result=%d\n",
		 unique, opcode_name(opcode), FID_ARGS, latency, result);
}

void coda_rs_downcall(u32 opcode, const u32 (*fid)[4])
{
	trace_coda_downcall(opcode, fid);
	pr_debug("coda_downcall: opcode=%s fid=" FID_FORMAT "\n", opcode_name(opcode),
		 FID_ARGS);
}

void coda_rs_file_open(const u32 (*fid)[4], u32 flags, int result)
{
	trace_coda_file_open(fid, flags, result);
	pr_debug("coda_file_open: fid=" FID_FORMAT " flags=0x%x result=%d\n", FID_ARGS,
		 flags, result);
}

void coda_rs_file_close(const u32 (*fid)[4], u32 flags, u32 modified)
{
	static const char *const names[] = { "no", "yes", "-" };

	trace_coda_file_close(fid, flags, modified);
	pr_debug("coda_file_close: fid=" FID_FORMAT " flags=0x%x modified=%s\n", FID_ARGS,
		 flags, modified < ARRAY_SIZE(names) ? names[modified] : "?");
}

void coda_rs_file_modified(const u32 (*fid)[4], u32 how)
{
	static const char *const names[] = {
		[CODA_RS_HOW_WRITE] = "write",
		[CODA_RS_HOW_TRUNCATE] = "truncate",
		[CODA_RS_HOW_STORE] = "store",
		[CODA_RS_HOW_OTHER] = "other",
	};

	trace_coda_file_modified(fid, how);
	pr_debug("coda_file_modified: fid=" FID_FORMAT " how=%s\n", FID_ARGS,
		 how < ARRAY_SIZE(names) ? names[how] : "?");
}
