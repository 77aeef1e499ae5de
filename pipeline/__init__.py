"""The loop around the network: record, Label Studio, training, selection, FiftyOne, commands.

Each package says what lives in it and what it may import; ``make check`` holds it. ``pipeline`` may
import ``model``, and never ``backend`` or ``workers``.
"""
