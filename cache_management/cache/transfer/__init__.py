"""Entries to files and back. See docs/design/0015-export-format.md."""
