#!/bin/bash
# In the debug kernel: loads the module once, which runs its KUnit suites, and
# hands their results, as the kernel keeps them, to the host between two marks.
insmod "$CODA_MODULE" || exit 1
echo KUNIT-BEGIN
for suite in /sys/kernel/debug/kunit/*/results; do
	[ -e "$suite" ] && cat "$suite"
done
echo KUNIT-END
rmmod "$(basename "$CODA_MODULE" .ko)"
