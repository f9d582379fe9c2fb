"""What a permissions file lets principals do, and what is wrong with one."""

import textwrap
from pathlib import Path

import pytest

from broker.access.permissions import Grants, Permissions, Rule, read_permissions
from broker.errors import Invalid
from broker.patterns import covers, matches, overlaps

KEYS = ("bob", "mailer")


def read(tmp_path, text, **more):
    file = tmp_path / "permissions.toml"
    file.write_text(text)
    return read_permissions(file, KEYS, **more)


def problem(tmp_path, text):
    with pytest.raises(Invalid) as caught:
        read(tmp_path, text)
    return caught.value.message


def test_deny_wins():
    grants = Grants({"publish": Rule(("orders.>",), ("orders.secret",))})
    assert grants.may("publish", "orders.new")
    assert not grants.may("publish", "orders.secret")
    assert not grants.may("publish", "users")
    assert not grants.may("call", "orders.new")


def test_a_subscription_must_be_covered_whole_and_touch_no_denial():
    grants = Grants({"subscribe": Rule(("orders.>",), ("orders.secret",))})
    assert grants.may("subscribe", "orders.eu.*")
    assert not grants.may("subscribe", "orders.*")
    assert not grants.may("subscribe", ">")
    assert grants.may("subscribe", "orders.eu")


def test_decisions_that_are_remembered_are_bounded():
    grants = Grants({"publish": Rule((">",))})
    assert all(grants.may("publish", f"t{n}") for n in range(3000))
    assert grants._decision.cache_info().currsize <= 1024


def test_what_is_too_long_for_a_name_is_not_remembered():
    grants = Grants({"publish": Rule((">",))})
    assert grants.may("publish", "t" * 1_000_000)
    assert grants._decision.cache_info().currsize == 0


def test_grants_that_are_remembered_are_bounded():
    permissions = Permissions({"default": {"call": Rule(("x",))}})
    for number in range(5000):
        permissions.grants_of("user", f"u{number}")
    assert permissions._grants.cache_info().currsize <= 4096


def test_each_kind_of_principal_has_tables_of_its_own(tmp_path):
    kinds = ("key.bob", "user.bob", "role.bob", "secret", "anonymous", "default")
    text = "".join(f'[{kind}.call]\nallow = ["{kind}"]\n' for kind in kinds)
    permissions = read(tmp_path, text)
    for kind, name in (("key", "bob"), ("user", "bob"), ("secret", ""), ("anonymous", "")):
        grants = permissions.grants_of(kind, name)
        own = f"{kind}.{name}" if name else kind
        assert [k for k in kinds if grants.may("call", k)] == [own]


@pytest.mark.parametrize("name", ["secret", "anonymous", "default", "bob", "admin", "role:admin", "key:bob", ""])
def test_the_name_of_a_user_gives_no_rights_of_another_kind(tmp_path, name):
    text = "".join(f'[{table}.read]\nallow = [">"]\n' for table in ("key.bob", "role.admin", "secret", "anonymous"))
    permissions = read(tmp_path, text + '[default.read]\nallow = ["news"]\n')
    grants = permissions.grants_of("user", name)
    assert grants.may("read", "news")
    assert not grants.may("read", "payroll")


def test_tables_of_a_principal_and_its_roles_add_up_and_any_denial_wins():
    permissions = Permissions(
        {
            "user:ann": {"call": Rule(("a", "x")), "read": Rule((">",))},
            "role:one": {"call": Rule(("b",), ("x",))},
            "role:two": {"call": Rule(("c",))},
            "default": {"call": Rule(("d",))},
        }
    )
    grants = permissions.grants_of("user", "ann", ("one", "two", "three"))
    assert [name for name in "abcdx" if grants.may("call", name)] == ["a", "b", "c"]
    assert grants.may("read", "anything")
    assert list(grants.names("call")) == ["a", "x", "b", "c"]


def test_who_has_neither_a_table_nor_a_role_with_one_has_the_default():
    permissions = Permissions({"role:admin": {"call": Rule((">",))}, "default": {"call": Rule(("ping",))}})
    assert permissions.grants_of("user", "ann", ("other",)).may("call", "ping")
    assert not permissions.grants_of("user", "ann", ("other",)).may("call", "x")
    assert permissions.grants_of("user", "ann", ("admin",)).may("call", "x")
    assert not Permissions({"anonymous": {}, "default": {"call": Rule((">",))}}).grants_of("anonymous").may("call", "x")


