"""From accepted masks to a model version: snapshot, fine-tune, gate, promotion.

May import ``pipeline.runtime`` and below.
"""
