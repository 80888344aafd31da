"""Known vulnerabilities by version, and that SECURITY.md says the same."""

import pytest

from serving.exposure_versions import find_vulnerabilities, read_vulnerabilities
from tests.servers import ROOT


@pytest.mark.parametrize(
    ("version", "ids"),
    [
        ("0.8.1", {"CVE-2023-43654", "CVE-2022-1471", "CVE-2023-48299", "CVE-2024-35198", "CVE-2024-35199"}),
        ("0.8.2", {"CVE-2023-48299", "CVE-2024-35198", "CVE-2024-35199"}),
        ("0.10.0", {"CVE-2024-35198", "CVE-2024-35199"}),
        ("0.2.0", {"CVE-2023-43654", "CVE-2022-1471", "CVE-2023-48299", "CVE-2024-35198"}),
        ("0.11.0", set()),
        ("0.12.0", set()),
        ("none", set()),
    ],
)
def test_knows_the_vulnerabilities_of_a_version(version: str, ids: set[str]) -> None:
    """From the first affected version on, before the first without it."""
    assert {each.id for each in find_vulnerabilities(version) if each.id.startswith("CVE")} == ids


def test_every_vulnerability_says_what_covers_it() -> None:
    """With a source, and a test that is there where one is named; ids stand once, and in SECURITY.md."""
    known = read_vulnerabilities()
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert len({each.id for each in known}) == len(known)
    for each in known:
        assert each.source and f"{each.what} |" in text and f"| {each.covered_by} |" in text, each.id
        file, _, name = each.test.partition("::")
        assert not each.test or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), each.test


def test_the_tests_that_security_md_names_are_there() -> None:
    """A safe default without the test that holds it is a promise only."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = [word for word in text.replace("`", " ").split() if word.startswith("tests/") and "::" in word]
    missing = [
        each
        for each in named
        if f"def {each.partition('::')[2]}(" not in (ROOT / each.partition("::")[0]).read_text(encoding="utf-8")
    ]
    assert (len(named) > 5, missing) == (True, [])
