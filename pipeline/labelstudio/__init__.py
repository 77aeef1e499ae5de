"""Label Studio: its API, its labelling configs, its regions, and connecting a project to us.

May import ``pipeline.masks`` and below. It knows no database.
"""
