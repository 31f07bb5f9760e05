"""Every example that draws has its picture in the gallery, and no picture is of anything else."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DRAWN = {f.stem for f in (ROOT / "examples").glob("*.py") if "--out" in f.read_text()}


def test_pictures_are_those_of_the_examples():
    pictures = {f.stem: f.read_bytes() for f in (ROOT / "docs" / "gallery").glob("*.png")}
    assert pictures.keys() == DRAWN
    for name, content in pictures.items():
        assert content.startswith(b"\x89PNG"), name
        assert len(content) < 300_000, name


def test_the_gallery_shows_and_names_each():
    text = (ROOT / "docs" / "gallery.md").read_text()
    for name in DRAWN:
        assert text.count(f"(gallery/{name}.png)") == 1, name
        assert f"examples/{name}.py" in text, name
