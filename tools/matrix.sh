#!/bin/bash
# make matrix: builds the module for every kernel of the suite that apt offers now, each
# flavour and each version, the way the package does it (dkms/build.sh), boots it, and tells
# in one line for each what broke.  Both suites: DIST=forky make matrix, too.
#
# usage: matrix.sh [KERNEL...]     (releases; without one, all of them)
#
# Rust metadata and boot files of a kernel are kept, so that a second run is short: some
# minutes for a kernel the first time, and one after that.
. "$(dirname "$0")/lib.sh"
bash "$TOP/tools/prepare.sh" guest
load_facts
bash "$TOP/tools/build-tests.sh"
dir=$CACHE/matrix
logs=$OUT/logs/$DIST/matrix
build_root=$dir/root
mkdir -p "$dir" "$logs"
exec 7>"$dir/lock"
flock -n 7 || die "another make matrix is at work for $DIST."

# What the package says it needs, but for the source, which is fetched in the version that
# is wanted.
depends=$(sed -n '/^Package: coda-rs-dkms/,/^Recommends/ { s/^ \([a-z].*\),$/\1/p }' "$TOP/debian/control" | grep -v '^linux-source' | paste -sd,)

key=$(printf '%s\n' "$DIST" "$depends" | hash_of)
make_debian "$build_root" "$key" "$logs/root.log" "Making a root of Debian $BASE with what coda-rs-dkms depends on" \
	--variant=apt --include=ca-certificates --skip=cleanup/apt/lists \
	--customize-hook="grep -rqs '[ /]$DIST main' \"\$1/etc/apt/sources.list\" ||
		sed -n 's/^deb \\(\\[[^]]*\\] \\)\\?\\([^ ]*\\) [a-z]* main.*/deb \\1\\2 $DIST main/p' \"\$1/etc/apt/sources.list\" |
		head -n 1 >\"\$1/etc/apt/sources.list.d/$DIST.list\"" \
	--customize-hook="chroot \"\$1\" env --unset=TMPDIR DEBIAN_FRONTEND=noninteractive sh -c '
		apt-get update && apt-get satisfy -y --no-install-recommends \"$depends, gcc\"'"
in_build_root() {
	ROOT=$build_root in_root --setenv DEBIAN_FRONTEND noninteractive --setenv CODA_RS_CACHE "$IN_CACHE/matrix/metadata" -- "$@"
}

# Where an ordinary user runs it there is one user ID, and apt has no other user to become.
echo 'APT::Sandbox::User "root";' >"$build_root/etc/apt/apt.conf.d/99coda-rs"
# An earlier run may have been interrupted while it installed headers.
in_build_root dpkg --configure -a >"$logs/configure.log" 2>&1 ||
	die "the root $build_root is broken: remove $dir and run make matrix again; see $logs/configure.log."
# Without network, what was offered the last time.
in_build_root apt-get -q update >"$logs/update.log" 2>&1 ||
	note "coda_rs: apt-get update failed; going by the index of the last run."
