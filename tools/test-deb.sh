#!/bin/bash
# make test-deb: the package in a Debian as a user has it.  A disk image with a stock kernel
# of the suite, its headers and source; then
#
#   1. apt installs the packages, and DKMS builds the module
#   2. the image is booted: module loaded, Coda mounted, the package installed again below it
#   3. it is booted with Secure Boot: the module is refused, its key is handed to the MOK
#      manager, and in the next boot it is loaded
#   4. apt brings another kernel, and DKMS builds the module for that
#   5. the image is booted with it: loaded and mounted; the package is purged, C's module back
#
# 1 and 4 run in a chroot of the very image, where they take minutes: on an emulated machine
# the compilation of the kernel crate alone would take an hour.  The boots are QEMU's; in 2,
# DKMS builds the module once more, in the guest.  In 3 the machine has the keys of
# Microsoft, as those that are sold do, and Debian's own shim, GRUB and MOK manager start the
# kernel from a disk.
#
# Each step works on a copy of the image, so that a run that was interrupted goes on from the
# last step that was complete.  Nobody but root can mount an image.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || die "make test-deb mounts a disk image and installs packages in it: run it as root."
bash "$TOP/tools/prepare.sh"
load_facts
bash "$TOP/tools/deb.sh" >/dev/null
debs=("$OUT/deb/$DIST"/coda-rs-dkms_*_all.deb "$OUT/deb/$DIST"/coda-rs_*_amd64.deb)
for deb in "${debs[@]}"; do
	[ -s "$deb" ] || die "make deb left no ${deb##*/} in $OUT/deb/$DIST."
done
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
[ -e "$dir/base.stamp" ] || need_space "$dir" 10240 "the disk images"

# A Debian with the first kernel, which is the newest but one, or another flavour of the
# newest.
make_base() {
	rm -rf "$dir/tree" "$dir/base.img"
	mkdir -p "$dir/tree"
	mmdebstrap --mode=root --variant=important --skip=cleanup/apt/lists \
		--include=systemd-sysv,udev,dbus,kmod,initramfs-tools,ca-certificates \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt=force-unsafe-io --setup-hook='mkdir -p "$1/opt/coda-test"' \
		--customize-hook="copy-in '$TOP/tools/apt-kernels.sh' /opt/coda-test" \
		--customize-hook="env --unset=TMPDIR bash '$TOP/tools/test-deb-hook.sh' \"\$1\" $DIST" \
		"$BASE" "$dir/tree"
	cp "$dir/tree/opt/coda-test/kernels" "$dir/kernels"
	truncate -s 10G "$dir/base.img"
	in_root mke2fs -q -t ext4 -d "$IN_CACHE/deb/tree" "$IN_CACHE/deb/base.img"
	rm -rf "$dir/tree"
}
key=$(printf '%s\n' "$DIST" "$(declare -f make_base)" | cat - "$TOP/tools/test-deb-hook.sh" "$TOP/tools/apt-kernels.sh" | hash_of)
if ! fresh "$dir/base.stamp" "$key"; then
	rm -f "$dir/base.stamp" "$dir/stage"
	in_scratch test-deb step "$logs/base.log" "Making a Debian $BASE with a kernel of $DIST" make_base
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
	in_image dkms status coda-rs >"$dir/status"
	cat "$dir/status"
	grep -q "$1.*: installed" "$dir/status" || {
		echo "DKMS has not installed the module for $1"
		return 1
	}
	in_image find "/var/cache/coda-rs/$1" -maxdepth 1 -name stamp | grep -q . || {
		echo "there is no Rust metadata for $1"
		return 1
	}
}
install_packages() {
	cp "${debs[0]}" "$mnt/opt/coda-test/coda-rs-dkms.deb"
	cp "${debs[1]}" "$mnt/opt/coda-test/coda-rs.deb"
	in_image apt-get install -y -q --no-install-recommends /opt/coda-test/coda-rs-dkms.deb \
		/opt/coda-test/coda-rs.deb && built_for "$first"
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
	vmlinuz=$(vmlinuz_in "$mnt" "$release") || return 1
	cp "$mnt/$vmlinuz" "$dir/vmlinuz"
	cp "$mnt/boot/initrd.img-$release" "$dir/initrd"
}
# What all boots have in common; the arguments are the boot's own.  The firmware looks at
# those disks alone that have a place in its order; it draws its screens on each console.
machine() {
	local accel accel_args
	choose_accel
	in_root --dev-bind-try /dev/kvm /dev/kvm -- timeout -k 5 "${CODA_TEST_DEB_TIMEOUT:-5400}" qemu-system-x86_64 \
		-nodefaults -no-user-config -nographic -no-reboot "${accel_args[@]}" -cpu max -m 3072 \
		-drive "if=none,id=root,file=$IN_CACHE/deb/next.img,format=raw,cache=unsafe,discard=unmap" \
		-device virtio-blk-pci,drive=root,bootindex=1 -device virtio-serial-pci \
		-chardev stdio,id=user,signal=off -device virtconsole,chardev=user \
		-device virtio-rng-pci "$@" </dev/null |
		sed -u 's/\x1bP[^\x1b]*\x1b\\//g; s/\x1b\[[0-9;?=]*[a-zA-Z]//g; s/\r$//; /[┌│└]/d' || echo "QEMU ended with status $?."
}
# shellcheck disable=SC2054 # the commas are the kernel's
append=(root=/dev/vda rw console=ttyS0,115200 panic=-1 oops=panic mitigations=off)
verdict() {
	local stage=$1
	grep -q "^coda-test: $stage: all is well" "$logs/$2.log" && return
	grep -q "^coda-test: $stage" "$logs/$2.log" || {
		echo "the guest did not get to the end; from its console:"
		tail -n 15 "$logs/console-$stage.log"
	}
	return 1
}
boot() {
	local stage=$1 release=$2
	with_image payload "$release" || return 1
	machine -machine q35 -smp 2 -kernel "$IN_CACHE/deb/vmlinuz" -initrd "$IN_CACHE/deb/initrd" \
		-append "${append[*]} coda.stage=$stage coda.kernel=$release" \
		-chardev "file,id=console,path=$logs/console-$stage.log" -serial chardev:console
	verdict "$stage" "boot-$stage"
}

