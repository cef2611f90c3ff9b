"""tokenlab: an honest bench for learning-free visual-token reduction on frozen multimodal LLMs."""

__version__ = "0.1.0"
