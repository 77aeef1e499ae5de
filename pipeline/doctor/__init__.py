"""``maskloop doctor``: one check for each known reason why clicks do nothing.

May import everything in ``pipeline`` except ``stack``, ``status`` and ``cli``.
"""
