from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.task import Clock

from broker.access.limits import Buckets
from broker.access.permissions import Grants, Rule, read_permissions
from broker.access.principals import Access, make_access
from broker.config.settings import Settings
from broker.errors import Invalid, Unauthenticated

SECRET = "s3cret-" * 10


def access(mode="required", **more):
    return Access(mode, secrets=("new", "old"), keys={"bob": "bobs-key"}, **more)


@pytest.mark.parametrize("token", ["new", "old", "Bearer new", "ED25519-BASIC-TOKEN old"])
def test_the_shared_secret_and_its_predecessor_name_nobody(token):
    identity = access().identify(token)
    assert (identity.name, identity.authenticated, identity.grants) == ("", True, None)


def test_an_api_key_names_its_owner():
    assert access().identify("bobs-key").name == "bob"


@pytest.mark.parametrize("token", ["", "wrong", "bobs-ke", "bob", None, 5, ["new"], "\ud800"])
def test_anything_else_is_refused(token):
    with pytest.raises(Unauthenticated):
        access().identify(token)


def test_without_any_credential_configured_every_text_is_taken():
    identity = Access().identify("whatever")
    assert (identity.name, identity.authenticated) == ("", False)


def test_a_secret_does_not_show_in_the_representation():
    shown = repr(access(jwt_keys=((SECRET, "HS256"),)))
    assert not [word for word in ("new", "old", "bobs-key", SECRET) if word in shown]


def test_a_token_names_its_subject_and_carries_details():
    token = jwt.encode({"sub": "ann", "exp": 4e9, "role": "admin", "scopes": ["x"]}, SECRET, "HS256")
    identity = access(jwt_keys=((SECRET, "HS256"),)).identify(token)
    assert identity.name == "ann"
    assert identity.details == {"role": "admin", "scopes": ["x"]}


GOOD = {"sub": "ann", "exp": 4e9, "aud": "us", "iss": "them"}
WRONG = {  # each differs from GOOD in one claim only, which is what it is refused for
    "expired": {"exp": 1},
    "for ever": {"exp": None},
    "not valid yet": {"nbf": 4e9},
    "issued in the future": {"iat": 4e9},
    "for another audience": {"aud": "other"},
    "for no audience": {"aud": None},
    "of another issuer": {"iss": "other"},
    "of no issuer": {"iss": None},
    "named with a control character": {"sub": "ann\0"},
    "named with a lone surrogate": {"sub": "ann\ud800"},
    "with a role that is no text": {"role": "\ud800"},
    "with a scope that is no text": {"scopes": ["x", {"\udfff": 1}]},
}


def shown(claims, key=SECRET, algorithm="HS256"):
    """Let somebody show a token with *claims* where it must be for us and of them."""
    token = jwt.encode({name: claim for name, claim in claims.items() if claim is not None}, key, algorithm)
    return access(jwt_keys=((SECRET, "HS256"),), jwt_audience="us", jwt_issuer="them").identify(token)


def test_a_token_that_holds_is_accepted():
    assert shown(GOOD).name == "ann"


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG)
def test_a_token_that_does_not_hold_is_refused(claims):
    with pytest.raises(Unauthenticated):
        shown(GOOD | claims)


@pytest.mark.parametrize(("key", "algorithm"), [("x" * 64, "HS256"), ("", "none"), (SECRET, "HS512")])
def test_a_token_that_was_not_signed_with_our_key_and_algorithm_is_refused(key, algorithm):
    with pytest.raises(Unauthenticated):
        shown(GOOD, key, algorithm)


def test_a_token_may_be_signed_with_any_of_the_keys():
    known = access(jwt_keys=((SECRET, "HS256"), ("other" * 8, "HS256")))
    for key in (SECRET, "other" * 8):
        assert known.identify(jwt.encode({"sub": "ann", "exp": 4e9}, key, "HS256")).name == "ann"


def test_a_subject_is_cut_to_the_length_of_a_name():
    for length, name in ((128, "x" * 128), (129, "x" * 128)):
        assert shown(GOOD | {"sub": "x" * length}).name == name


def test_a_token_without_a_subject_names_nobody():
    identity = shown(GOOD | {"sub": None})
    assert (identity.name, identity.authenticated) == ("", True)


# From the settings

KINDS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def public_key_file(folder, key):
    """Write the public part of *key* to a file; return its path."""
    file = folder / "key.pem"
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(file)


@pytest.mark.parametrize("algorithm", KINDS)
def test_tokens_may_be_signed_with_a_key_whose_public_part_is_in_a_file(tmp_path, algorithm):
    key = KINDS[algorithm]()
    known = make_access(Settings(jwt_secret=SECRET, jwt_public_key_file=public_key_file(tmp_path, key)))
    assert known.identify(jwt.encode({"sub": "ann", "exp": 4e9}, key, algorithm)).name == "ann"
    assert known.identify(jwt.encode({"sub": "bob", "exp": 4e9}, SECRET, "HS256")).name == "bob"
    with pytest.raises(Unauthenticated):
        known.identify(jwt.encode({"sub": "ann", "exp": 4e9}, KINDS[algorithm](), algorithm))


def test_a_file_without_a_public_key_that_signs_tokens_is_refused(tmp_path):
    files = [
        tmp_path / "none.pem",
        tmp_path / "binary.pem",
        public_key_file(tmp_path, ed448.Ed448PrivateKey.generate()),
    ]
    files[0].write_text("no key")
    files[1].write_bytes(b"\xff\0")
    for file in files:
        with pytest.raises(Invalid, match="TXBROKER_JWT_PUBLIC_KEY_FILE"):
            make_access(Settings(jwt_public_key_file=str(file)))


