"""Weights on disk: our checkpoint files, and the authors' released ones, which are only read.

May import ``model.network`` and what that may import; not ``model.inference`` or ``model.data``.
"""
