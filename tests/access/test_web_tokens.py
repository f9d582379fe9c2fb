"""JSON web tokens: what is accepted, and whom they name."""

import datetime
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import get_default_algorithms

from broker.access.principals import Access, make_access
from broker.access.web_tokens import WebTokens, secret_key
from broker.config.settings import Settings
from broker.errors import Invalid, Unauthenticated
from tests.support.logs import lines_of

SECRET = "s3cret-" * 10
GOOD = {"sub": "ann", "exp": 4e9, "aud": "us", "iss": "them"}


def known(**more):
    return Access("required", web_tokens=WebTokens((secret_key(SECRET),), **more))


def signed(claims, key=SECRET, algorithm="HS256", **headers):
    """Return a token with *claims*, of any types."""
    body = json.dumps({name: claim for name, claim in claims.items() if claim is not None}).encode()
    return jwt.PyJWS().encode(body, key, algorithm, headers=headers or None)


def shown(claims, key=SECRET, algorithm="HS256", **headers):
    """Let somebody show a token with *claims* where it must be for us and of them."""
    return known(audience="us", issuer="them").identify(signed(claims, key, algorithm, **headers))


def test_a_token_names_its_subject_and_carries_details():
    identity = known().identify(signed({"sub": "ann", "exp": 4e9, "role": "admin", "scopes": ["x"]}))
    assert (identity.kind, identity.name, identity.client, identity.principal) == ("user", "ann", "ann", "user:ann")
    assert identity.details == {"role": "admin", "scopes": ["x"]}
    assert identity.expires == 4e9 + 60


def test_a_token_that_holds_is_accepted():
    assert shown(GOOD).name == "ann"


WRONG: dict[str, dict[str, Any]] = {  # each differs from GOOD in one claim only, which is what it is refused for
    "expired": {"exp": 1},
    "for ever": {"exp": None},
    "until no number": {"exp": "soon"},
    "until infinity": {"exp": float("inf")},
    "until no time": {"exp": float("nan")},
    "until a list": {"exp": []},
    "not valid yet": {"nbf": 4e9},
    "not valid before infinity": {"nbf": float("inf")},
    "for another audience": {"aud": "other"},
    "for no audience": {"aud": None},
    "of another issuer": {"iss": "other"},
    "of no issuer": {"iss": None},
    "named with a control character": {"sub": "ann\0"},
    "named with a line end": {"sub": "ann\n"},
    "named with a control character of C1": {"sub": "ann\x85"},
    "named with a change of direction": {"sub": "\u202eann"},
    "named with a lone surrogate": {"sub": "ann\ud800"},
    "with a role that is no text": {"role": "\ud800"},
    "with a scope that is no text": {"scopes": ["x", {"\udfff": 1}]},
    "with roles that are a number": {"roles": 5},
    "with roles that are a text": {"roles": "admin"},
    "with roles that are none": {"roles": True},
    "with roles that are an object": {"roles": {"admin": 1}},
    "with a role among them that is no text": {"roles": ["admin", 5]},
    "with a role that is a number": {"role": 5},
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG)
def test_a_token_that_does_not_hold_is_refused(claims):
    with pytest.raises(Unauthenticated):
        shown(GOOD | claims)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"[" * 50000])
def test_a_token_that_is_signed_but_says_nothing_is_refused(body):
    with pytest.raises(Unauthenticated):
        known().identify(jwt.PyJWS().encode(body, SECRET, "HS256"))


def test_a_claim_that_is_missing_or_malformed_is_named():
    with pytest.raises(Unauthenticated, match='no claim "exp"'):
        shown({**GOOD, "exp": None})
    with pytest.raises(Unauthenticated, match='"roles"'):
        shown({**GOOD, "roles": 5})
    # But nothing of a token that somebody else has signed.
    with pytest.raises(Unauthenticated, match=r"^token$"):
        shown({**GOOD, "exp": None}, key="x" * 64)


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"exp": 1}, "The token has expired"),
        ({"nbf": 4e9}, 'The token is not good yet, as its claim "nbf" says'),
        ({"aud": "other"}, 'The claim "aud" of the token is not what TXBROKER_JWT_AUDIENCE says'),
        ({"iss": "other"}, 'The claim "iss" of the token is not what TXBROKER_JWT_ISSUER says'),
    ],
)
def test_what_is_wrong_with_a_token_of_our_issuer_is_known_and_is_no_guess(claims, told):
    with pytest.raises(Unauthenticated) as refused:
        shown(GOOD | claims)
    assert (refused.value.reason, refused.value.guessed) == (told, False)
    with pytest.raises(Unauthenticated) as refused:
        shown(GOOD | claims, key="x" * 64)
    assert (refused.value.reason, refused.value.guessed) == ("", True)


