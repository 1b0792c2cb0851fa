"""What a trained model is for: its codes in files."""

from daps_rl.codes.coder import count_tokens
from daps_rl.codes.compression import Decompressed, compress, decode_all, decompress, load_counts, save_counts
from daps_rl.codes.container import HEADER, Container

__all__ = [
    "HEADER",
    "Container",
    "Decompressed",
    "compress",
    "count_tokens",
    "decode_all",
    "decompress",
    "load_counts",
    "save_counts",
]
