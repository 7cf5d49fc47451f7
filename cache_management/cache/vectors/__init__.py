"""Nearest-neighbour search over vectors."""
