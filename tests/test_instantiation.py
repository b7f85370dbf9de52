"""The object that a dotted name stands for, and what is said where there is none."""

import pytest

from compressor.errors import UsageError
from compressor.instantiation import imported


@pytest.mark.parametrize(
    "text, reason",
    [
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", "not a package|no attribute"),
    ],
)
def test_why_a_name_cannot_be_imported_is_said(tmp_path, monkeypatch, text, reason):
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=reason) as caught:
        imported(f"{name}.Net")
    assert "\n" not in str(caught.value)
