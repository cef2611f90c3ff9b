"""Tokens as data: a medium's on its token grid, and a prompt's in the sequence that the LLM reads."""

from tokenlab.tokens.grid import Evidence, VisualTokens

__all__ = ["Evidence", "VisualTokens"]
