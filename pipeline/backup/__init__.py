"""Backups of everything that cannot be made again: the record, Label Studio's data, the settings,
images and weights. May import ``runtime`` and what lies below it; the commands call it."""
