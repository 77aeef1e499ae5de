"""Files in a folder or a bucket (``store``) and values in memory (``cache``).

May import ``pipeline.errors`` and ``pipeline.settings``.
"""
