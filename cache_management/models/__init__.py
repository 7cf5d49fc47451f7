"""Metadata tables: jobs, audit, statistics."""
