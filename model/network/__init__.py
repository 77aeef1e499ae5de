"""The SegNext network: its config, prompts, encoders, decoder, text branch, embeddings and answers.

May import ``model.errors``, ``model.progress``, ``model.files``, ``model.masks`` and
``model.compat``.
"""
