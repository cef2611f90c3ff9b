"""The list of what is known, and the page of docs: fresh, and with evidence for every published method."""

import subprocess
import sys

import pytest

from tests.compressors.facts import LISTED, PAGE, RESTATED, ROOT, listed, page, vectors
from tokenlab.compressors import REGISTRY


def test_list_and_page_are_fresh():
    assert LISTED.read_text(encoding="utf-8") == listed(), "run: make facts"
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make facts"


@pytest.mark.parametrize("name", sorted(name for name, method in REGISTRY.items() if method.paper))
def test_a_published_method_meets_vectors_or_is_restated(name):
    assert vectors(name) or name in (ROOT / RESTATED.get(name, "absent")).read_text(encoding="utf-8")


def test_nothing_heavy_is_imported_to_list_them():
    code = "from tokenlab.cli import main; main(['compressors']); main(['compressors', 'tome'])"
    code = f"import sys; {code}; print(sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'tokenlab.cli.commands.compressors'" in modules
    for heavy in ("torch", "transformers", "lightning", "numpy"):
        assert f"'{heavy}'" not in modules
