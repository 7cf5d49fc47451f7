"""Support questions and answers that `cache-cli demo` warms and asks."""
