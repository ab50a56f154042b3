"""The data map: tags are found, gaps are found, and the record says what Art. 30 asks for."""

from __future__ import annotations

import msgspec
import pytest

from tallystick.chassis import charter as charters_module
from tallystick.fabric import datamap
from tallystick.fabric.datamap import Column
from tallystick.services.ledger.service.imports.intake import ABANDONED
from tallystick.services.notify.service.deliveries import RETENTION as DELIVERIES_KEPT

CHARTERS = charters_module.load_all()


def test_tags_are_read_from_migrations_in_order() -> None:
    first = """
    CREATE TABLE a (x int, y text);
    COMMENT ON COLUMN a.x IS 'class: internal';
    COMMENT ON COLUMN public.a.y IS 'class: personal; the customer''s own words';
    COMMENT ON COLUMN gone.z IS 'class: secret';
    COMMENT ON TABLE a IS 'class: secret is not a tag of a table';
    -- COMMENT ON COLUMN a.commented IS 'class: secret';
    """
    second = """
    comment on column a.x is 'class: cardholder';
    DROP TABLE gone;
    """
    assert datamap.columns_in([first, second]) == (Column("a", "x", "cardholder"), Column("a", "y", "personal"))


@pytest.mark.parametrize("comment", [None, "", "personal", "class: private", "Class: personal", " class: personal"])
def test_a_comment_without_a_known_class_is_no_tag(comment: str | None) -> None:
    assert datamap.class_of(comment) is None


def test_a_class_that_no_charter_declares_is_a_gap() -> None:
    charters = {"risk": CHARTERS["risk"]}
    columns = (Column("t", "pan", "cardholder"), Column("t", "id", "internal"))
    assert datamap.undeclared(datamap.Map(charters, {"risk": columns}, ())) == [
        "risk: t.pan tagged cardholder, but [data.*] declares no cardholder data"
    ]


def test_the_record_has_what_article_30_asks_for() -> None:
    """Purposes, whose data and which, recipients, time limits, security measures (Art. 30(1) b to g)."""
    found = datamap.load(CHARTERS)
    text = datamap.markdown(found)
    for service in datamap.document(found)["services"]:
        assert service["purpose"] in text
        for entry in service["data"]:
            assert set(entry) == {"category", *(f.encode_name for f in msgspec.structs.fields(charters_module.Data))}
            for part in ("purpose", "subject", "retention", "protection", "basis", "class"):
                assert str(entry[part]).replace("|", "\\|") in text


def test_what_is_kept_for_days_is_forgotten_by_a_service() -> None:
    """The record said "2 years" of what a tenant's deletion ends, and of a key that never ends. Who declares days names here what keeps them."""
    kept = {
        f"{service}.{category}": data.retention
        for service, charter in CHARTERS.items()
        for category, data in charter.data.items()
        if "day" in data.retention
    }
    assert kept == {
        "identity.token-records": "1 day",  # `forget_assertions`, `forget_revocations`: when nobody can show them again
        "ledger.imports": f"{ABANDONED.days} day",
        "notify.deliveries": f"{DELIVERIES_KEPT.days} days",
        "vault.looks": "2 days",  # `forget_counts`: at the end of their day
    }
    assert {charter.data[category].retention for charter, category in (
        (CHARTERS["notify"], "endpoints"), (CHARTERS["notify"], "signing-secrets"), (CHARTERS["risk"], "lists"),
    )} == {"until erased"}  # fmt: skip


def test_no_service_holds_what_its_charter_does_not_declare() -> None:
    assert datamap.undeclared(datamap.load(CHARTERS)) == []
