"""Speed and memory of message passing and neighbour lists: ``python -m benchmarks.kernels``."""
