"""Model versions: storing their weights, loading them as networks, and serving one of them.

May import ``pipeline.images``, ``pipeline.labelstudio`` and below.
"""
