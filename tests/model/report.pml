// SPDX-License-Identifier: GPL-2.0
/*
 * The written flag: programs that open one file, modify it, and close it; one
 * that truncates it by path; a cache manager of two threads. The words are those
 * of Documentation/written-flag.rst, the code is report.rs and upcall.rs. How a
 * store through a mapping comes to set the flag is in wrapper.pml.
 *
 * What must hold, in whatever order things happen:
 *
 *  - no lost modification: if the close of the cache manager's last writer says
 *    "not modified", nothing has changed since it last stored the file;
 *  - one close for each open, and all counts are zero in the end;
 *  - no alarm without a cause: a close says "modified" only if somebody modified
 *    the file, or may have, since it last had no writer.
 *
 * check.sh also checks modules that do it wrongly, each by one of these:
 *
 *  PER_OPEN   a flag for each open, not one for the inode
 *  AT_OPEN    an open counts only from the answer to its upcall on
 *  AT_QUEUE   an open counts only until its close is queued
 *  OVERTAKE   truncations are not held back by closes that said "not modified"
 *  OVERTAKEN  closes that say "modified" are not either
 *  FORGET     a truncation on its way does not count
 *  NO_DOUBT   a truncation that nobody waits for any more is taken for not done
 *  ONE_DOUBT  ... is remembered until the last writer has closed, and no longer
 *  UNHAUNTED  an open that was given up does not count, though the cache manager
 *             may be at work on it
 *  STICKY     the flag is never cleared
 *
 *  UNHAUNTED_TRUNCATION  a truncation does not count then, without a writer
 *  FORGETFUL  ... is forgotten with the inode, which may leave memory when there is no
 *             writer; what is known of the open itself is not
 *
 * With QUITTER there is a program whose open is given up while the cache manager is
 * at work on it, and may be undone there much later, in the place of the one that
 * truncates; with BOTH, there are the two, and a program less.
 */

#define PROGRAMS 2
#define TRUNCATER PROGRAMS
#define QUITS (PROGRAMS + 1)
/* How often each program opens the file. */
#ifndef ROUNDS
#define ROUNDS 2
#endif

mtype = { OPEN, CLOSE, TRUNCATE, UNDO };

/* WriteState. */
bool modified;
bool doubt;
bool haunted;
bool leaves;    /* the inode leaves memory whenever it may */
byte writers;
byte truncations;
byte clean_closes;
bool written[PROGRAMS];    /* of PER_OPEN alone */

/*
 * The device: requests are read in order, but for those that are held back, and
 * carried out in any.
 */
chan queue = [6] of { mtype, byte, byte, bool };
chan held = [3] of { mtype, byte, byte, bool };
byte unique[PROGRAMS + 2];
bool answered[PROGRAMS + 2];

/* The truth. */
bool changed;    /* the container is not what was stored last */
bool cause;      /* there is a reason to say "modified" */
byte cm_writers;
byte opens, closes;

#ifdef PER_OPEN
#define IS_MODIFIED(p) written[p]
#define MODIFY(p) written[p] = true
#else
#define IS_MODIFIED(p) modified
#define MODIFY(p) modified = true
#endif

/* To be used in one step. */
inline stops_counting() {
	writers--;
	if
	:: writers == 0 ->
#ifndef STICKY
		modified = modified && haunted;
#endif
		/* The inode leaves memory; what is in doubt is remembered elsewhere. */
		if
		:: leaves -> modified = doubt
		:: else
		fi;
		cause = doubt || modified && haunted
	:: else
	fi
}

/* WriteState::is_modified_for_good(): it is remembered, as a doubt is. */
inline remember() {
#ifndef FORGETFUL
	if
	:: haunted && modified -> doubt = true; cause = true
	:: else
	fi
#else
	skip
#endif
}

inline submit(op, p, clean) {
	d_step { unique[p]++; answered[p] = false }
	queue ! op, p, unique[p], clean
}

/* RequestState::after: not to be read while clean closes are on their way. */
inline submit_after(op, p) {
	d_step { unique[p]++; answered[p] = false }
	held ! op, p, unique[p], false
}

/* Writer::new(), CODA_OPEN_BY_FD. */
inline open_file(p) {
	d_step {
		opens++;
#ifdef PER_OPEN
		written[p] = false;
#endif
#ifndef AT_OPEN
		writers++
#endif
	}
	submit(OPEN, p, false);
	answered[p];
#ifdef AT_OPEN
	writers++
#endif
}

