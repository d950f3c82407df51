# SPDX-License-Identifier: GPL-2.0
# sqlite3 with a write-ahead log, whose index is in shared memory: a writable
# shared mapping of a file, made once.
# order: strict
{
	echo 'PRAGMA journal_mode = WAL;'
	echo 'CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);'
	echo 'WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300)'
	echo 'INSERT INTO t SELECT x, hex(x * 7919) FROM n;'
	echo 'PRAGMA wal_checkpoint;'
	echo 'DELETE FROM t WHERE a % 5 = 0;'
	echo 'PRAGMA integrity_check;'
	echo 'SELECT count(*), sum(a) FROM t;'
} | sqlite3 db
ls
