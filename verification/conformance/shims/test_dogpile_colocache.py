"""dogpile.cache's tests for backends, which come with it as `dogpile.testing`."""

from __future__ import annotations

from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

ARGUMENTS = {"arguments": {"group": "dogpile", "fetch_timeout": 20}}


class TestBackend(_GenericBackendTestSuite):
    backend = "colocache"
    config_args = ARGUMENTS


class TestMutex(_GenericMutexTestSuite):
    backend = "colocache"
    config_args = ARGUMENTS


class TestSerializer(_GenericSerializerTestSuite, _GenericBackendTestSuite):
    backend = "colocache"
    config_args = ARGUMENTS
