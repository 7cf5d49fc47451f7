"""Read by Python before anything else: this process's clock is wrong by CACHE_TEST_CLOCK_SHIFT seconds.

`time.time` only, which is what leases, versions and expiries of this project would be taken from if they
were taken from a worker at all, and what Celery and kombu use. Datetimes are shifted where they are made from it.
"""

import os
import time

_shift = float(os.environ.get("CACHE_TEST_CLOCK_SHIFT", "0"))
_real = time.time
time.time = lambda: _real() + _shift
