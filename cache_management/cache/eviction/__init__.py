"""What goes first when a store is full."""
