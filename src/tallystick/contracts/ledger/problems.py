"""The noes of the ledger. Those of single operations; in a batch they are `reason`s of the transfers."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, Forbidden, InvalidRequest, NotFound, Problem, Unprocessable


class AccountNotFound(NotFound):
    """No account of the tenant has this id, or none of the book has this path: a path is looked for in one book only. Name the book, or
    open the account.
    """

    slug, title = "account-not-found", "There is no such account, or not for you"


class AccountExists(Conflict):
    """An account keeps what it was opened as. Take a new id for another account, or change it by PATCH."""

    slug, title = "account-exists", "An account with this id exists and is not the same"


class AccountHasHolds(Conflict):
    """Capture or void the holds, or let them expire; then close it."""

    slug, title = "account-has-holds", "The account can't be closed while something is held on it"


class AccountClosed(Conflict):
    """Nothing moves on it any more. Take another account. `account` is the one, where it is about a transfer."""

    slug, title = "account-closed", "The account is closed"


class AccountFrozen(Conflict):
    """Holds on it can be voided, all else waits until somebody lifts the freeze (`POST /v1/accounts/{id}/unfreeze`). `account` is the one."""

    slug, title = "account-frozen", "The account is frozen: nothing moves on it until somebody lifts that"


class AccountPathTaken(Conflict):
    """`path` is the one. Take that account, or another path."""

    slug, title = "account-path-taken", "Another account of the book has this path"


class AccountReserved(Conflict):
    """Below `tallystick:` and `transit:` the platform keeps its own accounts. Use one of yours."""

    slug, title = (
        "account-reserved",
        "The account is the platform's own: it is not a client's to change, freeze or close",
    )


class AccountLimitBroken(Conflict):
    """`available` and `posted` are what the account has now. Move money until it keeps the limit, or set another; holds count too."""

    slug, title = "account-limit-broken", "The account does not keep this floor or ceiling at the moment"


class NotInChart(Unprocessable):
    """`rule` is the pattern that the account contradicts; without it, no rule of the strict chart fits the path. Open it as the chart says,
    or change the chart.
    """

    slug, title = "not-in-chart", "The book's chart does not allow this account"


class ChartOrphansAccounts(Conflict):
    """`count` open accounts would not be allowed by the new chart; `first` is the first of them and `why` what is wrong with it. Close
    them, or write the chart so that they fit.
    """

    slug, title = "chart-orphans-accounts", "Accounts of the book would not fit the new chart"


class BookNotFound(NotFound):
    """`GET /v1/books` has those that there are. `main` is there from the first use on, others are opened by `POST /v1/books`."""

    slug, title = "book-not-found", "There is no such book, or not for you"


class BookElsewhere(Problem):
    """`shard` is the one that has it, and nothing was done here: send the request again with `Tallystick-Shard: <shard>`."""

    slug, title, status = "book-elsewhere", "The book is kept by another shard of the ledger", 421


class BookExists(Conflict):
    """A book keeps what it was opened as. Change its settings, or take another name."""

    slug, title = "book-exists", "A book with this name exists and is not the same"


class BookQuarantined(Conflict):
    """`reason` is what the check of the book found. Reads go on; the operator [releases the book](../how-to/when-a-book-is-quarantined.md),
    and then the same request, under the same key, is carried out.
    """

    slug, title = "book-quarantined", "The book is in quarantine: nothing is written to it"


class BookStillFaulty(Conflict):
    """`faults` are the first things that the check of the book finds. Mend them before it is [released](../how-to/when-a-book-is-quarantined.md)."""

    slug, title = "book-still-faulty", "The book does not add up yet and stays in quarantine"


class InvalidApprovalRule(Unprocessable):
    """It asks for more approvals than it names approvers. Name more, or ask for fewer."""

    slug, title = "invalid-approval-rule", "An approval rule that can't be met"


class ProposalNotFound(NotFound):
    """No proposal of the tenant has this id on this shard. One of a book on another shard is asked for with the header `Tallystick-Shard`."""

    slug, title = "proposal-not-found", "There is no such proposal, or not for you"


class ProposalClosed(Conflict):
    """`proposal_status` is what the proposal is. It has been decided or has expired, or you have decided about it already. For the same
    money propose it anew.
    """

    slug, title = "proposal-closed", "The proposal takes no more decisions"


class NotAnApprover(Forbidden):
    """The proposal's rules name other clients, or you are the one who proposed. `GET /v1/proposals/{id}` shows the rules."""

    slug, title = "not-an-approver", "You are not one of those who may decide about this proposal"


