"""How many positions go through the output head at a time. Loads nothing heavy: the estimate of memory asks, too."""

_BLOCK_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Of float32 log-probabilities at a time. On a CPU smaller ones read the head's weight too often; larger ones are
memory from the system each time."""
_CACHE_BYTES = 1 << 20
_LEAST_BLOCK = 64  # positions


def block_positions(vocabulary: int, device: str) -> int:
    """Positions of one block, of a head with so many rows on ``cpu`` or ``cuda``."""
    return max(_LEAST_BLOCK, _BLOCK_BYTES["cuda" if device.startswith("cuda") else "cpu"] // (4 * vocabulary))


def rows_together(vocabulary: int, device: str) -> int:
    """Positions of a block whose logits are made float32 at a time: on a CPU so few that they stay in its cache."""
    return max(1, _CACHE_BYTES // (4 * vocabulary)) if device == "cpu" else block_positions(vocabulary, device)
