"""`python -m cache_management.cli` is `cache-cli`."""

from cache_management.cli.main import main

if __name__ == "__main__":
    main()
