#!/bin/bash
# Boots a kernel in QEMU with a payload and runs a command in it.
#
# usage: tools/vm.sh [options] [-- COMMAND...]
#   --payload DIR    its content appears in the guest as /opt/coda (repeatable)
#   --module FILE    a .ko to put there as /opt/coda/<name>; CODA_MODULE says where;
#                    "coda" means the stock kernel's own C module (for modprobe)
#   --extra FILE     another file to put into /opt/coda (repeatable)
#   --kernel KIND    stock (default), debug (KUnit, KASAN, lockdep) or kcsan
#   --boot DIR       another stock kernel: its vmlinuz and first.cpio are in there
#   --label NAME     logs go to out/logs/<DIST>/NAME (default: vm)
#   --timeout S      the watchdog's limit for the whole boot (default: 900)
#   --mem MB, --cpus N   size of the guest (default: 2048, 2)
#   --icount         one emulated CPU, whose clock counts executed instructions
#   --plugin FILE,ARGS  a plugin for QEMU; the kernel is where it was linked to be
#   --plain          the stock kernel without the checks that it has, and leaves off
#   --fs "LIST"      container file systems beside tmpfs (default: ext4 xfs btrfs)
#   --results DIR    what the command leaves in $CODA_RESULTS ends up there
#   --env NAME=VALUE for the command (repeatable)
#   --tty            the command gets a terminal
#   --no-check       neither unload the module nor judge the kernel's log
#   --ignore REGEX   lines of the kernel's log that are no fault in this run
#   --oops           an oops ends the guest, with C's module too
#   --quiet          no remarks of the host's own
# COMMAND is run by bash in the guest, as root; without one it is a shell.
#
# Exit status: the command's; 70 if the kernel's log or rmmod is at fault;
# 71 if the guest died or ran out of time.
. "$(dirname "$0")/lib.sh"

payloads=() extras=() envs=() module='' kernel=stock label=vm timeout=900 mem=2048 cpus=2
boot='' tty='' check=1 ignore='' quiet='' results='' oops='' icount='' plain='' plugin='' fs_list='ext4 xfs btrfs'
while [ $# -gt 0 ]; do
	case $1 in
	--payload) payloads+=("$2"); shift ;;
	--module) module=$2; shift ;;
	--extra) extras+=("$2"); shift ;;
	--kernel) kernel=$2; shift ;;
	--boot) boot=$2; shift ;;
	--label) label=$2; shift ;;
	--timeout) timeout=$2; shift ;;
	--mem) mem=$2; shift ;;
	--cpus) cpus=$2; shift ;;
	--plain) plain=1 ;;
	--plugin) plugin=$2; shift ;;
	--icount) icount=1 cpus=1 envs+=(CODA_ICOUNT=1) ;;
	--fs) fs_list=$2; shift ;;
	--results) results=$2; shift ;;
	--env) envs+=("$2"); shift ;;
	--ignore) ignore=$2; shift ;;
	--tty) tty=1 ;;
	--no-check) check=0 ;;
	--oops) oops=1 ;;
	--quiet) quiet=1 ;;
	--) shift; break ;;
	*) die "vm.sh: unknown option $1." ;;
	esac
	shift
done
[ -f "$CACHE/facts" ] || die "nothing is prepared for $DIST yet: run make first."
load_facts
if [ $# -eq 0 ]; then
	set -- bash -l
	tty=1
fi

logs=$OUT/logs/$DIST/$label
mkdir -p "$logs"
rm -f "$logs"/*
mkdir -p "$OUT/run"
need_space "$OUT/run" 1024 "the disks of the guest"
run=$(mktemp -d "$OUT/run/$label.XXXXXX")
saved_tty=''
cleanup() {
	rm -rf "$run"
	[ -z "$saved_tty" ] || stty "$saved_tty" 2>/dev/null || true
}
trap cleanup EXIT

# The payload, as one more layer over the guest's root.
stage=$run/payload/opt/coda
mkdir -p "$stage"
for d in "${payloads[@]}"; do
	cp -a "$d/." "$stage/"
done
coda_module=$module
if [ -n "$module" ] && [ "$module" != coda ]; then
	cp "$module" "$stage/"
	coda_module=/opt/coda/${module##*/}
