"""Ids: a UUIDv7 inside (RFC 9562; version 8 where others are derived from it), a prefix and 26 Crockford base-32 characters outside.

`pay_01jd5w3qkz8e5rv4y7t9a2b3c4` sorts by time, selects with a double click and says what it names. This is the one
registry; each kind has its own type, so that a transfer's id can't be handed in for an account's. Secrets and session ids
are never time-ordered: `secret_id`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Final, Generic, NewType, TypeVar, cast
from uuid import UUID, SafeUUID

import uuid_utils
from msgspec import Meta

from tallystick.kernel.problem import InvalidRequest

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
#: Translates Crockford's alphabet to the digits that `int` reads in base 32, and every other byte to one that it refuses.
_TO_PYTHON: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(chr(byte))] if chr(byte) in _ALPHABET else ord("!")
    for byte in range(256)
)
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
_TRIPLES: Final = [pair + c for pair in _PAIRS for c in _ALPHABET]
_LENGTH: Final = 26
_EXAMPLE: Final = "01jd5w3qkz8e5rv4y7t9a2b3c4"
_LIMIT: Final = 1 << 128
_LOW: Final = (1 << 65) - 1
#: What turns the version of a UUID from 7 into 8.
_SEVEN_TO_EIGHT: Final = 0xF << 76
_make: Final = cast("Callable[[type[UUID]], UUID]", object.__new__)
_set_int: Final[Callable[[UUID, int], None]] = vars(UUID)["int"].__set__
_set_safe: Final[Callable[[UUID, SafeUUID], None]] = vars(UUID)["is_safe"].__set__

T = TypeVar("T")


class InvalidId(InvalidRequest):
    """An id consists of a prefix that says what it names (`acc_`, `pay_`) and 26 characters. Use it exactly as it was answered. An id of
    another kind is refused as well; `expected` is the prefix that is needed.
    """

    slug, title = "invalid-id", "Not an id of the expected type"


@lru_cache(maxsize=4096)
def encode(value: int) -> str:
    """128 bits as 26 characters, the first of which is at most 7."""
    # Three characters at a time, and cached, because an id is written a dozen times for each payment.
    triples = _TRIPLES
    high, low = value >> 65, value & _LOW
    return (
        f"{_ALPHABET[high >> 60]}{triples[high >> 45 & 32767]}{triples[high >> 30 & 32767]}{triples[high >> 15 & 32767]}"
        f"{triples[high & 32767]}{_PAIRS[low >> 55]}{_PAIRS[low >> 45 & 1023]}{triples[low >> 30 & 32767]}"
        f"{triples[low >> 15 & 32767]}{triples[low & 32767]}"
    )


def decode(text: str) -> int:
    """The inverse of `encode`. Raises ValueError for anything that `encode` can't have made."""
    if len(text) != _LENGTH:
        msg = "not 26 characters"
        raise ValueError(msg)
    value = int(text.encode("ascii").translate(_TO_PYTHON), 32)
    if value >= _LIMIT:
        msg = "more than 128 bits"
        raise ValueError(msg)
    return value


def _uuid(value: int) -> UUID:
    """The UUID of these 128 bits, in a third of the time that UUID(int=value) takes: each transfer needs several."""
    made = _make(UUID)
    _set_int(made, value)
    _set_safe(made, SafeUUID.unknown)
    return made


class Kind(Generic[T]):
    """One kind of id; T is a NewType over UUID."""

    __slots__ = ("_head", "_mark", "name", "prefix")

    def __init__(self, prefix: str, name: str, *, parent: bool = False) -> None:
        """`parent`: other ids are derived from ids of this kind (ADR 4), which nobody else can have chosen. These ids and those derived
        from them are of UUID version 8.
        """
        self.prefix = prefix
        self.name = name
        self._head = prefix + "_"
        self._mark = _SEVEN_TO_EIGHT if parent else 0

    @property
    def wire(self) -> Meta:
        """The constraints of an id of this kind in JSON. The pattern is for the schema alone; `parse` checks it, and its error names the
        kind.
        """
        return Meta(
            min_length=1,
            max_length=40,
            examples=[self._head + _EXAMPLE],
            extra_json_schema={"pattern": f"^{self._head}[0-7][0-9a-hjkmnp-tv-z]{{{_LENGTH - 1}}}$"},
        )

    def new(self) -> T:
        """A new id, later in order than those made before it on this machine."""
        return cast("T", _uuid(uuid_utils.uuid7().int ^ self._mark))

    def random(self) -> T:
        """An id of 128 random bits, which tells neither when it was made nor anything about other ids."""
        return cast("T", _uuid(secrets.randbits(128)))

    def text(self, value: T) -> str:
        return self._head + encode(cast("UUID", value).int)

    def parse(self, text: str) -> T:
        """The id in `text`. Raises InvalidId when the prefix is another one, or what follows is no id."""
        head = self._head
        if text.startswith(head):
            try:
                return cast("T", _uuid(decode(text[len(head) :])))
            except ValueError:
                pass
        raise InvalidId(f"an id of {self.name} starts with {head!r} and has 26 characters after it", expected=head)


