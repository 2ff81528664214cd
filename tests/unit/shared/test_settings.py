"""Settings: all that is wrong is told at once, and never a value."""

from pathlib import Path

import pytest

from keyledger.server.settings import Reader, SettingsError, read_environment, read_secret
from services.keys import settings as keys_settings

SECRET = "hunter2"


def wrong_with(reader: Reader) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        reader.finish()
    return str(caught.value).split("; ")


def test_every_problem_is_told_at_once_and_no_value() -> None:
    names = ("INT", "SMALL", "NUMBER", "NEGATIVE", "URL")
    reader = Reader(dict.fromkeys(names, SECRET) | {"SMALL": "3", "NEGATIVE": "-3"})
    reader.text("MISSING")
    reader.path("PATH_MISSING")
    reader.integer("INT_MISSING")
    reader.integer("INT")
    reader.integer("SMALL", least=4)
    reader.number("NUMBER")
    reader.number("NEGATIVE")
    reader.url("URL")
    problems = wrong_with(reader)
    assert [problem.split()[0] for problem in problems] == [
        "MISSING",
        "PATH_MISSING",
        "INT_MISSING",
        "INT",
        "SMALL",
        "NUMBER",
        "NEGATIVE",
        "URL",
    ]
    assert SECRET not in "; ".join(problems)


def test_what_is_there_is_read_and_nothing_is_wrong() -> None:
    reader = Reader({"T": " text ", "I": "7", "N": "0.5", "P": "some/place", "U": "https://keys.test:8401/"})
    assert reader.text("T") == "text"
    assert reader.integer("I", least=7) == 7
    assert reader.number("N") == 0.5
    assert reader.path("P") == Path("some/place")
    assert reader.url("U") == "https://keys.test:8401"
    reader.finish()


def test_an_absent_or_blank_setting_takes_its_default() -> None:
    reader = Reader({"BLANK": "  "})
    assert reader.text("BLANK", "x") == "x"
    assert reader.text("ABSENT", "") == ""
    assert reader.integer("ABSENT", 5) == 5
    assert reader.number("BLANK", 2.5) == 2.5
    assert reader.path("ABSENT", "here") == Path("here")
    assert reader.url("ABSENT", "http://keys.test") == "http://keys.test"
    reader.finish()


@pytest.mark.parametrize("text", ["inf", "nan", "-0.1", "-inf"])
def test_a_number_is_finite_and_not_negative(text: str) -> None:
    reader = Reader({"N": text})
    reader.number("N")
    assert len(wrong_with(reader)) == 1


@pytest.mark.parametrize("text", ["keys.test", "ftp://keys.test", "http://", "http:///path", "//keys.test"])
def test_an_address_is_http_with_a_host(text: str) -> None:
    reader = Reader({"U": text})
    reader.url("U")
    assert len(wrong_with(reader)) == 1


def test_a_secret_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    file = tmp_path / "seal"
    file.write_text(f"{SECRET}\n")
    assert read_secret(file) == SECRET


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    for name in ("empty", "absent"):
        with pytest.raises(SettingsError, match=name):
            read_secret(tmp_path / name)


def test_a_secret_that_is_no_text_is_named_and_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + SECRET.encode())
    with pytest.raises(SettingsError, match="binary") as caught:
        read_secret(tmp_path / "binary")
    assert SECRET not in str(caught.value)


def test_the_environment_is_a_copy() -> None:
    first, second = read_environment(), read_environment()
    assert first == second
    assert first is not second


REQUIRED = {
    "KEYLEDGER_POSTGRES": f"postgresql://u:{SECRET}@db.test/k",
    "KEYLEDGER_NATS": f"nats://u:{SECRET}@nats.test",
    "KEYLEDGER_PEPPERS": "peppers",
    "KEYLEDGER_SEAL_SECRET_FILE": "seal",
}


def test_the_key_service_says_all_it_lacks() -> None:
    with pytest.raises(SettingsError) as caught:
        keys_settings.read({})
    assert all(name in str(caught.value) for name in REQUIRED)


def test_the_key_services_settings_show_no_password() -> None:
    settings = keys_settings.read(REQUIRED)
    assert SECRET in settings.postgres
    assert SECRET not in f"{settings} {settings!r} {[settings]}"
    assert (settings.host, settings.port, settings.prefix) == ("127.0.0.1", 8401, "cvtk")


@pytest.mark.parametrize("name", ["KEYLEDGER_TOKEN_PREFIX", "KEYLEDGER_TOKEN_PREFIXES_OLD"])
def test_a_prefix_that_no_token_could_have_stops_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match="prefix"):
        keys_settings.read(REQUIRED | {name: "Not-One"})


def test_old_prefixes_are_a_list() -> None:
    settings = keys_settings.read(REQUIRED | {"KEYLEDGER_TOKEN_PREFIXES_OLD": "ab, cd,,"})
    assert settings.old_prefixes == ("ab", "cd")