fi
for f in "${extras[@]}"; do
	cp "$f" "$stage/"
done
install -m 755 "$TOP/tools/guest/init" "$stage/init"
{
	printf 'export CODA_MODULE=%q\n' "$coda_module"
	printf 'export CODA_KERNEL=%q\n' "$kernel"
	printf 'BOOT_CHECK=%q\nBOOT_IGNORE=%q\nBOOT_TTY=%q\n' "$check" "$ignore" "$tty"
	if [ -n "$tty" ] && [ -t 0 ]; then
		size=$(stty size 2>/dev/null || echo "24 80")
		printf 'BOOT_ROWS=%q\nBOOT_COLS=%q\nBOOT_TERM=%q\n' "${size% *}" "${size#* }" "${TERM:-linux}"
	fi
	[ -z "$results" ] || printf 'export CODA_RESULTS=/tmp/results\n'
	for e in "${envs[@]}"; do
		printf 'export %s=%q\n' "${e%%=*}" "${e#*=}"
	done
} >"$stage/boot.env"
printf 'cd /opt/coda\nexec' >"$stage/command.sh"
printf ' %q' "$@" >>"$stage/command.sh"
echo >>"$stage/command.sh"

# Fresh container file systems each time; made here, where it is fast. ext4 lists names in the
# order of their hashes, which is to be the same in each boot.
in_root sh -e -c '
	mksquashfs "$1/payload" "$1/payload.squashfs" -noappend -no-progress -all-root -noI -noD -noF -noX
	for fs in $2; do
		truncate -s 512M "$1/$fs.img"
		case $fs in
		ext4) mkfs.ext4 -q -E hash_seed=636f6461-5f72-7320-7465-737473000000 "$1/$fs.img" ;;
		*) "mkfs.$fs" -q "$1/$fs.img" ;;
		esac
	done' sh "$run" "$fs_list" >"$logs/disks.log" 2>&1 || {
	tell_why "$logs/disks.log"
	die "the disks of the guest cannot be made; see $logs/disks.log."
}

# A disk that the guest writes a tar to, from the first byte on.
[ -z "$results" ] || truncate -s 2G "$run/results.img"

# After an oops nothing that a test says is worth anything, and it may well hang.
# The C module is known for it, though, and a control has to see the rest.
[ "$module" = coda ] || oops=1
cpu=max
append="${plugin:+nokaslr }console=ttyS0,115200 panic=-1 ${oops:+oops=panic }log_buf_len=16M rcupdate.rcu_cpu_stall_timeout=120 mitigations=off"
case $kernel in
stock)
	image=${boot:-$CACHE/kernel/$REL/image}/vmlinuz
	# Debian builds KFENCE and slab debugging in, but leaves them off.
	[ -n "$plain" ] || append+=" kfence.sample_interval=100 slab_debug=FZPU,coda*"
	# A piece of memory that plays persistent memory, for containers on DAX.
	append+=' memmap=128M!1G'
	;;
debug)
	image=$CACHE/debug/bzImage
	# Without la57=off KASAN is noisy under TCG before anything has started.
	cpu=max,la57=off
	append+=" kasan_multi_shot"
	;;
kcsan)
	image=$CACHE/kcsan/bzImage
	# An emulated CPU gets less far than another one while a watchpoint is set.
	append+=" kcsan.udelay_task=300 kcsan.skip_watch=300"
	;;
*) die "vm.sh: --kernel is stock, debug or kcsan." ;;
esac

