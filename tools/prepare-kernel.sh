#!/bin/bash
# Unpacks the stock kernel image and its source, and prepares a build directory
# that modules in Rust can be built against: the metadata of the rust/ folder is
# in no Debian package, and has to be made again from the same source with the
# same compilers.
. "$(dirname "$0")/lib.sh"
load_facts

dir=$CACHE/kernel/$REL
key=$(printf '%s\n' "$DEBVER" "$TOOLS" | cat - "$0" "$TOP/dkms/prepare-tree.sh" | hash_of)
fresh "$dir.stamp" "$key" && exit 0
rm -f "$dir.stamp"
mkdir -p "$CACHE/kernel"

# The image: a vmlinuz and the modules.
unpack_image() {
	local deb vmlinuz
	rm -rf "$CACHE/kernel/image.new"
	mkdir -p "$CACHE/kernel/image.new/usr/lib"
	# Where /lib is a link to usr/lib, both spellings of a package end up there.
	ln -s usr/lib "$CACHE/kernel/image.new/lib"
	for deb in "$ROOT"/var/cache/coda_rs/linux-*.deb; do
		echo "unpacking ${deb##*/}"
		in_root sh -c 'dpkg-deb --fsys-tarfile "$1" | tar -C "$2" --keep-directory-symlink -xf -' \
			sh "/var/cache/coda_rs/${deb##*/}" "$IN_CACHE/kernel/image.new"
	done
	in_root depmod -b "$IN_CACHE/kernel/image.new" "$REL"
	# It moved there with the split of the packages.
	for vmlinuz in "boot/vmlinuz-$REL" "usr/lib/modules/$REL/vmlinuz"; do
		if [ -s "$CACHE/kernel/image.new/$vmlinuz" ]; then
			mv "$CACHE/kernel/image.new/$vmlinuz" "$CACHE/kernel/image.new/vmlinuz"
			return
		fi
	done
	echo "no vmlinuz in the packages"
	return 1
}

prepare_build() {
	local new=$CACHE/kernel/$REL headers=/usr/src/linux-headers-$REL
	# The directory remembers its own path, so it cannot be made under another
	# name; its stamp comes last instead.
	rm -rf "$new/build"
	mkdir -p "$new/build"
	if [ ! -e "$new/source.done" ]; then
		rm -rf "${new:?}/linux-source-$KVER"
		echo "unpacking linux-source-$KVER.tar.xz"
		in_root tar -C "$IN_CACHE/kernel/$REL" --no-same-owner -xf "/usr/src/linux-source-$KVER.tar.xz"
		: >"$new/source.done"
	fi
	in_root bash "$TOP/dkms/prepare-tree.sh" "$KSRC" "$KBUILD_DIR" "$headers" "$REL" "$JOBS" \
		"CC=gcc-$GCC" "HOSTCC=gcc-$GCC"
}

mkdir -p "$dir"
step "$CACHE/log/image.log" "Unpacking the stock kernel $REL" unpack_image
rm -rf "$dir/image"
mv "$CACHE/kernel/image.new" "$dir/image"
step "$CACHE/log/prepare.log" "Preparing $REL for building modules in Rust (1 to 3 minutes)" prepare_build
put_stamp "$dir.stamp" "$key"
