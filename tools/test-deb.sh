#!/bin/bash
# make test-deb: the package in a Debian as a user has it.  A disk image with a stock kernel
# of the suite, its headers and source; then
#
#   1. apt installs the package, and DKMS builds the module
#   2. the image is booted: module loaded, Coda mounted, the package installed again below it
#   3. apt brings another kernel, and DKMS builds the module for that
#   4. the image is booted with it: loaded and mounted; the package is purged, C's module back
#
# 1 and 3 run in a chroot of the very image, where they take minutes: on an emulated machine
# the compilation of the kernel crate alone would take an hour.  2 and 4 run in QEMU; in 2,
# DKMS builds the module once more, in the guest.
#
# Each step works on a copy of the image, so that a run that was interrupted goes on from the
# last step that was complete.  Nobody but root can mount an image.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || die "make test-deb mounts a disk image and installs packages in it: run it as root."
bash "$TOP/tools/prepare.sh"
load_facts
bash "$TOP/tools/deb.sh" >/dev/null
deb=$(echo "$OUT/deb/$DIST"/coda-rs-dkms_*_all.deb)
[ -s "$deb" ] || die "make deb left no package in $OUT/deb/$DIST."
bash "$TOP/tools/build-tests.sh"

dir=$CACHE/deb
logs=$OUT/logs/$DIST/test-deb
mnt=$dir/mnt
image=$dir/next.img
rm -rf "$logs"
mkdir -p "$logs" "$mnt" "$dir/archives/partial"
exec 7>"$dir/test.lock"
flock -n 7 || die "another make test-deb is at work on the same image."
cleanup() {
	! mountpoint -q "$mnt" || umount "$mnt" || umount -l "$mnt"
}
trap cleanup EXIT
cleanup
free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge 10 ] || [ -e "$dir/base.stamp" ] ||
	die "the disk images need about 10 GB in $dir, and there are $free GB left."

# A Debian with the first kernel, which is the newest but one, or another flavour of the
# newest.
make_base() {
	rm -rf "$dir/tree" "$dir/base.img"
	mkdir -p "$dir/tree"
	TMPDIR=/var/tmp mmdebstrap --mode=root --variant=important --skip=cleanup/apt/lists \
		--include=systemd-sysv,udev,dbus,kmod,initramfs-tools,ca-certificates \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt=force-unsafe-io --setup-hook='mkdir -p "$1/opt/coda-test"' \
		--customize-hook="copy-in '$TOP/tools/apt-kernels.sh' /opt/coda-test" \
		--customize-hook="bash '$TOP/tools/test-deb-hook.sh' \"\$1\" $DIST" \
		"$BASE" "$dir/tree"
	cp "$dir/tree/opt/coda-test/kernels" "$dir/kernels"
	truncate -s 10G "$dir/base.img"
	in_root mke2fs -q -t ext4 -d "$IN_CACHE/deb/tree" "$IN_CACHE/deb/base.img"
	rm -rf "$dir/tree"
}
key=$(printf '%s\n' "$DIST" "$(declare -f make_base)" | cat - "$TOP/tools/test-deb-hook.sh" "$TOP/tools/apt-kernels.sh" | hash_of)
if ! fresh "$dir/base.stamp" "$key"; then
	rm -f "$dir/base.stamp" "$dir/stage"
	step "$logs/base.log" "Making a Debian $BASE with a kernel of $DIST" make_base
	put_stamp "$dir/base.stamp" "$key"
fi
read -r first first_version second second_version <"$dir/kernels"
note "The kernels: $first ($first_version), then $second ($second_version)."

# In the image, as a user's root in a shell.
in_image() {
	ROOT=$mnt in_root --bind "$dir/archives" /var/cache/apt/archives \
		--setenv DEBIAN_FRONTEND noninteractive --setenv HOME /root -- "$@"
}
with_image() {
	local rc=0
	mount -o loop "$image" "$mnt" || die "the image $image cannot be mounted; is there a free loop device?"
	"$@" || rc=$?
	# A loop device lets go of its file only when it is idle.
	sync -f "$mnt"
	umount "$mnt"
	return "$rc"
}

