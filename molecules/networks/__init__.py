"""Networks that denoise molecules."""

from molecules.networks.message_passing import MessagePassing
from molecules.networks.pairformer import PairFormer

__all__ = ["MessagePassing", "PairFormer"]
