"""Dialects are found, verified, and refused in plain words."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from broker.app.dialects import DialectError, found_dialects, load_dialects, own_settings

GOOD = """
    from zope.interface import implementer
    from broker.interfaces import IWebSocketDialect

    @implementer(IWebSocketDialect)
    class Dialect:
        name = "{name}"
        websocket_paths = ("{path}",)
        subprotocols = ()

        def __init__(self, settings):
            self.settings = settings

        async def session(self, peer, link):
            return None

    dialect = Dialect
"""

HTTP = (
    GOOD.replace("IWebSocketDialect", "IHttpDialect")
    .replace("websocket_paths", "http_paths")
    .replace("session(self, peer, link)", "answer(self, peer, request)")
)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch):
    """Returns a function that adds a file to the search path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def add(file: str, text: str, **words: str) -> None:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text).format(**words) if words else dedent(text))

    yield add
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(*names: str) -> str:
    with pytest.raises(DialectError) as caught:
        load_dialects(names, None)
    return str(caught.value)


@pytest.mark.parametrize("name", ["broker", "secret", "user", "", " ", "a:b", "broker.x", "ä", "x" * 65])
def test_dialect_can_not_have_a_name_that_is_none_or_is_reserved(plugin, name):
    plugin("protocols/parrot.py", GOOD, name=name, path="/parrot")
    assert "name" in refusal("parrot")


def test_file_added_to_the_namespace_is_a_dialect(plugin):
    plugin("protocols/parrot.py", GOOD, name="parrot", path="/parrot")
    (dialect,) = load_dialects(["parrot"], "settings")
    assert (dialect.name, dialect.settings) == ("parrot", "settings")
    assert "parrot" in found_dialects()


def test_any_module_and_attribute_is_a_dialect(plugin):
    plugin("birds.py", GOOD, name="parrot", path="/parrot")
    assert load_dialects(["birds:Dialect"], None)[0].name == "parrot"


def test_dialects_come_in_the_order_of_their_names(plugin):
    plugin("protocols/parrot.py", GOOD, name="parrot", path="/parrot")
    plugin("protocols/raven.py", GOOD, name="raven", path="/raven")
    assert [dialect.name for dialect in load_dialects(["raven", "parrot"], None)] == ["raven", "parrot"]


def test_missing_dialect_is_told_with_those_that_are_there(plugin):
    plugin("protocols/parrot.py", GOOD, name="parrot", path="/parrot")
    message = refusal("dodo")
    assert message.startswith("dialect dodo: there is no module protocols.dodo (found: ")
    assert "parrot" in message


def test_missing_module_of_a_path_is_told():
    assert refusal("no.such:thing").startswith("dialect no.such:thing: there is no module no.such (")


def test_module_that_a_dialect_needs_is_told_as_its_own(plugin):
    plugin("protocols/parrot.py", "import nosuchbird")
    assert refusal("parrot") == (
        "dialect parrot: could not be imported: ModuleNotFoundError: No module named 'nosuchbird'"
    )


def test_broken_module_is_told(plugin):
    plugin("protocols/parrot.py", "1 / 0")
    assert refusal("parrot") == "dialect parrot: could not be imported: ZeroDivisionError: division by zero"


def test_module_without_a_dialect_is_told(plugin):
    plugin("protocols/parrot.py", "")
    assert refusal("parrot") == "dialect parrot: protocols.parrot has no function dialect"


def test_dialect_that_refuses_the_settings_is_told(plugin):
    plugin("protocols/parrot.py", "def dialect(settings): raise ValueError('no perch')")
    assert refusal("parrot") == "dialect parrot: could not be made: ValueError: no perch"


def test_thing_that_is_no_dialect_is_refused(plugin):
    plugin("protocols/parrot.py", "def dialect(settings): return 5")
    assert refusal("parrot") == "dialect parrot: 5 provides none of IWebSocketDialect, IHttpDialect, IStreamDialect"


def test_dialect_that_lacks_what_it_promised_is_refused(plugin):
    plugin("protocols/parrot.py", GOOD.replace("async def session", "async def sessions"), name="a", path="/a")
    assert "session" in refusal("parrot")


