"""The points at which profiles that are computed or looked up are laid down.

Close enough that the interpolation error stays in the few percent that the tables themselves scatter, sparse enough
that all shipped profiles together stay under a megabyte; `leave_one_out` measures what that costs.
"""

# Both sides of the tile sizes where a library may switch kernels: a step there must not be smoothed over.
GEMM_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 129, 256, 257, 512, 513, 1024, 1025, 2048, 4096, 16384)
SHORTLISTS = (256, 1024, 4096, 16384, 65536)  # time is close to linear in them
SMOOTH_TOKENS = (1, 16, 64, 256, 1024, 4096, 16384)
MESSAGE_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 16384)

BATCHES = (1, 4, 8, 16, 32, 64, 128)
VERIFY_TOKENS = (1, 4, 8, 16)
CONTEXTS = (1, 256, 1024, 2048, 4096, 8192, 32768)

PREFILL_BATCHES = (1, 16, 128)
PREFILL_TOKENS = (16, 128, 1024, 8192)
PREFILL_CONTEXTS = (1, 512, 2048, 8192, 32768)
