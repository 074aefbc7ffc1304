"""Rows out of whatever people bring: JSON, tables, workbooks, plain text, infotexts and other programs' lines."""
