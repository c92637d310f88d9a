"""Settings for Django's own tests: colocache as the default cache, and a runner that writes a report."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner

BACKEND = "colocache.django.ColocacheCache"
OPTIONS = {"codec": os.environ["CONFORMANCE_CODEC"], "private": False}  # the runner would have it private

CACHES = {"default": {"BACKEND": BACKEND, "LOCATION": "default", "OPTIONS": OPTIONS}}
DATABASES = {name: {"ENGINE": "django.db.backends.sqlite3"} for name in ("default", "other")}
SECRET_KEY = "of the tests, and of more than 32 bytes"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_settings.Runner"


class Runner(DiscoverRunner):  # type: ignore[misc]  # Django has no types
    """Runs the tests as Django does, and reports them."""

    def get_resultclass(self) -> Any:
        """Return the class of the results."""
        return Result


class Result(unittest.TextTestResult):
    """Writes one line of JSON for each test: its id, and what became of it."""

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self._note(test, "passed")

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._note(test, "failed")

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._note(test, "failed")

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failed")

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skipped")

    def _note(self, test: Any, outcome: str) -> None:
        with Path(os.environ["CONFORMANCE_REPORT"]).open("a", encoding="utf-8") as report:
            report.write(json.dumps([test.id(), outcome]) + "\n")
