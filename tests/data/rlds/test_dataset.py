"""A dataset of TFDS is read as it lies on disk: its versions, splits and files, in the older and the newer form."""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from roborl.data.rlds.dataset import RldsDataset
from roborl.data.rlds.episode import RldsEpisode
from roborl.data.rlds.features import Leaf, read_features
from roborl.data.rlds.shards import describe_rlds, find_rlds
from roborl.errors import DatasetError
from roborl.testing.rlds import example, rlds_episode, write_rlds

EPISODES = [rlds_episode(seed, steps=2 + seed) for seed in range(5)]


def leaf(**changes: Any) -> Leaf:
    fields = {"kind": "tensor", "shape": (), "dtype": "float32", "encoding": "", "depth": 1, "name": "Tensor"}
    return Leaf(**{**fields, **changes})


@pytest.mark.parametrize("old", [False, True], ids=["newer", "older"])
def test_every_episode_of_every_file_is_read(old: bool, tmp_path: Path) -> None:
    write_rlds(tmp_path / "desk" / "0.1.0", EPISODES[:1])
    write_rlds(tmp_path / "desk" / "0.10.0", EPISODES, shards=2, old=old)
    dataset = RldsDataset(tmp_path / "desk")
    assert (dataset.info.name, dataset.info.version, dataset.split, len(dataset)) == (
        "desk",
        "0.10.0",
        "train",
        5,
    )
    assert [dataset.name(i) for i in range(5)] == [
        *(f"00000-00000{i}" for i in range(3)),
        *(f"00001-00000{i}" for i in range(2)),
    ]
    for place, seed in enumerate([0, 2, 4, 1, 3]):
        given, found = EPISODES[seed]["steps"], dataset.episode(place)
        assert found.count == 3 + seed
        np.testing.assert_array_equal(found.numbers("steps/action"), given["action"])
        np.testing.assert_array_equal(found.numbers("steps/is_last"), given["is_last"])
        assert found.texts("steps/language_instruction") == given["language_instruction"]
        assert found.texts("episode_metadata/file_path") == [f"/data/{seed}.npy"]
        for t, picture in found.pictures("steps/observation/image", [2, 0]).items():
            np.testing.assert_array_equal(picture, given["observation"]["image"][t])
    with pytest.raises(DatasetError, match="no such episode"):
        dataset.episode(5)


def test_files_that_were_not_fetched_are_told_and_the_others_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", EPISODES, shards=3)
    (root / "desk-train.tfrecord-00000-of-00003").unlink()
    dataset = RldsDataset(root)
    assert dataset.name(0) == "00001-000000"
    assert "1 of 3 files of train are not there" in caplog.text
    for path in root.glob("*.tfrecord*"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"None of the dataset's files is there.*00000-of-00003.*Fetch"):
        describe_rlds(root)


def test_a_torn_file_gives_its_whole_episodes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", EPISODES)
    (shard,) = root.glob("*.tfrecord*")
    os.truncate(shard, shard.stat().st_size - 99)
    assert len(RldsDataset(root)) == 4
    assert "4 whole records are read" in caplog.text
    with pytest.raises(DatasetError, match="is torn"):
        RldsDataset(root, strict=True)


