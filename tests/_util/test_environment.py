"""Facts as text, and what is left out of it: nothing says whose machine or whose images they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_mlbseg._util.environment import as_text, shortened, told, without_names, without_paths


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))


def test_paths_do_not_say_whose_they_are():
    assert shortened(Path("/home/somebody/data/heart.mlbseg")) == "~/data/heart.mlbseg"
    assert shortened(Path("/mnt/share/somebody/data/heart.mlbseg")) == "…/data/heart.mlbseg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("worker at /home/somebody/x/job started", "worker at ~/x/job started"),
        ("No file /mnt/share/somebody/data/a.nii: give one", "No file …/data/a.nii: give one"),
        ('  File "/mnt/some body/lib/napari/x.py", line 3', '  File "…/napari/x.py", line 3'),
        (r"No file 'D:\some body\scans\a.nii'.", "No file '…/scans/a.nii'."),
        (r"D:\somebody\scans\a.nii is damaged", "…/scans/a.nii is damaged"),
        ("changed: cluster tls://node7.lab.example:8786, steps 3", "changed: cluster tls://…, steps 3"),
        ("3/4 of n/a and and/or", "3/4 of n/a and and/or"),
        ("~/data/x and …/data/x", "~/data/x and …/data/x"),
    ],
)
def test_text_is_told_without_paths_and_addresses(text, expected):
    assert without_paths(text) == expected


def test_a_known_path_may_hold_blanks():
    known = Path("/mnt/some body/my heart.mlbseg")
    assert (
        without_paths(f"in {known}/rounds/001 and so on", known)
        == "in …/some body/my heart.mlbseg/rounds/001 and so on"
    )


def test_images_are_numbered():
    text = "volume 'Doe': 3, volume 'Doe 2': 4, …/Doe.nii, Doela"
    assert without_names(text, ["Doe", "Doe 2"]) == "volume 'volume 1': 3, volume 'volume 2': 4, …/volume 1.nii, Doela"


def test_what_cannot_be_told_says_why():
    def broken() -> None:
        raise OSError("cannot open /mnt/share/somebody/a/b")

    assert told(broken) == "not known (OSError: cannot open …/a/b)"


def test_facts_are_lines_to_paste():
    facts = {"a": {"b": 1, "c": ["x", "y"]}, "d": {}, "shape": [1, 2]}
    assert as_text(facts) == "a:\n  b: 1\n  c:\n    x\n    y\nd: none\nshape: [1, 2]"
