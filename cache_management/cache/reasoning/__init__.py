"""Reasoning: whole chains and trees, and every step of them."""
