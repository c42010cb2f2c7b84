"""The configuration reference: each field of a recipe has one line of help."""

from charladder.recipe import field_help, field_types


def test_each_field_has_one_line_of_help():
    lines = field_help()
    assert list(lines) == list(field_types())
    for name, line in lines.items():
        assert line and len(line) <= 100 and "\n" not in line, (name, line, len(line))


def test_help_is_the_first_sentence_of_the_entry_in_the_docstring():
    assert field_help()["training.batch"] == "Windows of a step"
    assert field_help()["text.unknown"] == (
        "Characters outside the alphabet: raise an `error`, `replace` them by U+FFFD, or `drop` them"
    )
