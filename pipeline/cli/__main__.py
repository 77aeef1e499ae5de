"""``python -m pipeline.cli``: the ``maskloop`` command, as torchrun starts it."""

from __future__ import annotations

from pipeline.cli.app import main

main()