def test_the_clock_of_the_issuer_may_differ():
    now = time.time()
    for claims in ({"exp": now - 50}, {"nbf": now + 50}, {"iat": now + 4000}, {"iat": "?"}):
        assert shown(GOOD | claims).name == "ann"
    for claims in ({"exp": now - 70}, {"nbf": now + 70}):
        with pytest.raises(Unauthenticated):
            shown(GOOD | claims)
    with pytest.raises(Unauthenticated):
        known(leeway=0).identify(signed({"sub": "ann", "exp": now - 1}))


@pytest.mark.parametrize(("key", "algorithm"), [("x" * 64, "HS256"), ("", "none"), (SECRET, "HS512")])
def test_a_token_that_was_not_signed_with_our_key_and_algorithm_is_refused(key, algorithm):
    with pytest.raises(Unauthenticated):
        shown(GOOD, key, algorithm)


def test_a_token_may_be_signed_with_any_of_the_keys():
    access = Access("required", web_tokens=WebTokens((secret_key(SECRET), secret_key("other" * 8))))
    for key in (SECRET, "other" * 8):
        assert access.identify(signed({"sub": "ann", "exp": 4e9}, key)).name == "ann"


@pytest.mark.parametrize(
    ("sub", "name"),
    [
        ("ann@example.org", "ann@example.org"),
        (42, "42"),
        (-1, "-1"),
        ("x" * 128, "x" * 128),
        ("Zoë", "Zoë"),
        ("admin", "admin"),
    ],
)
def test_a_subject_is_taken_as_it_is(sub, name):
    assert shown(GOOD | {"sub": sub}).name == name


@pytest.mark.parametrize(
    "sub",
    [
        *("broker", "broker.x", "secret", "anonymous", "default", "key", "user", "role", "token"),
        *("queue:x", "kv/x", "user:bob", "key:bob", "role:admin", "token:x"),
        *(
            "",
            "x" * 129,
            "\n" * 129,
            10**200,
            True,
            4.5,
            ["ann"],
            {"a": 1},
            None,
        ),
    ],
)
def test_a_subject_that_could_be_taken_for_something_else_names_nobody(sub):
    identity = shown(GOOD | {"sub": sub})
    assert (identity.kind, identity.name, identity.client, identity.principal) == ("user", "", "", "user")
    assert identity.authenticated


# From the settings

KINDS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ES256K": lambda: ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def public_key_file(folder, key):
    """Write the public part of *key* to a file; return its path."""
    file = folder / "key.pem"
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(file)


def jwk(key, algorithm, **more):
    """Return the public part of *key* as an entry of a JWK set."""
    return {**get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True), **more}


def key_set_file(folder, *entries):
    file = folder / "keys.json"
    file.write_text(json.dumps({"keys": entries}))
    return str(file)


@pytest.mark.parametrize("algorithm", KINDS)
def test_tokens_may_be_signed_with_a_key_whose_public_part_is_in_a_file(tmp_path, algorithm):
    key = KINDS[algorithm]()
    access = make_access(Settings(jwt_secret=SECRET, jwt_public_key_file=public_key_file(tmp_path, key)))
    assert access.identify(jwt.encode({"sub": "ann", "exp": 4e9}, key, algorithm)).name == "ann"
    assert access.identify(jwt.encode({"sub": "bob", "exp": 4e9}, SECRET, "HS256")).name == "bob"
    with pytest.raises(Unauthenticated):
        access.identify(jwt.encode({"sub": "ann", "exp": 4e9}, KINDS[algorithm](), algorithm))


