#!/bin/bash
# Makes what the guest boots from: a root file system with the stock kernel's
# modules in it (squashfs, read through virtio-blk and overlaid by a tmpfs), and
# a first stage (cpio) that can find it.
. "$(dirname "$0")/lib.sh"
load_facts

packages=(
	bash coreutils util-linux mount procps psmisc kmod findutils grep sed gawk diffutils
	e2fsprogs xfsprogs btrfs-progs attr acl fio strace perl-base file less
	iproute2 bsdextrautils xxd lsof
	# programs that are run on C's module and ours, see tests/guest/programs
	git make gcc libc6-dev rsync sqlite3 stress-ng
)

dir=$CACHE/guest/$REL
key=$(printf '%s\n' "$DEBVER" "${packages[@]}" | cat - "$0" "$TOP/tools/first-stage.sh" "$TOP/tools/guest/first-stage" | hash_of)
fresh "$dir.stamp" "$key" && exit 0
need_host_packages
rm -f "$dir.stamp"
rm -rf "$dir.new"
mkdir -p "$dir.new"

make_root() {
	local mode=unshare list
	[ "$(id -u)" -ne 0 ] || mode=root
	list=$(printf ',%s' "${packages[@]}")
	mmdebstrap --mode=$mode --variant=essential --include="${list#,}" --format=tar \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook="mkdir -p \"\$1/opt/coda\" \"\$1/coda\" \"\$1/containers\" \"\$1/usr/lib/modules\"" \
		--customize-hook="sync-in '$CACHE/kernel/$REL/image/usr/lib/modules' /usr/lib/modules" \
		--customize-hook="echo coda-guest >\"\$1/etc/hostname\"; : >\"\$1/etc/fstab\"" \
		"$BASE" "$dir.new/root.tar"
	# Not compressed: the host's page cache is faster than an emulated CPU.
	in_root sh -c 'mksquashfs - "$1" -tar -noappend -no-progress -noI -noD -noF -noX <"$2"' \
		sh "$IN_CACHE/guest/$REL.new/root.squashfs" "$IN_CACHE/guest/$REL.new/root.tar"
	rm "$dir.new/root.tar"
}

make_first_stage() {
	in_root bash "$TOP/tools/first-stage.sh" "$IN_CACHE/kernel/$REL/image" "$REL" \
		"$TOP/tools/guest/first-stage" "$IN_CACHE/guest/$REL.new/first.cpio"
}

in_scratch guest step "$CACHE/log/guest.log" "Making the guest's root file system" make_root
step "$CACHE/log/first-stage.log" "Making the guest's first stage" make_first_stage
rm -rf "$dir"
mv "$dir.new" "$dir"
put_stamp "$dir.stamp" "$key"
