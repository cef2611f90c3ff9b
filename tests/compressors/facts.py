"""What is known of the compressors that come along: `make facts` writes list and page, a test keeps both fresh."""

import json
from pathlib import Path

from tests.golden import FOLDER
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.facts import Facts, facts_of

ROOT = Path(__file__).parents[2]
LISTED, PAGE = ROOT / "tokenlab" / "compressors" / "facts.json", ROOT / "docs" / "methods.md"

RESTATED = {
    **dict.fromkeys(("differential", "similarity", "topic", "text"), "tests/compressors/test_paper.py"),
    "vtw": "tests/compressors/test_paper.py",
}
"""Where a published method without vectors is restated in plain loops."""

HEAD = """# Methods

Every compressor that comes along; `tokenlab compressors NAME` shows one in full. *Ratio met by* says of what
`retention_ratio` is a share, by a method's own rounding (`medium`: of all tokens of a video or image; `none`: what the
method sees decides). *Question* says whether the choice depends on the question; one that does not serves the next
question too. *Parity* says how many vectors of the authors' own code a method meets (indices exactly, merged features
within 1e-4), or that its algorithm is restated in plain loops.

"""


def vectors(name: str) -> int:
    """Golden cases of a method: those of folders that begin with its name, and with no longer one."""
    owners = {
        folder: max((n for n in REGISTRY if folder.name.startswith(n)), key=len, default="")
        for folder in FOLDER.iterdir()
        if folder.is_dir()
    }
    return sum(len(list(folder.glob("case_*"))) for folder, owner in owners.items() if owner == name)


def parity(name: str) -> str:
    """How a method is known to do as its authors' code."""
    if count := vectors(name):
        return f"{count} vectors of the authors' code"
    return "restated in plain loops" if name in RESTATED else ""


def facts() -> list[Facts]:
    """Of all compressors that come along, by name."""
    return [facts_of(cls, parity(name)) for name, cls in sorted(REGISTRY.items())]


def listed() -> str:
    """The list, as a file holds it."""
    return json.dumps(facts(), indent=1) + "\n"


def page() -> str:
    """The table of docs."""
    columns = ("method", "stage", "kind", "ratio met by", "question", "paper", "licence of the code", "parity")
    rows = [columns, ("---",) * len(columns)]
    for each in facts():
        question = "yes" if each["looks_at_question"] else "no"
        paper = ", ".join(filter(None, (_linked(each["paper"]), each["venue"])))
        rows.append(
            (
                f"`{each['name']}`",
                ", ".join(each["stages"]),
                each["kind"],
                each["budget"],
                question,
                paper or "a control",
                each["licence"],
                each["parity"],
            )
        )
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _linked(paper: str) -> str:
    number = paper.removeprefix("arXiv ")
    return f"[{number}](https://arxiv.org/abs/{number})" if number != paper else paper


if __name__ == "__main__":
    LISTED.write_text(listed(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
