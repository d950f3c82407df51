#!/bin/bash
# Builds one of the kernels that find faults from the same source as the stock one:
# debug (tools/debug.config), or kcsan (tools/kcsan.config on top of it).  With clang,
# as a kernel with Rust and KASAN has to be.
# usage: prepare-debug.sh [debug|kcsan]
. "$(dirname "$0")/lib.sh"
load_facts

kind=${1:-debug}
# What was asked for and silently left out would find no faults.
wanted=(RUST DEBUG_ATOMIC_SLEEP DEBUG_LIST DETECT_HUNG_TASK VIRTIO_BLK VIRTIO_CONSOLE SQUASHFS
	OVERLAY_FS EXT4_FS BLK_DEV_LOOP SWAP MODULE_UNLOAD INIT_STACK_ALL_PATTERN)
fragments=("$TOP/tools/debug.config")
case $kind in
debug)
	wanted+=(KUNIT KASAN PROVE_LOCKING)
	title="Compiling the debug kernel"
	;;
kcsan)
	wanted+=(KCSAN)
	fragments+=("$TOP/tools/kcsan.config")
	title="Compiling the kernel with KCSAN"
	;;
*) die "prepare-debug.sh: debug or kcsan." ;;
esac

dir=$CACHE/$kind
key=$(printf '%s\n' "$DEBVER" "$TOOLS" | cat - "$0" "${fragments[@]}" | hash_of)
fresh "$dir.stamp" "$key" && exit 0
rm -f "$dir.stamp"
mkdir -p "$dir/build"

build() {
	local build=$IN_CACHE/$kind/build option
	# The later ones win.
	for option in "${fragments[@]}"; do
		cat "$option"
	done | awk '/^CONFIG_|^# CONFIG_.* is not set$/ {
			name = ($1 == "#" ? $2 : $1)
			sub(/=.*/, "", name)
			if (!(name in line)) order[++n] = name
			line[name] = $0
		}
		END { for (i = 1; i <= n; i++) print line[order[i]] }' >"$dir/fragment"
	in_root make LLVM=1 -C "$KSRC" "O=$build" tinyconfig
	in_root bash -c 'cd "$2" && "$1/scripts/kconfig/merge_config.sh" -m -O "$2" .config "$3"' \
		bash "$KSRC" "$build" "$IN_CACHE/$kind/fragment"
	in_root make LLVM=1 -C "$KSRC" "O=$build" olddefconfig
	grep '^CONFIG_' "$dir/fragment" | grep -vxFf "$dir/build/.config" |
		sed 's/^/not as asked: /' || true
	for option in "${wanted[@]}"; do
		grep -q "^CONFIG_$option=y" "$dir/build/.config" || {
			echo "CONFIG_$option did not survive olddefconfig"
			return 1
		}
	done
	in_root make LLVM=1 -C "$KSRC" "O=$build" -j"$JOBS" bzImage modules
	cp "$dir/build/arch/x86/boot/bzImage" "$dir/"
	[ "$kind" = kcsan ] || cp "$dir/build/fs/coda/coda.ko" "$dir/"
}

step "$CACHE/log/$kind.log" "$title (10 to 20 minutes on two cores, once)" build
put_stamp "$dir.stamp" "$key"
