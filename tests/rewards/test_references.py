import cv2
import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.rewards.references import read_references, references_key


def level(index):
    """A picture that is redder, and brighter, the later it is."""
    rgb = np.full((48, 64, 3), 10 + 2 * index, np.uint8)
    rgb[..., 0] += 20
    return rgb


def write_picture(path, index):
    cv2.imwrite(str(path), cv2.cvtColor(level(index), cv2.COLOR_RGB2BGR))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "front.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for index in range(100):
        writer.write(cv2.cvtColor(level(index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_demonstration_is_thinned_and_keeps_both_ends(video):
    demo = read_references({"demo/front": str(video)}, most_frames=5)["demo/front"]
    assert demo.shape == (5, 48, 64, 3)
    assert demo.dtype == np.uint8
    assert not demo.flags.writeable
    wanted = [level(index).mean() for index in (0, 25, 50, 74, 99)]
    assert demo.mean(axis=(1, 2, 3)) == pytest.approx(wanted, abs=2.0)
    assert (demo[..., 0].mean() - demo[..., 2].mean()) == pytest.approx(20, abs=2.0)


def test_a_short_demonstration_is_kept_whole(tmp_path):
    for index in range(3):
        write_picture(tmp_path / f"{index}.png", index)
    (tmp_path / "notes.txt").write_text("not a picture")
    demo = read_references({"demo/front": str(tmp_path)})["demo/front"]
    np.testing.assert_array_equal(demo, [level(index) for index in range(3)])


def test_a_goal_is_a_picture_or_the_end_of_a_video(video, tmp_path):
    write_picture(tmp_path / "goal.png", 7)
    goal = read_references({"goal/front": str(tmp_path / "goal.png"), "goal/wrist": str(video)})
    np.testing.assert_array_equal(goal["goal/front"], level(7))
    assert goal["goal/wrist"].mean() == pytest.approx(level(99).mean(), abs=2.0)


def test_a_key_knows_every_picture(video, tmp_path):
    write_picture(tmp_path / "goal.png", 7)
    files = {"goal/front": str(tmp_path / "goal.png"), "demo/front": str(video)}
    one = references_key(read_references(files))
    assert one == references_key(read_references(dict(reversed(files.items()))))
    write_picture(tmp_path / "goal.png", 8)
    assert references_key(read_references(files)).keys() == one.keys()
    assert references_key(read_references(files))["goal/front"] != one["goal/front"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("goal", "goal.png"),
        ("start/front", "goal.png"),
        ("goal/", "goal.png"),
        ("goal/front", "missing.png"),
        ("goal/front", "torn.png"),
        ("demo/front", "missing.mp4"),
        ("demo/front", "torn.mp4"),
        ("demo/front", "empty"),
        ("demo/front", "sizes"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, file):
    write_picture(tmp_path / "goal.png", 7)
    for torn in ("torn.png", "torn.mp4"):
        (tmp_path / torn).write_bytes(b"\x00" * 64)
    for folder in ("empty", "sizes"):
        (tmp_path / folder).mkdir()
    write_picture(tmp_path / "sizes" / "0.png", 0)
    cv2.imwrite(str(tmp_path / "sizes" / "1.png"), level(1)[:20])
    with pytest.raises(ConfigError):
        read_references({name: str(tmp_path / file)})
