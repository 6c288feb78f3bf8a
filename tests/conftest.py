"""What every test shares."""

from hypothesis import settings

# No deadline: a busy machine must not fail a test. Examples are found anew in each run, and a failure prints its blob.
settings.register_profile("stargraph", deadline=None, print_blob=True)
settings.load_profile("stargraph")