class InvalidDecision(Unprocessable):
    """The signature is not by the key of the token, or what was signed is not this decision on this proposal, or older than ten minutes.
    Make [the statement](../how-to/ask-for-approvals.md) anew from the proposal as it is answered.
    """

    slug, title = "invalid-decision", "The signed decision is not good"


class TransferNotFound(NotFound):
    """No transfer of the book has this id; for a capture, a void or an increase, no hold. Transfers are a book's own: name the book."""

    slug, title = "transfer-not-found", "There is no such transfer, or not for you"


class HistoryNotKept(Unprocessable):
    """Nobody may take "no answer" for "zero": before an account or a book was opened it had no balance, and the future has none yet.
    `created_at` is when it was opened, `as_of` how far the book is. What was imported or dated back counts since before: ask by effective
    time (`effective=`, `by=effective`).
    """

    slug, title = "history-not-kept", "There is no history as of that sequence or time"


class NoAccountMatches(Unprocessable):
    """Not the same as an account without entries: nothing was ever kept at such a path. Look at the pattern and the book."""

    slug, title = "no-account-matches", "No account of the book has a path like this"


class StatementTooLong(Unprocessable):
    """`entries` is how many entries the account has in that time, `limit` how many a statement may have. Ask for a shorter time."""

    slug, title = "statement-too-long", "The account has too many entries in that time for one statement"


class NotRepresentable(Unprocessable):
    """`limit` is what the format has room for. Take larger pages, or another format."""

    slug, title = "not-representable", "The answer has an amount or a page that this format has no room for"


class ReportTooLarge(Unprocessable):
    """`lines` or `accounts` is the limit that would be passed. Fewer lines come of a lower `level`; a book with too many accounts has no reports."""

    slug, title = "report-too-large", "The book is too large for this report"


class ExplanationOutOfReach(Unprocessable):
    """`entries` is how far before and after that time holds are looked for, `holds` how many are listed. Ask for a time nearer to now;
    balances and statements have no such bound.
    """

    slug, title = "explanation-out-of-reach", "What was held then is too far away to be listed"


class BookOutOfBalance(Problem):
    """The numbers contradict each other. No report is made of them; the place is in the log, and `tallystick verify` tells more."""

    slug, title, status = "book-out-of-balance", "The book's numbers do not add up", 500


class HoldNotOpen(Conflict):
    """`reason` says which: hold_already_captured, hold_already_voided or hold_expired. Hold again under a new id."""

    slug, title = "hold-not-open", "The hold was captured, voided, or has expired"


class ExceedsHold(Unprocessable):
    """`available` is what the hold still holds, `required` what was asked for. Capture less, or increase the hold first."""

    slug, title = "exceeds-hold", "More would be captured than the hold still holds"


class ExceedsReversible(Unprocessable):
    """`available` is what is left to reverse, `required` what was asked for. Reverse less."""

    slug, title = "exceeds-reversible", "More would be reversed than is left of the transfer"


class NotReversible(Unprocessable):
    """Only posts and captures are reversed. Void a hold instead; take a reversal back by posting the amount anew."""

    slug, title = "not-reversible", "Only what was posted can be reversed"


class PeriodSealed(Conflict):
    """Nothing becomes effective at or before `sealed_until` any more, and a seal is not taken back. Let it be effective later."""

    slug, title = "period-sealed", "The book is sealed up to later than that"


class PastLimitBroken(Unprocessable):
    """`breached_on` are the days (UTC) at whose end an account would have been outside of its floor or ceiling, `account` is the first such
    account. Date it later, or post it as of now; a book can also be told to report such days instead of refusing.
    """

    slug, title = "past-limit-broken", "An account would have broken its limit on past days"


class NothingToMove(Unprocessable):
    """A balancing transfer moves as much as there is, and `account` has nothing, or no room."""

    slug, title = "nothing-to-move", "There is nothing that a balancing transfer could move"


class ExchangeWorthless(InvalidRequest):
    """At this rate and rounding nothing is bought, or more than 2^63 - 1. Sell more or less."""

    slug, title = "exchange-worthless", "The exchange would buy less than one minor unit, or more than an amount can be"


class TransactionNotFound(NotFound):
    """No transaction of the book has this id: name the book."""

    slug, title = "transaction-not-found", "There is no such transaction, or not for you"


