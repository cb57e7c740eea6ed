"""The image that clusters in containers are made from, once for all tests that need it."""

from __future__ import annotations

import pytest

from tests.support.containers import build, without_image


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    if reason := without_image():
        pytest.skip(reason)
    return build(tmp_path_factory.mktemp("context") / "synod")
