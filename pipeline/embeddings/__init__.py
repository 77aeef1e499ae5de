"""Embeddings in memory and in the store, and the images that still lack one.

May import ``pipeline.registry`` and below.
"""
