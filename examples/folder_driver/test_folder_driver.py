from collections.abc import Callable

import pytest


@pytest.mark.conformance("folder_target:target")
def test_folder_driver(conformance_check: Callable[[], None]) -> None:
    conformance_check()
