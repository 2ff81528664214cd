"""Which writes are a page's of ours, by what a browser says of them."""

import pytest

from services.dashboard.domain.crossing import is_own_write

OWN = "https://keys.example"
MARK = {"x-keyledger-request": "1"}


@pytest.mark.parametrize(
    "headers",
    [
        MARK | {"sec-fetch-site": "same-origin"},
        MARK | {"sec-fetch-site": "same-origin", "origin": OWN},
        MARK | {"origin": OWN},
    ],
)
def test_a_write_of_our_own_pages(headers: dict[str, str]) -> None:
    assert is_own_write(headers, OWN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        MARK,
        {"sec-fetch-site": "same-origin", "origin": OWN},
        MARK | {"sec-fetch-site": "cross-site", "origin": OWN},
        MARK | {"sec-fetch-site": "same-site"},
        MARK | {"sec-fetch-site": "none"},
        MARK | {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
        MARK | {"origin": "null"},
        MARK | {"origin": "https://keys.example.evil.example"},
        MARK | {"origin": "http://keys.example"},
        {"x-keyledger-request": "0", "sec-fetch-site": "same-origin"},
    ],
)
def test_any_other_write(headers: dict[str, str]) -> None:
    assert not is_own_write(headers, OWN)
