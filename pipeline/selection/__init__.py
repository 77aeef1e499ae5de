"""Which tasks to label next, and handing them to Label Studio in that order.

May import ``pipeline.runtime`` and below.
"""
