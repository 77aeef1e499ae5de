"""The schema's history: one Alembic revision per change, under ``versions``."""
