"""Work that is done before a task is opened: encoding its image, and proposing masks.

May import ``pipeline.runtime`` and below.
"""
