#!/bin/bash
# make deb: builds the Debian packages of debian/control in a root of their own, which has
# what Build-Depends says and no more, and has lintian look at them.  The result is in
# out/deb/<DIST>.  coda-rs, the command-line tool, is built if cli/ is there.
. "$(dirname "$0")/lib.sh"
[ "$(uname -m)" = x86_64 ] || die "the machine is $(uname -m); only x86_64 is supported."

kind=all depends=--indep-only
if [ -f "$TOP/cli/Cargo.toml" ]; then
	kind=binary depends=''
fi
key=$(
	printf '%s\n' "$DIST" "$depends" | cat - "$TOP/debian/control" "$0" | hash_of
)
ROOT=$CACHE/deb/root
to=$OUT/deb/$DIST
lock_cache

make_debian "$ROOT" "$key" "$CACHE/log/deb-root.log" "Making a root of Debian $BASE to build packages in" \
	--variant=buildd --include=lintian,ca-certificates \
	--customize-hook='mkdir -p "$1/var/tmp/wanted/debian"' \
	--customize-hook="copy-in '$TOP/debian/control' '$TOP/debian/changelog' /var/tmp/wanted/debian" \
	--customize-hook="chroot \"\$1\" env --unset=TMPDIR DEBIAN_FRONTEND=noninteractive \
		apt-get build-dep -y --no-install-recommends $depends /var/tmp/wanted"
mkdir -p "$CACHE/home" "$CACHE/cargo/home" "$CACHE/cargo/target"
if [ "$kind" = binary ]; then
	step "$CACHE/log/fetch-cli.log" "Fetching the crates of cli/" \
		in_root cargo fetch --manifest-path cli/Cargo.toml --locked
fi
unlock_cache

# What git knows of, or would; nothing of what a build has left in the tree.
files() {
	if git -C "$TOP" rev-parse --git-dir >/dev/null 2>&1; then
		git -C "$TOP" ls-files -zco --exclude-standard
	else
		(cd "$TOP" && find . -path ./out -prune -o -name target -prune -o \( -type f -o -type l \) -print0)
	fi
}

version=$(sed -n '1s/^coda-rs (\([^)]*\)).*/\1/p' "$TOP/debian/changelog")
tree=$to/build/coda-rs-$version
rm -rf "$to"
mkdir -p "$tree"
# A file may have been removed, and git not been told yet.
files | (cd "$TOP" && while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
	tar --null -T - -cf -) | tar -C "$tree" -xf -

build() {
	in_root --setenv CARGO_TARGET_DIR "$IN_CACHE/cargo/target/deb" -- env -C "$tree" \
		dpkg-buildpackage --no-sign "--build=$kind" --sanitize-env
	in_root env -C "${tree%/*}" sh -c '
		lintian --allow-root --fail-on warning --info --pedantic ./*.changes'
}
step "$OUT/logs/$DIST/deb.log" "Building the packages" build
mv "$to/build"/*.deb "$to/build"/*.changes "$to/build"/*.buildinfo "$to/"
rm -rf "$to/build"
for f in "$to"/*.deb; do
	echo "${f#"$TOP"/}"
done
