"""Learning: the default network by a recipe, fine-tunes on accepted masks, and text branches.

May import every other package of ``model`` except ``model.export``.
"""
