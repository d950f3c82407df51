#!/bin/bash
# Runs in the build root: makes the guest's first stage, a cpio with busybox, an init and
# the modules of a kernel that it takes to find the disks.
# usage: first-stage.sh IMAGE-DIR RELEASE INIT CPIO
set -euo pipefail
image=$1 rel=$2 init=$3 cpio=$4
modules=(virtio_pci virtio_blk virtio_console virtio_rng squashfs overlay)

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage"/{bin,dev,proc,sys,ro,new,"modules/$rel"}
cp /bin/busybox "$stage/bin/busybox"
cp "$init" "$stage/init"
chmod 755 "$stage" "$stage/init"
# busybox cannot read a compressed module.
for m in "${modules[@]}"; do
	modprobe -d "$image" -S "$rel" --show-depends "$m"
done | while read -r kind path _; do
	[ "$kind" = insmod ] || continue
	name=${path##*/}
	name=${name%%.ko*}.ko
	to=$stage/modules/$rel
	[ ! -e "$to/$name" ] || continue
	case $path in
	*.xz) xz -dc "$path" >"$to/$name" ;;
	*.zst) zstd -dc "$path" >"$to/$name" ;;
	*) cp "$path" "$to/$name" ;;
	esac
	echo "$name" >>"$to/order"
done
(cd "$stage" && find . | cpio -o -H newc -R 0:0 --quiet) >"$cpio"
