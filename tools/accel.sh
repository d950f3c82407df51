#!/bin/bash
# Prints kvm where KVM can really run the stock kernel, else tcg.  A /dev/kvm
# that opens is no proof (nested hosts), so the kernel is booted for a moment.
. "$(dirname "$0")/lib.sh"
if [ "${CODA_RS_ACCEL:-}" ]; then
	echo "$CODA_RS_ACCEL"
	exit
fi
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then
	echo tcg
	exit
fi
load_facts
# Asked again after a reboot of the host, or with another kernel for the guest.
key=$(printf '%s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(uname -r)" "$REL" | hash_of)
if [ -s "$CACHE/accel" ] && [ "$(head -n 1 "$CACHE/accel")" = "$key" ]; then
	tail -n 1 "$CACHE/accel"
	exit
fi
console=$(mktemp -p "$CACHE" accel.XXXXXX)
in_root --dev-bind /dev/kvm /dev/kvm -- \
	timeout -k 2 20 qemu-system-x86_64 -nodefaults -no-user-config -nographic -no-reboot \
	-machine q35 -accel kvm -cpu max -m 512 \
	-kernel "$IN_CACHE/kernel/$REL/image/vmlinuz" -append "console=ttyS0,115200 panic=-1" \
	-serial "file:$IN_CACHE/${console##*/}" >/dev/null 2>&1 </dev/null &
pid=$!
verdict=tcg
while kill -0 "$pid" 2>/dev/null; do
	sleep 0.2
	# Far enough to have run on more than the first instructions.
	if grep -q 'clocksource\|Mounting\|VFS:' "$console" 2>/dev/null; then
		verdict=kvm
		break
	fi
done
kill "$pid" 2>/dev/null || true
wait "$pid" 2>/dev/null || true
rm -f "$console"
printf '%s\n%s\n' "$key" "$verdict" >"$CACHE/accel.tmp$$"
mv "$CACHE/accel.tmp$$" "$CACHE/accel"
echo "$verdict"
