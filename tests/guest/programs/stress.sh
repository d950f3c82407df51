# SPDX-License-Identifier: GPL-2.0
# stress-ng's stressors of file systems, one after the other for a few seconds
# each. How much they do depends on time, so only how they end counts, and what
# they leave behind.
# order: none
{
	echo 'run sequential'
	printf '%s\n' 'temp-path /coda' 'seed 1' 'quiet' 'verify' 'oom-avoid' 'timeout 1'
	# Some fill directories, and take long to empty them.
	some='rename chmod utime'
	[ -z "${CODA_LONG:-}" ] || some+=' dir dentry link symlink open flock getdent seek locka'
	for s in $some; do
		echo "$s 1"
	done
} >"$SCRATCH/job"
stress-ng --job "$SCRATCH/job" >"$SCRATCH/out" 2>&1 || echo "status $?"
# It has warnings about its own figures, too.
grep -E 'fail|error' "$SCRATCH/out" || true
ls -A