def test_two_dialects_on_one_path_are_refused(plugin):
    plugin("protocols/parrot.py", GOOD, name="parrot", path="/bird")
    plugin("protocols/raven.py", GOOD, name="raven", path="/bird")
    assert refusal("parrot", "raven") == "dialect raven: the WebSocket path /bird is taken by dialect parrot"


def test_one_dialect_named_twice_is_refused(plugin):
    plugin("protocols/parrot.py", GOOD, name="parrot", path="/parrot")
    assert refusal("parrot", "parrot") == "dialect parrot: the name parrot is taken by dialect parrot"


def test_no_dialect_at_all_is_refused():
    assert refusal().startswith("no dialect is named")


def test_dialect_of_plain_http_is_one_too(plugin):
    plugin("protocols/parrot.py", HTTP, name="parrot", path="/bird")
    plugin("protocols/raven.py", GOOD, name="raven", path="/bird")
    assert len(load_dialects(["parrot", "raven"], None)) == 2  # one path may serve both kinds of requests
    plugin("protocols/crow.py", HTTP, name="crow", path="/bird")
    assert refusal("parrot", "crow") == "dialect crow: the HTTP path /bird is taken by dialect parrot"


def test_settings_of_its_own_are_those_of_a_dialect_of_that_name(plugin):
    own = """
        import attrs
        from broker.config.options import COUNT, option
        from broker.plugins import with_settings

        @attrs.frozen
        class Own:
            size: int = option(COUNT, 1, "Help.")

        dialect = with_settings("{name}", Own)(lambda settings, own: Dialect(own))
    """
    plugin("good.py", dedent(GOOD.format(name="good", path="/good")) + dedent(own.format(name="good")))
    plugin("bad.py", dedent(GOOD.format(name="bad", path="/bad")) + dedent(own.format(name="other")))
    kinds = own_settings(["good:dialect", "nothing:dialect", "json:loads"])
    assert list(kinds) == ["good"]
    (dialect,) = load_dialects(["good:dialect"], None)
    assert dialect.settings == kinds["good"]()
    assert refusal("bad:dialect") == "dialect bad:dialect: its settings are those of other, and its name is bad"


def test_stream_dialect_without_a_setting_for_its_endpoints_is_refused(plugin):
    plugin("protocols/parrot.py", GOOD.replace("IWebSocketDialect", "IStreamDialect"), name="parrot", path="/p")
    expected = "dialect parrot: a stream dialect needs a setting listen, see broker.plugins.listen_option"
    assert refusal("parrot") == expected


@pytest.fixture
def distribution(plugin, tmp_path: Path):
    """Returns a function that installs a distribution with one entry point."""

    def install(name: str, point: str, value: str) -> None:
        plugin(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        plugin(f"{name}-1.dist-info/entry_points.txt", f"[txbroker.dialects]\n{point} = {value}\n")

    return install


def test_dialect_is_found_by_the_entry_point_of_a_distribution(plugin, distribution):
    plugin("birds.py", GOOD, name="wren", path="/wren")
    distribution("birds", "wren", "birds:dialect")
    assert load_dialects(["wren"], None)[0].websocket_paths == ("/wren",)
    assert "wren" in found_dialects()


def test_an_entry_point_does_not_replace_a_dialect_of_the_namespace(plugin, distribution):
    plugin("protocols/wren.py", GOOD, name="wren", path="/ours")
    plugin("birds.py", GOOD, name="wren", path="/theirs")
    distribution("birds", "wren", "birds:dialect")
    assert load_dialects(["wren"], None)[0].websocket_paths == ("/ours",)


def test_entry_points_that_lead_nowhere_are_refused(distribution):
    distribution("birds", "wren", "no_such_module:dialect")
    distribution("beasts", "bear", "beasts")
    assert "there is no module no_such_module" in refusal("wren")
    assert refusal("bear") == "dialect bear: its entry point beasts names no function"


def test_an_entry_point_of_two_distributions_is_refused(distribution):
    distribution("birds", "wren", "birds:dialect")
    distribution("beasts", "wren", "beasts:dialect")
    assert refusal("wren") == "dialect wren: it is the name of several entry points: beasts:dialect, birds:dialect"
