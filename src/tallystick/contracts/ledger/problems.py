"""The problems of the ledger, for requests about one operation. In a batch they become the `reason`s of its transfers."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, Forbidden, InvalidRequest, NotFound, Problem, Unprocessable


class AccountNotFound(NotFound):
    """No account of the tenant has this id, or no account of the book has this path. A path is looked up in one book only. Name the right
    book, or open the account.
    """

    slug, title = "account-not-found", "Account not found"


class AccountExists(Conflict):
    """An account with this id exists, and was opened differently. Use a new id for another account, or change this one by PATCH."""

    slug, title = "account-exists", "An account with this id exists and is not the same"


class AccountHasHolds(Conflict):
    """An account with open holds can't be closed. Capture or void them, or let them expire; then close it."""

    slug, title = "account-has-holds", "The account can't be closed while something is held on it"


class AccountClosed(Conflict):
    """Nothing can move on a closed account. Use another account. For a transfer, `account` is the closed one."""

    slug, title = "account-closed", "The account is closed"


class AccountFrozen(Conflict):
    """Holds on a frozen account (`account`) can be voided; everything else is refused until somebody lifts the freeze
    (`POST /v1/accounts/{id}/unfreeze`).
    """

    slug, title = "account-frozen", "The account is frozen: nothing moves on it until somebody lifts that"


class AccountPathTaken(Conflict):
    """Another account of the book has this `path`. Use that account, or another path."""

    slug, title = "account-path-taken", "Another account of the book has this path"


class AccountReserved(Conflict):
    """Accounts whose path begins with `tallystick:` or `transit:` are the platform's own. Use an account of yours."""

    slug, title = (
        "account-reserved",
        "The account is the platform's own: it is not a client's to change, freeze or close",
    )


class AccountLimitBroken(Conflict):
    """The account's balance is outside the new floor or ceiling: `available` and `posted` are its balances now, and open holds count as
    well. Move money until the account keeps the limit, or set another one.
    """

    slug, title = "account-limit-broken", "The account's balance breaks this floor or ceiling"


class NotInChart(Unprocessable):
    """The account contradicts the rule of the book's chart whose pattern is `rule`; without `rule`, the chart is strict and none of its
    rules fits the path. Open the account as the chart demands, or change the chart.
    """

    slug, title = "not-in-chart", "The book's chart does not allow this account"


class ChartOrphansAccounts(Conflict):
    """The new chart would not allow `count` accounts that are open. `first` is the first of them, and `why` says what is wrong with it.
    Close these accounts, or change the chart so that they fit.
    """

    slug, title = "chart-orphans-accounts", "Accounts of the book would not fit the new chart"


class BookNotFound(NotFound):
    """The tenant has no book of this name. `GET /v1/books` lists its books. `main` exists from its first use on; other books are opened by
    `POST /v1/books`.
    """

    slug, title = "book-not-found", "Book not found"


class BookElsewhere(Problem):
    """The book is kept by the shard named in `shard`. Nothing was done. Send the request again with `Tallystick-Shard: <shard>`."""

    slug, title, status = "book-elsewhere", "The book is kept by another shard of the ledger", 421


class BookExists(Conflict):
    """A book of this name exists, and was opened differently. Change its settings, or use another name."""

    slug, title = "book-exists", "A book with this name exists and is not the same"


class BookQuarantined(Conflict):
    """The continuous check found a fault in the book (`reason`). It can be read, but nothing is written until the operator
    [releases it](../how-to/when-a-book-is-quarantined.md). Then send the same request again, with the same idempotency key.
    """

    slug, title = "book-quarantined", "The book is in quarantine: nothing is written to it"


class BookStillFaulty(Conflict):
    """The check still finds faults in the book; `faults` are the first of them. Correct them before
    [releasing the book](../how-to/when-a-book-is-quarantined.md).
    """

    slug, title = "book-still-faulty", "The book still does not balance and stays in quarantine"


class InvalidApprovalRule(Unprocessable):
    """The rule demands more approvals than it names approvers. Name more approvers, or demand fewer approvals."""

    slug, title = "invalid-approval-rule", "The approval rule can't be met"


class ProposalNotFound(NotFound):
    """The tenant has no proposal with this id on this shard. For a book on another shard, send the header `Tallystick-Shard`."""

    slug, title = "proposal-not-found", "Proposal not found"