def test_a_file_without_a_public_key_that_signs_tokens_is_refused(tmp_path):
    files = [
        tmp_path / "none.pem",
        tmp_path / "binary.pem",
        public_key_file(tmp_path, ed448.Ed448PrivateKey.generate()),
        public_key_file(tmp_path, ec.generate_private_key(ec.BrainpoolP256R1())),
    ]
    files[0].write_text("no key")
    files[1].write_bytes(b"\xff\0")
    for file in files:
        with pytest.raises(Invalid, match="TXBROKER_JWT_PUBLIC_KEY_FILE"):
            make_access(Settings(jwt_public_key_file=str(file)))


def test_what_a_file_holds_in_the_place_of_a_public_key_is_told(tmp_path):
    file = tmp_path / "key.pem"
    key = KINDS["ES256"]()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    year = datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1)
    maker = x509.CertificateBuilder(name, name, key.public_key(), 1, *year)
    certificate = maker.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    for text, told in ((private, "openssl pkey -pubout"), (certificate, "openssl x509 -noout -pubkey"), ("", "curve$")):
        file.write_text(text)
        with pytest.raises(Invalid, match=told):
            make_access(Settings(jwt_public_key_file=str(file)))


def test_a_key_set_holds_several_keys_by_their_ids(tmp_path):
    keys = {id: ec.generate_private_key(ec.SECP256R1()) for id in ("one", "two")}
    entries = [jwk(key, "ES256", kid=id) for id, key in keys.items()]
    access = make_access(Settings(jwks_file=key_set_file(tmp_path, *entries)))
    claims = {"sub": "ann", "exp": 4e9}
    assert access.mode == "required"
    for id, key in keys.items():
        assert access.identify(signed(claims, key, "ES256", kid=id)).name == "ann"
        assert access.identify(signed(claims, key, "ES256")).name == "ann"
    for headers in ({"kid": "two"}, {"kid": "three"}):
        with pytest.raises(Unauthenticated):
            access.identify(signed(claims, keys["one"], "ES256", **headers))
    with pytest.raises(Unauthenticated):
        access.identify("no.token.atall")


def test_a_key_for_encryption_is_left_out(tmp_path):
    key = KINDS["RS256"]()
    entries = (jwk(key, "RS256", use="enc"), jwk(KINDS["RS256"](), "RS256", use="sig"))
    access = make_access(Settings(jwks_file=key_set_file(tmp_path, *entries)))
    with pytest.raises(Unauthenticated):
        access.identify(signed({"sub": "ann", "exp": 4e9}, key, "RS256"))


@pytest.mark.parametrize(
    "entries", [[], [{}], [{"kty": "EC", "crv": "P-999"}], [{"kty": "RSA", "n": "x", "e": 1}], [5], [{"kty": "oct"}]]
)
def test_a_key_set_that_holds_no_supported_key_is_refused(tmp_path, entries):
    with pytest.raises(Invalid, match="TXBROKER_JWKS_FILE"):
        make_access(Settings(jwks_file=key_set_file(tmp_path, *entries)))


# Each with what is wrong with it: a kind nobody knows, an algorithm of another curve or kind, one that signs nothing.
UNSUPPORTED = {
    "kind": {"kty": "PQC", "x": "AA"},
    "missing member": {"kty": "EC", "crv": "P-256", "x": "AA"},
    "curve": jwk(ec.generate_private_key(ec.SECP384R1()), "ES384") | {"alg": "ES256"},
    "algorithm": jwk(ec.generate_private_key(ec.SECP256R1()), "ES256") | {"alg": "RSA-OAEP"},
    "no signature": {"kty": "oct", "k": "eA", "alg": "none"},
}


