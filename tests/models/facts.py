"""What is known of the model families: `make facts` writes the list, a test keeps it fresh."""

import json
from pathlib import Path

from tokenlab.compressors import REGISTRY
from tokenlab.models.facts import family_facts, verdicts
from tokenlab.models.families import FAMILIES

LISTED = Path(__file__).parents[2] / "tokenlab" / "models" / "facts.json"


def listed() -> str:
    """The list, as a file holds it."""
    found = [
        family_facts(model_type, family)
        | {"compressors": [each for name in sorted(REGISTRY) for each in verdicts(family, name, REGISTRY[name])]}
        for model_type, family in FAMILIES.items()
    ]
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    LISTED.write_text(listed(), encoding="utf-8")
