"""The documentation against the real platform: a client that is not ours pays, a stranger checks the proof, and commands show what pages say."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli.apiclient import ApiClient
from tallystick.cli.credentials import Credentials
from tests.docs.test_pages import commands
from tests.support.ports import free_port
from tests.system.conftest import PlatformUnderTest

DOCS = Path(__file__).parents[2] / "docs"
HOW_TO = DOCS / "how-to"
SCOPE = "accounts:write tokens:write payments:write payments:read audit:read webhooks:write"

pytestmark = pytest.mark.system


@pytest.fixture
def credentials(platform: PlatformUnderTest, tmp_path: Path) -> Path:
    file = tmp_path / "shop.json"
    made = platform.cli("client", "create", f"shop-{secrets.token_hex(4)}", "--scope", SCOPE, "--out", str(file))
    assert made.status == 0, made.err
    return file


def pay(credentials: Path) -> tuple[str, str]:
    """A payment by Node.js; ids of the payment and of its receipt."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine: the client in another language can't be run")
    command = [node, str(HOW_TO / "first-payment.mjs"), str(credentials)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.fullmatch(
        r"(pay_\w+): settled, 4990 minor units of EUR from visa ending in 4242\nreceipt: (fct_\w+)\n", done.stdout
    )
    assert found, (done.stdout, done.stderr)
    return found[1], found[2]


def test_a_client_in_another_language_comes_with_a_certificate(platform: PlatformUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "bound.json"
    name = f"bound-{secrets.token_hex(4)}"
    arguments = ("--bind", "certificate", "--scope", "accounts:read", "--out", str(file))
    made = platform.cli("client", "create", name, *arguments)
    assert made.status == 0, made.err
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine: the client in another language can't be run")
    command = [node, str(HOW_TO / "certificate-bound.mjs"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = re.fullmatch(r"\d+ accounts by a token of type Bearer, bound to [\w-]{43}\n", done.stdout)
    assert said, (done.stdout, done.stderr)


def test_a_client_in_another_language_pays_and_a_stranger_verifies_the_receipt(
    platform: PlatformUnderTest, credentials: Path, tmp_path: Path
) -> None:
    payment, receipt = pay(credentials)
    key, proof = tmp_path / "log.key", tmp_path / "receipt.txt"
    for file, path in ((key, "/v1/audit/key"), (proof, f"/v1/audit/receipts/{receipt}?wait_ms=5000")):
        ends = time.monotonic() + 60
        while (answer := platform.cli("call", "GET", path, "--client", str(credentials))).status != 0:
            assert time.monotonic() < ends, answer.err
        file.write_text(answer.out)
    # The key that the vault goes by, which it has not from audit.
    assert (platform.data / "log.key").read_text().strip() == key.read_text().strip()
    done = verify(key, proof)
    assert done.returncode == 0, done.stdout + done.stderr
    first, _, told = done.stdout.partition("\n")
    shown = [
        line for page in DOCS.rglob("*.md") for line in re.findall(r"^proved: .*$", page.read_text(), re.MULTILINE)
    ]
    assert {re.sub(r"\d+", "N", line) for line in (first, *shown)} == {
        "proved: entry N of the log's first N, told by payments"
    }
    fact = json.loads(told)
    assert (fact["id"], fact["resource"], fact["type"]) == (receipt, payment, "payments.payment.settled")

    index = re.search(r"^index (\d+)$", proof.read_text(), re.MULTILINE)
    assert index
    proof.write_text(proof.read_text().replace(index[0], f"index {int(index[1]) - 1}"))
    assert verify(key, proof).returncode == 1


def verify(key: Path, proof: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HOW_TO / "verify_receipt.py"), str(key), str(proof)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_receiver_hears_of_a_payment(platform: PlatformUnderTest, credentials: Path, tmp_path: Path) -> None:
    port = free_port()
    body = json.dumps({"url": f"http://127.0.0.1:{port}/hook", "events": ["payment.*"]})
    answer = platform.cli(
        "call", "POST", "/v1/webhook_endpoints", "--client", str(credentials), "--body", body, "--idempotency-key", "h"
    )
    assert answer.status == 0, answer.err
    endpoint: dict[str, Any] = answer.json
    log = tmp_path / "heard"
    with log.open("w") as out:
        receiver = subprocess.Popen(
            [sys.executable, str(HOW_TO / "webhook_receiver.py"), str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TALLYSTICK_WEBHOOK_SECRET": endpoint["secret"]},
        )
    try:
        pay(credentials)
        ends = time.monotonic() + 60
        while not re.search(r"  payment\.settled  fct_\w+$", log.read_text(), re.MULTILINE):
            assert time.monotonic() < ends, log.read_text() or "nothing was heard"
            time.sleep(0.2)
    finally:
        receiver.terminate()
        receiver.wait(60)
        platform.cli("call", "DELETE", f"/v1/webhook_endpoints/{endpoint['id']}", "--client", str(credentials))


async def test_a_wallet_is_built_as_the_page_says(platform: PlatformUnderTest, tmp_path: Path) -> None:
    """Its commands in their order, each in the words of the page but for the ids of what came before; for a tenant of its own."""
    create, *calls = commands(HOW_TO / "build-a-wallet.md")
    file, tenant = tmp_path / "wallet.json", f"wallets-{secrets.token_hex(4)}"
    assert platform.cli("tenant", "create", tenant).status == 0
    made = platform.cli(*create[1:-1], str(file), "--tenant", tenant)
    assert made.status == 0, made.err
    own: dict[str, str] = {}
    async with ApiClient(Credentials.load(file)) as api:
        for _, _, method, path, *options in calls:
            said = dict(zip(options[::2], options[1::2], strict=True))
            here = re.sub(r"(?<=/)(txn|trf)_\w+", lambda found: own[found[1]], path)
            body = said["--body"].encode() if "--body" in said else None
            answer = await api.request(method, here, body, idempotency_key=said.get("--idempotency-key"))
            assert answer.ok, (path, answer.body)
            assert b"rejected" not in answer.body
            if method == "POST":
                document = answer.json()
                made_id = document["id"] if "id" in document else document["data"][0]["id"]
                own[made_id[:3]] = made_id
        balances = [(await api.request("GET", f"/v1/accounts/wallets:42:{code}")).json() for code in ("EUR", "USD")]
    # 50.00 came in, 12.75 went and came back, 15.00 of what was held were taken, 10.00 became 10.80
    assert [one["balance"]["available"]["amount"] for one in balances] == ["2500", "1080"]


def console(page: str) -> list[tuple[list[str], str]]:
    """The commands of a page with what it shows of their output; lines have no spaces at their end."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", (HOW_TO / page).read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((shlex.split(command, comments=True), output))
    return found


def test_the_ledgers_pages_show_what_comes(platform: PlatformUnderTest, tmp_path: Path) -> None:
    """What is shown comes, byte for byte, in the order in which somebody reads the two pages: in a new book instead of `main`."""
    page = (HOW_TO / "import-and-export.md").read_text()
    accounts, transfers = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "accounts.csv").write_text(accounts)
    (tmp_path / "transfers.csv").write_text(transfers)
    files = console("import-and-export.md")
    leaves = next(place for place, (words, _) in enumerate(files) if "export" in words)
    order = [*files[:leaves], *console("use-the-ledger-command.md"), *files[leaves:]]
    books = {"main": f"pages-{secrets.token_hex(4)}", "copy": f"copy-{secrets.token_hex(4)}"}
    opened = platform.cli("ledger", "open-book", books["main"])
    assert opened.status == 0, opened.err
    seen = 0
    for words, output in order:
        if not output and "post" not in words:
            continue  # other tests run these
        if words[2] == "check":
            words.append("main")
        elif "--book" not in words and words[2] != "open-book":
            words += ["--book", "main"]
        here = [
            str(tmp_path / word) if re.search(r"\.(csv|gz)$", word) else books.get(word, word) for word in words[1:]
        ]
        done = platform.cli(*here)
        assert done.status == 0, (words, done)
        if output:
            seen += 1
            told = done.out.replace(f"{tmp_path}/", "")
            for book, own in books.items():
                told = told.replace(own, book)
            assert re.sub(r" +$", "", told, flags=re.MULTILINE) == output, words
    assert seen == 7


def test_letters_that_are_not_there(platform: PlatformUnderTest) -> None:
    [(_, shown), *decisions] = console("dead-letters.md")
    listed = platform.cli("dead-letters", "list", "risk")
    assert (listed.status, listed.out) == (0, shown), listed
    for words, _ in decisions:
        if "all" not in words:
            done = platform.cli(*words[1:])
            assert done.status == 1, done
            assert done.out == "nothing discarded; `tallystick dead-letters list notify` lists the waiting letters\n"
