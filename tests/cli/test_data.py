"""`sfl data`: what it shows in a table, and what --json has beyond that."""

import json
from pathlib import Path

from PIL import Image

from sfl.cli.data import NAMED
from tests.conftest import call_sfl as sfl


def test_of_many_names_the_table_has_the_first_and_json_all(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for split, count in (("train", NAMED + 1), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("L", (2, 1), label)
                picture.putpixel((0, 0), number + 9)
                picture.save(root / split / name / f"{number:02}.png")
    broken = [root / "train" / "cat" / f"broken-{number:02}.png" for number in range(NAMED + 1)]
    for path in broken:
        path.touch()
    settings = ["--set", "data.source=folder", "--set", f"data.root={root}"]
    refused = sfl("data", *settings)
    assert refused.returncode == 3 and f"{len(broken)} images can't be read" in refused.stderr
    settings += ["--set", "data.skip_broken=true"]
    told = json.loads(sfl("data", *settings, "--json").stdout)
    assert list(told["skipped"]) == [path.relative_to(root).as_posix() for path in broken]
    assert told["same_pictures"] == [
        [f"{split}/{name}/00.png" for split in ("train", "test")] for name in ("cat", "dog")
    ]
    shown = " ".join(sfl("data", *settings).stdout.split())
    assert f"broken-{NAMED - 1:02}.png" in shown and f"broken-{NAMED:02}.png" not in shown
    assert f"… {len(broken)} in all" in shown and "of one colour none" in shown
    assert "cat 11 1 dog 11 1" in shown
    assert "2 pictures are in both train and test, such as train/cat/00.png = test/cat" in shown


def test_a_subset_is_counted_for_each_class(tiny: Path) -> None:
    done = sfl("data", "--config", tiny, "--set", "data.train_images=25", "--json")
    told = json.loads(done.stdout)
    assert (told["train_images"], told["trained_on"]) == (64, 25)
    counts = [each["trained_on"] for each in told["per_class"].values()]
    assert sum(counts) == 25 and max(counts) - min(counts) <= 1
    assert "trained_on" not in json.loads(sfl("data", "--config", tiny, "--json").stdout)
    shown = sfl("show", tiny, "--set", "data.train_images=25").stdout
    assert "trained on 25 of its training images" in shown and "label, pure: " in shown
