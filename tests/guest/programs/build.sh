# SPDX-License-Identifier: GPL-2.0
# A program in C: make, gcc, an archive, a shared library, and running it.
# order: loose
# same: \bst[A-Za-z0-9]{6}\b => stX
# same: \bcc[A-Za-z0-9]{6}\b => ccX
export TMPDIR=$SCRATCH
mkdir src && cd src
for n in 1 2 3 4; do
	echo "int f$n(int x) { return x * $n + $((n % 2 ? 1 : 0)); }" >"f$n.c"
done
cat >main.c <<'C'
#include <stdio.h>
#include "all.h"
int main(void) { printf("%d\n", f1(1) + f2(2) + f3(3) + f4(4)); return 0; }
C
seq -f 'int f%g(int);' 1 4 >all.h
cat >Makefile <<'M'
.PHONY: all clean
all: prog prog-shared
OBJS := f1.o f2.o f3.o f4.o
main.o: main.c all.h
libf.a: $(OBJS)
	ar rcsD $@ $^
libf.so: $(OBJS:.o=.c)
	$(CC) -shared -fPIC -o $@ $^
prog: main.o libf.a
	$(CC) -o $@ main.o libf.a
prog-shared: main.o libf.so
	$(CC) -o $@ main.o -L. -lf -Wl,-rpath,'$$ORIGIN'
clean:
	rm -f *.o *.a *.so prog prog-shared
M
make CFLAGS=-O1
./prog
./prog-shared
echo 'int f2(int x) { return x + x + 0; } /* changed */' >f2.c
make CFLAGS=-O1
./prog
cp -p prog ../installed && strip ../installed && ../installed
make clean
ls
