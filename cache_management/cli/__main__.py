"""`python -m cache_management.cli` is `cache-cli`."""

from cache_management.cli import start

if __name__ == "__main__":
    start()
