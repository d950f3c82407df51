# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# What a kernel build directory has, and which tools it wants: for tools/build-kdir.sh
# (make KDIR=) and dkms/build.sh.  Whoever sources this has a die() that says one sentence
# and ends, and may set rustc_hint and tool_hint: what to do about a tool that is missing.

# kdir_conf DIR OPTION
kdir_conf() {
	sed -n "s/^CONFIG_$2=//p" "$1/.config" | tr -d '"'
}

# The very first things, which have nothing to do with Rust's metadata.
kdir_check_config() {
	[ -e "$1/Makefile" ] || die "$1 is not a kernel build directory: it has no Makefile."
	[ -e "$1/.config" ] || die "$1 is not configured: it has no .config."
	[ "$(kdir_conf "$1" MODULES)" = y ] || die "$1 is configured without CONFIG_MODULES."
	[ "$(kdir_conf "$1" RUST)" = y ] || die "$1 is configured without CONFIG_RUST, so no module in Rust can be built against it."
	# Ubuntu has the metadata in a package that the headers do not ask for.
	[ ! -L "$1/rust" ] || [ -e "$1/rust" ] ||
		die "the Rust metadata of $1 is not installed: rust/ leads to $(readlink "$1/rust"), which is not there; install the package that has it (on Ubuntu, linux-lib-rust-$(cat "$1/include/config/kernel.release" 2>/dev/null || echo '<release>'))."
}

# What of Rust's metadata is missing, nothing if it is complete.
kdir_missing_metadata() {
	local missing=() f
	for f in libcore libcompiler_builtins libffi libbindings libuapi libbuild_error libpin_init libkernel; do
		[ -e "$1/rust/$f.rmeta" ] || missing+=("rust/$f.rmeta")
	done
	[ -e "$1/rust/libmacros.so" ] || missing+=(rust/libmacros.so)
	[ ${#missing[@]} -lt 9 ] || missing=("rust/*.rmeta and rust/libmacros.so")
	echo "${missing[*]}"
}

kdir_check_prepared() {
	local missing=() f
	for f in include/config/auto.conf include/generated/autoconf.h include/generated/rustc_cfg \
		include/config/kernel.release Module.symvers scripts/mod/modpost scripts/module.lds; do
		[ -e "$1/$f" ] || missing+=("$f")
	done
	[ "$(kdir_conf "$1" OBJTOOL)" != y ] || [ -x "$1/tools/objtool/objtool" ] || missing+=(tools/objtool/objtool)
	[ ${#missing[@]} -eq 0 ] ||
		die "$1 is not prepared for building modules (make modules_prepare): it lacks ${missing[*]}."
}

# The compiler that made the metadata is the one that can read it.  The config
# may have been made by another one since.
kdir_built_by() {
	local built_by in_config
	built_by=$(head -c 4096 "$1/rust/libkernel.rmeta" | grep -aoE -m 1 'rustc [0-9]+\.[0-9]+\.[0-9]+[-a-z.0-9]*( \([^()]*\))*' | head -n 1 || true)
	[ -n "$built_by" ] || die "$1/rust/libkernel.rmeta does not say which rustc made it."
	in_config=$(kdir_conf "$1" RUSTC_VERSION_TEXT)
	[ "$in_config" = "$built_by" ] ||
		echo "note: the Rust metadata was made by $built_by, though .config says ${in_config:-nothing}; going by the metadata." >&2
	echo "$built_by"
}

# find_rustc WHAT BUILT_BY: sets rustc to a compiler that calls itself BUILT_BY ("rustc
# 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)"): rustc itself compares all of
# it, and rustup's 1.85.1 is not Debian's.  The environment's RUSTC is the only candidate if
# set.
find_rustc() {
	local what=$1 built_by=$2 version c says tried=() candidates
	version=$(echo "$built_by" | cut -d' ' -f2)
	candidates=(rustc "rustc-${version%.*}" "rustc-$version" "/usr/lib/rust-${version%.*}/bin/rustc"
		"${HOME:-/}/.rustup/toolchains/$version-x86_64-unknown-linux-gnu/bin/rustc")
	# That of rustup may come first in PATH.
	[ "$(command -v rustc)" = /usr/bin/rustc ] || candidates+=(/usr/bin/rustc)
	[ -z "${RUSTC:-}" ] || candidates=("$RUSTC")
	rustc=
	for c in "${candidates[@]}"; do
		command -v "$c" >/dev/null 2>&1 || continue
		says=$("$c" --version 2>/dev/null | head -n 1 || true)
		if [ "$says" = "$built_by" ]; then
			rustc=$c
			return
		fi
		says=${says#rustc }
		# What goes without saying is left out.
		[ "${says%% *}" = "$version" ] || says=${says%% *}
		tried+=("$c is ${says:-none that works}")
	done
	if [ ${#tried[@]} -eq 0 ]; then
		die "$what was made by $built_by and there is no rustc here; ${rustc_hint:-install that one, or name it with RUSTC=}."
	fi
	die "$what was made by $built_by, and only that one can build for it, but $(printf '%s; ' "${tried[@]}" | sed 's/; $//'); ${rustc_hint:-install it, or name it with RUSTC=}."
}

# find_tools DIR RELEASE: sets make_args to what make has to be told, rustc being found.
# BINDGEN, LLVM and CC of the environment win.
find_tools() {
	local bindgen=${BINDGEN:-bindgen} gcc text
	command -v "$bindgen" >/dev/null || die "there is no bindgen here; install it${tool_hint-, or name it with BINDGEN=}."
	make_args=("RUSTC=$rustc" "BINDGEN=$bindgen")
	if [ -n "${LLVM:-}" ]; then
		make_args+=("LLVM=$LLVM")
	elif [ "$(kdir_conf "$1" CC_IS_CLANG)" = y ]; then
		command -v clang >/dev/null || die "$2 was built with clang and there is none here; install it${tool_hint-, or name it with LLVM=}."
		make_args+=(LLVM=1)
	elif [ -n "${CC:-}" ] && [ "$CC" != cc ]; then
		make_args+=("CC=$CC")
	else
		# By the very name, or the kernel's makefiles say that the compiler differs.
		text=$(kdir_conf "$1" CC_VERSION_TEXT)
		gcc=${text%% *}
		if [ -z "$gcc" ] || [ "$("$gcc" --version 2>/dev/null | head -n 1)" != "$text" ]; then
			gcc=gcc-$(($(kdir_conf "$1" GCC_VERSION) / 10000))
		fi
		if command -v "$gcc" >/dev/null; then
			make_args+=("CC=$gcc" "HOSTCC=$gcc")
		else
			command -v gcc >/dev/null || die "$2 was built with $gcc and there is no gcc here; install it${tool_hint-, or name it with CC=}."
		fi
	fi
}
