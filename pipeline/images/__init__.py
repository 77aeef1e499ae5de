"""Fetches the image at the address that a task holds, and makes its row and its stored bytes.

May import ``pipeline.record``, ``pipeline.storage`` and below.
"""
