"""The core: reads and writes answers, knows no SQL, no Celery and no command line."""
