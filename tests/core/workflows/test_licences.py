"""The line about a licence is one that Hugging Face's Hub takes."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.workflows.licences import HUB_LICENCES, check_licence, licence_fields


@pytest.mark.parametrize("licence", ["", "apache 2", "mit\nx: y", "a/b", "é"])
def test_what_is_no_licence(licence: str) -> None:
    with pytest.raises(ConfigError, match=r"^card: expected the licence of the weights"):
        check_licence(licence)


def test_licences() -> None:
    for licence in ("apache-2.0", "cc-by-4.0", "other", "MIT", "gpl-3.0+"):
        check_licence(licence)


def test_a_licence_is_written_as_the_hub_writes_it() -> None:
    assert licence_fields("Apache-2.0") == {"license": "apache-2.0"}
    assert licence_fields("other") == {"license": "other"}


def test_a_licence_that_the_hub_does_not_list_is_other_with_a_name() -> None:
    found = licence_fields("My-Licence-1.0")
    assert found == {"license": "other", "license_name": "my-licence-1.0"}
    assert "other" in HUB_LICENCES