# The file systems of the tree and the cache are the same ones inside, under
# other names for the cache.
inside() {
	case $1 in
	"$CACHE"/*) echo "$IN_CACHE${1#"$CACHE"}" ;;
	*) echo "$1" ;;
	esac
}
if [ -n "$icount" ]; then
	accel=tcg accel_args=(-accel "tcg,tb-size=512" -icount "shift=0,sleep=off")
else
	choose_accel
fi

drive() {
	qemu+=(-drive "if=none,id=$1,file=$2,format=raw,cache=unsafe,discard=unmap,$3"
		-device "virtio-blk-pci,drive=$1,serial=$1")
}
# shellcheck disable=SC2054 # the commas are QEMU's
qemu=(
	qemu-system-x86_64 -nodefaults -no-user-config -nographic -no-reboot
	-machine q35 "${accel_args[@]}" -cpu "$cpu" -smp "$cpus" -m "$mem"
	-kernel "$(inside "$image")" -initrd "$(inside "${boot:-$CACHE/guest/$REL}/first.cpio")" -append "$append"
	-chardev "file,id=console,path=$logs/console.log" -serial chardev:console
	-device virtio-serial-pci
	-chardev "stdio,id=user,signal=$([ -n "$tty" ] && echo off || echo on)" -device virtconsole,chardev=user
	-chardev "file,id=result,path=$logs/result" -device virtserialport,chardev=result,name=coda.result
	-chardev "file,id=dmesg,path=$logs/dmesg" -device virtserialport,chardev=dmesg,name=coda.dmesg
	-device virtio-rng-pci
)
[ -z "$plugin" ] || qemu+=(-plugin "$plugin")
drive root "$(inside "$CACHE/guest/$REL/root.squashfs")" readonly=on
drive payload "$run/payload.squashfs" readonly=on
for fs in $fs_list; do
	drive "$fs" "$run/$fs.img" readonly=off
done
[ -z "$results" ] || drive results "$run/results.img" readonly=off

[ -n "$quiet" ] || note "==> Booting $([ "$kernel" = stock ] && basename "${boot:-$REL}" || echo "the $kernel kernel") under QEMU ($accel); kernel console in ${logs#"$PWD"/}/console.log"
if [ -t 0 ]; then
	saved_tty=$(stty -g)
fi
# QEMU's emulated machine has been seen to fail an assertion of QEMU's own while the
# kernel looks for its devices, once in some hundred boots. That says nothing about
# the guest, as long as that has not begun.
crashed_before_it_began() {
	[ "$rc" -eq 134 ] && grep -q 'Assertion' "$logs/qemu.log" &&
		! grep -q 'coda-guest: begin' "$logs/console.log"
}

for try in 1 2 3; do
	rc=0
	: >"$logs/qemu.log"
	if [ -n "$tty" ]; then
		in_root --dev-bind-try /dev/kvm /dev/kvm -- "${qemu[@]}" 2>>"$logs/qemu.log" || rc=$?
	else
		timeout --foreground -k 5 "$timeout" \
			bash -c '. "$1"; shift; in_root --dev-bind-try /dev/kvm /dev/kvm -- "$@"' \
			bash "$TOP/tools/lib.sh" "${qemu[@]}" </dev/null 2>>"$logs/qemu.log" | tee "$logs/output" || rc=$?
	fi
	crashed_before_it_began || break
	note "coda_rs: QEMU itself crashed before the guest had begun (try $try of 3): $(tail -n 1 "$logs/qemu.log")"
done

if [ -n "$results" ]; then
	rm -rf "$results"
	mkdir -p "$results"
	# Without a tar there is nothing to unpack, and the result below says why.
	tar -C "$results" --no-same-owner -xf "$run/results.img" 2>>"$logs/qemu.log" || true
fi
result=$(tr -d '\r' <"$logs/result" 2>/dev/null | tail -n 1 || true)
case $result in
"status=0 check=0") exit 0 ;;
status=*" check=1") exit 70 ;;
status=*" check=0")
	status=${result#status=}
	exit "${status%% *}"
	;;
esac
if [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then
	note "coda_rs: the guest did not finish in $timeout seconds; from its console:"
else
	note "coda_rs: the guest died without a result (QEMU: $rc); from its console:"
fi
# The first complaint says more than the last lines do.
sed '1,/coda-guest: begin/d' "$logs/console.log" |
	sed -n '/cut here\|BUG\|Oops\|Kernel panic/,$p' | head -n 60 >"$logs/died"
[ -s "$logs/died" ] || tail -n 40 "$logs/console.log" >"$logs/died" || true
cat "$logs/died" >&2
tail -n 5 "$logs/qemu.log" >&2 || true
exit 71
