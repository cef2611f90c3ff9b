"""What all tests share: no network, few threads, and checkpoints built once a session."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores

from pathlib import Path

import pytest
from hypothesis import settings

from tokenlab.compressors import REGISTRY
from tokenlab.testing import SAVERS

for _name, _method in list(REGISTRY.items()):
    if not _method.__module__.startswith("tokenlab."):  # another package's, whose tests are its own
        del REGISTRY[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--golden DIR`."""
    parser.addoption("--golden", metavar="DIR", help="golden vectors for tests/test_golden.py, of the form of ours")


settings.register_profile("everyday", max_examples=25, deadline=None)
settings.register_profile("matrix", max_examples=200, deadline=None)  # pytest --hypothesis-profile=matrix
settings.load_profile("everyday")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random checkpoint of every family, saved and loadable like a real one, by model type."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, save in SAVERS.items():
        save(folder / name)
    return {path.name: path for path in sorted(folder.iterdir())}
