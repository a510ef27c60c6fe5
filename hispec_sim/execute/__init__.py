"""Decoding for real: the cascade's forwards run through networks, its outcomes read off their logits. Needs torch."""
