"""A statement as ISO 20022 camt.053.001.08, Bank to Customer Statement.

The account is seen from the holder's side, as the message requires: `CRDT` is what was credited to it. The first page has the opening booked
balance (OPBD), the last page the closing one (CLBD). Where a page begins or ends in between, it has an interim balance (ITBD) as of the entry
before. In either order, `BookgDt` is an entry's recorded time and `ValDt` its effective time.

A statement by effective time is one by value date. Its entries may have been booked at any time, so its balances are not booked balances. They have
the codes of balances by value date (OPAV, ITAV, CLAV; as field 64 of MT940), so that a reader that knows only booked balances does not mistake
them. Holds are not deducted from them. Transaction codes are our kinds and the client's codes (`Prtry`), since ISO's have none for transfers
within a book.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final
from xml.etree import ElementTree as ET

from tallystick.contracts.ledger.problems import NotRepresentable
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.money import in_units
from tallystick.services.ledger.model import Line, Posted, Statement

NAMESPACE: Final = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
#: Most digits of an amount, before and after the point together.
MAX_DIGITS: Final = 18
#: Codes of the opening, interim and closing balance (ExternalBalanceType1Code): as booked, and by value date.
_BOOKED: Final = ("OPBD", "ITBD", "CLBD")
_EFFECTIVE: Final = ("OPAV", "ITAV", "CLAV")
#: Characters of an identifier (Max35Text), and of each part of an unstructured text (Max140Text): a reference that is too long for the former
#: is told whole in the latter, so that two of them are not taken for one.
_ID: Final = 35
_PIECE: Final = 140
#: Pages: five digits.
MAX_PAGES: Final = 99_999

#: Characters that XML 1.0 can't represent.
_UNWRITABLE: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def camt053(found: Statement, message: str, now: datetime) -> bytes:
    """The document of one page. `message` is the id of this message (32 characters); the statement's own id is the same for all its pages.

    Raises NotRepresentable for amounts of more than 18 digits.
    """
    if found.page > MAX_PAGES:
        raise NotRepresentable("take larger pages", limit=MAX_PAGES)
    document = ET.Element("Document", xmlns=NAMESPACE)
    body = ET.SubElement(document, "BkToCstmrStmt")
    head = ET.SubElement(body, "GrpHdr")
    _text(head, "MsgId", message)
    _text(head, "CreDtTm", rfc3339(now))
    _statement(ET.SubElement(body, "Stmt"), found, now)
    content: bytes = ET.tostring(document, encoding="utf-8", xml_declaration=True)
    return content


def statement_id(found: Statement) -> str:
    """32 hexadecimal digits, the same for the same account, period and sequences."""
    said = f"{found.account.id.hex}|{rfc3339(found.span.start)}|{rfc3339(found.span.end)}|{found.span.first}|{found.span.last}"
    if found.effective:
        said += "|effective"
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def _statement(to: ET.Element, found: Statement, now: datetime) -> None:
    account, span = found.account, found.span
    currency = account.currency
    _text(to, "Id", statement_id(found))
    pages = ET.SubElement(to, "StmtPgntn")
    _text(pages, "PgNb", str(found.page))
    _text(pages, "LastPgInd", "true" if found.last_page else "false")
    _text(to, "CreDtTm", rfc3339(now))
    time = ET.SubElement(to, "FrToDt")
    _text(time, "FrDtTm", rfc3339(span.start))
    _text(time, "ToDtTm", rfc3339(span.end))
    about = ET.SubElement(to, "Acct")
    other = ET.SubElement(ET.SubElement(about, "Id"), "Othr")
    _text(other, "Id", ids.accounts.text(account.id))
    _text(about, "Ccy", currency)
    _text(about, "Nm", account.name[:70])
    opening, interim, closing = _EFFECTIVE if found.effective else _BOOKED
    _balance(to, opening if found.since is None else interim, found.carried, currency, found.since or span.start)
    until = span.end if found.last_page else found.time(found.lines[-1])
    _balance(to, closing if found.last_page else interim, found.reached, currency, until)
    _summary(to, found)
    for line in found.lines:
        _entry(to, line, currency)
    if found.effective:
        _text(to, "AddtlStmtInf", f"By value date, as of sequence {found.as_of}")


def _summary(to: ET.Element, found: Statement) -> None:
    """The transactions summary, over all pages."""
    debits = found.closing.debits - found.opening.debits
    credit = found.closing.credits - found.opening.credits
    currency = found.account.currency
    summary = ET.SubElement(to, "TxsSummry")
    whole = ET.SubElement(summary, "TtlNtries")
    _text(whole, "NbOfNtries", str(found.debits + found.credits))
    _text(whole, "Sum", _amount(debits + credit, currency))
    net = ET.SubElement(whole, "TtlNetNtry")
    _text(net, "Amt", _amount(abs(credit - debits), currency))
    _text(net, "CdtDbtInd", "CRDT" if credit >= debits else "DBIT")
    for name, count, total in (("TtlCdtNtries", found.credits, credit), ("TtlDbtNtries", found.debits, debits)):
        part = ET.SubElement(summary, name)
        _text(part, "NbOfNtries", str(count))
        _text(part, "Sum", _amount(total, currency))


def _balance(to: ET.Element, code: str, totals: Posted, currency: str, at: datetime) -> None:
    signed = totals.credits - totals.debits
    balance = ET.SubElement(to, "Bal")
    _text(ET.SubElement(ET.SubElement(balance, "Tp"), "CdOrPrtry"), "Cd", code)
    _text(balance, "Amt", _amount(abs(signed), currency), Ccy=currency)
    _text(balance, "CdtDbtInd", "CRDT" if signed >= 0 else "DBIT")
    _text(ET.SubElement(balance, "Dt"), "DtTm", rfc3339(at))


def _entry(to: ET.Element, line: Line, currency: str) -> None:
    transfer = ids.transfers.text(line.transfer)
    entry = ET.SubElement(to, "Ntry")
    _text(entry, "NtryRef", str(line.sequence))
    _text(entry, "Amt", _amount(line.amount, currency), Ccy=currency)
    _text(entry, "CdtDbtInd", "CRDT" if line.side == "credit" else "DBIT")
    _text(entry, "RvslInd", "true" if line.kind == "reverse" else "false")
    _text(ET.SubElement(entry, "Sts"), "Cd", "BOOK")
    _text(ET.SubElement(entry, "BookgDt"), "DtTm", rfc3339(line.recorded_at))
    _text(ET.SubElement(entry, "ValDt"), "DtTm", rfc3339(line.effective_at))
    _text(entry, "AcctSvcrRef", transfer)
    code = ET.SubElement(ET.SubElement(entry, "BkTxCd"), "Prtry")
    _text(code, "Cd", (line.code or line.kind)[:_ID])
    _text(code, "Issr", "client" if line.code else "tallystick")
    details = ET.SubElement(ET.SubElement(entry, "NtryDtls"), "TxDtls")
    references = ET.SubElement(details, "Refs")
    _text(references, "AcctSvcrRef", transfer)
    if line.reference is not None:
        _text(references, "EndToEndId", line.reference[:_ID])
    if line.transaction is not None:
        _text(references, "TxId", ids.transactions.text(line.transaction))
    if line.reference is not None and len(line.reference) > _ID:
        remittance = ET.SubElement(details, "RmtInf")
        for start in range(0, len(line.reference), _PIECE):
            _text(remittance, "Ustrd", line.reference[start : start + _PIECE])
    if line.description is not None:
        _text(details, "AddtlTxInf", line.description)


def _amount(minor: int, currency: str) -> str:
    if len(str(minor)) > MAX_DIGITS:
        raise NotRepresentable("camt.053 has room for 18 digits of an amount; take another format", limit=MAX_DIGITS)
    return in_units(minor, currency)


def _text(to: ET.Element, name: str, text: str, **attributes: str) -> None:
    ET.SubElement(to, name, attributes).text = _UNWRITABLE.sub("�", text)
