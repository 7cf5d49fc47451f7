"""This deployment's Celery settings: the package's defaults, then what differs here.

Used when CACHE_CELERY_CONFIG=celeryconfig; without it the workers take the defaults.
"""

from cache_management.workers.defaults import *  # noqa: F403
