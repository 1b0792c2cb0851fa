"""Agents compared: several seeds each, one process per run; rows, table, tests of the differences, pictures."""
