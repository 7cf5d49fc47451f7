"""The command line, `cache-cli`."""

import gc
import sys

_INTERRUPTED = 130  # as `exit_codes` has it, which is not loaded yet


def start() -> None:
    """Load the command line and run it: the installed script, and `python -m cache_management.cli`."""
    # Loading makes a hundred thousand objects that stay: to look through them for garbage takes a twentieth of it.
    gc.set_threshold(50_000)
    try:
        from cache_management.cli.main import main
    except KeyboardInterrupt:  # while all of it is loaded
        sys.exit(_INTERRUPTED)
    main()