# A machine with Secure Boot: its firmware with its variables, and a disk with an EFI system
# partition (the whole of it is one), from which it starts what is signed by Microsoft: shim.
make_firmware() {
	local code=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd vars=/usr/share/OVMF/OVMF_VARS_4M.ms.fd
	cp "$mnt$code" "$dir/firmware.fd" && cp "$mnt$vars" "$dir/variables.fd" || return 1
	rm -f "$dir/esp.img"
	in_image sh -e -c '
		mkfs.vfat -C "$1/esp.img" 65536
		mmd -i "$1/esp.img" ::/EFI ::/EFI/BOOT ::/EFI/debian
		mcopy -i "$1/esp.img" /usr/lib/shim/shimx64.efi.signed ::/EFI/BOOT/BOOTX64.EFI
		mcopy -i "$1/esp.img" /usr/lib/shim/mmx64.efi.signed ::/EFI/BOOT/mmx64.efi
		mcopy -i "$1/esp.img" /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed ::/EFI/BOOT/grubx64.efi' sh "$IN_CACHE/deb"
}
# What GRUB is to start.
configure_grub() {
	local stage=$1 release=$2 kernel efi=
	# For mokutil: a kernel for real time leaves the firmware's variables alone otherwise.
	[[ $release != *-rt-* ]] || efi=efi=runtime
	kernel=/$(vmlinuz_in "$mnt" "$release") || return 1
	cat >"$dir/grub.cfg" <<-END
		serial --unit=0 --speed=115200
		terminal_output serial
		search --no-floppy --set=root --file $kernel
		linux $kernel ${append[*]} $efi coda.stage=$stage coda.kernel=$release
		initrd /boot/initrd.img-$release
		boot
	END
	in_image mcopy -o -i "$IN_CACHE/deb/esp.img" "$IN_CACHE/deb/grub.cfg" ::/EFI/debian/grub.cfg
}
secure_machine() {
	# Of two emulated CPUs one has been seen to run into an instruction that the other one was
	# about to replace, while the kernel starts.
	machine -machine q35,smm=on -smp 1 -global driver=cfi.pflash01,property=secure,value=on \
		-drive "if=pflash,unit=0,readonly=on,format=raw,file=$IN_CACHE/deb/firmware.fd" \
		-drive "if=pflash,unit=1,format=raw,file=$IN_CACHE/deb/variables.fd" \
		-drive "if=none,id=esp,format=raw,cache=unsafe,file=$IN_CACHE/deb/esp.img" \
		-device virtio-blk-pci,drive=esp,bootindex=0 \
		-chardev "pipe,id=console,path=$IN_CACHE/deb/terminal,logfile=$logs/console-$1.log" -serial chardev:console
}
# A person at the MOK manager: waits for what is to be on the screen, and then types.
type_keys() {
	local log=$1 what keys i
	while read -r what keys; do
		for ((i = 0; ; i++)); do
			! grep -aq "${what//_/ }" "$log" 2>/dev/null || break
			[ "$i" -lt 600 ] || {
				echo "the MOK manager did not show \"${what//_/ }\"; from the console:"
				tail -c 2000 "$log" | tr -cd '[:print:]\n'
				return 1
			}
			sleep 1
		done
		# What is drawn first is not the last of it.
		sleep 2
		printf '%b' "$keys" 1<>"$dir/terminal.in"
	done
}
boot_securely() {
	local release=$1 down='\x1b[B' enter='\r' drain person rc=0
	with_image make_firmware && with_image payload "$release" && with_image configure_grub secure "$release" || return 1
	rm -f "$dir"/terminal.*
	mkfifo "$dir/terminal.in" "$dir/terminal.out"
	# Nobody reads what the firmware writes; it is in the log.
	cat <>"$dir/terminal.out" >/dev/null 7>&- &
	drain=$!
	# shellcheck disable=SC2064 # it is local, and known now
	trap "kill $drain" EXIT
	secure_machine secure
	verdict secure boot-secure || rc=1
	if [ "$rc" -eq 0 ]; then
		type_keys "$logs/console-mok.log" <<-END &
			Press_any_key $enter
			Enroll_MOK $down$enter
			View_key_0 $down$enter
			Enroll_the_key $down$enter
			Password: coda$enter
			Reboot $enter
		END
		person=$!
		secure_machine mok
		wait "$person" || rc=1
	fi
	if [ "$rc" -eq 0 ]; then
		with_image configure_grub enrolled "$release" && secure_machine enrolled
		verdict enrolled boot-secure || rc=1
	fi
	return "$rc"
}

# How far the image has come, and from which package.
key=$(hash_of "${debs[@]}" "$dir/base.stamp")
state=$(cat "$dir/stage" 2>/dev/null || true)
case $state in
"$key "[1234]) state=${state#"$key "} ;;
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
stage 1 "apt install of the packages for $first" "$logs/install.log" \
	"1 of 5: apt install of the packages, in the image ($first)" with_image install_packages
stage 2 "the first boot" "$logs/boot-installed.log" \
	"2 of 5: booting $first under QEMU" boot installed "$first"
stage 3 "Secure Boot" "$logs/boot-secure.log" \
	"3 of 5: booting $first with Secure Boot, three times" boot_securely "$first"
stage 4 "the upgrade to $second" "$logs/upgrade.log" \
	"4 of 5: a kernel upgrade, in the image ($second)" with_image upgrade_kernel
stage 5 "the last boot" "$logs/boot-upgraded.log" \
	"5 of 5: booting $second under QEMU" boot upgraded "$second"
for log in boot-installed boot-secure boot-upgraded; do
	[ ! -e "$logs/$log.log" ] || grep -E '^(ok|FAILED|coda-test)' "$logs/$log.log"
done
rm -f "$dir/work.img" "$dir/stage"
echo "make test-deb: all is well."