mapfile -t kernels < <(in_build_root bash "$TOP/tools/apt-kernels.sh" "$DIST")
[ ${#kernels[@]} -gt 0 ] || die "$DIST has no kernel with headers, image and source of the same version; see $logs/update.log."
if [ $# -gt 0 ]; then
	chosen=()
	for want; do
		for k in "${kernels[@]}"; do
			[ "${k%% *}" != "$want" ] || chosen+=("$k")
		done
	done
	[ ${#chosen[@]} -eq $# ] || die "not all of $* are among the kernels of $DIST: $(printf '%s ' "${kernels[@]%% *}")"
	kernels=("${chosen[@]}")
fi

# The headers where they belong; of the image, what a boot takes.
get_kernel() {
	local rel=$1 version=$2 p debs=()
	in_build_root apt-get install -y -q --no-install-recommends "linux-base/$DIST" "linux-headers-$rel=$version" || return 1
	[ -s "$dir/$rel/first.cpio" ] && [ "$(cat "$dir/$rel/version" 2>/dev/null)" = "$version" ] && return
	rm -rf "${dir:?}/$rel" "$dir/image"
	mkdir -p "$dir/$rel" "$dir/image/debs" "$dir/image/tree/usr/lib"
	ln -s usr/lib "$dir/image/tree/lib"
	for p in "linux-image-$rel" "linux-binary-$rel" "linux-modules-$rel" "linux-base-$rel"; do
		! in_build_root apt-cache madison "$p" | grep -qF " $version " || debs+=("$p=$version")
	done
	in_build_root env -C "$IN_CACHE/matrix/image/debs" apt-get -q download "${debs[@]}" || return 1
	for p in "$dir"/image/debs/*.deb; do
		in_root sh -c 'dpkg-deb --fsys-tarfile "$1" | tar -C "$2" --keep-directory-symlink -xf -' \
			sh "$IN_CACHE/matrix/image/debs/${p##*/}" "$IN_CACHE/matrix/image/tree" || return 1
	done
	in_root depmod -b "$IN_CACHE/matrix/image/tree" "$rel" || return 1
	p=$(vmlinuz_in "$dir/image/tree" "$rel") || return 1
	cp "$dir/image/tree/$p" "$dir/$rel/vmlinuz"
	in_root bash "$TOP/tools/first-stage.sh" "$IN_CACHE/matrix/image/tree" "$rel" "$TOP/tools/guest/first-stage" \
		"$IN_CACHE/matrix/$rel/first.new" || return 1
	rm -rf "$dir/image"
	echo "$version" >"$dir/$rel/version"
	mv "$dir/$rel/first.new" "$dir/$rel/first.cpio"
}

build() {
	local rel=$1 to=$OUT/matrix/$1
	rm -rf "$to"
	mkdir -p "$to"
	# As the package lays it out.
	cp -r "$TOP"/*.rs "$TOP"/*.[ch] "$TOP/Kbuild" "$TOP/vfs" "$TOP/dkms" "$to/"
	in_build_root env -C "$to" bash dkms/build.sh "$rel" "/lib/modules/$rel/build" "$JOBS"
}

# Mount, and cases of each kind: writes, none, truncations, stores and loads through a mapping.
# On tmpfs, as the guest's root has the modules of its own kernel alone.
cases=(write nothing truncate map_store map_read)
smoke() {
	bash "$TOP/tools/vm.sh" --quiet --boot "$dir/$1" --label "matrix-$1" --fs "" --env CODA_TEST_FS=tmpfs --timeout 600 \
		--module "$OUT/matrix/$1/coda_rs.ko" --payload "$OUT/tests/$DIST" \
		-- /opt/coda/guest/main.sh case close_report --table "${cases[@]}" &&
		# A table with nothing in it is no success.
		closes=$(grep -c ' ok$' "$logs/$1.boot.log")
}

# attempt REL WHAT COMMAND...: the first line of a failure that says something.
attempt() {
	local rel=$1 what=$2 log=$logs/$1.$2.log
	shift 2
	[ ! -t 2 ] || printf '\r\033[K%s: %s ...' "$rel" "$what" >&2
	"$@" >"$log" 2>&1 </dev/null && return
	reason=$(grep -m 1 -E '^(coda-rs|coda_rs): ' "$log" || true)
	case $reason in
	'' | *'building the module for'*) reason=$(grep -m 1 -E '^error(\[E[0-9]+\])?:|: error:|^kernel log check: the kernel|FAILED|BUG:|^E: ' "$log" || tail -n 1 "$log") ;;
	esac
	reason="$what: ${reason:0:150}"
	return 1
}

broken=0
for k in "${kernels[@]}"; do
	read -r rel _ version <<<"$k"
	began=$SECONDS verdict=ok
	if attempt "$rel" fetch get_kernel "$rel" "$version" && attempt "$rel" build build "$rel" &&
		attempt "$rel" boot smoke "$rel"; then
		verdict="ok      built, loaded, $closes closes as they should be, unloaded"
	else
		verdict="BROKEN  $reason"
		broken=$((broken + 1))
	fi
	[ ! -t 2 ] || printf '\r\033[K' >&2
	printf '%-32s %-18s %6s  %s\n' "$rel" "$version" "$(mmss $((SECONDS - began)))" "$verdict"
	rm -rf "$OUT/matrix/$rel"
done
[ "$broken" -eq 0 ] || die "make matrix: $broken of ${#kernels[@]} kernels of $DIST; the logs are in ${logs#"$PWD"/}."
echo "make matrix: ${#kernels[@]} kernels of $DIST, all well."
