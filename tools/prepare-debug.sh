#!/bin/bash
# Builds the debug kernel (tools/debug.config) from the same source as the stock
# one.  With clang, as a kernel with Rust and KASAN has to be.
. "$(dirname "$0")/lib.sh"
load_facts

key=$(printf '%s\n' "$DEBVER" "$TOOLS" | cat - "$0" "$TOP/tools/debug.config" | hash_of)
fresh "$CACHE/debug.stamp" "$key" && exit 0
rm -f "$CACHE/debug.stamp"
mkdir -p "$CACHE/debug/build"

build() {
	local build=$IN_CACHE/debug/build wanted
	cp "$TOP/tools/debug.config" "$CACHE/debug/fragment"
	in_root make LLVM=1 -C "$KSRC" "O=$build" tinyconfig
	in_root bash -c 'cd "$2" && "$1/scripts/kconfig/merge_config.sh" -m -O "$2" .config "$3"' \
		bash "$KSRC" "$build" "$IN_CACHE/debug/fragment"
	in_root make LLVM=1 -C "$KSRC" "O=$build" olddefconfig
	grep '^CONFIG_' "$CACHE/debug/fragment" | grep -vxFf "$CACHE/debug/build/.config" |
		sed 's/^/not as asked: /' || true
	# What was asked for and silently left out would find no faults.
	for wanted in RUST KUNIT KASAN PROVE_LOCKING DEBUG_ATOMIC_SLEEP DEBUG_LIST DETECT_HUNG_TASK \
		VIRTIO_BLK VIRTIO_CONSOLE SQUASHFS OVERLAY_FS EXT4_FS BLK_DEV_LOOP SWAP MODULE_UNLOAD \
		INIT_STACK_ALL_PATTERN; do
		grep -q "^CONFIG_$wanted=y" "$CACHE/debug/build/.config" || {
			echo "CONFIG_$wanted did not survive olddefconfig"
			return 1
		}
	done
	in_root make LLVM=1 -C "$KSRC" "O=$build" -j"$JOBS" bzImage modules
	cp "$CACHE/debug/build/arch/x86/boot/bzImage" "$CACHE/debug/build/fs/coda/coda.ko" "$CACHE/debug/"
}

step "$CACHE/log/debug.log" "Compiling the debug kernel (10 to 20 minutes on two cores, once)" build
put_stamp "$CACHE/debug.stamp" "$key"
