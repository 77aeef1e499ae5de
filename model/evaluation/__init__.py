"""Simulated annotators, the figures measured with them, and the calibration of scores.

May import ``model.data``, ``model.checkpoints``, ``model.inference``, ``model.network`` and what
those may import.
"""
