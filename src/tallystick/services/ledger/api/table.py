"""The endpoint table of the ledger: who may call what."""

from __future__ import annotations

from typing import Final

from tallystick.chassis.web import Endpoint, Further, Page, Paging
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.problems import (
    AccountClosed,
    AccountExists,
    AccountFrozen,
    AccountHasHolds,
    AccountLimitBroken,
    AccountNotFound,
    AccountPathTaken,
    AccountReserved,
    BookElsewhere,
    BookExists,
    BookNotFound,
    BookOutOfBalance,
    BookQuarantined,
    BookStillFaulty,
    CategoryCycle,
    CategoryInUse,
    CategoryNotFound,
    CeilingExceeded,
    ChartOrphansAccounts,
    ExceedsHold,
    ExceedsReversible,
    ExchangeWorthless,
    ExplanationOutOfReach,
    ExportOutdated,
    HistoryNotKept,
    HoldNotOpen,
    ImportIncomplete,
    ImportNotFound,
    ImportNotOpen,
    ImportTooLarge,
    InsufficientFunds,
    InvalidApprovalRule,
    InvalidDecision,
    InvalidUnit,
    NoAccountMatches,
    NotAnApprover,
    NothingToMove,
    NotInChart,
    NotRepresentable,
    NotReversible,
    PastLimitBroken,
    PeriodSealed,
    ProposalClosed,
    ProposalNotFound,
    ReportTooLarge,
    StatementTooLong,
    TransactionNotFound,
    TransferExists,
    TransferNotFound,
    TransferOfAPayment,
    TransferRefused,
)
from tallystick.kernel import ids
from tallystick.kernel.ids import InvalidId
from tallystick.kernel.money import CurrencyMismatch, InvalidAmount, UnknownCurrency
from tallystick.services.ledger.api import (
    approvals,
    books,
    formats,
    imports,
    interbook,
    lists,
    operator,
    reports,
    statements,
    transactions,
)
from tallystick.services.ledger.api import handlers as do
from tallystick.services.ledger.service import GuardRefused

_OF_BOOK: Final = {"name": wire.BookName}
_OF_CATEGORY: Final = {"name": wire.BookName, "category": wire.BookName}
_OF_ACCOUNT: Final = {"id": wire.AccountRef}
_OF_TRANSFER: Final = {"id": ids.TransferIdWire}
_OF_TRANSACTION: Final = {"id": ids.TransactionIdWire}
_OF_IMPORT: Final = {"id": ids.ImportIdWire}
_OF_PROPOSAL: Final = {"id": ids.ProposalIdWire}
_NOTHING_NEW: Final = {
    200: Further(
        "Nothing new: each was refused (`rejected`, with a `reason`) or had been done before under the same id"
    )
}
_AGAIN: Final = {200: Further("Done before under the same id: the original result")}
_WAITS: Final = {202: Further("Approvals are needed: the proposal", wire.Proposal)}

_IMPORT: Final = (ImportNotFound, InvalidId)
_BOOK: Final = (BookNotFound, BookElsewhere, BookQuarantined)
_REPORT: Final = (BookNotFound, BookElsewhere, HistoryNotKept, ReportTooLarge, BookOutOfBalance)
_CATEGORY: Final = (BookNotFound, BookElsewhere, CategoryNotFound)
_AMOUNT: Final = (InvalidAmount, UnknownCurrency, InvalidId, InvalidUnit, GuardRefused, BookNotFound, BookElsewhere)
_TARGET: Final = (
    *_AMOUNT,
    TransferNotFound,
    TransferOfAPayment,
    TransferRefused,
    TransferExists,
    CurrencyMismatch,
    AccountFrozen,
    BookQuarantined,
)
_WHOLE: Final = (
    *_AMOUNT, TransferRefused, TransferExists, CurrencyMismatch, InsufficientFunds, CeilingExceeded, NothingToMove, AccountClosed,
    AccountFrozen, PeriodSealed, PastLimitBroken, BookQuarantined,
)  # fmt: skip

