"""The network for others: ONNX files, their check, and the comparison with the reference network.

May import every other package of ``model`` except ``model.training``.
"""
