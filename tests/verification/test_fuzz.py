"""The corpus, and what Hypothesis makes up, through all targets; and whether the targets would notice a defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core import parts
from colocache.core.host import logs
from colocache.core.hosts.gateway import Gateway
from colocache.runtime import frames as host_frames
from colocache.values import msgpack_codec
from verification.fuzz.fuzz import CORPUS
from verification.fuzz.targets import TARGETS

TRIES = {"gateway": 100, "region": 40, "shelf": 200}  # else 400; a story of a gateway takes some ten milliseconds


def inputs_of(target: str) -> list[Path]:
    return sorted(CORPUS.joinpath(target).iterdir())


def test_there_is_a_corpus_for_every_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(inputs_of(target) for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_of_the_corpus_fails(target: str) -> None:
    for path in inputs_of(target):
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            error.add_note(f"replay: python -m verification.fuzz.fuzz --replay {path}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_is_made_up_fails(target: str) -> None:
    @settings(max_examples=TRIES.get(target, 400), deadline=None, print_blob=True)
    @given(st.binary(max_size=300))
    def does_not_fail(data: bytes) -> None:
        TARGETS[target](data)

    does_not_fail()


# --- Defects that are put in, one at a time. An input named after each is in the corpus; fuzzing found it.


def take_numbers_for_leases(patch: pytest.MonkeyPatch) -> None:
    """Believe a pong that is for a ping of later than now."""
    patch.setattr(Gateway, "_is_for_this_ping", lambda self, message, now: True)


DEFECTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], Any]]] = {
    "pong-from-the-future": ("gateway", take_numbers_for_leases),
    "limit-that-no-log-has": ("shelf", lambda patch: patch.setattr(logs, "_is_limit", lambda limit, size: True)),
    "ring-that-stays-garbage": ("shelf", lambda patch: patch.setattr(logs.Logs, "reset", lambda self, ring: None)),
    "hashes-without-end": ("bus", lambda patch: patch.setattr(host_frames, "LARGEST", 1 << 20)),
    "lists-that-lie": ("values", lambda patch: patch.setattr(msgpack_codec, "refuse_lies", lambda payload: None)),
    "error-that-repeats-everything": ("values", lambda patch: patch.setattr(msgpack_codec, "_shortened", str)),
    "parts-of-keys-that-run-together": ("keys", lambda patch: patch.setattr(parts, "_sized", lambda part: part)),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_corpus_shows_a_defect(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, put_in = DEFECTS[defect]
    inputs = [path.read_bytes() for path in (CORPUS / target / defect, *inputs_of(target))]
    put_in(monkeypatch)
    assert any(fails(target, data) for data in inputs), "fuzz, with the defect put in, and keep an input that shows it"


def fails(target: str, data: bytes) -> bool:
    try:
        TARGETS[target](data)
    except (AssertionError, ValueError, logs.Garbage):
        return True
    return False