def test_a_split_is_named_where_there_are_several(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", EPISODES[:2], split="val")
    assert RldsDataset(root).split == "val"
    with pytest.raises(DatasetError, match=r"no such split.*Found: test\. Allowed: \['val'\]"):
        RldsDataset(root, split="test")
    said = json.loads((root / "dataset_info.json").read_text())
    said["splits"][0]["shardLengths"] = ["3"]
    (root / "dataset_info.json").write_text(json.dumps(said))
    with caplog.at_level(logging.WARNING):
        assert len(RldsDataset(root)) == 2
    assert "has 2 records, where 3 should be" in caplog.text


def test_names_of_files_come_from_the_template_or_from_what_is_there(tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", EPISODES[:2])
    info, (shard,) = root / "dataset_info.json", root.glob("*.tfrecord*")
    said = json.loads(info.read_text())
    shard.rename(root / "part-00000-train.tfrecord")
    said["splits"][0]["filepathTemplate"] = "part-{SHARD_INDEX}-{SPLIT}.{FILEFORMAT}"
    info.write_text(json.dumps(said))
    assert len(RldsDataset(root)) == 2
    (root / "part-00000-train.tfrecord").rename(shard)
    del said["splits"][0]["filepathTemplate"], said["splits"][0]["shardLengths"], said["version"]
    info.write_text(json.dumps(said))
    assert len(RldsDataset(root)) == 2


@pytest.mark.parametrize(
    "template", ["{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "{SPLIT}.{SHARD_INDEX}"]
)
def test_a_file_has_its_number_where_nobody_says_how_many_there_are(template: str, tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", EPISODES[:3], shards=3)
    said = json.loads((root / "dataset_info.json").read_text())
    del said["splits"][0]["shardLengths"]
    said["splits"][0]["filepathTemplate"] = template
    (root / "dataset_info.json").write_text(json.dumps(said))
    if "OF" not in template:
        for number, path in enumerate(sorted(root.glob("*.tfrecord*"))):
            path.rename(root / f"train.{number:05d}")
    names = [f"0000{i}-000000" for i in range(3)]
    assert [RldsDataset(root).name(i) for i in range(3)] == names
    next(path for path in root.iterdir() if "00000" in path.name).unlink()
    dataset = RldsDataset(root)
    assert [dataset.name(i) for i in range(len(dataset))] == names[1:]
    (last,) = (path for path in root.iterdir() if "00002" in path.name)
    (root / f"{last.name}.part").write_bytes(b"half of it")
    assert len(RldsDataset(root)) == 2
    last.rename(root / last.name.replace("00002", "000001"))
    with pytest.raises(DatasetError, match="two files of one number"):
        RldsDataset(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"fileFormat": "array_record"},
            r"another format\. Found: array_record\. Allowed: tfrecord\. Convert",
        ),
        ({"splits": [{"name": "train", "filepathTemplate": "/etc/{SPLIT}"}]}, "outside of the dataset"),
        ({"splits": [{"name": "/../../x", "shardLengths": ["1"]}]}, "outside of the dataset"),
        (
            {"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "{WHAT}"}]},
            "cannot be read",
        ),
        ({"splits": [{}]}, "cannot be read"),
        ({"splits": None}, "cannot be read"),
        ({"splits": []}, "None of the dataset's files"),
    ],
)
def test_what_cannot_be_read_of_a_dataset_is_told(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", EPISODES[:1])
    path = root / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=words):
        describe_rlds(root)


def test_where_there_is_no_dataset_it_is_told(tmp_path: Path) -> None:
    assert find_rlds(tmp_path) is None
    assert find_rlds(tmp_path / "absent") is None
    with pytest.raises(DatasetError, match=r"no RLDS dataset here.*Allowed: .*features\.json.*Fetch"):
        RldsDataset(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pythonClassName": "x.FeaturesDict"}',
        '{"type": "Tensor", "content": {}}',
        "[" * 9999,
    ],
)
def test_features_that_are_none_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(DatasetError, match=r"features of a dataset cannot be read|no dictionary of features"):
        read_features(tmp_path / "features.json")


def test_features_of_other_kinds_are_known_by_name_or_passed_over(tmp_path: Path) -> None:
    tensor = {"shape": {"dimensions": ["-1", "3"]}, "dtype": "bfloat16"}
    inner = {
        "film": {"pythonClassName": "f.Video", "video": {"shape": {"dimensions": ["-1", "4", "5", "3"]}}},
        "box": {"pythonClassName": "f.BBoxFeature", "boundingBox": {}},
        "label": {"pythonClassName": "f.ClassLabel", "classLabel": {"numClasses": "3"}},
        "sound": {"pythonClassName": "f.Audio", "audio": {"shape": {}}},
        "odd": {"pythonClassName": "f.Tensor", "tensor": tensor},
        "words": {
            "pythonClassName": "f.Sequence",
            "sequence": {"feature": {"pythonClassName": "f.Text", "text": {}}},
        },
    }
    text = {"pythonClassName": "f.FeaturesDict", "featuresDict": {"features": inner}}
    (tmp_path / "features.json").write_text(json.dumps(text))
    found = read_features(tmp_path / "features.json")
    assert found["film"] == leaf(kind="image", shape=(4, 5, 3), dtype="uint8", name="Image")
    assert (found["box"].shape, found["label"].dtype, found["words"].depth) == ((4,), "int64", 1)
    assert {name for name, one in found.items() if one.kind == "unknown"} == {"sound", "odd"}
    assert found["odd"].shape == (None, 3)


def test_numbers_are_unpacked_as_they_were_packed() -> None:
    depth = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)
    raw = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)
    features = {
        "steps/is_first": leaf(dtype="bool"),
        "steps/big": leaf(dtype="uint64"),
        "steps/half": leaf(dtype="float64", shape=(None, 2)),
        "steps/depth": leaf(dtype="uint16", shape=(2, 3), encoding="zlib"),
        "steps/raw": leaf(dtype="uint8", shape=(2, 4, 3)),
        "steps/letters": leaf(dtype="int32", shape=(5,)),
        "count": leaf(dtype="int64", depth=0),
        "steps/none": leaf(shape=(0,)),
    }
    values = {
        "steps/is_first": np.array([1, 0]),
        "steps/big": np.array([-1, 5]),
        "steps/half": np.arange(12, dtype=np.float32),
        "steps/depth": [zlib.compress(d.tobytes()) for d in depth],
        "steps/raw": raw.astype(np.int64),
        "steps/letters": np.array([*map(ord, "go on"), *map(ord, "on"), 0, 0, 0]),
        "count": np.array([7]),
        "steps/none": [],
    }
    episode = RldsEpisode(example(values), features, "it")
    assert episode.count == 2
    assert episode.numbers("steps/is_first").tolist() == [True, False]
    assert episode.numbers("steps/big").tolist() == [(1 << 64) - 1, 5]
    assert episode.numbers("steps/half").shape == (2, 3, 2)
    np.testing.assert_array_equal(episode.numbers("steps/depth"), depth)
    np.testing.assert_array_equal(episode.pictures("steps/raw", [1])[1], raw[1])
    assert episode.texts("steps/letters") == ["go on", "on"]
    assert episode.numbers("count") == 7
    assert episode.numbers("steps/none").shape == (2, 0)