def test_a_name_in_a_table_may_be_a_pattern(tmp_path):
    permissions = read(tmp_path, '[user."dev-*".read]\nallow = ["a"]\n[user."eu.*".read]\nallow = ["b"]\n')
    for name, may in (
        ("dev-ann", "a"),
        ("dev-", "a"),
        ("dev", ""),
        ("eu.ann", "b"),
        ("eu", ""),
        ("eu.a.b", ""),
        ("", ""),
    ):
        grants = permissions.grants_of("user", name)
        assert "".join(topic for topic in "ab" if grants.may("read", topic)) == may


def test_to_act_as_another_needs_a_rule_even_where_a_verb_without_one_is_permitted():
    for lenient in (True, False):
        grants = Permissions({"user:eve": {"act": Rule(("worker-*",))}}, lenient=lenient).grants_of("user", "eve")
        assert grants.may_act("worker-7")
        assert not grants.may_act("worker")
        assert not Permissions({}, lenient=lenient).grants_of("user", "eve").may_act("worker-7")


WRONG = {
    "[user.bob.fly]\nallow = []": ":1: [user.bob.fly] no such verb; there are",
    "[user.bob.raed]": "did you mean read?",
    "[user.ann.smith.read]\nallow = []": 'a dot in it stands in quotes: [user."ann.smith".read]',
    '[user.bob]\nread = ["x"]': "[user.bob.read] takes allow and deny, each a list of patterns in a line below it",
    "[user.bob.call]\nallowed = []": "takes allow and deny",
    "[user.bob]\ncall = 5": "takes allow and deny",
    "[user]\nbob = 5": "takes a table for each verb",
    "user = 5": "takes tables such as [user.bob.read]",
    '[user.bob.call]\nallow = "x"': "allow is a list of patterns",
    '[user.bob.call]\nallow = ["a..>"]': "'a..>' is a pattern that can match nothing",
    '[user.bob.call]\ndeny = ["a*b"]': "'a*b' is a pattern that can match nothing",
    '[user.bob.call]\ndeny = ["*b"]': "'*b' is a pattern that can match nothing",
    '[user.bob.call]\nallow = ["a>"]': "'a>' is a pattern that can match nothing",
    '[user.bob.act]\nallow = ["wor*ker"]': "'wor*ker' is a pattern that can match nothing",
    "[user.bob.call]\ndeny = [7]": "7 is a pattern that can match nothing",
    '[user.bob.act]\nallow = ["broker"]': "'broker' is a pattern that can match nothing: nobody acts as a",
    '[user.bob.act]\nallow = ["broker.*"]': "nobody acts as a reserved name",
    '[user.bob.act]\nallow = ["worker-*", "kv/x"]': "'kv/x' is a pattern that can match nothing: nobody acts as a",
    '[user.bob.act]\nallow = ["queue:*"]': "nobody acts as a reserved name",
    '[user.bob.act]\ndeny = ["user:ann"]': "nobody acts as a reserved name",
    '[user.bob.act]\nallow = ["key:a.>"]': "nobody acts as a reserved name",
    '[user.bob.write]\nallow = ["news", "x.>"]': "allow can match nothing: the names of write begin with kv/",
    '[user.bob.write]\ndeny = ["kv.>"]': "deny can match nothing: the names of write begin with kv/",
    '[user.bob.consume]\nallow = ["jobs*"]': "allow can match nothing: the names of consume begin with queue:",
    '[user."a..*".call]': "can match no name",
    "[user.broker.call]": "no user can have",
    '[user."user:bob".call]': "no user can have",
    '[user."queue:*".call]': "no user can have",
    f"[user.{'x' * 129}.call]": "no user can have",
    '[user."bob\u200b".call]': "no user can have",
    "[key.mialer.call]": "TXBROKER_API_KEYS has no key of this name; did you mean mailer?",
    "[users.bob.read]": "no such kind; did you mean user?",
    '[bob.read]\nallow = ["x"]': "[key.bob.read] or [user.bob.read] or [role.bob.read]",
    '[bob]\nread.allow = ["x"]': "[key.bob.read] or [user.bob.read] or [role.bob.read]",
    "not toml": "TXBROKER_PERMISSIONS_FILE",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_says_something_else_is_refused(tmp_path, text):
    assert WRONG[text] in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("verb", "patterns"),
    [
        ("act", ["*", ">", "b*", "broker*", "worker-*", "kv", "users.>", "bro.*"]),
        ("write", ["*", ">", "k*", "kv/", "kv/*", "kv/a.>", "*.b", "kv/broker.old", "news"]),
        ("consume", ["*", ">", "q*", "queue:jobs", "queue:a.*"]),
        ("read", ["news", "kv/a", "queue:a", "broker.client.>"]),
    ],
)
def test_a_pattern_that_some_name_of_its_verb_matches_is_accepted(tmp_path, verb, patterns):
    grants = read(tmp_path, f"[user.bob.{verb}]\nallow = {patterns}").grants_of("user", "bob")
    assert list(grants.names(verb)) == patterns


