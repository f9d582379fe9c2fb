"""What is reloaded is reloaded as a whole, or not at all."""

import attrs
import pytest
from twisted.logger import LogLevel, capturedLogs, formatEvent

from broker.access.principals import make_access
from broker.app.reload import Reloads
from broker.app.reloadables import AccessReload, AdminSecretReload, LogReload
from broker.app.settings import read_settings
from broker.config.changes import Change
from broker.config.environment import Environment
from broker.config.settings import Settings, SettingsError
from broker.observe.logs import LogLines, Redaction
from broker.testing import make_broker


class Part:
    """Takes up the rate, unless *error* keeps it from that."""

    names = ("rate",)

    def __init__(self, what="TXBROKER_RATE", error=None):
        self.what, self.error, self.done = what, error, []

    def prepare(self, settings):
        if self.error is not None:
            raise self.error
        return Change(self.what, lambda: self.done.append(settings.rate))


def reload(before, after, *parts):
    """Return whether the settings *after* could be taken up, those in effect then, and what was logged."""
    reloads = Reloads(before, lambda: (after, []))
    for part in parts:
        reloads.add(part)
    with capturedLogs() as events:
        done = reloads.reload()
    return done, reloads.settings, [(event["log_level"].name, formatEvent(event)) for event in events]


def test_what_changed_is_one_line_and_what_needs_a_restart_another():
    before, part = Settings(node="a"), Part()
    after = attrs.evolve(before, rate=5.0, max_calls=7, durability="os")
    done, settings, lines = reload(before, after, part)
    assert (done, part.done, settings.rate, settings.max_calls) == (True, [5.0], 5.0, before.max_calls)
    assert lines == [
        ("info", "reloaded: TXBROKER_RATE"),
        ("warn", "a restart is needed for TXBROKER_DURABILITY, TXBROKER_MAX_CALLS"),
    ]


def test_nothing_that_has_changed_is_said_so():
    settings = Settings(node="a")
    assert reload(settings, settings, Part(what=""))[2] == [("info", "reloaded: nothing has changed")]


def test_random_name_of_the_node_is_no_change():
    assert reload(Settings(), Settings())[2] == [("info", "reloaded: nothing has changed")]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("it is torn"), "TXBROKER_RATE: it is torn"),
        (FileNotFoundError(2, "No such file or directory", "/keys"), "TXBROKER_RATE: /keys: No such file or directory"),
        (SettingsError(["TXBROKER_X: no", "TXBROKER_Y: neither"]), "TXBROKER_X: no; TXBROKER_Y: neither"),
    ],
)
def test_one_part_that_can_not_leaves_all_as_it_was(error, words):
    before, first, last = Settings(node="a"), Part(), Part()
    done, settings, lines = reload(before, attrs.evolve(before, rate=5.0), first, Part(error=error), last)
    assert (done, settings, first.done, last.done) == (False, before, [], [])
    assert lines == [("error", f"not reloaded, all is as it was: {words}")]


def test_everything_that_is_wrong_is_told_at_once():
    reloads = Reloads(Settings(), lambda: (Settings(), ["TXBROKER_AUTH: zero"]))
    reloads.add(Part(error=ValueError("one")))
    reloads.add(Part(error=ValueError("two")))
    with capturedLogs() as events:
        assert not reloads.reload()
    assert formatEvent(events[0]).endswith("as it was: TXBROKER_AUTH: zero; TXBROKER_RATE: one; TXBROKER_RATE: two")


def test_part_that_breaks_does_not_keep_the_others_from_it():
    class Broken(Part):
        def prepare(self, settings):
            return Change("TXBROKER_RATE", lambda: 1 / 0)

    before, last = Settings(node="a"), Part()
    done, _, lines = reload(before, attrs.evolve(before, rate=5.0), Broken(), last)
    assert (done, last.done) == (True, [5.0])
    assert lines[0] == ("critical", "TXBROKER_RATE was not taken up as a whole")


# Credentials.

OPEN = {"listen": ("tcp:0",)}


