"""Which seeds are for what, so that no video is ever in two splits."""

FIRST_SEED = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
"""Train and validation are for working; the test seeds were never looked at while the recipe was chosen."""


def seeds(split: str, number: int) -> range:
    """The first seeds of a split: "train", "validation" or "test"."""
    if split not in FIRST_SEED:
        raise ValueError(f"no split named {split!r}: choose one of {', '.join(FIRST_SEED)}")
    if not 0 <= number <= 1_000_000:
        raise ValueError(f"a split has a million seeds, not {number}")
    return range(FIRST_SEED[split], FIRST_SEED[split] + number)
