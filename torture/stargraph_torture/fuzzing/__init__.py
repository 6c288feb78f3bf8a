"""Where bytes from outside come in, for fuzzers: by properties in the tests, by coverage in `make torture`."""
