#!/bin/bash
# Makes the build root of a DIST: a small Debian of that suite with the
# compilers that built its kernel, QEMU, and every other tool used here.
. "$(dirname "$0")/lib.sh"

packages=(
	# the kernel and the module
	make bc bison flex libelf-dev libssl-dev zlib1g-dev
	rustc rust-src bindgen libclang-dev kmod xz-utils cpio rsync pahole python3
	# the kernel with KUnit and KASAN
	clang lld llvm
	# make check, and tests/
	cargo rustfmt rust-clippy shellcheck perl libc6-dev spin
	# make docs
	python3-sphinx
	# the guest
	qemu-system-x86 seabios squashfs-tools busybox-static e2fsprogs xfsprogs btrfs-progs
)
key=$(
	printf '%s\n' "$DIST" "${packages[@]}" | cat - "$TOP/tools/root-hook.sh" | hash_of
)
fresh "$CACHE/root.stamp" "$key" && exit 0

need_host_packages
remove "$CACHE/root.new" "$CACHE/root.tar"
rm -f "$CACHE/root.stamp"

# A mirror that is a frozen copy of Debian serves an index whose time is up.
# Its signature is checked all the same; only its age is not.
note "The age of the package index is not checked (a mirror may be a frozen copy); its signature is."
options=(
	--variant=apt --include=ca-certificates --skip=cleanup/apt/lists
	--aptopt='Acquire::Check-Valid-Until "false"'
	--aptopt='Acquire::Retries "3"'
	# An interrupted run starts anew anyway; waiting for the disk file by file
	# takes minutes.
	--dpkgopt=force-unsafe-io
	--dpkgopt=path-exclude=/usr/share/doc/*
	--dpkgopt=path-exclude=/usr/share/man/*
	--dpkgopt=path-exclude=/usr/share/locale/*
	# Copied in first: as an ordinary user the hook runs in a user namespace that
	# may not be able to read this tree.
	"--customize-hook=copy-in '$TOP/tools/root-hook.sh' /var/tmp"
	"--customize-hook=env --unset=TMPDIR bash \"\$1/var/tmp/root-hook.sh\" \"\$1\" $DIST '${packages[*]}'"
)
if [ "$(id -u)" -eq 0 ]; then
	in_scratch root step "$CACHE/log/root.log" "Making a build root of Debian $DIST (about 1.5 GB to fetch and unpack)" \
		mmdebstrap --mode=root "${options[@]}" "$BASE" "$CACHE/root.new"
else
	# The namespace in which an ordinary user makes a root is gone at the end, so
	# a tar comes out, which is unpacked without the owners that nobody needs.
	in_scratch root step "$CACHE/log/root.log" "Making a build root of Debian $DIST (about 1.5 GB to fetch and unpack)" \
		mmdebstrap --mode=unshare "${options[@]}" "$BASE" "$CACHE/root.tar"
	mkdir "$CACHE/root.new"
	step "$CACHE/log/root-unpack.log" "Unpacking it" \
		tar -C "$CACHE/root.new" --checkpoint=20000 --checkpoint-action="echo=%T" --exclude='./dev/*' --no-same-owner -xf "$CACHE/root.tar"
	rm -f "$CACHE/root.tar"
fi
[ -s "$CACHE/root.new/var/cache/coda_rs/facts" ] || die "the build root came out incomplete; see $CACHE/log/root.log."
if [ -e "$ROOT" ]; then
	remove "$CACHE/root.old"
	mv "$ROOT" "$CACHE/root.old"
	remove "$CACHE/root.old" &
fi
mv "$CACHE/root.new" "$ROOT"
mkdir -p "$CACHE/home" "$CACHE/cargo/home" "$CACHE/cargo/target"
cp "$ROOT/var/cache/coda_rs/facts" "$CACHE/facts.tmp"
mv "$CACHE/facts.tmp" "$CACHE/facts"
put_stamp "$CACHE/root.stamp" "$key"
wait
