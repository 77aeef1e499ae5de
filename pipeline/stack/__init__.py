"""``maskloop up``: every service on one machine, in one home folder.

May import everything in ``pipeline`` except ``doctor``, ``status`` and ``cli``.
"""