ENDPOINTS: Final = (
    Endpoint(
        "POST", "/v1/books", books.open_book, scope="books:write", action="openBook", resource="Book",
        body=wire.OpenBook, answer=wire.Book, status=201, idempotency="optional", rate="write", problems=(BookExists, BookElsewhere),
        summary="Open a book",
    ),
    Endpoint(
        "GET", "/v1/books", books.list_books, scope="books:read", action="listBooks", resource="Book", query=Paging,
        answer=Page[wire.Book], rate="read", summary="A tenant's books, by name",
    ),
    Endpoint(
        "GET", "/v1/books/{name}", books.get_book, scope="books:read", action="readBook", resource="Book",
        answer=wire.Book, rate="read", problems=(BookNotFound, BookElsewhere), segments=_OF_BOOK, summary="A book and its settings",
    ),
    Endpoint(
        "PATCH", "/v1/books/{name}", books.change_book, scope="books:write", action="changeBook", resource="Book",
        body=wire.ChangeBook, answer=wire.Book, rate="write", problems=_BOOK, segments=_OF_BOOK, summary="Change a book's settings",
    ),
    Endpoint(
        "POST", "/v1/books/{name}/seal", books.seal_book, scope="books:write", action="sealBook", resource="Book",
        body=wire.SealBook, answer=wire.Book, rate="write", problems=(*_BOOK, PeriodSealed),
        segments=_OF_BOOK, summary="Seal a period: nothing can become effective in it any more",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/categories", books.list_categories, scope="books:read", action="listCategories",
        resource="Book", answer=wire.Categories, rate="read", problems=(BookNotFound,), segments=_OF_BOOK, summary="A book's categories",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/categories/{category}", books.get_category, scope="books:read", action="readCategory",
        resource="Book", answer=wire.Category, rate="read", problems=_CATEGORY, segments=_OF_CATEGORY, summary="A category of accounts",
    ),
    Endpoint(
        "PUT", "/v1/books/{name}/categories/{category}", books.set_category, scope="books:write", action="setCategory",
        resource="Book", body=wire.SetCategory, answer=wire.Category, rate="write",
        problems=(*_CATEGORY, CategoryCycle, BookQuarantined), segments=_OF_CATEGORY, summary="Set a category of accounts",
    ),
    Endpoint(
        "DELETE", "/v1/books/{name}/categories/{category}", books.delete_category, scope="books:write",
        action="deleteCategory", resource="Book", status=204, rate="write",
        problems=(*_CATEGORY, CategoryInUse, BookQuarantined), segments=_OF_CATEGORY, summary="Delete a category",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/categories/{category}/balances", books.category_balances, scope="books:read",
        action="readCategoryBalances", resource="Book", answer=wire.CategoryBalances, rate="read", problems=_CATEGORY,
        segments=_OF_CATEGORY, summary="The totals of a category's accounts, per currency",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/chart", books.get_chart, scope="books:read", action="readChart", resource="Book",
        query=books.ChartQuery, answer=wire.Chart, rate="read", problems=(BookNotFound, BookElsewhere),
        segments=_OF_BOOK, summary="A book's chart of accounts, now or an earlier version",
    ),
    Endpoint(
        "PUT", "/v1/books/{name}/chart", books.set_chart, scope="books:write", action="setChart", resource="Book",
        body=wire.SetChart, answer=wire.Chart, rate="write",
        problems=(ChartOrphansAccounts, UnknownCurrency, InvalidAmount, *_BOOK),
        segments=_OF_BOOK, summary="Set a book's chart of accounts",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/trial-balance", reports.trial_balance, scope="books:read", action="readTrialBalance",
        resource="Book", query=reports.TrialQuery, answer=wire.TrialBalance, also=(formats.CSV,), rate="read", problems=_REPORT,
        segments=_OF_BOOK, summary="A book's trial balance, now or as of a time or sequence",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/balance-sheet", reports.balance_sheet, scope="books:read", action="readBalanceSheet",
        resource="Book", query=reports.ReportQuery, answer=wire.BalanceSheet, also=(formats.CSV,), rate="read", problems=_REPORT,
        segments=_OF_BOOK, summary="A book's balance sheet per currency, now or as of a time or sequence",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/income-statement", reports.income_statement, scope="books:read", action="readIncomeStatement",
        resource="Book", query=reports.IncomeQuery, answer=wire.IncomeStatement, also=(formats.CSV,), rate="read", problems=_REPORT,
        segments=_OF_BOOK, summary="A book's income statement over a period, per currency",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/export", imports.export, scope="books:export", action="exportBook", resource="Book",
        query=imports.ExportQuery, answer=wire.ExportPage, rate="read", problems=(BookNotFound, ExportOutdated),
        segments=_OF_BOOK, summary="All of a book as of one sequence, a page at a time",
    ),
    Endpoint(
        "POST", "/v1/imports", imports.announce, scope="books:import", action="importBook", resource="Book",
        body=wire.NewImport, answer=wire.Import, status=201, further={200: Further("Announced before: its progress")}, rate="write",
        problems=(BookNotFound, ImportTooLarge), summary="Announce an import; the same content is imported once",
    ),
    Endpoint(
        "POST", "/v1/imports/{id}/lines", imports.stage, scope="books:import", action="importBook", resource="Book",
        body=wire.ImportLines, answer=wire.Import, rate="write", problems=(*_IMPORT, ImportNotOpen),
        segments=_OF_IMPORT, summary="Stage lines of an import",
    ),
    Endpoint(
        "POST", "/v1/imports/{id}/start", imports.start, scope="books:import", action="importBook", resource="Book",
        answer=wire.Import, rate="money", problems=(*_IMPORT, ImportIncomplete), segments=_OF_IMPORT, summary="Start an import",
    ),
    Endpoint(
        "GET", "/v1/imports/{id}", imports.get, scope="books:import", action="importBook", resource="Book",
        answer=wire.Import, rate="read", problems=_IMPORT, segments=_OF_IMPORT, summary="The progress or the outcome of an import",
    ),
    Endpoint(
        "GET", "/v1/imports/{id}/refusals", imports.refusals, scope="books:import", action="importBook", resource="Book",
        query=Paging, answer=Page[wire.ImportRefusal], rate="read", problems=_IMPORT,
        segments=_OF_IMPORT, summary="Lines that an import refused, and why",
    ),
    Endpoint(
        "POST", "/v1/accounts", do.open_account, scope="accounts:write", action="createAccount", resource="Account",
        body=wire.OpenAccount, answer=wire.Account, status=201, idempotency="optional", rate="write",
        problems=(UnknownCurrency, InvalidAmount, AccountPathTaken, NotInChart, *_BOOK), summary="Open an account",
    ),
    Endpoint(
        "GET", "/v1/accounts", do.list_accounts, scope="accounts:read", action="listAccounts", resource="Account",
        query=do.AccountsQuery, answer=Page[wire.Account], rate="read",
        problems=(InvalidId, UnknownCurrency, BookNotFound, BookElsewhere),
        summary="Accounts of a book, newest first, or those whose paths match a pattern",
    ),
    Endpoint(
        "GET", "/v1/accounts/{id}", do.get_account, scope="accounts:read", action="readAccount", resource="Account",
        query=do.AtQuery, answer=wire.Account, rate="read", problems=(AccountNotFound, HistoryNotKept, InvalidId, BookElsewhere),
        segments=_OF_ACCOUNT, summary="An account and its balance, now or as of a time or sequence",
    ),
    Endpoint(
        "GET", "/v1/accounts/{id}/entries", do.list_entries, scope="accounts:read", action="listEntries",
        resource="Account", query=do.EntriesQuery, answer=Page[wire.Entry], rate="read", problems=(AccountNotFound, InvalidId, BookElsewhere),
        segments=_OF_ACCOUNT, summary="An account's entries with running balances, newest first",
    ),
    Endpoint(
        "GET", "/v1/accounts/{id}/statement", statements.statement, scope="accounts:read", action="readStatement",
        resource="Account", query=statements.StatementQuery, answer=wire.Statement, also=(formats.CSV, formats.XML), rate="read",
        problems=(AccountNotFound, HistoryNotKept, StatementTooLong, NotRepresentable, BookOutOfBalance, InvalidId),
        segments=_OF_ACCOUNT, summary="A statement of an account: JSON, CSV or camt.053",
    ),
    Endpoint(
        "GET", "/v1/accounts/{id}/explain", statements.explain, scope="accounts:read", action="explainAccount",
        resource="Account", query=statements.ExplainQuery, answer=wire.Explanation, rate="read",
        problems=(AccountNotFound, HistoryNotKept, ExplanationOutOfReach, BookOutOfBalance, InvalidId),
        segments=_OF_ACCOUNT, summary="An explanation of an account's numbers: entries, holds, rules, and the arithmetic",
    ),
    Endpoint(
        "GET", "/v1/entries", lists.list_entries, scope="accounts:read", action="listEntries", resource="Account",
        query=lists.ListQuery, answer=wire.Entries, rate="read",
        problems=(BookNotFound, AccountNotFound, NoAccountMatches, HistoryNotKept, UnknownCurrency, InvalidId),
        summary="Entries of a book by account, path, time, amount, code, kind or metadata, newest first",
    ),
    Endpoint(
        "POST", "/v1/accounts/{id}/close", do.close_account, scope="accounts:write", action="closeAccount",
        resource="Account", query=do.BookQuery, answer=wire.Account, rate="write",
        problems=(AccountNotFound, AccountReserved, AccountHasHolds, InvalidId, *_BOOK), segments=_OF_ACCOUNT, summary="Close an account for good",
    ),
    Endpoint(
        "PATCH", "/v1/accounts/{id}", do.change_account, scope="accounts:write", action="changeAccount",
        resource="Account", query=do.BookQuery, body=wire.ChangeAccount, answer=wire.Account, rate="write",
        problems=(AccountNotFound, AccountReserved, AccountClosed, AccountLimitBroken, NotInChart, InvalidAmount, InvalidId, *_BOOK),
        segments=_OF_ACCOUNT, summary="Change an account's name, metadata or limits",
    ),
    Endpoint(
        "POST", "/v1/accounts/{id}/freeze", do.freeze_account, scope="accounts:write", action="freezeAccount",
        resource="Account", query=do.BookQuery, answer=wire.Account, rate="write",
        problems=(AccountNotFound, AccountReserved, AccountClosed, InvalidId, *_BOOK), segments=_OF_ACCOUNT, summary="Freeze an account: nothing moves on it any more",
    ),
    Endpoint(
        "POST", "/v1/accounts/{id}/unfreeze", do.unfreeze_account, scope="accounts:write", action="unfreezeAccount",
        resource="Account", query=do.BookQuery, answer=wire.Account, rate="write",
        problems=(AccountNotFound, AccountReserved, AccountClosed, InvalidId, *_BOOK), segments=_OF_ACCOUNT, summary="Unfreeze an account",
    ),
    Endpoint(
        "POST", "/v1/transfers", do.create_transfers, scope="transfers:write", action="createTransfers",
        max_body=wire.TRANSACTION_BYTES, resource="Transfer", body=wire.NewTransfers, answer=wire.Transfers, status=201, further=_NOTHING_NEW, idempotency="required",
        rate="money", problems=_AMOUNT, summary="Post or hold 1 to 1000 transfers",
    ),
    Endpoint(
        "POST", "/v1/transfers/{id}/capture", do.capture, scope="transfers:write", action="captureHold",
        resource="Transfer", body=wire.CaptureHold, answer=wire.Transfer, status=201, further=_AGAIN, idempotency="required",
        rate="money", problems=(*_TARGET, HoldNotOpen, ExceedsHold), segments=_OF_TRANSFER, summary="Capture a hold, all or part of it",
    ),
    Endpoint(
        "POST", "/v1/transfers/{id}/increase", do.increase, scope="transfers:write", action="increaseHold",
        resource="Transfer", body=wire.IncreaseHold, answer=wire.Transfer, status=201, further=_AGAIN, idempotency="required",
        rate="money", problems=(*_TARGET, HoldNotOpen, InsufficientFunds, CeilingExceeded), segments=_OF_TRANSFER, summary="Increase a hold",
    ),
    Endpoint(
        "POST", "/v1/transfers/{id}/void", do.void, scope="transfers:write", action="voidHold", resource="Transfer",
        body=wire.VoidHold, answer=wire.Transfer, status=201, further=_AGAIN, idempotency="required", rate="money",
        problems=(*_TARGET, HoldNotOpen), segments=_OF_TRANSFER, summary="Release a hold",
    ),
    Endpoint(
        "POST", "/v1/transfers/{id}/reverse", do.reverse, scope="transfers:write", action="reverseTransfer",
        resource="Transfer", body=wire.ReverseTransfer, answer=wire.Transfer, status=201, further=_AGAIN, idempotency="required",
        rate="money", problems=(*_TARGET, NotReversible, ExceedsReversible, InsufficientFunds, CeilingExceeded, AccountClosed),
        segments=_OF_TRANSFER, summary="Reverse what was posted, all or part of it",
    ),
    Endpoint(
        "GET", "/v1/transfers", lists.list_transfers, scope="transfers:read", action="listTransfers", resource="Transfer",
        query=lists.ListQuery, answer=wire.TransferList, rate="read",
        problems=(BookNotFound, AccountNotFound, NoAccountMatches, HistoryNotKept, UnknownCurrency, InvalidId),
        summary="Transfers of a book by account, path, time, amount, code, kind or metadata, newest first",
    ),
    Endpoint(
        "GET", "/v1/transfers/{id}", do.get_transfer, scope="transfers:read", action="readTransfer",
        resource="Transfer", query=do.BookQuery, answer=wire.Transfer, rate="read",
        problems=(TransferNotFound, InvalidId, BookElsewhere),
        segments=_OF_TRANSFER, summary="A transfer, or the refusal of one",
    ),
    Endpoint(
        "GET", "/v1/books/{name}/approvals", approvals.get_rules, scope="books:read", action="readApprovalRules",
        resource="Book", answer=wire.ApprovalRules, rate="read", problems=(BookNotFound,),
        segments=_OF_BOOK, summary="Which transactions of a book need approvals",
    ),
    Endpoint(
        "PUT", "/v1/books/{name}/approvals", approvals.set_rules, scope="approvals:write", action="setApprovalRules",
        resource="Book", body=wire.SetApprovalRules, answer=wire.ApprovalRules, rate="write",
        problems=(UnknownCurrency, InvalidApprovalRule, *_BOOK), segments=_OF_BOOK, summary="Set which transactions need approvals, and from whom",
    ),
    Endpoint(
        "GET", "/v1/proposals", approvals.list_proposals, scope="transfers:read", action="listProposals",
        resource="Proposal", query=approvals.ProposalsQuery, answer=Page[wire.Proposal], rate="read",
        problems=(BookNotFound, InvalidId), summary="Proposals: transactions that need approvals, and their outcomes",
    ),
    Endpoint(
        "GET", "/v1/proposals/{id}", approvals.get_proposal, scope="transfers:read", action="readProposal",
        resource="Proposal", answer=wire.Proposal, rate="read", problems=(ProposalNotFound, InvalidId),
        segments=_OF_PROPOSAL, summary="A proposal and the decisions about it",
    ),
    Endpoint(
        "POST", "/v1/proposals/{id}/approve", approvals.approve, scope="approvals:sign", action="decideProposal",
        resource="Proposal", body=wire.SignedDecision, answer=wire.Proposal, rate="money",
        problems=(ProposalNotFound, NotAnApprover, InvalidDecision, ProposalClosed, InvalidId, BookQuarantined, GuardRefused),
        segments=_OF_PROPOSAL, summary="Approve a proposal; the last approval posts it",
    ),
    Endpoint(
        "POST", "/v1/proposals/{id}/reject", approvals.reject, scope="approvals:sign", action="decideProposal",
        resource="Proposal", body=wire.SignedDecision, answer=wire.Proposal, rate="write",
        problems=(ProposalNotFound, NotAnApprover, InvalidDecision, ProposalClosed, InvalidId),
        segments=_OF_PROPOSAL, summary="Reject a proposal for good",
    ),
    Endpoint(
        "GET", "/internal/books", operator.list_all_books, mesh=("operator",), action="watchBooks", resource="Book",
        query=operator.BooksQuery, answer=wire.WatchedBooks, summary="The books of all tenants",
    ),
    Endpoint(
        "POST", "/internal/books/check", operator.check_book, mesh=("operator",), action="watchBooks", resource="Book",
        body=wire.CheckBook, answer=wire.Checked, problems=(BookNotFound,), summary="One step of checking a book",
    ),
    Endpoint(
        "POST", "/internal/books/release", operator.release_book, mesh=("operator",), action="releaseBook",
        resource="Book", body=wire.ReleaseBook, answer=wire.WatchedBook, problems=(BookNotFound, BookStillFaulty),
        timeout=15.0, summary="Take a book out of quarantine",
    ),
    Endpoint(
        "POST", "/v1/transactions", transactions.create, scope="transfers:write", action="createTransaction", max_body=wire.TRANSACTION_BYTES,
        resource="Transfer", body=wire.NewTransaction, answer=wire.Transaction, status=201, further=_AGAIN | _WAITS, idempotency="required",
        rate="money", problems=(*_WHOLE, ExchangeWorthless), summary="Post transfers and exchanges as one transaction",
    ),
    Endpoint(
        "GET", "/v1/transactions", lists.list_transactions, scope="transfers:read", action="listTransactions",
        resource="Transfer", query=lists.ListQuery, answer=wire.TransactionList, rate="read",
        problems=(BookNotFound, AccountNotFound, NoAccountMatches, HistoryNotKept, UnknownCurrency, InvalidId),
        summary="Transactions of a book by reference, metadata, time or one of their transfers, newest first",
    ),
    Endpoint(
        "GET", "/v1/transactions/{id}", transactions.get, scope="transfers:read", action="readTransaction",
        resource="Transfer", query=do.BookQuery, answer=wire.Transaction, rate="read",
        problems=(TransactionNotFound, BookNotFound, InvalidId), segments=_OF_TRANSACTION, summary="A transaction and its transfers",
    ),
    Endpoint(
        "POST", "/v1/transactions/{id}/reverse", transactions.reverse, scope="transfers:write",
        action="reverseTransaction", resource="Transfer", body=wire.ReverseTransaction, answer=wire.Transaction,
        status=201, further=_AGAIN | _WAITS, idempotency="required", rate="money",
        problems=(*_WHOLE, TransactionNotFound, NotReversible, ExceedsReversible), segments=_OF_TRANSACTION, summary="Reverse a transaction as a whole",
    ),
    Endpoint(
        "POST", "/v1/interbook_transfers", interbook.create, scope="transfers:write", action="createInterbookTransfer",
        resource="Transfer", body=wire.NewInterbookTransfer, answer=wire.InterbookTransfer, status=201, idempotency="required",
        rate="money", problems=(*_AMOUNT, BookQuarantined, TransferExists, TransferRefused),
        summary="Move money from one book to another, on whichever shards they are",
    ),
    Endpoint(
        "GET", "/v1/interbook_transfers/{id}", interbook.get, scope="transfers:read", action="readInterbookTransfer",
        resource="Transfer", query=do.BookQuery, answer=wire.InterbookTransfer, rate="read",
        problems=(TransferNotFound, InvalidId, BookNotFound, BookElsewhere), segments=_OF_TRANSFER, summary="The state of a transfer between books",
    ),
    Endpoint(
        "POST", "/internal/books/lookups", interbook.look_for, mesh=("ledger",), action="findBook", resource="Book",
        body=wire.LookForBook, answer=wire.FoundBook, problems=(BookNotFound, BookElsewhere), summary="Whether this shard has a book",
    ),
    Endpoint(
        "POST", "/internal/arrivals", interbook.arrive, mesh=("ledger",), action="arriveFromBook", resource="Transfer",
        body=wire.Arrive, answer=wire.Arrived, problems=(*_AMOUNT, BookQuarantined),
        summary="Post what another shard's book holds for a book of this one",
    ),
    Endpoint(
        "POST", "/internal/transfers", do.post_units, mesh=("payments",), action="postTransfers", resource="Transfer",
        body=wire.PostUnits, answer=wire.PostedUnits, summary="Post units of transfers, each all or none",
    ),
    Endpoint(
        "POST", "/internal/accounts", do.open_account_as, mesh=("payments",), action="openAccount", resource="Account",
        body=wire.OpenAccountAs, answer=wire.Account, problems=(AccountExists, UnknownCurrency, InvalidAmount, InvalidId),
        summary="Open an account under an id made beforehand",
    ),
    Endpoint(
        "POST", "/internal/accounts/lookups", do.find_accounts, mesh=("payments",), action="findAccounts",
        resource="Account", body=wire.FindAccounts, answer=wire.FoundAccounts,
        summary="What never changes about accounts",
    ),
)  # fmt: skip
