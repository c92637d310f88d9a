"""The content of the pages, read from the database. This is the slow part. It does not use the cache.

Every page carries its ``version``: the number of annotations that it was computed from. It only grows.
"""

from __future__ import annotations

from database import Database, Row

# Words in a tenth of all names (CJK, UNIFIED, IDEOGRAPH) say nothing about kinship.
TELLING_WORD_USES = 14_000

KIN = """
SELECT character.cp, character.name, count(*) AS shared, sum(1.0 / word.uses) AS weight
FROM name_word AS mine
JOIN word ON word.id = mine.word AND word.uses <= ?
JOIN name_word AS theirs ON theirs.word = mine.word AND theirs.cp != mine.cp
JOIN character ON character.cp = theirs.cp
WHERE mine.cp = ? GROUP BY theirs.cp ORDER BY weight DESC, theirs.cp LIMIT 10
"""
WHOLES = """
SELECT character.cp, character.char, character.name FROM part JOIN character ON character.cp = part.whole
WHERE part.part = ? ORDER BY character.cp LIMIT 20
"""
PARTS = """
SELECT character.cp, character.char, character.name FROM part JOIN character ON character.cp = part.part
WHERE part.whole = ? ORDER BY character.cp
"""
NEIGHBOURS = "SELECT cp, name FROM character WHERE cp BETWEEN ? AND ? ORDER BY cp"
LAST_ANNOTATIONS = "SELECT version, text FROM annotation WHERE cp = ? ORDER BY version DESC LIMIT 3"
RUN = """
SELECT run.first, run.last, run.label, count(*) AS size, sum(character.category = ?) AS of_this_category
FROM run JOIN character ON character.run = run.id WHERE run.id = ?
"""
DIRECTIONS = """
SELECT bidirectional, count(*) AS characters FROM character WHERE category = ?
GROUP BY bidirectional ORDER BY characters DESC
"""
CATEGORY_RUNS = """
SELECT run.first, run.last, run.label, count(*) AS characters FROM character JOIN run ON run.id = character.run
WHERE character.category = ? GROUP BY run.id ORDER BY characters DESC, run.id LIMIT 10
"""
COMPANIONS = """
SELECT other.word, count(*) AS together
FROM word JOIN name_word AS here ON here.word = word.id
JOIN name_word AS there ON there.cp = here.cp AND there.word != here.word
JOIN word AS other ON other.id = there.word
WHERE word.word = ? GROUP BY other.id ORDER BY together DESC, other.word LIMIT 10
"""
WORD_CATEGORIES = """
SELECT character.category, count(*) AS characters FROM word JOIN name_word ON name_word.word = word.id
JOIN character ON character.cp = name_word.cp WHERE word.word = ? GROUP BY character.category ORDER BY characters DESC
"""

# Each annotation is looked up, because they are few. Otherwise a version would cost as much as the page.
ANNOTATED = """
SELECT cp, count(*) AS annotations FROM annotation
WHERE (SELECT category FROM character WHERE character.cp = annotation.cp) = ?
GROUP BY cp ORDER BY annotations DESC, cp LIMIT 10
"""
CHARACTER_VERSION = "SELECT count(*) FROM annotation WHERE cp = ?"
CATEGORY_VERSION = """
SELECT count(*) FROM annotation WHERE (SELECT category FROM character WHERE character.cp = annotation.cp) = ?
"""
WORD_VERSION = """
SELECT count(*) FROM annotation
WHERE (SELECT id FROM word WHERE word = ?) IN (SELECT word FROM name_word WHERE cp = annotation.cp)
"""

ANNOTATE = """
INSERT INTO annotation SELECT ?, 1 + count(*), ?, ? FROM annotation WHERE cp = ? ON CONFLICT (request) DO NOTHING
"""
WORDS = "SELECT word.word FROM name_word JOIN word ON word.id = name_word.word WHERE name_word.cp = ?"


def character(database: Database, cp: int) -> Row | None:
    """Return a character with its kin, parts, wholes and annotations. Return None if it is not assigned."""
    with database.snapshot() as db:
        page = db.one("SELECT * FROM character WHERE cp = ?", cp)
        if page is None:
            return None
        return page | {
            "version": db.value(CHARACTER_VERSION, cp),
            "annotations": db.all(LAST_ANNOTATIONS, cp),
            "run": db.one(RUN, page["category"], page["run"]),
            "kin": db.all(KIN, TELLING_WORD_USES, cp),
            "parts": db.all(PARTS, cp),
            "wholes": db.all(WHOLES, cp),
            "neighbours": db.all(NEIGHBOURS, cp - 5, cp + 5),
            "loaded_by": db.loaded_by(),
        }


def category(database: Database, name: str) -> Row | None:
    """Return a category with its number of characters, directions and runs. Return None for an unknown category."""
    with database.snapshot() as db:
        directions = db.all(DIRECTIONS, name)
        if not directions:
            return None
        return {
            "category": name,
            "version": db.value(CATEGORY_VERSION, name),
            "characters": sum(row["characters"] for row in directions),
            "directions": directions,
            "runs": db.all(CATEGORY_RUNS, name),
            "annotated": db.all(ANNOTATED, name),
            "loaded_by": db.loaded_by(),
        }


def word(database: Database, text: str) -> Row | None:
    """Return a word with its number of names, categories and companions. Return None if no name has it."""
    with database.snapshot() as db:
        page = db.one("SELECT word, uses FROM word WHERE word = ?", text)
        if page is None:
            return None
        return page | {
            "version": db.value(WORD_VERSION, text),
            "categories": db.all(WORD_CATEGORIES, text),
            "companions": db.all(COMPANIONS, text),
            "loaded_by": db.loaded_by(),
        }


def annotate(database: Database, cp: int, text: str, request: str) -> Row | None:
    """Commit an annotation, unless this request has done so. Return None if the character is not assigned.

    Returns the character's new version, its category, the words of its name, and the version that each page which
    shows the annotation has from now on.
    """
    with database.writing() as connection:
        found = database.one("SELECT category FROM character WHERE cp = ?", cp)
        if found is None:
            return None
        connection.execute(ANNOTATE, (cp, text, request, cp))
        category, words = found["category"], [row["word"] for row in database.all(WORDS, cp)]
        version = database.value(CHARACTER_VERSION, cp)
        versions = {
            f"/char/{cp:04X}": version,
            f"/category/{category}": database.value(CATEGORY_VERSION, category),
            **{f"/word/{word}": database.value(WORD_VERSION, word) for word in words},
        }
        return {"version": version, "category": category, "words": words, "versions": versions}