JPEG = cv2.imencode(".jpg", np.zeros((4, 5, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("feature", "value", "words"),
    [
        (leaf(shape=(3,)), np.ones(5, np.float32), "5 numbers"),
        (leaf(shape=(None, 2)), np.ones(5, np.float32), "5 numbers"),
        (leaf(dtype="int64"), np.ones(2, np.float32), "float32"),
        (leaf(), np.ones(2, np.int64), "int64"),
        (leaf(), [b"no", b"number"], "bytes"),
        (leaf(depth=2), np.ones(2, np.float32), "sequence within"),
        (leaf(shape=(2,), encoding="zlib"), [zlib.compress(bytes(9999)), b""], "9 bytes or more"),
        (leaf(shape=(2,), encoding="zlib"), [b"none", b""], "zlib: "),
        (leaf(shape=(2,), encoding="bytes"), [bytes(8)], "1 values"),
        (leaf(shape=(None,), encoding="bytes"), [bytes(8)] * 2, "a shape that is known"),
        (leaf(kind="text", dtype="string"), ["one"], "1 texts"),
        (leaf(kind="text", dtype="string"), np.ones(2), "a Tensor"),
        (leaf(kind="unknown"), np.ones(2), "a Tensor"),
        (
            leaf(kind="image", dtype="uint8", shape=(4, 5, 3)),
            [JPEG, b"none"],
            "4 bytes that cannot be decoded",
        ),
        (leaf(kind="image", dtype="uint8", shape=(4, 5, 3)), [JPEG, b""], "0 bytes that cannot be decoded"),
        (leaf(kind="image", dtype="uint8", shape=(5, 5, 3)), [JPEG, JPEG], r"of \(4, 5, 3\)"),
        (leaf(kind="image", dtype="uint8", shape=(4, 5, 3)), [JPEG], "1 pictures"),
        (leaf(kind="image", dtype="uint16", shape=(4, 5, 1)), [JPEG] * 2, "pictures in colour"),
    ],
)
def test_what_is_not_what_the_features_say_is_told(feature: Leaf, value: Any, words: str) -> None:
    features = {"steps/is_first": leaf(dtype="bool"), "steps/x": feature}
    episode = RldsEpisode(
        example({"steps/is_first": np.array([1, 0]), "steps/x": value}), features, "record 3 of it"
    )
    reads = (
        [lambda: episode.pictures("steps/x", [0, 1])]
        if feature.kind == "image"
        else [lambda: episode.texts("steps/x")]
        if feature.kind == "text"
        else [lambda: episode.numbers("steps/x")]
    )
    for read in reads:
        with pytest.raises(DatasetError, match=rf"steps/x of an episode is not what.*{words}"):
            read()


def test_what_an_episode_does_not_hold_is_told() -> None:
    features = {"steps/is_first": leaf(dtype="bool"), "steps/x": leaf()}
    episode = RldsEpisode(example({"steps/is_first": np.array([1, 0])}), features, "it")
    for path in ("steps/x", "steps/y"):
        with pytest.raises(DatasetError, match=f"An episode has no {path}"):
            episode.numbers(path)
    with pytest.raises(DatasetError, match=r"does not say how many steps.*Found: it: \['steps/z'\]"):
        RldsEpisode(example({"steps/z": np.ones(3)}), features, "it")
    with pytest.raises(DatasetError, match=r"no tf\.train\.Example\. Found: it: "):
        RldsEpisode(b"\x0a\xff", features, "it")
