"""By which credentials this node acts for users on other nodes.  Pure, and kept in memory only.

A user's factotum lends the node one at login, until logout; a node that acts for a user here lends
one on, so that what the user runs here can act there (delegation.py).  Nothing of it is written
anywhere: a node that was started anew acts for nobody until somebody logs in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST = 4096  # users
HERE = ""  # in place of a node's name: lent by a factotum on this machine


@dataclass(frozen=True, slots=True)
class Loan:
    """until: seconds since 1970."""

    credential: bytes = field(repr=False)
    until: float


class Lent:
    """Of each user one by each lender: the last."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, Loan]] = {}

    def keep(self, user: str, lender: str, credential: bytes, until: float) -> None:
        """lender: the node that lent it, or HERE."""
        loans = self._of.pop(user, {})
        loans.pop(lender, None)
        loans[lender] = Loan(credential, until)
        while len(loans) > MOST:
            del loans[next(iter(loans))]
        self._of[user] = loans
        while len(self._of) > MOST:
            del self._of[next(iter(self._of))]

    def drop(self, user: str, lender: str = HERE) -> None:
        """It is called back."""
        loans = self._of.get(user, {})
        loans.pop(lender, None)
        if not loans:
            self._of.pop(user, None)

    def of(self, user: str, now: float) -> Loan | None:
        """The one to act by: the user's own, else what holds longest; None where none holds."""
        loans = self._of.get(user)
        if loans is None:
            return None
        for lender in [name for name, loan in loans.items() if now >= loan.until]:
            self.drop(user, lender)
        own = loans.get(HERE)
        return own or max(loans.values(), key=lambda loan: loan.until, default=None)
