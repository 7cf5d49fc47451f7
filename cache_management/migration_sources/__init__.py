"""Caches of other libraries, read and never written: one file for each. See docs/migrating.md."""