def test_everything_that_is_wrong_is_told_at_once_with_its_line(tmp_path):
    text = '[user.bob.read]\nallow = [">"]\n\n[user.bob.fly]\n[admin.read]\n[key.zoe.read]\n'
    told = problem(tmp_path, text)
    assert [line for line in range(1, 7) if f"permissions.toml:{line}: " in told] == [4, 5, 6]


def test_a_table_with_a_wrong_head_is_looked_at_to_its_end(tmp_path):
    told = problem(tmp_path, '[key.malier.publish]\nalow = ["x"]\n[user.bob.raed]\nallow = ["a.>.b"]\n')
    for fault in ("did you mean mailer?", "takes allow and deny", "did you mean read?", "can match nothing"):
        assert fault in told


def test_the_file_of_the_docs_says_what_they_say(tmp_path):
    docs = (Path(__file__).parents[2] / "docs" / "operations" / "access.rst").read_text("utf-8")
    text = docs.partition("may use the verb:\n\n.. code-block:: toml\n")[2].partition("\nThe tables")[0]
    permissions = read(tmp_path, textwrap.dedent(text))
    mailer = permissions.grants_of("key", "mailer")
    assert mailer.may("publish", "orders.new")
    assert not mailer.may("publish", "orders.internal.x")
    assert permissions.grants_of("user", "eve").may("act", "worker-7")
    assert permissions.grants_of("user", "zoe", ("admin",)).may("subscribe", ">")
    assert permissions.grants_of("anonymous", "").may("read", "public.news")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Invalid, match="TXBROKER_PERMISSIONS_FILE"):
        read_permissions(tmp_path / "none.toml", ())


def test_wildcards_of_a_plain_name_are_ordinary_characters():
    grants = Grants({"subscribe": Rule(("job:*",), ("job:secret",)), "read": Rule(("a.*",))})
    assert not grants.may("subscribe", "job:*")
    assert grants.may_name("subscribe", "job:*")
    assert not grants.may_name("subscribe", "job:secret")
    assert not grants.may_name("publish", "job:*")
    assert Grants({}, lenient=True).may_name("subscribe", "*")


# The last token of a pattern may be a prefix.


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("worker-*", "worker-1", True),
        ("worker-*", "worker-", True),
        ("worker-*", "worker-1.eu", True),
        ("worker-*", "worker", False),
        ("worker-*", "a.worker-1", False),
        ("a.b*", "a.bc", True),
        ("*.b*", "x.bc.d", True),
        ("a.b*", "a.c", False),
        ("a.b*", "a", False),
    ],
)
def test_a_prefix_matches_whatever_begins_with_it(pattern, name, expected):
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("one", "other", "covered", "overlapping"),
    [
        ("a.b*", "a.bc", True, True),
        ("a.b*", "a.bc.*", True, True),
        ("a.b*", "a.bc*", True, True),
        ("a.bc*", "a.b*", False, True),
        ("a.b*", "a.c*", False, False),
        ("a.b*", "a.*", False, True),
        ("a.*", "a.b*", False, True),
        ("a.>", "a.b*", True, True),
        ("a.b*", "a.>", False, True),
        ("a.b*", "a", False, False),
        ("a.b*", "c.b*", False, False),
        ("*.b*", "c.bb.>", True, True),
    ],
)
def test_a_prefix_beside_other_patterns(one, other, covered, overlapping):
    assert covers(one, other) is covered
    assert overlaps(one, other) is overlapping
    assert overlaps(other, one) is overlapping
