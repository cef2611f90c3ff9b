"""Configs of real models, reduced to what their architecture needs: to price them without a download."""

from pathlib import Path

SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.json"))}
"""By the names they are asked for."""