class CategoryNotFound(NotFound):
    """`category` is the one that is not there. Make it first."""

    slug, title = "category-not-found", "There is no such category"


class CategoryInUse(Conflict):
    """`by` are the categories that it is a member of. Take it out of them first."""

    slug, title = "category-in-use", "The category is a member of others"


class CategoryCycle(Conflict):
    """By the categories that it would have as members it would be a member of itself. Leave one of them out."""

    slug, title = "category-cycle", "The category would be a member of itself"


class ImportNotFound(NotFound):
    """No import of the tenant has this id on this shard. One of a book on another shard is asked for with the header `Tallystick-Shard`."""

    slug, title = "import-not-found", "There is no such import, or not for you"


class ImportNotOpen(Conflict):
    """`state` is the import's. Lines come before it is started. Announce a new one."""

    slug, title = "import-not-open", "The import takes no more lines"


class ImportIncomplete(Conflict):
    """`rows` were announced, `staged` are there. Send the others, then start it."""

    slug, title = "import-incomplete", "Not all lines of the import are there"


class ImportTooLarge(Unprocessable):
    """`most` is how many records can be imported whole, or tried. More are imported in parts."""

    slug, title = "import-too-large", "So many records can't be imported in one piece"


class ExportOutdated(Conflict):
    """What is exported is one state of the book. Begin again."""

    slug, title = "export-outdated", "The book's accounts or settings have changed since the export began"


class CeilingExceeded(Unprocessable):
    """`available` is the room below the ceiling of `account`, `required` what this transfer would bring in. Send less, or raise the ceiling."""

    slug, title = "ceiling-exceeded", "The account's balance would pass its ceiling"


class InsufficientFunds(Unprocessable):
    """`available` is what may still be spent above the floor of `account`, `required` what this transfer needs. A new attempt takes a new id,
    and a new idempotency key: this one stays refused.
    """

    slug, title = "insufficient-funds", "The account's available balance would fall below its floor"


class TransferOfAPayment(Conflict):
    """What a payment made in the ledger is the payment's: `POST /v1/payments/{id}/capture` or `cancel`, `POST /v1/refunds`."""

    slug, title = "transfer-of-a-payment", "The transfer is a payment's: capture, cancel or refund the payment"


class TransferRefused(Unprocessable):
    """`reason` is the ledger's own word for it, `account` the account at fault if there is one; where there are many transfers in a request, each
    that was refused has one. Most have a problem of their own where a request is about one transfer.
    """

    slug, title = "transfer-refused", "The ledger refused the transfer"


class TransferExists(Conflict):
    """`reason` names the first difference, such as `exists_with_different_amount`, or says that the id was refused before
    (`id_already_failed`). Take a new id for another transfer.
    """

    slug, title = "transfer-exists", "A transfer with this id exists and is not the same"


class InvalidUnit(InvalidRequest):
    """The detail says which one lacks what, or has too much: a post or a hold has two accounts and an amount, a capture a `target`, and so on."""

    slug, title = "invalid-unit", "A transfer has not the fields that its kind needs"


LEDGER_PROBLEMS: tuple[type[Problem], ...] = (
    AccountNotFound,
    AccountExists,
    AccountHasHolds,
    AccountClosed,
    AccountFrozen,
    AccountPathTaken,
    AccountReserved,
    AccountLimitBroken,
    NotInChart,
    ChartOrphansAccounts,
    BookNotFound,
    BookElsewhere,
    BookExists,
    BookQuarantined,
    BookStillFaulty,
    InvalidApprovalRule,
    InvalidDecision,
    NotAnApprover,
    ProposalClosed,
    ProposalNotFound,
    ImportNotFound,
    ImportNotOpen,
    ImportIncomplete,
    ImportTooLarge,
    ExportOutdated,
    CeilingExceeded,
    PeriodSealed,
    PastLimitBroken,
    NothingToMove,
    ExchangeWorthless,
    TransactionNotFound,
    CategoryNotFound,
    CategoryInUse,
    CategoryCycle,
    TransferNotFound,
    HistoryNotKept,
    NoAccountMatches,
    StatementTooLong,
    NotRepresentable,
    ReportTooLarge,
    ExplanationOutOfReach,
    BookOutOfBalance,
    HoldNotOpen,
    ExceedsHold,
    ExceedsReversible,
    NotReversible,
    InsufficientFunds,
    TransferOfAPayment,
    TransferRefused,
    TransferExists,
    InvalidUnit,
)
