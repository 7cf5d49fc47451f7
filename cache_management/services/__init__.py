"""Embedded servers: found, started, stopped."""