@pytest.mark.parametrize(
    ("settings", "holds"),
    [({}, True), ({"aud": "us"}, False), ({"iss": "them"}, True)],
    ids=["as they are", "with an audience that nobody asked for", "with an issuer that nobody asked for"],
)
def test_a_claim_that_no_setting_asks_for(settings, holds):
    known = make_access(Settings(jwt_secret=SECRET))
    token = jwt.encode({"sub": "ann", "exp": 4e9} | settings, SECRET, "HS256")
    if holds:
        assert known.identify(token).name == "ann"
    else:  # RFC 7519, 4.1.3: who does not identify itself with a value in the audience claim must reject the token
        with pytest.raises(Unauthenticated):
            known.identify(token)


def test_the_settings_say_what_a_token_must_be_for():
    known = make_access(Settings(jwt_secret=SECRET, jwt_audience="us", jwt_issuer="them"))
    assert known.identify(jwt.encode(GOOD, SECRET, "HS256")).name == "ann"
    for claims in ({"aud": "other"}, {"iss": "other"}):
        with pytest.raises(Unauthenticated):
            known.identify(jwt.encode(GOOD | claims, SECRET, "HS256"))


def test_the_settings_say_which_secrets_and_keys_there_are():
    known = make_access(Settings(api_secret="new", api_secret_previous="old", api_keys={"bob": "bobs-key"}))
    assert [known.identify(shown).name for shown in ("new", "old", "bobs-key")] == ["", "", "bob"]
    assert known.permissions == {}
    assert not make_access(Settings(auth="none")).configured


# Permissions


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


def test_grants_are_found_by_name_then_role_then_default(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text(
        '[bob.call]\nallow = ["math.>"]\ndeny = ["math.secret"]\n'
        '[admin.call]\nallow = [">"]\n[default.call]\nallow = ["ping"]\n[anonymous]\n'
    )
    known = access(permissions=read_permissions(file), jwt_keys=((SECRET, "HS256"),))
    token = jwt.encode({"sub": "ann", "exp": 4e9, "roles": ["admin"]}, SECRET, "HS256")
    assert known.identify("bobs-key").grants.may("call", "math.add")
    assert known.identify(token).grants.may("call", "anything")
    for claims, may in (
        ({"role": "admin"}, True),
        ({"roles": "admin"}, True),
        ({"roles": [5, "other", "admin"]}, True),
        ({"roles": [], "role": "admin"}, False),
        ({}, False),
    ):
        token = jwt.encode({"sub": "ann", "exp": 4e9} | claims, SECRET, "HS256")
        assert known.identify(token).grants.may("call", "anything") is may
    assert known.identify("new").grants.may("call", "ping")
    assert not known.anonymous.grants.may("call", "ping")
    assert list(known.identify("bobs-key").grants.names("call")) == ["math.>"]
    assert list(known.identify("bobs-key").grants.names("send")) == []
    assert known.knows("bob")
    assert not known.knows("zoe")


@pytest.mark.parametrize(
    "text",
    [
        "[bob.fly]\nallow = []",
        "[bob.call]\nallowed = []",
        "[bob]\ncall = 5",
        '[bob.call]\nallow = "x"',
        '[bob.call]\nallow = ["a..>"]',
        "not toml",
    ],
)
def test_a_permission_file_that_says_something_else_is_refused(tmp_path, text):
    file = tmp_path / "permissions.toml"
    file.write_text(text)
    with pytest.raises(Invalid):
        read_permissions(file)


def test_a_verb_without_a_rule_is_permitted_where_nobody_is_asked_who_he_is(tmp_path):
    file = tmp_path / "permissions.toml"
    file.write_text('[anonymous.publish]\nallow = ["a"]\n')
    for mode, permitted in (("none", True), ("optional", False), ("required", False)):
        known = access(mode=mode, permissions=read_permissions(file))
        other = known.identify("new")  # whom no rule names
        assert known.recall(known.remember(other)).grants.may("call", "x") is permitted
        for grants in (known.anonymous.grants, other.grants):
            assert grants.may("call", "x") is permitted
        assert known.anonymous.grants.may("publish", "a")
        assert not known.anonymous.grants.may("publish", "b")


def test_a_missing_permission_file_is_refused(tmp_path):
    with pytest.raises(Invalid):
        read_permissions(tmp_path / "none.toml")


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    bucket = Buckets(clock, rate=2.0, burst=3.0).of("ann")
    assert [bucket.take_token() for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [bucket.take_token(), bucket.take_token()] == [True, False]
    clock.advance(100)
    assert [bucket.take_token() for _ in range(4)] == [True, True, True, False]


def test_a_rate_below_one_lets_the_first_pass():
    clock = Clock()
    bucket = Buckets(clock, rate=0.5, burst=0.0).of("ann")
    assert [bucket.take_token(), bucket.take_token()] == [True, False]
    clock.advance(1.9)
    assert not bucket.take_token()
    clock.advance(0.1)
    assert bucket.take_token()


def test_a_bucket_is_kept_for_each_key_seen_lately():
    buckets = Buckets(Clock(), rate=1.0, burst=0.0, size=2)
    ann, bob = buckets.of("ann"), buckets.of("bob")
    assert buckets.of("ann") is ann
    buckets.of("cid")
    assert buckets.of("ann") is ann
    assert buckets.of("bob") is not bob


def test_no_rate_is_no_bucket():
    assert Buckets(Clock(), rate=0.0, burst=5.0).of("ann") is None
