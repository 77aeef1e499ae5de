"""One click, from the request to the region that Label Studio draws; start reading at ``click``.

May import ``backend.request`` and ``backend.process``.
"""
