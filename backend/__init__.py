"""The ML backend that Label Studio talks to, over HTTP or inside a label-studio-ml server.

``http`` and ``label_studio_ml`` receive requests, and ``request`` reads them. ``answer`` passes
each one to ``batch`` or ``click``, which answer it. ``process`` holds what one process keeps
between requests. ``backend`` may import ``pipeline`` and ``model``, but never ``workers``.
"""
