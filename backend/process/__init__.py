"""What one process keeps while it answers: the runtime, the network's thread, caches and metrics.

No request depends on what an earlier one left here. It imports no other part of ``backend``.
"""
