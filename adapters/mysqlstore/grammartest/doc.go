// Package grammartest holds a test of mysqlstore in a module of its own: that every statement it sends is one of MySQL
// 8. The tests of mysqlstore itself run on MariaDB; the grammar is that of TiDB's parser, which follows MySQL 8.
package grammartest
