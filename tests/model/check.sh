#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks the models with spin(1), and that they find the faults of modules that do
# it wrongly. Prints KTAP.
#
#   check.sh                 all of it
#   check.sh MODEL [-DNAME...]   shows how one goes wrong, step by step
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(dirname "$(realpath "$0")")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

# Each is checked as it is, and has to be right; then so changed, and has to be
# wrong.
models=(report "report QUITTER" "report BOTH" wrapper)
report=(PER_OPEN AT_OPEN AT_QUEUE OVERTAKE OVERTAKEN FORGET NO_DOUBT ONE_DOUBT STICKY)
report_QUITTER=(UNHAUNTED)
report_BOTH=(UNHAUNTED_TRUNCATION FORGETFUL)
# The last one shows what else the seed's plan loses where it calls no NULL.
wrapper=(RESET NULLED BY_CLOSE LATE TOUCH UNCOUNTED EARLY "RESET BY_CLOSE HOST_HAS ALONE")

# pan MODEL -DNAME...: searches all states, the first fault ends it.
pan() {
	local model=$1
	shift
	rm -f pan pan.* ./*.trail
	spin -a "$@" "$here/$model.pml" >spin.log
	gcc -w -O2 -DSAFETY -DCOLLAPSE -o pan pan.c
	./pan -m100000 -n >pan.log
}

if [ $# -gt 0 ]; then
	pan "$@"
	grep -E '^pan:|errors:' pan.log
	[ ! -e "$1.pml.trail" ] || spin -t -p -g -l "${@:2}" -k "$1.pml.trail" "$here/$1.pml"
	exit
fi

number=0 failed=0
say() { # GOOD NAME COMMENT
	number=$((number + 1))
	echo "# $2: $3"
	if [ "$1" = yes ]; then
		echo "ok $number $2"
	else
		echo "not ok $number $2"
		failed=1
	fi
}

echo "KTAP version 1"
echo "1..$((${#models[@]} + ${#report[@]} + ${#report_QUITTER[@]} + ${#report_BOTH[@]} + ${#wrapper[@]}))"
for entry in "${models[@]}"; do
	read -r model names <<<"$entry"
	pan "$model" ${names:+"-D$names"}
	states=$(awk '/states, stored/ { print $1 }' pan.log)
	fault=$(sed -n 's/^pan:[0-9]*: //p' pan.log | grep -v hashtable || true)
	good=no
	if [ -z "$fault" ] && grep -q 'errors: 0$' pan.log && ! grep -q 'Search not completed\|max search depth' pan.log; then
		good=yes
	fi
	say "$good" "${entry// /.}" "${states:-no} states, ${fault:-no fault}"
	declare -n variants=${entry// /_}
	for variant in "${variants[@]}"; do
		read -ra defined <<<"$names $variant"
		pan "$model" "${defined[@]/#/-D}"
		fault=$(sed -n 's/^pan:[0-9]*: \(assertion violated\)/\1/p' pan.log)
		good=no
		[ -z "$fault" ] || good=yes
		say "$good" "${entry// /.}.${variant// /.}" "found wrong: ${fault:-it was not}"
	done
done
exit "$failed"