AccountId = NewType("AccountId", UUID)
BookId = NewType("BookId", UUID)
TransferId = NewType("TransferId", UUID)
TransactionId = NewType("TransactionId", UUID)
EntryId = NewType("EntryId", UUID)
UnitId = NewType("UnitId", UUID)
PaymentId = NewType("PaymentId", UUID)
RefundId = NewType("RefundId", UUID)
TokenId = NewType("TokenId", UUID)
ClientId = NewType("ClientId", UUID)
DecisionId = NewType("DecisionId", UUID)
FactId = NewType("FactId", UUID)
ImportId = NewType("ImportId", UUID)
EndpointId = NewType("EndpointId", UUID)
DeliveryId = NewType("DeliveryId", UUID)
RequestId = NewType("RequestId", UUID)
DisputeId = NewType("DisputeId", UUID)
ProposalId = NewType("ProposalId", UUID)

accounts: Final = Kind[AccountId]("acc", "an account")
books: Final = Kind[BookId]("bok", "a book")
transfers: Final = Kind[TransferId]("trf", "a transfer")
transactions: Final = Kind[TransactionId]("txn", "a transaction")
entries: Final = Kind[EntryId]("ent", "an entry")
units: Final = Kind[UnitId]("unt", "a unit of transfers")
payments: Final = Kind[PaymentId]("pay", "a payment", parent=True)
refunds: Final = Kind[RefundId]("ref", "a refund", parent=True)
#: A token stands for a card number: its id must not be guessable from another, so `random()` makes it.
tokens: Final = Kind[TokenId]("tok", "a token")
clients: Final = Kind[ClientId]("cli", "an API client")
decisions: Final = Kind[DecisionId]("dec", "a risk decision")
facts: Final = Kind[FactId]("fct", "a fact")
imports: Final = Kind[ImportId]("imp", "an import")
webhook_endpoints: Final = Kind[EndpointId]("whe", "a webhook endpoint")
deliveries: Final = Kind[DeliveryId]("whd", "a webhook delivery")
rail_requests: Final = Kind[RequestId]("req", "a request to a card rail")
disputes: Final = Kind[DisputeId]("dsp", "a dispute")
proposals: Final = Kind[ProposalId]("prp", "a proposal")

# Ids in messages, so that the API documents say which kind of id goes where.
AccountIdWire = Annotated[str, accounts.wire]
TransferIdWire = Annotated[str, transfers.wire]
TransactionIdWire = Annotated[str, transactions.wire]
PaymentIdWire = Annotated[str, payments.wire]
RefundIdWire = Annotated[str, refunds.wire]
TokenIdWire = Annotated[str, tokens.wire]
ClientIdWire = Annotated[str, clients.wire]
FactIdWire = Annotated[str, facts.wire]
ImportIdWire = Annotated[str, imports.wire]
EndpointIdWire = Annotated[str, webhook_endpoints.wire]
DeliveryIdWire = Annotated[str, deliveries.wire]
ProposalIdWire = Annotated[str, proposals.wire]
#: A tenant is identified by its name, which is the same everywhere on the platform.
TenantName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9-]{0,39}$",
        max_length=40,
        description="a tenant's name: a letter a-z, then letters a-z, digits and hyphens",
    ),
]


def hashed(said: bytes) -> UUID:
    """An id of UUID version 8 made from the bytes: the same bytes give the same id."""
    raw = bytearray(hashlib.blake2b(said, digest_size=16).digest())
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes=bytes(raw))


def is_derived(value: UUID) -> bool:
    """Whether an id is of UUID version 8 (RFC 9562): the platform derived it, or derives other ids from it."""
    return value.int >> 76 & 0xF == 8 and value.int >> 62 & 3 == 2


def secret_id(prefix: str, bits: int = 256, randbits: Callable[[int], int] = secrets.randbits) -> str:
    """`bits` random bits behind a prefix, for secrets and session ids. Never derived from time."""
    return f"{prefix}_{randbits(bits):0{(bits + 3) // 4}x}"
