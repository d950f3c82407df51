#!/bin/bash
# The targets of the Makefile.
. "$(dirname "$0")/lib.sh"
tools=$TOP/tools

case $1 in
module)
	bash "$tools/prepare.sh"
	load_facts
	bash "$tools/build-module.sh"
	echo "out/$REL/coda_rs.ko"
	;;
run | shell)
	bash "$tools/prepare.sh" guest
	load_facts
	step "$OUT/logs/$DIST/module.log" "Building coda_rs.ko for $REL" bash "$tools/build-module.sh"
	bash "$tools/build-tests.sh"
	args=(--label "$1" --module "$OUT/$REL/coda_rs.ko" --payload "$OUT/tests/$DIST")
	[ "$1" = run ] || args+=(--tty --no-check)
	exec bash "$tools/vm.sh" "${args[@]}" -- /opt/coda/guest/main.sh "$1"
	;;
fmt)
	exec bash "$tools/check.sh" --fix
	;;
test | check | bench | deb | test-deb | matrix)
	exec bash "$tools/$1.sh"
	;;
docs)
	bash "$tools/prepare.sh"
	bash "$tools/docs.sh"
	echo "out/docs/index.html"
	;;
rustdoc)
	bash "$tools/prepare.sh"
	bash "$tools/rustdoc.sh"
	echo "out/rustdoc/coda_rs/index.html"
	;;
profile)
	exec bash "$tools/bench.sh" --profile
	;;
test-long)
	exec bash "$tools/test.sh" --long
	;;
clean-cache)
	remove_scratch "$CACHE_TOP"/*/scratch-*
	remove "$CACHE_TOP"
	;;
help)
	cat <<-END
		make                builds the module for a stock Debian kernel: out/<release>/coda_rs.ko
		make run            boots that kernel, and shows what CODA_CLOSE says of each program
		make shell          a shell in the guest, with /coda mounted
		make test           all tests: the stock kernel, the controls, the debug kernel,
		                    and what C's module does, compared
		make test-long      the same with 100,000 random operations to compare, an hour of storm
		                    on each kernel, and one with KCSAN (three hours)
		make bench          what calls cost with C's module, with ours, and on the bare file
		make profile        in which functions of the kernel that is
		make check          formatting, lints, warnings, and the rules of the tree
		make fmt            formats all Rust
		make docs           Documentation/ as web pages: out/docs/index.html
		make rustdoc        the module's own API: out/rustdoc/coda_rs/index.html
		make deb            the packages coda-rs-dkms (for DKMS) and coda-rs: out/deb/<DIST>/
		make test-deb       installs them in a Debian of its own, boots that, also with Secure
		                    Boot, upgrades its kernel, and purges the module's again (as
		                    root; three quarters of an hour without KVM)
		make matrix         builds and boots the module for every kernel that apt offers now
		make install        the built module into /lib/modules, and what makes the kernel choose
		                    it (as root; DESTDIR=, KDIR=, RELEASE=); make uninstall undoes it
		make clean          removes out/
		make clean-cache    removes all that is kept between runs ($CACHE_TOP)

		DIST=trixie-backports|forky   which stock kernel (now: $DIST)
		KDIR=<dir>          with make alone: any kernel build directory with Rust metadata, and
		                    this machine's own tools (RUSTC=, BINDGEN=, CC=, LLVM= name others)
		JOBS=<n>            compile jobs at a time (now: $JOBS)
	END
	;;
*) die "make.sh: no target $1." ;;
esac
