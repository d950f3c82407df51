# SPDX-License-Identifier: GPL-2.0
# tar and rsync: a tree in and out, and brought up to date.
# order: loose
# same: (\.[-a-z0-9]+)\.[A-Za-z0-9]{6}\b => $1.X
mkdir -p in/a/b in/c
for n in $(seq 1 30); do
	seq "$n" $((n * 50)) >"in/a/f$n"
	touch -d "@$((900000000 + n))" "in/a/f$n"
done
head -c 300000 /dev/zero >in/c/sparse-not
ln in/a/f1 in/c/hard
ln -s ../a/f2 in/c/soft
ln -s nowhere in/c/dangling
chmod 600 in/a/f3
chmod 4755 in/a/f4
chown 1000:1000 in/a/f5
find in -type d -exec touch -d @900000100 {} +
tar -cf in.tar in
tar -tvf in.tar --full-time | awk '{ print $1, $2, $3, $6, $7, $8 }'
mkdir out
tar -C out -xpf in.tar
tar -czf "$SCRATCH/out.tgz" -C out .
rm in.tar
rsync -a --stats in/ copy/ | grep -E '^(Number|Total file)'
seq 1 7 >in/a/f7
rm in/a/f8
mkdir in/new
mv in/a/f9 in/new
# rsync looks at the seconds.
touch -d @900000200 in/a/f7 in/a in/new in
rsync -a --delete --itemize-changes in/ copy/
rsync -a --inplace --checksum out/in/ copy/
cp -a copy copy2
rm -r copy
diff -r out/in copy2 || true
