"""Images with object masks: the folders they are read from, and training crops made of them.

May import ``model.network`` and what that may import; not ``model.checkpoints`` or
``model.inference``.
"""
