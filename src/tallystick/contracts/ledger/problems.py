"""The noes of the ledger. Those of single operations; in a batch they are `reason`s of the transfers."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, Forbidden, InvalidRequest, NotFound, Problem, Unprocessable


class AccountNotFound(NotFound):
    slug, title = "account-not-found", "There is no such account, or not for you"


class AccountExists(Conflict):
    slug, title = "account-exists", "An account with this id exists and is not the same"


class AccountHasHolds(Conflict):
    slug, title = "account-has-holds", "The account can't be closed while something is held on it"


class AccountClosed(Conflict):
    slug, title = "account-closed", "The account is closed"


class AccountFrozen(Conflict):
    slug, title = "account-frozen", "The account is frozen: nothing moves on it until somebody lifts that"


class AccountPathTaken(Conflict):
    slug, title = "account-path-taken", "Another account of the book has this path"


class AccountReserved(Conflict):
    slug, title = (
        "account-reserved",
        "The account is the platform's own: it is not a client's to change, freeze or close",
    )


class AccountLimitBroken(Conflict):
    """`available` and `posted` are what the account has now, in minor units."""

    slug, title = "account-limit-broken", "The account does not keep this floor or ceiling at the moment"


class NotInChart(Unprocessable):
    """`rule` is the pattern that the account contradicts; without it, no rule of the strict chart fits the path."""

    slug, title = "not-in-chart", "The book's chart does not allow this account"


class ChartOrphansAccounts(Conflict):
    """`count` open accounts would not be allowed by the new chart; `first` is the first of them and `why` what is wrong with it."""

    slug, title = "chart-orphans-accounts", "Accounts of the book would not fit the new chart"


class BookNotFound(NotFound):
    slug, title = "book-not-found", "There is no such book, or not for you"


class BookElsewhere(Problem):
    """`shard` is the one that has it, and nothing was done here: send the request again with `Tallystick-Shard: <shard>`."""

    slug, title, status = "book-elsewhere", "The book is kept by another shard of the ledger", 421


class BookExists(Conflict):
    slug, title = "book-exists", "A book with this name exists and is not the same"


class BookQuarantined(Conflict):
    """`reason` is what the check of the book found. Reads go on; the operator releases the book."""

    slug, title = "book-quarantined", "The book is in quarantine: nothing is written to it"


class BookStillFaulty(Conflict):
    """`faults` are the first things that the check of the book finds."""

    slug, title = "book-still-faulty", "The book does not add up yet and stays in quarantine"


class InvalidApprovalRule(Unprocessable):
    slug, title = "invalid-approval-rule", "An approval rule that can't be met"


class ProposalNotFound(NotFound):
    slug, title = "proposal-not-found", "There is no such proposal, or not for you"


class ProposalClosed(Conflict):
    """`proposal_status` is what the proposal is."""

    slug, title = "proposal-closed", "The proposal takes no more decisions"


class NotAnApprover(Forbidden):
    slug, title = "not-an-approver", "You are not one of those who may decide about this proposal"


class InvalidDecision(Unprocessable):
    slug, title = "invalid-decision", "The signed decision is not good"


class TransferNotFound(NotFound):
    slug, title = "transfer-not-found", "There is no such transfer, or not for you"


class HistoryNotKept(Unprocessable):
    """Nobody may take "no answer" for "zero": before an account existed it had no balance, and the future has none yet."""

    slug, title = "history-not-kept", "The account has no balance as of that sequence or time"


class NoAccountMatches(Unprocessable):
    """Not the same as an account without entries: nothing was ever kept at such a path."""

    slug, title = "no-account-matches", "No account of the book has a path like this"


class StatementTooLong(Unprocessable):
    """`entries` is how many entries the account has in that time, `limit` how many a statement may have."""

    slug, title = "statement-too-long", "The account has too many entries in that time for one statement"


class NotRepresentable(Unprocessable):
    """`limit` is what the format has room for."""

    slug, title = "not-representable", "The answer has an amount or a page that this format has no room for"


class ReportTooLarge(Unprocessable):
    """`accounts` or `lines` is the limit that would be passed."""

    slug, title = "report-too-large", "The book is too large for this report"


class ExplanationOutOfReach(Unprocessable):
    """`entries` is how far before and after that time holds are looked for, `holds` how many are listed."""

    slug, title = "explanation-out-of-reach", "What was held then is too far away to be listed"


class BookOutOfBalance(Problem):
    """The numbers contradict each other. No report is made of them; the place is in the log, and `tallystick verify` tells more."""

    slug, title, status = "book-out-of-balance", "The book's numbers do not add up", 500


class HoldNotOpen(Conflict):
    """`reason` says which: hold_already_captured, hold_already_voided or hold_expired."""

    slug, title = "hold-not-open", "The hold was captured, voided, or has expired"


class ExceedsHold(Unprocessable):
    slug, title = "exceeds-hold", "More would be captured than the hold still holds"


class ExceedsReversible(Unprocessable):
    slug, title = "exceeds-reversible", "More would be reversed than is left of the transfer"


class NotReversible(Unprocessable):
    slug, title = "not-reversible", "Only what was posted can be reversed"


class PeriodSealed(Conflict):
    slug, title = "period-sealed", "The book is sealed up to later than that"


class PastLimitBroken(Unprocessable):
    """`breached_on` are the days (UTC) at whose end an account would have been outside of its floor or ceiling."""

    slug, title = "past-limit-broken", "An account would have broken its limit on past days"


class NothingToMove(Unprocessable):
    slug, title = "nothing-to-move", "There is nothing that a balancing transfer could move"


class ExchangeWorthless(InvalidRequest):
    slug, title = "exchange-worthless", "The exchange would buy less than one minor unit, or more than an amount can be"


class TransactionNotFound(NotFound):
    slug, title = "transaction-not-found", "There is no such transaction, or not for you"


class CategoryNotFound(NotFound):
    """`category` is the one that is not there."""

    slug, title = "category-not-found", "There is no such category"


class CategoryInUse(Conflict):
    """`by` are the categories that it is a member of."""

    slug, title = "category-in-use", "The category is a member of others"


class CategoryCycle(Conflict):
    slug, title = "category-cycle", "The category would be a member of itself"


class ImportNotFound(NotFound):
    slug, title = "import-not-found", "There is no such import, or not for you"


class ImportNotOpen(Conflict):
    """`state` is the import's. Lines come before it is started."""

    slug, title = "import-not-open", "The import takes no more lines"