class ProposalClosed(Conflict):
    """The proposal was decided or has expired (`proposal_status`), or you have already decided about it. To move the same money, make a
    new proposal.
    """

    slug, title = "proposal-closed", "The proposal is closed"


class NotAnApprover(Forbidden):
    """The rules that apply to the proposal name other clients as approvers, or the proposal is your own. `GET /v1/proposals/{id}` shows
    the rules.
    """

    slug, title = "not-an-approver", "Not an approver of this proposal"


class InvalidDecision(Unprocessable):
    """The signed statement was not signed by the key that the token is bound to, is not about this decision on this proposal, or is older
    than ten minutes. Make [a new statement](../how-to/ask-for-approvals.md) from the proposal as the ledger answers it.
    """

    slug, title = "invalid-decision", "The signed decision is not valid"


class TransferNotFound(NotFound):
    """The book has no transfer with this id or, for a capture, a void or an increase, no such hold. A transfer is looked up in one book
    only: name the book.
    """

    slug, title = "transfer-not-found", "Transfer not found"


class HistoryNotKept(Unprocessable):
    """There is no balance for the time asked for: it is before the account or the book was opened (`created_at`), or later than the book
    is now (`as_of`). That is not the same as a balance of zero, so it is not answered as one. Imported and backdated transfers may
    count from earlier on: ask by effective time (`effective=`, `by=effective`).
    """

    slug, title = "history-not-kept", "There is no history as of that sequence or time"


class NoAccountMatches(Unprocessable):
    """The book has no account whose path matches the pattern, which is not the same as accounts without entries. Check the pattern and
    the book.
    """

    slug, title = "no-account-matches", "No account of the book has a path like this"


class StatementTooLong(Unprocessable):
    """The account has `entries` entries in that period, and a statement may have at most `limit`. Ask for a shorter period."""

    slug, title = "statement-too-long", "The account has too many entries in that time for one statement"


class NotRepresentable(Unprocessable):
    """The format has room for `limit` pages, or for amounts of `limit` digits, and the answer needs more; the detail says which. Ask for
    larger pages, or for another format.
    """

    slug, title = "not-representable", "The answer has an amount or a page that this format has no room for"


class ReportTooLarge(Unprocessable):
    """The report would have more than `lines` lines, or the book has more than `accounts` accounts. A lower `level` gives fewer lines;
    for a book with too many accounts there are no reports.
    """

    slug, title = "report-too-large", "The book is too large for this report"


class ExplanationOutOfReach(Unprocessable):
    """The holds that were open then can't be listed: holds are searched for within `entries` entries before and after that time, and at
    most `holds` are listed. Ask for a more recent time. Balances and statements have no such limit.
    """

    slug, title = "explanation-out-of-reach", "What was held then is too far away to be listed"


class BookOutOfBalance(Problem):
    """The book's numbers contradict each other, so no report is made of them. The log says where, and `tallystick verify` tells more."""

    slug, title, status = "book-out-of-balance", "The book does not balance", 500


class HoldNotOpen(Conflict):
    """The hold was captured, was voided or has expired. `reason` says which: hold_already_captured, hold_already_voided or hold_expired.
    Make a new hold under a new id.
    """

    slug, title = "hold-not-open", "The hold was captured, voided, or has expired"


class ExceedsHold(Unprocessable):
    """The capture asks for `required`, and the hold has only `available` left. Capture less, or increase the hold first."""

    slug, title = "exceeds-hold", "The capture exceeds the hold"


class ExceedsReversible(Unprocessable):
    """The reversal asks for `required`, and only `available` of the transfer is left to reverse. Reverse less."""

    slug, title = "exceeds-reversible", "The reversal exceeds the rest of the transfer"


class NotReversible(Unprocessable):
    """Only posts and captures can be reversed. Void a hold instead. To undo a reversal, post the amount again."""

    slug, title = "not-reversible", "Only what was posted can be reversed"


class PeriodSealed(Conflict):
    """The book is sealed: nothing can become effective at or before `sealed_until`, and a seal can't be undone. Use a later effective
    time.
    """

    slug, title = "period-sealed", "The period is sealed"


