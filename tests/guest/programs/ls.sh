# SPDX-License-Identifier: GPL-2.0
# Listings: what ls -l and find cost, with nothing cached and with all of it.
# order: strict
# strace: yes
mkdir -p dir/sub
for n in $(seq 1 50); do echo "$n" >"dir/f$n"; done
ln -s f1 dir/link
ln -s gone dir/dangling
touch -d @900000000 dir dir/* 2>/dev/null || true
for again in 1 2; do
	ls -l --time-style=+ dir | awk '{ print $1, $2, $5, $6 }'
done
find dir -type f -size -2 -name 'f1*'
# What is a user's may be asked for anew.
setpriv --reuid 1000 --regid 1000 --clear-groups ls -l --time-style=+ dir | awk '{ print $1, $5, $6 }' | tail -n 3
setpriv --reuid 1000 --regid 1000 --clear-groups cat dir/f7
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo no >dir/f7' || echo refused
mv dir/f1 dir/sub/f1
ls dir/sub
rm -r dir
ls -a