# What DKMS says of a kernel, and that the metadata was made for it.
built_for() {
	in_image dkms status coda-rs | tee /dev/stderr | grep -q "$1.*: installed" || {
		echo "DKMS has not installed the module for $1"
		return 1
	}
	in_image find "/var/cache/coda-rs/$1" -maxdepth 1 -name stamp | grep -q . || {
		echo "there is no Rust metadata for $1"
		return 1
	}
}
install_package() {
	cp "$deb" "$mnt/opt/coda-test/coda-rs-dkms.deb"
	in_image apt-get install -y -q --no-install-recommends /opt/coda-test/coda-rs-dkms.deb && built_for "$first"
}
# As README.Debian says it.
upgrade_kernel() {
	in_image apt-get install -y -q --no-install-recommends "linux-image-amd64/$DIST" \
		"linux-headers-amd64/$DIST" "linux-source/$DIST" && built_for "$second"
}
payload() {
	cp "$OUT/tests/$DIST/bin/codacm" "$TOP/tests/deb/guest.sh" "$mnt/opt/coda-test/"
	# A login there would hang up whoever else writes to it.
	ln -sf /dev/null "$mnt/etc/systemd/system/serial-getty@hvc0.service"
	cat >"$mnt/etc/systemd/system/coda-test.service" <<-'UNIT'
		[Unit]
		Description=What tools/test-deb.sh wants to know
		Requires=dev-hvc0.device
		After=dev-hvc0.device systemd-modules-load.service basic.target
		[Service]
		Type=oneshot
		ExecStart=/bin/bash /opt/coda-test/guest.sh
		ExecStopPost=/bin/sh -c 'sync; systemctl --no-block poweroff'
		StandardOutput=tty
		StandardError=tty
		TTYPath=/dev/hvc0
		TimeoutStartSec=infinity
		[Install]
		WantedBy=multi-user.target
	UNIT
	ln -sf ../coda-test.service "$mnt/etc/systemd/system/multi-user.target.wants/coda-test.service"
	echo "/dev/vda / ext4 defaults 0 1" >"$mnt/etc/fstab"
	local release=$1 vmlinuz
	for vmlinuz in "boot/vmlinuz-$release" "usr/lib/modules/$release/vmlinuz"; do
		[ ! -s "$mnt/$vmlinuz" ] || break
	done
	cp "$mnt/$vmlinuz" "$dir/vmlinuz"
	cp "$mnt/boot/initrd.img-$release" "$dir/initrd"
}
boot() {
	local stage=$1 release=$2 accel args
	with_image payload "$release" || return 1
	accel=$(bash "$TOP/tools/accel.sh")
	args=(-accel "$accel")
	[ "$accel" = kvm ] || args=(-accel "tcg,thread=multi,tb-size=512")
	# shellcheck disable=SC2054 # the commas are QEMU's
	local qemu=(
		qemu-system-x86_64 -nodefaults -no-user-config -nographic -no-reboot
		-machine q35 "${args[@]}" -cpu max -smp 2 -m 3072
		-kernel "$IN_CACHE/deb/vmlinuz" -initrd "$IN_CACHE/deb/initrd"
		-append "root=/dev/vda rw console=ttyS0,115200 panic=-1 oops=panic mitigations=off coda.stage=$stage coda.kernel=$release"
		-drive "if=virtio,file=$IN_CACHE/deb/next.img,format=raw,cache=unsafe,discard=unmap"
		-chardev "file,id=console,path=$logs/console-$stage.log" -serial chardev:console
		-device virtio-serial-pci -chardev stdio,id=user,signal=off -device virtconsole,chardev=user
		-device virtio-rng-pci
	)
	in_root --dev-bind-try /dev/kvm /dev/kvm -- timeout -k 5 "${CODA_TEST_DEB_TIMEOUT:-5400}" "${qemu[@]}" </dev/null |
		sed -u 's/\r$//'
	grep -q "^coda-test: $stage: all is well" "$logs/boot-$stage.log" && return
	grep -q "^coda-test: $stage" "$logs/boot-$stage.log" || {
		echo "the guest did not get to the end; from its console:"
		tail -n 15 "$logs/console-$stage.log"
	}
	return 1
}

# How far the image has come, and from which package.
key=$(hash_of "$deb" "$dir/base.stamp")
state=$(cat "$dir/stage" 2>/dev/null || true)
case $state in
"$key "[123]) state=${state#"$key "} ;;
*)
	state=0
	rm -f "$dir/stage"
	cp --sparse=always "$dir/base.img" "$dir/work.img"
	;;
esac
stage() {
	local n=$1 title=$2
	shift 2
	if [ "$n" -le "$state" ]; then
		note "==> $title: done by an earlier run"
		return
	fi
	cp --sparse=always "$dir/work.img" "$image"
	step "$@"
	mv "$image" "$dir/work.img"
	put_stamp "$dir/stage" "$key $n"
}
stage 1 "apt install of the package for $first" "$logs/install.log" \
	"1 of 4: apt install of the package, in the image ($first)" with_image install_package
stage 2 "the first boot" "$logs/boot-installed.log" \
	"2 of 4: booting $first under QEMU" boot installed "$first"
stage 3 "the upgrade to $second" "$logs/upgrade.log" \
	"3 of 4: a kernel upgrade, in the image ($second)" with_image upgrade_kernel
stage 4 "the second boot" "$logs/boot-upgraded.log" \
	"4 of 4: booting $second under QEMU" boot upgraded "$second"
for log in boot-installed boot-upgraded; do
	[ ! -e "$logs/$log.log" ] || grep -E '^(ok|FAILED|coda-test)' "$logs/$log.log"
done
rm -f "$dir/work.img" "$dir/stage"
echo "make test-deb: all is well."
