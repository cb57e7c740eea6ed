"""The tutorial's examples do what it says."""

import doctest
from pathlib import Path

import replica.metadata

TUTORIAL = Path(replica.metadata.__file__).with_name("README.md")


def test_the_examples_of_the_tutorial_run():
    # Markdown's fences would be taken for output.
    lines = [line for line in TUTORIAL.read_text(encoding="utf-8").splitlines() if line[:3] != "```"]
    tutorial = doctest.DocTestParser().get_doctest("\n".join(lines), {}, TUTORIAL.name, str(TUTORIAL), 0)
    assert len(tutorial.examples) > 40
    report: list[str] = []
    results = doctest.DocTestRunner().run(tutorial, out=report.append)
    assert results.failed == 0, "".join(report)
