/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: what goes on between the kernel and the cache manager, for
 * trace-cmd, perf and bpftrace: see Documentation/admin-guide.rst.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM coda_rs

#if !defined(_CODA_RS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _CODA_RS_TRACE_H

#include <linux/coda.h>
#include <linux/tracepoint.h>
#include "probes.h"

#ifndef CODA_RS_OPCODES
#define CODA_RS_OPCODES(name) \
	name(CODA_ROOT, "ROOT"), \
	name(CODA_OPEN_BY_FD, "OPEN_BY_FD"), \
	name(CODA_CLOSE, "CLOSE"), \
	name(CODA_IOCTL, "IOCTL"), \
	name(CODA_GETATTR, "GETATTR"), \
	name(CODA_SETATTR, "SETATTR"), \
	name(CODA_ACCESS, "ACCESS"), \
	name(CODA_LOOKUP, "LOOKUP"), \
	name(CODA_CREATE, "CREATE"), \
	name(CODA_REMOVE, "REMOVE"), \
	name(CODA_LINK, "LINK"), \
	name(CODA_RENAME, "RENAME"), \
	name(CODA_MKDIR, "MKDIR"), \
	name(CODA_RMDIR, "RMDIR"), \
	name(CODA_SYMLINK, "SYMLINK"), \
	name(CODA_READLINK, "READLINK"), \
	name(CODA_FSYNC, "FSYNC"), \
	name(CODA_SIGNAL, "SIGNAL"), \
	name(CODA_REPLACE, "REPLACE"), \
	name(CODA_FLUSH, "FLUSH"), \
	name(CODA_PURGEUSER, "PURGEUSER"), \
	name(CODA_ZAPFILE, "ZAPFILE"), \
	name(CODA_ZAPDIR, "ZAPDIR"), \
	name(CODA_PURGEFID, "PURGEFID"), \
	name(CODA_STATFS, "STATFS"), \
	name(CODA_ACCESS_INTENT, "ACCESS_INTENT")
#define CODA_RS_PAIR(number, name) { number, name }
#define show_opcode(opcode) \
	__print_symbolic(opcode, CODA_RS_OPCODES(CODA_RS_PAIR))
#define show_how(how) \
	__print_symbolic(how, { 0, "write" }, { 1, "truncate" }, \
			 { 2, "store" }, { 3, "other" })
#define show_modified(modified) \
	__print_symbolic(modified, { 0, "no" }, { 1, "yes" }, { 2, "-" })

#define FID_FIELD __array(u32, fid, 4)
#define FID_ASSIGN memcpy(__entry->fid, *fid, sizeof(__entry->fid))
#define FID_FORMAT "%08x.%08x.%08x.%08x"
#define FID_PRINT __entry->fid[0], __entry->fid[1], __entry->fid[2], __entry->fid[3]
#endif

TRACE_EVENT(coda_upcall_begin,
	TP_PROTO(u32 unique, u32 opcode, u32 pid, const u32 (*fid)[4]),
	TP_ARGS(unique, opcode, pid, fid),
	TP_STRUCT__entry(
		__field(u32, unique)
		__field(u32, opcode)
		__field(u32, caller)
		FID_FIELD
	),
	TP_fast_assign(
		__entry->unique = unique;
		__entry->opcode = opcode;
		__entry->caller = pid;
		FID_ASSIGN;
	),
	TP_printk("unique=%u opcode=%s pid=%u fid=" FID_FORMAT,
		  __entry->unique, show_opcode(__entry->opcode),
		  __entry->caller, FID_PRINT)
);

TRACE_EVENT(coda_upcall_end,
	TP_PROTO(u32 unique, u32 opcode, const u32 (*fid)[4], u64 latency, int result),
	TP_ARGS(unique, opcode, fid, latency, result),
	TP_STRUCT__entry(
		__field(u32, unique)
		__field(u32, opcode)
		__field(u64, latency_ns)
		__field(int, result)
		FID_FIELD
	),
	TP_fast_assign(
		__entry->unique = unique;
		__entry->opcode = opcode;
		__entry->latency_ns = latency;
		__entry->result = result;
		FID_ASSIGN;
	),
	TP_printk("unique=%u opcode=%s fid=" FID_FORMAT " latency_ns=%llu result=%d",
		  __entry->unique, show_opcode(__entry->opcode), FID_PRINT,
		  __entry->latency_ns, __entry->result)
);

TRACE_EVENT(coda_downcall,
	TP_PROTO(u32 opcode, const u32 (*fid)[4]),
	TP_ARGS(opcode, fid),
	TP_STRUCT__entry(
		__field(u32, opcode)
		FID_FIELD
	),
	TP_fast_assign(
		__entry->opcode = opcode;
		FID_ASSIGN;
	),
	TP_printk("opcode=%s fid=" FID_FORMAT, show_opcode(__entry->opcode),
		  FID_PRINT)
);

TRACE_EVENT(coda_file_open,
	TP_PROTO(const u32 (*fid)[4], u32 flags, int result),
	TP_ARGS(fid, flags, result),
	TP_STRUCT__entry(
		__field(u32, flags)
		__field(int, result)
		FID_FIELD
	),
	TP_fast_assign(
		__entry->flags = flags;
		__entry->result = result;
		FID_ASSIGN;
	),
	TP_printk("fid=" FID_FORMAT " flags=0x%x result=%d", FID_PRINT,
		  __entry->flags, __entry->result)
);

TRACE_EVENT(coda_file_close,
	TP_PROTO(const u32 (*fid)[4], u32 flags, u32 modified),
	TP_ARGS(fid, flags, modified),
	TP_STRUCT__entry(
		__field(u32, flags)
		__field(u32, modified)
		FID_FIELD
	),
	TP_fast_assign(
		__entry->flags = flags;
		__entry->modified = modified;
		FID_ASSIGN;
	),
	TP_printk("fid=" FID_FORMAT " flags=0x%x modified=%s", FID_PRINT,
		  __entry->flags, show_modified(__entry->modified))
);

TRACE_EVENT(coda_file_modified,
	TP_PROTO(const u32 (*fid)[4], u32 how),
	TP_ARGS(fid, how),
	TP_STRUCT__entry(
		__field(u32, how)
		FID_FIELD
	),
	TP_fast_assign(
		__entry->how = how;
		FID_ASSIGN;
	),
	TP_printk("fid=" FID_FORMAT " how=%s", FID_PRINT, show_how(__entry->how))
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
