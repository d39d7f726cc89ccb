"""Caches as people see them: rows, tables, pages."""
