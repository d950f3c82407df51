#!/bin/bash
# make rustdoc: the module's own API, with what is private in it, as web pages.
# Kbuild documents the kernel's crates alone; so rustdoc gets the command by which
# Kbuild has compiled the module, with its flags, its cfgs and the kernel's crates.
# usage: rustdoc.sh [DIR]      (out/rustdoc)
. "$(dirname "$0")/lib.sh"
load_facts
to=${1:-$OUT/rustdoc}
built=$OUT/$REL

bash "$TOP/tools/build-module.sh" >/dev/null
command=$(crate_command "$built" | sed 's/ -Zbinary_dep_depinfo=y//; s/ rustc / "$rustdoc" /')
# shellcheck disable=SC2016 # what is to be expanded in there
[[ $command == *' "$rustdoc" '* ]] || die "Kbuild's command for the module has no rustc in it."

rm -rf "$to"
# The one of the compiler that made the metadata of the kernel's crates; where that
# has a number in its name, so has this.
# shellcheck disable=SC2016 # the shell in there is to expand it
in_crate "$built" bash -c '
	set -e
	rustc=$(readlink -f "$(command -v rustc)")
	name=${rustc##*/}
	rustdoc=${rustc%/*}/${name/rustc/rustdoc}
	[ -x "$rustdoc" ] || { echo "coda_rs: there is no $rustdoc in the build root." >&2; exit 1; }
	cd "$1"
	eval "$2 -D warnings --document-private-items --crate-name coda_rs --output \"\$3\""
' bash "$built" "$command" "$to"
[ -s "$to/coda_rs/index.html" ] || die "rustdoc left no index.html in $to."

# As the kernel does it: what is called srctree/ is its source, here that of this version.
version=$(echo "$REL" | grep -oE '^[0-9]+\.[0-9]+(\.[0-9]+)?')
tree=https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git/tree
grep -rlZ 'href="srctree/' "$to" |
	xargs -0 -r sed -i -E "s,href=\"srctree/([^\"]*)\",href=\"$tree/\\1?h=v${version%.0}\",g"
