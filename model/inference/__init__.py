"""What serving adds to the network: its precision, second looks at small objects, proposals.

May import ``model.network`` and what that may import; not ``model.checkpoints`` or ``model.data``.
"""
