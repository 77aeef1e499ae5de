"""Pure functions on masks: cleaning, PNG, Label Studio's run lengths, outlines.

May import ``pipeline.errors`` and ``model``. It knows neither a database nor Label Studio.
"""
