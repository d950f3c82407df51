# SPDX-License-Identifier: GPL-2.0
# How office programs and editors save: a temporary file, fsync, a rename over
# the old one, and a backup by link or by copy.
# order: strict
# same: \bCu[A-Za-z0-9]{6}\b => CuX
mkdir doc
for n in $(seq 1 6); do
	seq "$n" $((n * 100)) >"$SCRATCH/new"
	# A new file in the same directory, made durable, takes the old one's place.
	dd if="$SCRATCH/new" of=doc/.letter.tmp bs=4k conv=fsync status=none
	mv -f doc/.letter.tmp doc/letter
	# The same with a backup that is a link to the old one.
	dd if="$SCRATCH/new" of=doc/.sheet.tmp bs=4k conv=fsync status=none
	[ ! -e doc/sheet ] || ln -f doc/sheet doc/sheet~
	mv -f doc/.sheet.tmp doc/sheet
	# In place, after a copy.
	[ ! -e doc/notes ] || cp -p doc/notes doc/notes~
	cat "$SCRATCH/new" >doc/notes
	# A lock file beside it, as LibreOffice has.
	echo "$n" >'doc/.~lock.letter#'
	sync doc/letter
	rm 'doc/.~lock.letter#'
	truncate -s $((n * 10)) doc/short
done
sha256sum doc/*
