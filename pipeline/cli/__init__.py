"""The ``maskloop`` command. May import everything in ``pipeline``."""
