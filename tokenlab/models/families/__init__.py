"""What differs between families of multimodal LLMs; a new family is a row in a lineage's file."""

from tokenlab.models.families.base import Family, MediaSpec, as_rows
from tokenlab.models.families.registry import FAMILIES, family_of

__all__ = ["FAMILIES", "Family", "MediaSpec", "as_rows", "family_of"]
