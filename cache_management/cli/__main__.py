"""`python -m cache_management.cli` is `cache-cli`."""

import sys

INTERRUPTED = 130

if __name__ == "__main__":
    try:
        from cache_management.cli.main import main
    except KeyboardInterrupt:  # while all of it is loaded
        sys.exit(INTERRUPTED)
    main()
