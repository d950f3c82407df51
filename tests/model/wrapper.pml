// SPDX-License-Identifier: GPL-2.0
/*
 * Stores through shared mappings of one open file: its descriptor, two areas that
 * are mapped, forked and unmapped, threads that store to the page in them, and
 * somebody who puts a table of his own over ours. The words are those of
 * Documentation/design.rst, the code is vfs/backing.rs. What becomes of the flag
 * when there are several opens is in report.pml.
 *
 * What must hold, in whatever order things happen:
 *
 *  - no lost modification: if the flag is not set when the file is released, the
 *    page was not stored to;
 *  - the file is released once, and that is when nothing uses it any more;
 *  - no fault calls an operation that is not there, or uses a table or state that
 *    was freed;
 *  - no alarm without a cause.
 *
 * check.sh also checks modules that do it wrongly:
 *
 *  RESET      the seed's plan, taken literally: the first detected store puts the
 *             host's vm_ops back into the area
 *  NULLED     ... or takes page_mkwrite out of the table
 *  BY_CLOSE   the reference of an area is dropped by our vm_ops->close
 *  LATE       the flag is set when the area's lock has been dropped
 *  TOUCH      the state is used after the host's handler dropped the lock
 *  UNCOUNTED  nobody notices areas that lose our table
 *  EARLY      who maps while another one makes the table gets the host's, and
 *             nothing else happens
 */

#define AREAS 2

mtype = { HOST, OURS, THEIRS };

/* The state, State<H>, and the flag that its owner keeps. */
bool alive;
byte references;
bool modified;
byte table;          /* WrappedVmOps: 0 is not there, 1 in the making, 2 is made */
byte counted;        /* areas that have our table, as far as open and close tell */
byte releases;
bool host_mkwrite;   /* whether the host's table has a page_mkwrite */
bool has_mkwrite;    /* whether ours has */

bool area[AREAS];
mtype ops[AREAS];    /* vma->vm_ops */
byte locked[AREAS];  /* faults that hold its lock */
bool writable[AREAS];
bool shared;         /* two threads map; else one maps and forks */

/* The truth. */
bool changed;
bool cause;

/* What the core finds if it loads vma->vm_ops->page_mkwrite. */
#define PAGE_MKWRITE(a) \
	((ops[a] == HOST && host_mkwrite) || (ops[a] == OURS && has_mkwrite))

/* State::release(), by the last fput(). */
inline put() {
	d_step {
		references--;
		if
		:: references == 0 ->
#ifndef UNCOUNTED
			if
			:: counted > 0 -> modified = true; cause = true
			:: else
			fi;
#endif
			assert(modified || !changed);
			assert(!modified || cause);
			alive = false;
			releases++
		:: else
		fi
	}
}

/* State::wrap(), within mmap(2) of either kind. */
inline map(a) {
	if
	:: atomic { modified -> ops[a] = HOST }
	:: atomic { !modified && table == 0 -> table = 1 };
		atomic { table = 2; has_mkwrite = true; ops[a] = OURS; counted++ }
	:: atomic { !modified && table == 1 ->
#ifndef EARLY
			modified = true; cause = true;
#endif
			ops[a] = HOST
		}
	:: atomic { !modified && table == 2 -> ops[a] = OURS; counted++ }
	fi;
	d_step { assert(alive); references++; writable[a] = false; area[a] = true }
}

/* munmap(2) waits for the faults that hold the lock. */
inline unmap(a) {
	atomic { locked[a] == 0 -> area[a] = false; writable[a] = false };
	/* vm_ops->close. */
	d_step {
		assert(alive);
		if
		:: ops[a] == OURS -> counted--
		:: else
		fi
	};
#ifdef BY_CLOSE
	if
	:: ops[a] == OURS -> put()
	:: else
	fi
#else
	put()
#endif
}

/* One process: maps, perhaps forks, and leaves in any order. */
proctype first() {
	map(0);
	if
	:: true
	/* fork(2): the child's area has the table of this one, and no pages. */
	:: d_step { !shared ->
			references++; ops[1] = ops[0]; writable[1] = false; area[1] = true;
			if
			:: ops[1] == OURS -> counted++
			:: else
			fi
		};
		run leaver()
	fi;
	if
	:: put(); unmap(0)
	:: unmap(0); put()
	fi
}

/* The child, or another thread of the process that has the area by mmap(2). */
proctype leaver() {
	unmap(1)
}

/* Another thread that maps the same open file, by another reference to it. */
proctype second() {
	map(1);
	run leaver();
	put()
}

/* Two of them are at each area. */
proctype toucher(byte a) {
	bool retry;

end:	do
	:: atomic { area[a] && writable[a] -> changed = true; cause = true }
	:: atomic { area[a] && !writable[a] -> locked[a]++; retry = false };
		/* do_shared_fault() or wp_page_shared(): is there one? */
		if
		:: PAGE_MKWRITE(a) ->
			/* do_page_mkwrite() loads it again, and calls it. */
			assert(PAGE_MKWRITE(a));
			if
			:: ops[a] == OURS ->
				assert(alive);
				/* The host's handler. */
				if
				:: true
				:: goto unlock
				:: atomic { locked[a]--; retry = true }
				fi;
				if
				:: retry ->
#ifdef TOUCH
					assert(alive);
#endif
					goto done
				:: else
				fi;
#ifndef LATE
				d_step { modified = true; cause = true };
#endif
#ifdef RESET
				ops[a] = HOST;
#endif
#ifdef NULLED
				has_mkwrite = false;
#endif
			:: else
			fi
			/* fault_dirty_shared_page() looks a third time, and calls nothing. */
		/* Not told of writes: such an area is mapped writable as it is. */
		:: !PAGE_MKWRITE(a)
		fi;
		writable[a] = true;
unlock:		locked[a]--;
#ifdef LATE
		if
		:: !retry && ops[a] == OURS -> d_step { modified = true; cause = true }
		:: else
		fi;
#endif
done:		skip
	od
}

/* Writeback protects the pages again. */
proctype writeback() {
end:	do
	:: atomic { writable[0] -> writable[0] = false }
	:: atomic { writable[1] -> writable[1] = false }
	od
}

/* Somebody puts a table of his own in place of ours, and does not chain. */
proctype thief() {
	if
	:: atomic { area[0] && ops[0] == OURS && locked[0] == 0 -> ops[0] = THEIRS }
	:: true
	fi
}

init {
	atomic {
		alive = true;
#ifdef HOST_HAS
		host_mkwrite = true;
#else
		if
		:: host_mkwrite = true
		:: host_mkwrite = false
		fi;
#endif
		run toucher(0);
		run toucher(0);
		run toucher(1);
		run writeback();
#ifndef ALONE
		run thief();
#endif
		if
		/* The descriptor, and a reference of the other one's. */
		:: references = 2; shared = true; run first(); run second()
		:: references = 1; run first()
		fi
	};
	timeout;
	assert(releases == 1 && references == 0 && !alive)
}
