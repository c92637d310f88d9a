"""The pages of the reference that a script writes from the tables in the code."""

from __future__ import annotations

import pytest

from scripts import write_reference


def test_every_page_is_up_to_date() -> None:
    assert write_reference.outdated() == [], "run scripts/write_reference.py"


def test_every_table_is_on_one_page() -> None:
    text = "".join(page.read_text("utf-8") for page in write_reference.pages())
    assert {name: text.count(f"<!-- begin {name} -->") for name in write_reference.PARTS} == dict.fromkeys(
        write_reference.PARTS, 1
    )


@pytest.mark.parametrize("name", write_reference.PARTS)
def test_a_part_is_written_anew_and_the_rest_of_the_page_is_kept(name: str) -> None:
    begin, end = f"Before.\n\n<!-- begin {name} -->\n", f"<!-- end {name} -->\n\nAfter.\n"
    written = write_reference.up_to_date(f"{begin}| old |\n{end}")
    assert written.startswith(begin)
    assert written.endswith(end)
    assert "| old |" not in written
    assert write_reference.up_to_date(written) == written
