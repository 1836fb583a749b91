"""The options of `vqr1 plan` that are numbers."""

from __future__ import annotations

import pytest

from vqr1.cli.plan import parser


@pytest.mark.parametrize(
    ("option", "wrong", "rule"),
    [
        (
            "--compute-share",
            ("-1", "0", "1.5", "nan", "half"),
            "must be a share above 0, at most 1",
        ),
        ("--decode-share", ("0", "inf"), "must be a share above 0, at most 1"),
        ("--price", ("-2", "0", "inf", "x"), "must be a number above 0"),
        ("--images", ("0", "-3", "1.5"), "is no whole number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(
    option: str, wrong: tuple[str, ...], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in wrong:
        with pytest.raises(SystemExit) as end:
            parser().parse_args([f"{option}={text}"])
        assert end.value.code == 2
        assert f"argument {option}: {text!r}" in (printed := capsys.readouterr().err)
        assert rule in printed
    assert parser().parse_args(["--compute-share=1", "--price=2.5", "--images=3"]).images == 3
