"""The known vulnerabilities of a TorchServe version, and what of the kit covers each."""

import json
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

_FILE = Path(__file__).with_name("vulnerabilities.json")


@dataclass(frozen=True)
class Vulnerability:
    """One known vulnerability of TorchServe."""

    id: str  # CVE or GHSA; a name of our own where there is none
    aliases: tuple[str, ...]
    what: str
    severity: str  # critical, high, medium or low
    part: str  # "server", or "repository" for what no installed server has
    introduced: str  # first affected version
    fixed: str  # first version without it; empty: there is none
    covered_by: str  # what of the kit keeps it from being used
    test: str  # that holds the cover; empty where it is the fixed version itself
    source: str

    def affects(self, version: Version) -> bool:
        """Whether a server of this version has it."""
        begun = Version(self.introduced) <= version
        return self.part == "server" and begun and (not self.fixed or version < Version(self.fixed))

    @property
    def is_grave(self) -> bool:
        """Whether it alone is a reason to leave the version."""
        return self.severity in ("critical", "high") and bool(self.fixed)


def read_vulnerabilities() -> list[Vulnerability]:
    """Return all that are known, as ``vulnerabilities.json`` has them."""
    entries = json.loads(_FILE.read_text(encoding="utf-8"))["vulnerabilities"]
    return [Vulnerability(**{**entry, "aliases": tuple(entry["aliases"])}) for entry in entries]


def find_vulnerabilities(version: str) -> list[Vulnerability]:
    """Return those of a version, in the order of the file; none for a text that is no version."""
    try:
        parsed = Version(version)
    except InvalidVersion:
        return []
    return [each for each in read_vulnerabilities() if each.affects(parsed)]
