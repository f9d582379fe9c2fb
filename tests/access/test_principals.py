"""Who somebody is by the credential that he shows."""

import jwt
import pytest

from broker.access.permissions import Permissions, Rule
from broker.access.principals import MAX_LENGTH, Access, make_access
from broker.access.web_tokens import WebTokens, secret_key
from broker.config.settings import Settings
from broker.errors import Unauthenticated

SIGNING = "s3cret-" * 10


def access(mode="required", **more):
    more.setdefault("keys", {"bob": "bobs-key"})
    return Access(mode, secrets=("new", "old"), web_tokens=WebTokens((secret_key(SIGNING),)), **more)


def token(**claims):
    return jwt.encode({"exp": 4e9} | claims, SIGNING, "HS256")


@pytest.mark.parametrize("shown", ["new", "old", "Bearer new", "ED25519-BASIC-TOKEN old"])
def test_the_shared_secret_and_its_predecessor_name_nobody(shown):
    identity = access().identify(shown)
    assert (identity.principal, identity.client, identity.authenticated) == ("secret", "", True)
    assert identity.grants is None


def test_an_api_key_names_its_owner():
    identity = access().identify("bobs-key")
    assert (identity.principal, identity.client) == ("key:bob", "bob")


@pytest.mark.parametrize("shown", ["", "wrong", "bobs-ke", "bob", None, 5, ["new"], "\ud800"])
def test_anything_else_is_refused(shown):
    with pytest.raises(Unauthenticated):
        access().identify(shown)


def test_a_credential_is_no_longer_than_a_header():
    padded = token(sub="bob", x="x" * MAX_LENGTH)
    assert access().identify(token(sub="bob", x="x" * (MAX_LENGTH // 2))).client == "user:bob"
    with pytest.raises(Unauthenticated, match="16384"):
        access().identify(padded)
    with pytest.raises(Unauthenticated, match="16384"):
        access().identify("Bearer " + "x" * MAX_LENGTH)


def test_without_any_credential_configured_every_text_is_taken():
    identity = Access().identify("whatever")
    assert (identity.principal, identity.client, identity.authenticated) == ("anonymous", "", False)


def test_a_secret_does_not_show_in_the_representation():
    known = access()
    for text in (repr(known), repr(known.identify("bobs-key")), repr(known.identify("new"))):
        assert not [word for word in ("new", "old", "bobs-key", SIGNING) if word in text]
    assert known.identify("new").fingerprint not in repr(known.identify("new"))


def test_a_key_and_a_user_of_one_name_are_two():
    known = access()
    assert known.identify(token(sub="bob")).client == "user:bob"
    assert known.identify(token(sub="ann")).client == "ann"


@pytest.mark.parametrize("name", ["broker", "default", "user", "broker.x"])
def test_a_key_of_a_reserved_name_is_called_in_full(name):
    assert access(keys={name: "the-key"}).identify("the-key").client == f"key:{name}"


def test_each_has_the_grants_of_its_principal_and_roles():
    tables = {"key:bob": "b", "user:bob": "u", "role:admin": "r", "secret": "s", "anonymous": "a", "default": "d"}
    known = access(permissions=Permissions({name: {"call": Rule((may,))} for name, may in tables.items()}))
    shown = {
        "b": known.identify("bobs-key"),
        "u": known.identify(token(sub="bob")),
        "ur": known.identify(token(sub="bob", roles=["admin", "other"])),
        "r": known.identify(token(sub="zoe", role="admin")),
        "d": known.identify(token(sub="admin")),
        "s": known.identify("new"),
        "a": known.anonymous,
    }
    for expected, identity in shown.items():
        assert "".join(name for name in "abdrsu" if identity.grants.may("call", name)) == "".join(sorted(expected))
        if identity is not known.anonymous:
            recalled = known.recall(known.remember(identity))
            assert recalled.grants is identity.grants
            assert (recalled.principal, recalled.client) == (identity.principal, identity.client)


@pytest.mark.parametrize("roles", [[], ["other"]])
def test_a_claim_roles_takes_the_place_of_role(roles):
    known = access(permissions=Permissions({"role:admin": {"call": Rule((">",))}}))
    assert not known.identify(token(sub="ann", roles=roles, role="admin")).grants.may("call", "x")


def test_a_verb_without_a_rule_is_permitted_where_nobody_is_asked_who_he_is(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text('[anonymous.publish]\nallow = ["a"]\n')
    for mode, permitted in (("none", True), ("optional", False), ("required", False)):
        known = make_access(Settings(auth=mode, api_secret="s", permissions_file=str(file)))
        for identity in (known.anonymous, known.identify("s")):
            assert identity.grants.may("call", "x") is permitted
        assert known.anonymous.grants.may("publish", "a")
        assert not known.anonymous.grants.may("publish", "b")


def test_a_client_id_is_known_of_a_key_and_of_a_user_with_a_table():
    known = access(permissions=Permissions({"user:ann": {}, "role:zoe": {}, "user:dev-*": {}}))
    assert [name for name in ("ann", "bob", "zoe", "dev-1", "default") if known.knows(name)] == ["ann", "bob"]


def test_whom_a_replaced_key_named_is_not_recalled():
    before = access()
    records = [before.remember(before.identify(shown)) for shown in ("bobs-key", "old", token(sub="ann"))]
    after = Access("required", secrets=("new",), keys={"bob": "another-key"})
    for record in records:
        assert before.recall(record).fingerprint == record["fingerprint"]
        with pytest.raises(Unauthenticated):
            after.recall(record)


def test_who_has_shown_nothing_is_recalled_as_long_as_nothing_is_asked_for():
    record = access("optional").remember(access("optional").anonymous)
    assert access("optional").recall(record).principal == "anonymous"
    with pytest.raises(Unauthenticated):
        access("required").recall(record)


def test_the_settings_say_which_secrets_and_keys_there_are():
    known = make_access(Settings(api_secret="new", api_secret_previous="old", api_keys={"bob": "bobs-key"}))
    assert [known.identify(shown).name for shown in ("new", "old", "bobs-key")] == ["", "", "bob"]
    assert known.permissions is None
    assert not make_access(Settings(auth="none")).configured
