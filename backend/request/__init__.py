"""Reads what Label Studio asks: the request as values, its marks, its drafts and its session.

May import ``backend.process``.
"""
