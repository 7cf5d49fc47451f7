"""The command line, `cache-cli`."""
