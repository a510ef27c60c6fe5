"""hispec-sim: does hierarchical speculative decoding pay for your model, GPU and workload?"""

__version__ = "0.1.0"
