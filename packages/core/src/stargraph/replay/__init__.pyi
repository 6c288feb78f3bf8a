from stargraph.replay._diff import Change, Diff, diff_states, diff_values

__all__ = ["Change", "Diff", "diff_states", "diff_values"]
