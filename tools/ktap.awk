# Counts the single cases in KTAP as kselftest and KUnit print it, and prints
# "N_passed N_failed N_skipped" as its last line, the failed and the skipped
# cases before that.  A line that sums up the nested lines before it is no case.
# A plan that was not carried out is a failure.
function depth_of(s,   d) {
	d = 0
	while (match(s, /^(# |#   |    )/)) {
		s = substr(s, RLENGTH + 1)
		d++
	}
	return d
}
function close_below(d,   i) {
	for (i = 64; i > d; i--)
		if (i in plan) {
			if (seen[i] < plan[i]) {
				printf "failed: %d of %d planned cases did not report (before \"%s\")\n", plan[i] - seen[i], plan[i], $0
				failed++
			}
			delete plan[i]
			seen[i] = 0
		}
}
{
	sub(/\r$/, "")
	d = depth_of($0)
	line = $0
	while (sub(/^(# |    )/, "", line)) ;
}
line ~ /^1\.\.[0-9]+/ {
	close_below(d - 1)
	split(line, a, /\.\./)
	plan[d] = a[2] + 0
	seen[d] = 0
	next
}
line ~ /^(not )?ok [0-9]+/ {
	nested = below[d]
	close_below(d)
	for (i = d; i <= 64; i++)
		below[i] = 0
	for (i = 0; i < d; i++)
		below[i] = 1
	seen[d]++
	if (nested) {
		# A sum that is bad though none of its cases was is a failure of its own.
		if (line ~ /^not ok/ && bad_since[d] == failed + 0 && line !~ /# (SKIP|XFAIL|TODO)/) {
			print "failed: " line
			failed++
		}
	} else if (line ~ /# SKIP/) {
		print "skipped: " line
		skipped++
	} else if (line ~ /^ok/ || line ~ /# XFAIL/) {
		passed++
	} else {
		print "failed: " line
		failed++
	}
	bad_since[d] = failed + 0
	next
}
line ~ /^Bail out!/ {
	print "failed: " line
	failed++
}
END {
	close_below(-1)
	print passed + 0, failed + 0, skipped + 0
}
