"""The Celery app and its tasks, which only call ``pipeline``. Never imports ``backend``."""
