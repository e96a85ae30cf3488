"""Triton bodies of the message-passing operations: one plain function an operation and pass, on raw tensors.

Every row of an output has one owner, which adds its terms in ascending order of edges with a fixed tile width: results
are the same bit for bit from run to run, without atomics. Weight gradients are sums of partial results whose number
depends on the sizes only. Tile sizes are a frozen function of the number of channels and the dtype.
"""