/* Writer::close(), CODA_CLOSE. */
inline close_file(p, clean) {
	d_step { remember() };
	d_step {
		clean = !IS_MODIFIED(p) && !doubt;
#ifndef FORGET
		clean = clean && truncations == 0;
#endif
		assert(clean || cause || truncations > 0);
		if
		:: clean -> clean_closes++
		:: else
		fi
	}
	if
#ifndef OVERTAKEN
	:: !clean -> submit_after(CLOSE, p)
#endif
	:: else -> submit(CLOSE, p, clean)
	fi;
#ifdef AT_QUEUE
	d_step { stops_counting() }
#endif
	/* Who is killed does not wait for the answer. */
	if
	:: answered[p]
	:: true
	fi
}

proctype program(byte p) {
	byte round;
	bool clean;

	do
	:: round < ROUNDS ->
		open_file(p);
		if
		:: true
		/* The content, then the flag; both before the program goes on. */
		:: atomic { changed = true; cause = true };
			MODIFY(p)
		fi;
		close_file(p, clean);
		round++
	:: else -> break
	od
}

/* WriteState::truncate(), CODA_SETATTR, Truncation::over(). */
proctype truncater() {
	truncations++;
	if
	/* A signal before it is read: it is taken back. */
	:: goto given_up
	:: true
	fi;
#ifdef OVERTAKE
	submit(TRUNCATE, TRUNCATER, false);
#else
	submit_after(TRUNCATE, TRUNCATER);
#endif
	if
	:: answered[TRUNCATER] ->
		d_step {
			if
#ifdef UNHAUNTED_TRUNCATION
			:: writers > 0 ->
#else
			:: writers > 0 || haunted ->
#endif
				modified = true; cause = true;
				written[0] = true; written[1] = true;
				remember()
			:: else
			fi
		}
	/* A signal: nobody knows whether it is done, or when. */
	:: true ->
#if defined(NO_DOUBT)
		skip
#elif defined(ONE_DOUBT)
		d_step { modified = true; cause = true }
#else
		d_step { doubt = true; cause = true }
#endif
	fi;
given_up:
	truncations--
}

/* Writer::abandon(): an open for writing, and a signal when it has been read. */
proctype quitter() {
	d_step { opens++; writers++ };
	submit(OPEN, QUITS, false);
	/* It is read, and carried out at some time or other. */
	d_step {
#ifndef UNHAUNTED
		haunted = true;
#endif
		remember();
		stops_counting()
	}
	/* Some time after that the cache manager takes it back, by a close of its own. */
	answered[QUITS];
	submit(UNDO, QUITS, false)
}

/* A thread of the cache manager. */
proctype manager() {
	mtype op;
	byte who, number;
	bool clean;

end:	do
	:: if
		:: queue ? op, who, number, clean
		:: atomic { nempty(held) && clean_closes == 0 -> held ? op, who, number, clean }
		fi;
		/* Here the other one may overtake it. */
		d_step {
			if
			:: op == OPEN -> cm_writers++
			:: op == TRUNCATE ->
				/* With a writer it is stored when that closes, else at once. */
				if
				:: cm_writers > 0 -> changed = true
				:: else
				fi
			:: op == CLOSE || op == UNDO ->
				cm_writers--;
				closes++;
				if
				:: cm_writers == 0 && clean -> assert(!changed)
				:: cm_writers == 0 && !clean -> changed = false
				:: else
				fi
			fi
		}
		/* Request::end(). */
		d_step {
			if
			:: op == CLOSE ->
#ifndef AT_QUEUE
				stops_counting();
#endif
				if
				:: clean -> clean_closes--
				:: else
				fi
			:: else
			fi;
			answered[who] = answered[who] || unique[who] == number
		}
	od
}

init {
#if defined(QUITTER) || defined(BOTH)
	if
	:: leaves = true
	:: true
	fi;
#endif
	atomic {
		run manager();
		run manager();
		run program(0);
#ifndef BOTH
		run program(1);
#endif
#if defined(QUITTER) || defined(BOTH)
		run quitter();
#endif
#ifndef QUITTER
		run truncater()
#endif
	}
	/* Everybody has ended, and all that was sent has been answered. */
	timeout;
	assert(closes == opens && cm_writers == 0 && empty(held) && empty(queue));
	assert(writers == 0 && clean_closes == 0 && truncations == 0);
	assert(!changed)
}
