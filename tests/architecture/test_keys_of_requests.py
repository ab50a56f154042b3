"""A key is good for a month, so also over an upgrade: what a request was taken with has the same digest in every version."""

from __future__ import annotations

import msgspec
import pytest

from tallystick.chassis.idempotency import Digester
from tests.architecture.tree import BUILT, endpoints

KEYED = {row.where: row.body for service in BUILT for row in endpoints(service) if row.idempotency is not None}

#: The digest under a key of zeros of a request, in the words that it may have had since the first day. A change here is a refusal
#: (`idempotency-key-reused`) for everybody who repeats a request of before: the digest of the old form has to be known too then.
DIGESTS = {
    ("POST /v1/payments", ('{"amount":{"amount":"4990","currency":"EUR"},"source":{"type":"card","token":"tok_5rwzg673ex09w4tfaeqeg058ry"},'
     '"destination":{"account":"acc_01m84rq1t7eq2tv93b22xkwn0k"}}')): "0c7e15c6ec09d69d",
    ("POST /v1/payments/{id}/capture", "{}"): "22f8eea909400af9",
    ("POST /v1/refunds", '{"payment":"pay_01m84rq733eys854s4f27ccyyd","amount":{"amount":"10","currency":"EUR"}}'): "4f3853c47ea07795",
    ("POST /v1/transfers", ('{"transfers":[{"kind":"hold","debit_account":"acc_01m84rq1t7eq2tv93b22xkwn0k","credit_account":"customers:2:wallet",'
     '"amount":{"amount":"1","currency":"EUR"},"expires_in":60}],"atomic":true}')): "7fb09e277f8e13ee",
    ("POST /v1/transactions", '{"transfers":[{"kind":"post","debit_account":"a:b","credit_account":"c:d","amount":{"amount":"1","currency":"EUR"}}]}'): "70141bf55b5c8b5d",
    ("POST /v1/accounts", '{"name":"Merchant","currency":"EUR","normal_side":"credit"}'): "e3f4d367a95c2cb1",
    ("POST /v1/webhook_endpoints", '{"url":"https://example.com/hook","events":["payment.*"]}'): "6f0c08b4b30ccc72",
}  # fmt: skip


@pytest.mark.parametrize(("where", "body"), list(DIGESTS))
def test_a_request_of_before_is_the_same_request(where: str, body: str) -> None:
    digest = Digester(bytes(32)).digest(msgspec.json.decode(body, type=KEYED[where]))
    assert digest.whole.hex()[:16] == DIGESTS[where, body]
