# SPDX-License-Identifier: GPL-2.0
# git: commits, a branch and a merge, a clone, a garbage collection. What it reads
# depends on whether a file is as old as the index, to the second.
# order: changes
# same: \b(refs|packs)_[A-Za-z0-9]{6}\b => ${1}_X
# same: tmp_(obj|pack|idx|rev|mtimes|midx|graph)_[A-Za-z0-9]{6} => tmp_${1}_X
# same: tmp_objdir-incoming-[A-Za-z0-9]{6} => tmp_objdir-X
# same: "t[A-Za-z0-9]{6}" => "tX"
# same: \.tmp-[0-9]+- => .tmp-N-
# same: \bXX[A-Za-z0-9]{6}\b => XXtmp
# same: ^[0-9]+$ => N
export HOME=$SCRATCH GIT_CONFIG_NOSYSTEM=1 GIT_OPTIONAL_LOCKS=0
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_AUTHOR_DATE='2001-02-03T04:05:06Z'
export GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@example.org GIT_COMMITTER_DATE='2001-02-03T04:05:07Z'
git config --global init.defaultBranch main
git config --global gc.auto 0
git config --global maintenance.auto false
git config --global pack.threads 1
git config --global index.threads 1
git config --global core.preloadIndex false
# What the index remembers of a file is its times and its inode number.
git config --global core.checkStat minimal

git init -q one
cd one
for n in $(seq 1 24); do
	mkdir -p "d$((n % 4))"
	seq "$n" $((n * 20)) >"d$((n % 4))/f$n"
done
ln -s d1/f1 link
chmod +x d2/f2
git add .
git commit -q -m first
git checkout -q -b side
seq 5 30 >d1/f1
git mv d2/f2 d3/moved
git commit -q -a -m side
git checkout -q main
seq 2 60 >d3/f3
git rm -q d0/f4
git commit -q -a -m main
git merge -q --no-edit side
git status --porcelain
git log --oneline --stat | cat
cd ..
git clone -q one two
git clone -q --no-hardlinks --bare one three.git
cd two
git gc -q --prune=now
git fsck --no-progress
echo again >again
git add again
git commit -q -m again
git push -q ../three.git main
cd ..
git --git-dir=three.git log --oneline | cat
