"""What a run's numbers come from besides its config: versions, device, code and weights."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tokenlab import __version__

PACKAGES = ("torch", "transformers", "lightning", "decord2", "av", "numpy", "scipy", "torchmetrics")

DECIDE = ("tokenlab", "code", "weights", "arms")
"""What may not change between a run's parts: its answers hang on it."""


@dataclass(frozen=True)
class Environment:
    """Where and with what a run was made.

    Attributes:
        tokenlab: Version of this package.
        code: The git commit of this package's checkout, and `+` with a hash of what differs from it; None outside git.
        python: Version of Python.
        packages: Versions of what computes.
        system: Operating system and processor.
        device: What computes.
        threads: That torch uses on the CPU.
        command: What was run: validate, test or predict.
        kernel: The attention implementation.
        weights: A hash of the model's weights.
        arms: By arm, a hash of everything that decides its answers.
    """

    tokenlab: str
    code: str | None
    python: str
    packages: dict[str, str]
    system: str
    device: str
    threads: int
    command: str
    kernel: str
    weights: str
    arms: dict[str, str]

    @classmethod
    def here(cls, device: torch.device, command: str, kernel: str, weights: str, arms: dict[str, str]) -> Environment:
        """This process, on a device."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return cls(
            tokenlab=__version__,
            code=code_state(),
            python=platform.python_version(),
            packages={package: found for package in PACKAGES if (found := _version(package))},
            system=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            device=name,
            threads=torch.get_num_threads(),
            command=command,
            kernel=kernel,
            weights=weights,
            arms=arms,
        )

    @property
    def line(self) -> str:
        """Versions and device, for a report."""
        versions = ", ".join(
            f"{name} {self.packages[name]}" for name in ("torch", "transformers") if name in self.packages
        )
        code = f" ({self.code})" if self.code else ""
        return f"tokenlab {self.tokenlab}{code}, {versions}; {self.device}, {self.threads} threads, {self.system}"

    def to_json(self) -> str:
        """The text of `environment.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Environment:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))

    def differences(self, other: Environment) -> list[str]:
        """What decides answers and is not the same, a line each."""
        return [
            f"{name}: {getattr(other, name)} then, {getattr(self, name)} now"
            for name in DECIDE
            if getattr(self, name) != getattr(other, name)
        ]


def code_state(folder: Path = Path(__file__).parent) -> str | None:
    """The git commit of this package's checkout, and a hash of what differs from it; None where it lies in none."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", str(folder / "environment.py")) is None:
        return None
    changed = git("diff", "HEAD", "--", str(folder.parent)) or ""
    return commit.strip()[:12] + (f"+{_short_hash(changed)}" if changed else "")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
