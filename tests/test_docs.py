"""What the pages say can be followed: links lead somewhere, commands exist, and CI runs what README tells people to."""

import re
from pathlib import Path

import pytest

from tokenlab.cli import COMMANDS
from tokenlab.compressors import REGISTRY

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)")


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def shell(page: Path) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for path, anchor in LINK.findall(prose(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    assert set(re.findall(r"\btokenlab (\w+)", shell(page))) <= COMMANDS.keys()


def test_ci_runs_what_readme_says():
    make = set(re.findall(r"\bmake ([\w-]+)", shell(ROOT / "README.md")))
    assert "test" in make
    assert make <= set(re.findall(r"\bmake ([\w-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))


def test_readme_lists_every_compressor():
    listed = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in REGISTRY if f"`{name}`" not in listed]
