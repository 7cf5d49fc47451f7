"""Celery tasks: durable, recorded jobs over the core."""
