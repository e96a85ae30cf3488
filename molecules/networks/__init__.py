"""Networks that denoise molecules."""

from molecules.networks.pairformer import PairFormer

__all__ = ["PairFormer"]
