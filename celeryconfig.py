"""This deployment's Celery settings: the package's defaults, then what differs here.

Used when CACHE_CELERY_CONFIG=celeryconfig; without it the workers take the defaults. Schedules of one's own go to the
beat entries; each runs once in its period, however many schedulers there are. With a provider these answer what was
missed most, and compute popular entries again before they expire:

    beat_schedule |= {
        "warm-misses": scheduled(
            "warm-misses", "warm", every_seconds=DAY, offset_seconds=2 * HOUR,
            params={"take": "misses", "top": 200, "max_cost_usd": 5},
        ),
        "refresh-ahead": scheduled(
            "refresh-ahead", "warm", every_seconds=300,
            params={"take": "expiring", "expire_within_seconds": 600, "max_cost_usd": 1},
        ),
    }
"""

from cache_management.workers.defaults import *  # noqa: F403
