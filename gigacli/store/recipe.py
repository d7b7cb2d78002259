"""Recipe of a group, kept in its attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gigacli.config.base import fingerprint
from gigacli.version import __version__

CREATED_BY = f"giga {__version__}"


@dataclass(frozen=True)
class Recipe:
    """Origin of a group: the verb, its configuration, and the fingerprints of its inputs."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """A hash of all of it; inputs are fingerprints themselves, so recipes chain up."""
        return fingerprint({"stage": self.stage, "config": self.config, "inputs": self.inputs})

    def differences(self, other: Recipe, *, here: str = "here", there: str = "asked for") -> list[str]:
        """List the differences from `other`, one line each: "mpp: 1.0 here, 0.5 asked for"."""
        made = f"made by: giga {self.stage} {here}, giga {other.stage} {there}"
        lines = [] if self.stage == other.stage else [made]
        for mine, theirs in ((self.config, other.config), (self.inputs, other.inputs)):
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    lines.append(f"{key}: {mine.get(key)} {here}, {theirs.get(key)} {there}")
        return lines