@pytest.fixture
def permissions(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text('[default.publish]\nallow = ["a"]\n')
    return file


def secured(**more) -> Settings:
    return Settings(node="a", **{"api_keys": {"ann": "ann-key", "bob": "bob-key"}, **more})


def access_of(settings):
    """Return a broker with the credentials of *settings*, and what reloads them."""
    broker = make_broker(access=make_access(settings))
    return broker, AccessReload(settings, broker.access, broker.credentials_changed)


def test_keys_that_came_changed_and_went_are_named_but_not_told():
    before = secured(api_keys={"ann": "ann-key", "bob": "bob-key", "eve": "eve-key"})
    broker, part = access_of(before)
    after = secured(api_keys={"ann": "ann-key", "bob": "other-key", "kim": "kim-key"})
    assert reload(before, after, part)[2] == [
        ("info", "reloaded: TXBROKER_API_KEYS (new: kim; changed: bob; removed: eve)")
    ]
    assert broker.access.identify("kim-key").name == "kim"


def test_permissions_file_that_says_something_else_is_taken_up(permissions):
    settings = secured(permissions_file=str(permissions))
    broker, part = access_of(settings)
    permissions.write_text('[default.publish]\nallow = ["b"]\n')
    assert reload(settings, settings, part)[2] == [("info", "reloaded: TXBROKER_PERMISSIONS_FILE")]
    assert broker.access.identify("ann-key").grants.may("publish", "b")


@pytest.mark.parametrize("text", ["[default.publish]\nallow = 5\n", "no TOML", '[key.zoe.read]\nallow = [">"]\n'])
def test_permissions_file_that_is_wrong_leaves_keys_as_they_were(permissions, text):
    before = secured(permissions_file=str(permissions))
    broker, part = access_of(before)
    permissions.write_text(text)
    done, settings, lines = reload(
        before, secured(permissions_file=str(permissions), api_keys={"kim": "kim-key"}), part
    )
    assert not done
    assert settings is before
    assert lines[0][1].startswith("not reloaded, all is as it was: TXBROKER_PERMISSIONS_FILE: ")
    assert broker.access.identify("ann-key").name == "ann"


def test_file_that_has_gone_leaves_all_as_it_was(permissions):
    settings = secured(permissions_file=str(permissions))
    _, part = access_of(settings)
    permissions.unlink()
    done, _, lines = reload(settings, settings, part)
    assert not done
    assert "No such file or directory" in lines[0][1]


def test_last_credential_can_not_go_without_a_restart():
    before = secured(**OPEN)
    broker, part = access_of(before)
    done, _, lines = reload(before, Settings(node="a"), part)
    assert not done
    assert "no client could be admitted" in lines[0][1]
    assert broker.access.identify("ann-key").name == "ann"


def test_first_credential_is_good_at_once_and_required_after_a_restart():
    before = Settings(node="a")
    _, part = access_of(before)
    done, settings, lines = reload(before, secured(), part)
    assert (done, settings.auth) == (True, "none")
    assert lines[-1] == ("warn", "a restart is needed for TXBROKER_AUTH, TXBROKER_LISTEN")


# The secret of the admin port.


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [("old secret", "new secret", ["new secret"]), ("", "new", []), ("old", "", []), ("same", "same", [])],
)
def test_secret_of_operators_is_changed_but_not_whether_it_is_asked_for(before, after, replaced):
    done: list[str] = []
    settings = Settings(node="a", admin_secret=before)
    part = AdminSecretReload(settings, done.append)
    assert reload(settings, attrs.evolve(settings, admin_secret=after), part)[0] is (bool(before) == bool(after))
    assert done == replaced


# The log.


def test_level_of_the_log_is_changed_and_new_secrets_are_masked(tmp_path):
    written = (tmp_path / "log").open("w+")
    lines = LogLines(written, "info", "text", "a", Redaction(["ann-key"]))
    before, after = secured(), secured(log_level="debug", api_keys={"kim": "kim-key"})
    reload(before, after, LogReload(lines), access_of(before)[1])
    lines({"log_level": LogLevel.debug, "log_namespace": "x", "log_format": "ann-key kim-key", "log_time": 0.0})
    assert (tmp_path / "log").read_text()[9:] == "debug *** ***\n"
    written.close()


def test_file_of_settings_is_read_again(tmp_path):
    file = tmp_path / "txbroker"
    file.write_text("TXBROKER_LOG_LEVEL=info\nTXBROKER_API_KEYS=ann:ann-key\n")
    environment = Environment({"TXBROKER_SETTINGS_FILE": str(file)})
    settings, _ = read_settings(environment)
    _, part = access_of(settings)
    reloads = Reloads(settings, lambda: read_settings(environment))
    reloads.add(part)
    file.write_text("TXBROKER_LOG_LEVEL=loud\nTXBROKER_API_KEYS=kim:kim-key\nwhat\n")
    assert not reloads.reload()
    file.write_text("TXBROKER_API_KEYS=kim:kim-key\n")
    assert reloads.reload()
    assert reloads.settings.api_keys == {"kim": "kim-key"}