@pytest.mark.parametrize("wrong", UNSUPPORTED)
def test_a_key_that_is_not_supported_is_left_out_of_its_set(tmp_path, logged, wrong):
    key = ec.generate_private_key(ec.SECP256R1())
    entries = UNSUPPORTED[wrong] | {"kid": "new"}, jwk(key, "ES256", kid="old")
    access = make_access(Settings(jwks_file=key_set_file(tmp_path, *entries)))
    assert access.identify(signed({"sub": "ann", "exp": 4e9}, key, "ES256", kid="old")).name == "ann"
    assert lines_of(logged) == ['TXBROKER_JWKS_FILE: the key "new" is left out: it is not supported']
    with pytest.raises(Invalid, match="TXBROKER_JWKS_FILE"):
        make_access(Settings(jwks_file=key_set_file(tmp_path, entries[0])))


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_key_set_with_a_private_key_is_refused(tmp_path, algorithm):
    entry = get_default_algorithms()[algorithm].to_jwk(KINDS[algorithm](), as_dict=True)
    with pytest.raises(Invalid, match="private key"):
        make_access(Settings(jwks_file=key_set_file(tmp_path, entry)))


def test_keys_of_one_id_are_told_apart_by_their_algorithm_and_any_key_of_none_is_tried(tmp_path):
    new, old, other = KINDS["ES256"](), KINDS["EdDSA"](), KINDS["ES256"]()
    entries = jwk(new, "ES256", kid="a"), jwk(old, "EdDSA", kid="a"), jwk(other, "ES256")
    access = make_access(Settings(jwks_file=key_set_file(tmp_path, *entries)))
    claims = {"sub": "ann", "exp": 4e9}
    for key, algorithm, headers in (
        (new, "ES256", {"kid": "a"}),
        (old, "EdDSA", {"kid": "a"}),
        (old, "EdDSA", {}),
        (other, "ES256", {"kid": "a"}),
        (other, "ES256", {"kid": "of another issuer"}),
    ):
        assert access.identify(signed(claims, key, algorithm, **headers)).name == "ann"
    for headers in ({"kid": "b"}, {"kid": ""}):
        with pytest.raises(Unauthenticated):
            access.identify(signed(claims, new, "ES256", **headers))


def test_a_key_that_has_left_its_set_admits_nobody(tmp_path):
    old, new = KINDS["ES256"](), KINDS["ES256"]()
    claims, entries = {"sub": "ann", "exp": 4e9}, (jwk(old, "ES256", kid="old"), jwk(new, "ES256", kid="new"))
    for kept, admitted in ((entries[:1], [old]), (entries, [old, new]), (entries[1:], [new])):
        access = make_access(Settings(jwks_file=key_set_file(tmp_path, *kept)))
        for key, kid in ((old, "old"), (new, "new")):
            token = signed(claims, key, "ES256", kid=kid)
            if key in admitted:
                assert access.identify(token).name == "ann"
            else:
                with pytest.raises(Unauthenticated):
                    access.identify(token)


@pytest.mark.parametrize("text", ["", "[]", "5", '{"keys": 5}', "\ud800", "[" * 50000])
def test_a_file_that_is_no_key_set_is_refused(tmp_path, text):
    file = tmp_path / "keys.json"
    file.write_text(text, errors="replace")
    with pytest.raises(Invalid, match="TXBROKER_JWKS_FILE"):
        make_access(Settings(jwks_file=str(file)))


@pytest.mark.parametrize(
    ("claims", "holds"),
    [({}, True), ({"aud": "us"}, False), ({"iss": "them"}, True)],
    ids=["as they are", "with an audience that nobody asked for", "with an issuer that nobody asked for"],
)
def test_a_claim_that_no_setting_asks_for(claims, holds):
    access = make_access(Settings(jwt_secret=SECRET))
    token = jwt.encode({"sub": "ann", "exp": 4e9} | claims, SECRET, "HS256")
    if holds:
        assert access.identify(token).name == "ann"
    else:  # RFC 7519, 4.1.3: who does not identify itself with a value in the audience claim must reject the token
        with pytest.raises(Unauthenticated):
            access.identify(token)


def test_the_settings_say_what_a_token_must_be_for():
    access = make_access(Settings(jwt_secret=SECRET, jwt_audience="us", jwt_issuer="them", jwt_leeway_seconds=5.0))
    assert access.identify(jwt.encode(GOOD, SECRET, "HS256")).expires == 4e9 + 5
    for claims in ({"aud": "other"}, {"iss": "other"}):
        with pytest.raises(Unauthenticated):
            access.identify(jwt.encode(GOOD | claims, SECRET, "HS256"))
