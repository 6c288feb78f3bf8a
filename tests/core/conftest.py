from support.driver_fixtures import *  # noqa: F403
