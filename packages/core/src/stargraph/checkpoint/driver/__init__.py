"""What every driver needs: the append rules, checks of arguments, the errors of the contract, and the summary row."""

from stargraph.checkpoint.driver._capabilities import Encrypting, ReadOnly
from stargraph.checkpoint.driver._rules import (
    Tail,
    check_batch,
    check_instant,
    check_limit,
    check_listing,
    closed_error,
    judge_append,
    needed_steps,
    not_bootstrapped_error,
    read_only_error,
    run_deleted_error,
)
from stargraph.checkpoint.driver._search import (
    RunCursor,
    RunMatcher,
    RunQuery,
    check_filters,
    check_search,
    in_order,
)
from stargraph.checkpoint.driver._summary_rows import summaries_from_json, summary_json

__all__ = [
    "Encrypting",
    "ReadOnly",
    "RunCursor",
    "RunMatcher",
    "RunQuery",
    "Tail",
    "check_batch",
    "check_filters",
    "check_instant",
    "check_limit",
    "check_listing",
    "check_search",
    "closed_error",
    "in_order",
    "judge_append",
    "needed_steps",
    "not_bootstrapped_error",
    "read_only_error",
    "run_deleted_error",
    "summaries_from_json",
    "summary_json",
]
