"""Settings that dialects have of their own."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from broker.app.checks import problems_of
from broker.config.options import COUNT, PATH, SECONDS, TEXT, option
from broker.config.own import described
from broker.config.settings import Settings, SettingsError
from broker.plugins import listen_option, with_settings


@attrs.frozen
class Weather:
    station: str = option(TEXT, "LFPG", "Where the weather is asked for.")
    every_seconds: float = option(SECONDS, 60.0, "How often.")
    api_key: str = option(TEXT, "", "What is shown there.", secret=True)


OWN = {"weather-app": Weather}


def problems(environ: dict[str, str], own: dict[str, type] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(environ, own or OWN)
    return caught.value.problems


def test_they_are_read_like_those_of_the_broker() -> None:
    settings = Settings.from_environ(
        {"TXBROKER_WEATHER_APP_STATION": "EGLL", "TXBROKER_WEATHER_APP_EVERY_SECONDS": "5"}, OWN
    )
    assert settings.own == {"weather-app": Weather("EGLL", 5.0)}
    assert settings.warnings == ()


def test_they_have_defaults() -> None:
    assert Settings.from_environ({}, OWN).own == {"weather-app": Weather()}
    assert Settings.from_environ({}).own == {}


def test_all_that_is_wrong_is_told_at_once() -> None:
    environ = {"TXBROKER_WEATHER_APP_EVERY_SECONDS": "soon", "TXBROKER_RATE": "fast"}
    assert problems(environ) == [
        "TXBROKER_RATE: expected a number that is not negative, not 'fast'",
        "TXBROKER_WEATHER_APP_EVERY_SECONDS: expected a number that is not negative, not 'soon'",
    ]


def test_a_misspelt_name_is_told_with_the_nearest() -> None:
    settings = Settings.from_environ({"TXBROKER_WEATHER_APP_STATIN": "EGLL"}, OWN)
    assert settings.warnings == (
        "TXBROKER_WEATHER_APP_STATIN is not a setting; did you mean TXBROKER_WEATHER_APP_STATION?",
    )


def test_a_secret_may_be_in_a_file_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    settings = Settings.from_environ({"TXBROKER_WEATHER_APP_API_KEY_FILE": str(tmp_path / "key")}, OWN)
    assert settings.own["weather-app"].api_key == "s3cret"
    assert settings.secrets == ("s3cret",)
    assert "s3cret" not in repr(settings.describe()) + repr(settings)
    rows = {name: (text, source) for name, text, source in settings.describe()}
    assert rows["TXBROKER_WEATHER_APP_API_KEY"] == ("***", "TXBROKER_WEATHER_APP_API_KEY_FILE")
    assert rows["TXBROKER_WEATHER_APP_STATION"] == ("LFPG", "default")


def test_a_file_that_can_not_be_read_is_told() -> None:
    kind = attrs.make_class("Kind", {"page_file": option(PATH, "", "A page.")}, frozen=True)
    assert problems({"TXBROKER_X_PAGE_FILE": "/nowhere"}, {"x": kind})[0].startswith("TXBROKER_X_PAGE_FILE: ")


@pytest.mark.parametrize(
    ("own", "variable"),
    [
        (
            {"api": attrs.make_class("A", {"secret": option(TEXT, "", "Help.")})},
            "TXBROKER_API_SECRET of the dialect api",
        ),
        (
            {
                "a": attrs.make_class("A", {"b_c": option(COUNT, 0, "Help.")}),
                "a-b": attrs.make_class("B", {"c": option(COUNT, 0, "Help.")}),
            },
            "TXBROKER_A_B_C of the dialect a-b",
        ),
    ],
)
def test_a_name_that_is_another_setting_is_refused(own: dict[str, type], variable: str) -> None:
    assert problems({}, own) == [f"{variable} is another setting"]


def test_they_are_described_for_operators() -> None:
    assert described("TXBROKER_", OWN) == [
        "TXBROKER_WEATHER_APP_STATION (text; default: LFPG): Where the weather is asked for.",
        "TXBROKER_WEATHER_APP_EVERY_SECONDS (seconds; default: 60): How often.",
        "TXBROKER_WEATHER_APP_API_KEY (text): What is shown there.",
    ]


def test_a_factory_gets_them() -> None:
    @with_settings("weather-app", Weather)
    def dialect(settings: object, own: Weather) -> str:
        return own.station

    assert dialect(Settings.from_environ({"TXBROKER_WEATHER_APP_STATION": "EGLL"}, OWN)) == "EGLL"
    assert dialect(None) == "LFPG"
    assert dialect(None, Weather("LOWW")) == "LOWW"


def test_what_is_no_class_of_settings_is_refused() -> None:
    with pytest.raises(attrs.exceptions.NotAnAttrsClassError):
        with_settings("weather", dict)


@attrs.frozen
class Stream:
    listen: tuple[str, ...] = listen_option(7000)


STREAM: dict[str, type] = {"lines": Stream}


def test_a_stream_dialect_listens_on_loopback_unless_it_is_told_otherwise() -> None:
    assert Settings.from_environ({}, STREAM).own_endpoints == {"lines": ("tcp:7000:interface=127.0.0.1",)}
    settings = Settings.from_environ({"TXBROKER_LINES_LISTEN": "none"}, STREAM)
    assert settings.own_endpoints == {"lines": ()}


def test_a_stream_dialect_that_others_reach_needs_a_credential() -> None:
    environ = {"TXBROKER_LINES_LISTEN": "tcp:7000"}
    (problem,) = problems(environ, STREAM)
    assert problem.startswith("TXBROKER_LINES_LISTEN: tcp:7000 can be reached from other machines")
    for remedy in ({"TXBROKER_API_SECRET": "sixteen letters!"}, {"TXBROKER_INSECURE": "lines"}):
        settings = Settings.from_environ(environ | remedy, STREAM)
        assert settings.own_endpoints == {"lines": ("tcp:7000",)}


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp:x", "is no endpoint"),
        ("tcp:8000:interface=127.0.0.1", "can not be listened on beside tcp:8000:interface=127.0.0.1"),
    ],
)
def test_an_endpoint_of_a_stream_dialect_is_checked_at_the_start(endpoint: str, expected: str) -> None:
    settings = Settings.from_environ({"TXBROKER_LINES_LISTEN": endpoint, "TXBROKER_INSECURE": "lines"}, STREAM)
    (problem,) = problems_of(settings)
    assert problem.startswith(f"TXBROKER_LINES_LISTEN: {endpoint} {expected}")
