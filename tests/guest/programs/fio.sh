# SPDX-License-Identifier: GPL-2.0
# fio, which writes and reads back what it wrote, by several engines. (Not by
# mmap: C refuses a second shared mapping of a file, which is fault 5.)
# order: loose
cat >"$SCRATCH/job" <<'J'
[global]
directory=/coda
size=512k
bs=4k-16k
verify=pattern
verify_pattern=0xc0dac0da%o
verify_fatal=1
randrepeat=1
fallocate=none
thread=0
[seq]
rw=write
ioengine=psync
[random]
stonewall
rw=randwrite
ioengine=pvsync
fsync=16
[aio]
stonewall
rw=randwrite
ioengine=libaio
iodepth=4
J
# Its own words are all about time.
fio --output="$SCRATCH/out" "$SCRATCH/job" >"$SCRATCH/words" 2>&1 || { cat "$SCRATCH/words" "$SCRATCH/out"; exit 1; }
grep -o 'err= *[0-9]*' "$SCRATCH/out"
ls
