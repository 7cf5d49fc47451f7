"""Answers found by meaning."""
