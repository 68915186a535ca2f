"""Which files a command line names, and where drawn copies go."""

from pathlib import Path

import pytest
from PIL import Image

from calibox_client.picture_files import PictureFile, find_pictures, plan_copies, save_whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures beside other files, and a subfolder."""
    for name in ("b.png", "a.JPG", "c.tiff", "notes.txt", "deep/d.webp", "deep/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(arguments: list[str]) -> list[str]:
    return [str(picture.name) for picture in find_pictures(arguments)[0]]


def test_a_folder_gives_the_images_directly_in_it(folder: Path) -> None:
    assert names([str(folder)]) == ["a.JPG", "b.png", "c.tiff"]


def test_patterns_reach_into_subfolders(folder: Path) -> None:
    assert names([f"{folder}/**/*.jpg"]) == ["a.jpg"]
    assert names([f"{folder}/?.png"]) == ["b.png"]


def test_a_file_is_taken_whatever_its_name(folder: Path) -> None:
    assert names([str(folder / "notes.txt")]) == ["notes.txt"]


def test_each_file_is_taken_once(folder: Path) -> None:
    assert names([str(folder / "b.png"), str(folder), f"{folder}/*.png"]) == ["b.png", "a.JPG", "c.tiff"]


def test_what_names_no_image_is_told_and_the_others_stay(folder: Path) -> None:
    pictures, unknown = find_pictures([str(folder / "absent.png"), str(folder / "b.png"), f"{folder}/*.gif"])
    assert [picture.name.name for picture in pictures] == ["b.png"]
    assert len(unknown) == 2
    assert unknown[0].startswith(f"{folder / 'absent.png'} names no image")


def test_copies_keep_jpeg_and_png_and_others_become_png(folder: Path) -> None:
    pictures, _ = find_pictures([str(folder)])
    plan = plan_copies(pictures, folder / "out")
    assert [target.name for target in plan.values()] == ["a.JPG", "b.png", "c.png"]


def test_no_copy_overwrites_a_source(folder: Path) -> None:
    pictures, _ = find_pictures([str(folder)])
    with pytest.raises(ValueError, match=r"would overwrite the image .*a\.JPG"):
        plan_copies(pictures, folder)


def test_two_pictures_of_one_name_are_not_saved_over_each_other(folder: Path) -> None:
    pictures = [PictureFile(folder / "a.jpg", Path("a.jpg")), PictureFile(folder / "deep" / "a.jpg", Path("a.jpg"))]
    with pytest.raises(ValueError, match="would both be saved as"):
        plan_copies(pictures, folder / "out")


def test_pictures_are_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "a.jpg"
    save_whole(Image.new("RGB", (8, 8)), target)
    with Image.open(target) as saved:
        assert (saved.format, saved.size) == ("JPEG", (8, 8))
    before = target.read_bytes()

    def fail(*_: object, **__: object) -> None:
        Path(str(_[1])).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_whole(Image.new("RGB", (9, 9)), target)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["a.jpg"]
