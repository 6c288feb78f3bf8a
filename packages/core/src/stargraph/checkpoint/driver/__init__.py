"""What every driver needs, written once.

The rules of an append (`judge_append`), checks of arguments and the errors of the contract, the lifecycle of a handle,
searches (`check_search`), the summary row, group commit, retries, and the capabilities beside those of the contract.
docs/write-a-driver.md shows how they fit together.
"""

from stargraph.checkpoint.driver._append_rules import (
    Tail,
    check_batch,
    check_pruned_start,
    judge_append,
    judge_pruned_start,
    needed_steps,
)
from stargraph.checkpoint.driver._arguments import (
    MAX_STEP,
    PrunePlan,
    PruneRule,
    StepBounds,
    check_bounds,
    check_instant,
    check_limit,
    check_listing,
    check_prune,
    check_step,
    microseconds,
)
from stargraph.checkpoint.driver._capabilities import Diagnosing, Encrypting, ReadOnly, RecordBases, SelfTest
from stargraph.checkpoint.driver._concurrency import Requests, await_answer
from stargraph.checkpoint.driver._errors import (
    closed_error,
    forked_error,
    missing_step_error,
    no_store_error,
    not_bootstrapped_error,
    read_only_error,
    run_deleted_error,
)
from stargraph.checkpoint.driver._group_commit import GroupCommit
from stargraph.checkpoint.driver._lifecycle import Lifecycle
from stargraph.checkpoint.driver._retry import RetryPolicy
from stargraph.checkpoint.driver._search import (
    ReadRuns,
    RunCursor,
    RunMatcher,
    RunQuery,
    check_filters,
    check_search,
    in_order,
    scan_runs,
)
from stargraph.checkpoint.driver._summary_rows import summaries_from_json, summary_json

__all__ = [
    "MAX_STEP",
    "Diagnosing",
    "Encrypting",
    "GroupCommit",
    "Lifecycle",
    "PrunePlan",
    "PruneRule",
    "ReadOnly",
    "ReadRuns",
    "RecordBases",
    "Requests",
    "RetryPolicy",
    "RunCursor",
    "RunMatcher",
    "RunQuery",
    "SelfTest",
    "StepBounds",
    "Tail",
    "await_answer",
    "check_batch",
    "check_bounds",
    "check_filters",
    "check_instant",
    "check_limit",
    "check_listing",
    "check_prune",
    "check_pruned_start",
    "check_search",
    "check_step",
    "closed_error",
    "forked_error",
    "in_order",
    "judge_append",
    "judge_pruned_start",
    "microseconds",
    "missing_step_error",
    "needed_steps",
    "no_store_error",
    "not_bootstrapped_error",
    "read_only_error",
    "run_deleted_error",
    "scan_runs",
    "summaries_from_json",
    "summary_json",
]