class PastLimitBroken(Unprocessable):
    """The transfer is backdated, and at the end of the days in `breached_on` (UTC) an account would have been outside its floor or
    ceiling; `account` is the first such account. Use a later date, or post it as of now. A book can be set to report such days
    instead of refusing the transfer.
    """

    slug, title = "past-limit-broken", "An account would have broken its limit on past days"


class NothingToMove(Unprocessable):
    """A balancing transfer moves as much as possible, up to its amount. Here that is nothing: `account` has no money, or no room."""

    slug, title = "nothing-to-move", "Nothing to move"


class ExchangeWorthless(InvalidRequest):
    """With this rate and rounding the exchange would buy nothing, or more than 2^63 - 1 minor units. Sell more, or less."""

    slug, title = "exchange-worthless", "The exchange would buy less than one minor unit, or more than an amount can be"


class TransactionNotFound(NotFound):
    """The book has no transaction with this id. A transaction is looked up in one book only: name the book."""

    slug, title = "transaction-not-found", "Transaction not found"


class CategoryNotFound(NotFound):
    """The book has no category `category`. Make it first."""

    slug, title = "category-not-found", "Category not found"


class CategoryInUse(Conflict):
    """The category is a member of the categories in `by`. Remove it from them first."""

    slug, title = "category-in-use", "The category is a member of others"


class CategoryCycle(Conflict):
    """Through its member categories the category would be a member of itself. Leave one of them out."""

    slug, title = "category-cycle", "The category would be a member of itself"


class ImportNotFound(NotFound):
    """The tenant has no import with this id on this shard. For a book on another shard, send the header `Tallystick-Shard`."""

    slug, title = "import-not-found", "Import not found"


class ImportNotOpen(Conflict):
    """Lines can be added only until the import is started; `state` is its state now. Announce a new import."""

    slug, title = "import-not-open", "The import is closed"


class ImportIncomplete(Conflict):
    """The import was announced with `rows` lines, and `staged` have arrived. Send the others, then start it."""

    slug, title = "import-incomplete", "The import is incomplete"


class ImportTooLarge(Unprocessable):
    """At most `most` records can be imported all or nothing, or in a trial run. Import more of them in parts."""

    slug, title = "import-too-large", "The import is too large for one transaction"


class ExportOutdated(Conflict):
    """An export shows one state of the book, whose accounts or settings have changed since it began. Begin again."""

    slug, title = "export-outdated", "The book's accounts or settings have changed since the export began"


class CeilingExceeded(Unprocessable):
    """The transfer would bring `required` into `account`, which has room for `available` below its ceiling. Send less, or raise the
    ceiling.
    """

    slug, title = "ceiling-exceeded", "The account's balance would pass its ceiling"


class InsufficientFunds(Unprocessable):
    """The transfer needs `required`, and `account` has only `available` above its floor. The refusal is final for this id and this
    idempotency key: use new ones for another attempt.
    """

    slug, title = "insufficient-funds", "The account's available balance would fall below its floor"


class TransferOfAPayment(Conflict):
    """A payment made this transfer, so it can be changed through the payment only: by `POST /v1/payments/{id}/capture` or
    `POST /v1/payments/{id}/cancel`, or by `POST /v1/refunds`.
    """

    slug, title = "transfer-of-a-payment", "The transfer is a payment's: capture, cancel or refund the payment"


class TransferRefused(Unprocessable):
    """The ledger refused the transfer for the given `reason`; `account` is the account at fault, if there is one. In a request with many
    transfers each refused one has its own reason. In a request about one transfer most reasons have a problem type of their own.
    """

    slug, title = "transfer-refused", "The ledger refused the transfer"


class TransferExists(Conflict):
    """A transfer with this id exists and differs; `reason` names the first difference, such as `exists_with_different_amount`. Or a
    transfer with this id was refused before (`id_already_failed`). Use a new id for another transfer.
    """

    slug, title = "transfer-exists", "A transfer with this id exists and is not the same"


class InvalidUnit(InvalidRequest):
    """A transfer lacks a field that its kind needs, or has one too many: a post or a hold has two accounts and an amount, a capture has a
    `target`, and so on. The detail says which.
    """

    slug, title = "invalid-unit", "The transfer lacks fields that its kind needs"


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