class ImportIncomplete(Conflict):
    """`rows` were announced, `staged` are there."""

    slug, title = "import-incomplete", "Not all lines of the import are there"


class ImportTooLarge(Unprocessable):
    """`most` is how many records can be imported whole, or tried. More are imported in parts."""

    slug, title = "import-too-large", "So many records can't be imported in one piece"


class ExportOutdated(Conflict):
    """What is exported is one state of the book. Begin again."""

    slug, title = "export-outdated", "The book's accounts or settings have changed since the export began"


class CeilingExceeded(Unprocessable):
    """`available` is the room below the account's ceiling, `required` what this transfer would bring in."""

    slug, title = "ceiling-exceeded", "The account's balance would pass its ceiling"


class InsufficientFunds(Unprocessable):
    """`available` is what may still be spent above the account's floor, `required` what this transfer needs."""

    slug, title = "insufficient-funds", "The account's available balance would fall below its floor"


class TransferOfAPayment(Conflict):
    slug, title = "transfer-of-a-payment", "The transfer is a payment's: capture, cancel or refund the payment"


class TransferRefused(Unprocessable):
    """`reason` is the ledger's own word for it (`contracts.ledger.messages.Reason`)."""

    slug, title = "transfer-refused", "The ledger refused the transfer"


class TransferExists(Conflict):
    slug, title = "transfer-exists", "A transfer with this id exists and is not the same"


class InvalidUnit(InvalidRequest):
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
