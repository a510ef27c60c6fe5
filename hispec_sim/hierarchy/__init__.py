"""When a hierarchy pays: autoregressive decoding, single-layer speculation and HiSpec compared in closed form."""
