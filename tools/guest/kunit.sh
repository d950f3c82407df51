#!/bin/bash
# In the debug kernel: loads the module once, which runs its KUnit suites, and
# hands their results, as the kernel keeps them, to the host between two marks.
# The kernel has a few suites of its own, which are no concern of ours.
before=" $(cd /sys/kernel/debug/kunit && echo *) "
insmod "$CODA_MODULE" || exit 1
echo KUNIT-BEGIN
for suite in /sys/kernel/debug/kunit/*/results; do
	[ -e "$suite" ] || continue
	name=${suite%/results}
	case $before in *" ${name##*/} "*) continue ;; esac
	cat "$suite"
done
echo KUNIT-END
rmmod "$(basename "$CODA_MODULE" .ko)"
