"""Model runners: run a network on a batch of characters, with a KV cache for several sequences.

All have the interface `ModelRunner`: eager (the network's own modules), batched, and packed for CPUs (C).
"""
