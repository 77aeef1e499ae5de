"""FiftyOne: the dataset that mirrors the record, its App and its database.

May import ``pipeline.runtime`` and below.
"""
