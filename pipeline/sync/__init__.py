"""Copies what people do in Label Studio into the record: webhooks do so quickly, reconcile surely.

May import ``pipeline.runtime`` and below.
"""
