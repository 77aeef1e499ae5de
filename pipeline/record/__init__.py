"""The SQL record: engine, schema, tables, and every statement, one module per entity.

No other package holds SQL statements; callers read like sentences: ``tasks.to_encode(session)``.
May import ``pipeline.errors`` and ``pipeline.settings``.
"""
