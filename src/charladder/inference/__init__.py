"""Model runners: a network with a cache for several sequences, which reads a batch of characters in one pass.

Each runner has the same interface (runner.py): with the network's own modules, batched, or packed for a CPU in C.
"""
