# SPDX-License-Identifier: GPL-2.0
# sqlite3: a rollback journal, a write-ahead log, and reading by mmap.
# order: strict
# strace: yes
# same: etilqs_[0-9a-f]+ => etilqs_X
rows() {
	echo "WITH RECURSIVE n(x) AS (SELECT $1 UNION ALL SELECT x + 1 FROM n WHERE x < $2)"
	echo "INSERT INTO t SELECT x, hex(x * 7919), x % 17 FROM n;"
}
{
	echo 'PRAGMA journal_mode = DELETE;'
	echo 'CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c INTEGER);'
	rows 1 400
	echo 'CREATE INDEX i ON t (c);'
	echo 'DELETE FROM t WHERE a % 3 = 0;'
	echo 'BEGIN;'
	rows 1001 1100
	echo 'ROLLBACK;'
	echo 'SELECT count(*), sum(a) FROM t;'
} | sqlite3 db
{
	echo 'PRAGMA mmap_size = 1048576;'
	echo 'SELECT c, count(*) FROM t GROUP BY c;'
	echo "UPDATE t SET b = b || 'x' WHERE c = 3;"
	echo 'PRAGMA integrity_check;'
} | sqlite3 db
{
	echo 'PRAGMA journal_mode = TRUNCATE;'
	rows 2001 2100
	echo 'VACUUM;'
	echo 'PRAGMA integrity_check;'
	echo 'SELECT count(*), sum(a) FROM t;'
} | sqlite3 db
