"""The guide's examples do what it says."""

import doctest
from pathlib import Path

import replica.client

GUIDE = Path(replica.client.__file__).with_name("README.md")
ENDPOINTS = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"


def test_the_examples_of_the_guide_run(served):
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count(ENDPOINTS) == 2
    # Markdown's fences would be taken for output.
    lines = [line for line in text.replace(ENDPOINTS, ",".join(served.endpoints)).splitlines() if line[:3] != "```"]
    guide = doctest.DocTestParser().get_doctest("\n".join(lines), {}, GUIDE.name, str(GUIDE), 0)
    assert len(guide.examples) > 20
    report: list[str] = []
    results = doctest.DocTestRunner().run(guide, out=report.append)
    assert results.failed == 0, "".join(report)
