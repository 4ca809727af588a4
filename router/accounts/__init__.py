"""What is kept of an experiment: sums that can be merged and one table by unit, never history."""

from router.accounts.account import Account
from router.accounts.arms import GUARDS, ArmsAccount, Stage
from router.accounts.duels import DuelAccount
from router.accounts.paired import PairedAccount
from router.accounts.scores import loss_of

__all__ = ["GUARDS", "Account", "ArmsAccount", "DuelAccount", "PairedAccount", "Stage", "loss_of"]
