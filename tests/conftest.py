"""What every test shares."""

from hypothesis import HealthCheck, settings

# A busy machine must not fail a test. Examples are found anew in each run, and a failure prints its blob.
settings.register_profile("stargraph", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stargraph")
