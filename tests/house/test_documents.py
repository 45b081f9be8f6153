"""What the documents say about the code is true."""

import re
from pathlib import Path

from portal.settings import PREFIX, Settings
from tests.house import data_model

ROOT = Path(__file__).parents[2]


def test_the_data_model_is_what_the_tables_say() -> None:
    assert data_model.DOCUMENT.read_text() == data_model.render(), "run `python -m tests.house.data_model`"


def test_every_setting_is_in_the_readme_and_no_other() -> None:
    named = set(re.findall(rf"^\| `({PREFIX}[A-Z0-9_]+)`", (ROOT / "README.md").read_text(), re.M))
    assert named == {PREFIX + name.upper() for name in Settings.model_fields}


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        prose = re.sub(r"`[^`]*`", "", document.read_text())
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", prose):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
