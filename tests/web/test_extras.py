"""The optional attributes of a dialect."""

from __future__ import annotations

import pytest

from broker.messages import HttpRequest, Response
from broker.web.extras import DialectExtras
from broker.web.routes import Routes

REQUEST = HttpRequest("GET", "/", "", {})


class Plain:
    name = "plain"


class Full(Plain):
    example = "curl {http}"
    any_origin = True
    refusal_delay = 3
    drained = False

    def refusal(self, status, message, request):
        return Response(status, message.encode())

    def drain(self):
        self.drained = True


def test_a_dialect_without_any_has_the_defaults():
    extras = DialectExtras.of(Plain())
    assert (extras.example, extras.any_origin, extras.refusal_delay) == ("", False, 0.0)
    assert extras.refusal(400, "no", REQUEST) is None
    extras.drain()


def test_what_a_dialect_has_is_used():
    dialect = Full()
    extras = DialectExtras.of(dialect)
    assert (extras.example, extras.any_origin, extras.refusal_delay) == ("curl {http}", True, 3)
    assert extras.refusal(400, "no", REQUEST).body == b"no"
    extras.drain()
    assert dialect.drained


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("example", 1),
        ("metrics", (1,)),
        ("metrics", None),
        ("start", 1),
        ("stop", None),
        ("any_origin", "yes"),
        ("refusal_delay", "3"),
        ("refusal", "no"),
        ("drain", True),
    ],
)
def test_one_of_the_wrong_type_is_told_at_the_start(name, value):
    dialect = Plain()
    setattr(dialect, name, value)
    with pytest.raises(ValueError, match=f"plain: .*{name}"):
        Routes([dialect])
