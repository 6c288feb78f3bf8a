"""Where the engine meets a store: `stargraph.runtime.dispatch` is the one way to read and write runs."""
