"""The words of the questions: whole or refused, found by name in the user's copy of the source, woven with pictures."""

import dataclasses
import json

import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.rewards.prompts import PromptConfig
from roborl.rewards.vlac.wording import OUR_WORDING, VlacWording, load_wording, weave

TEXTS = {f.name: getattr(OUR_WORDING, f.name) for f in dataclasses.fields(VlacWording) if f.name != "origin"}

# Formed as the published sources are: one class sets all texts, another replaces two of them; the words are ours.
DATA_SOURCE = """
import nowhere_to_be_found
class DataProcessor():
    def __init__(self):
        self.formats = {1: '<image>\\n', 'bridge': str}
        self.system_prompt = 'Look well.'
        self.prompt_templete = {
            "v3": "old <image> <image> {}",
            "v3_think": "old <image> <image> <image> {}",
            'think': " Think.",
            "task_done": "Done? <task> {} </task> <done>",
            "context_task_done": "<goal> <task> {} </task>: <image>\\n<goal>\\n<image>\\n Done? <task> {} </task> <done>",
            "action": "{{x: {}}}"}
"""
MODEL_SOURCE = """
raise SystemExit("never run")
class Model():
    def __init__(self):
        self.system_prompt = None
        self.client.prompt_templete['v3'] = "Image-1: <image>\\nImage-2: <image>\\nNearer? <task> {} </task> <score>"
        self.client.prompt_templete['v3_think'] = "0% <image>\\nThe start.\\nImage-1: <image>\\nImage-2: <image>\\nNearer? <task> {} </task> <score>"
"""


@pytest.fixture
def sources(tmp_path):
    (tmp_path / "data_processing_vlm.py").write_text(DATA_SOURCE)
    (tmp_path / "model_utils.py").write_text(MODEL_SOURCE)
    return tmp_path


@pytest.mark.parametrize("name", ["", "model_utils.py"])
def test_the_words_are_found_in_the_sources_without_running_them(sources, name):
    wording = load_wording(PromptConfig(file=str(sources / name)))
    assert wording.origin == "found"
    assert wording.system == "Look well."
    assert wording.pair == "Image-1: <image>\nImage-2: <image>\nNearer? <task> {task} </task> <score>"
    assert wording.start == "0% <image>\nThe start.\n"
    assert wording.done == "Done? <task> {task} </task> <done>"
    assert wording.done_goal.count("{task}") == 2
    assert wording.trajectory == OUR_WORDING.trajectory


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("'v3_think'", "'v4_think'", "do not belong together"),
        ("The start.\\nImage-1", "The start.\\nPicture-1", "do not belong together"),
        ("class Model", "class Model(", "cannot be read"),
        ("Image-2: <image>\\nNearer", "Image-2:\\nNearer", "wording of pair is not whole"),
        ("<task> {} </task> <score>", "<score>", "wording of pair is not whole"),
    ],
)
def test_a_source_that_does_not_set_them_is_refused(sources, old, new, words):
    changed = MODEL_SOURCE.replace(old, new)
    assert changed != MODEL_SOURCE
    (sources / "model_utils.py").write_text(changed)
    with pytest.raises(ConfigError, match=words):
        load_wording(PromptConfig(file=str(sources)))


def test_a_source_without_the_other_beside_it_is_refused(sources):
    (sources / "data_processing_vlm.py").unlink()
    with pytest.raises(ConfigError, match="data_processing_vlm"):
        load_wording(PromptConfig(file=str(sources / "model_utils.py")))
    (sources / "data_processing_vlm.py").write_text("nothing = {'v1': 3}")
    with pytest.raises(ConfigError, match=r"missing \['task_done'"):
        load_wording(PromptConfig(file=str(sources / "model_utils.py")))


def test_a_hash_can_be_insisted_on(sources):
    found = load_wording(PromptConfig(file=str(sources)))
    assert load_wording(PromptConfig(file=str(sources), sha256=found.sha256)) == found
    with pytest.raises(ConfigError, match="insisted on"):
        load_wording(PromptConfig(sha256=found.sha256))


def test_what_was_published_is_known_and_anything_else_is_a_warning(sources, monkeypatch, caplog):
    found = load_wording(PromptConfig(file=str(sources)))
    assert "not the published ones" in caplog.text
    caplog.clear()
    monkeypatch.setattr("roborl.rewards.vlac.wording._KNOWN", found.sha256)
    known = load_wording(PromptConfig(file=str(sources)))
    assert (known.origin, known.sha256) == ("known", found.sha256)
    assert not caplog.records


def test_the_published_words_are_found_beside_a_checkpoint_and_others_there_do_not_count(
    sources, monkeypatch, caplog
):
    found = load_wording(PromptConfig(file=str(sources)))
    assert load_wording(PromptConfig(), sources) == OUR_WORDING
    assert "beside the checkpoint" in caplog.text
    assert load_wording(PromptConfig(sha256=found.sha256), sources).pair == found.pair
    caplog.clear()
    monkeypatch.setattr("roborl.rewards.vlac.wording._KNOWN", found.sha256)
    known = load_wording(PromptConfig(), sources)
    assert (known.origin, known.sha256) == ("known", found.sha256)
    assert not caplog.records
    (sources / "data_processing_vlm.py").unlink()
    assert load_wording(PromptConfig(), sources) == OUR_WORDING


def test_the_hash_covers_every_text_and_not_where_it_was_found():
    hashes = {dataclasses.replace(OUR_WORDING, **{name: text + " "}).sha256 for name, text in TEXTS.items()}
    assert len(hashes | {OUR_WORDING.sha256}) == len(TEXTS) + 1
    assert dataclasses.replace(OUR_WORDING, origin="found").sha256 == OUR_WORDING.sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": None}, "other texts"),
        ({"shout": "!"}, "other texts"),
        ({"pair": "which? {task}"}, "pair is not whole"),
        ({"pair": "<image> <image>"}, "pair is not whole"),
        ({"trajectory": "{task}"}, "trajectory is not whole"),
        ({"step": "{percent}% <image> {task}"}, "step is not whole"),
        ({"start": "0%"}, "start is not whole"),
        ({"done": "<image> {task}"}, "done is not whole"),
        ({"done_goal": "<image> {task}"}, "done_goal is not whole"),
        ({"system": 3}, "system is not whole"),
    ],
)
def test_a_file_of_words_is_whole_or_refused(tmp_path, change, words):
    texts = {name: text for name, text in (TEXTS | change).items() if text is not None}
    (tmp_path / "words.json").write_text(json.dumps(texts))
    with pytest.raises(ConfigError, match=words):
        load_wording(PromptConfig(file=str(tmp_path / "words.json")))


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    for name, content, words in (
        ("torn", "{", "cannot be read"),
        ("list", "[]", "other texts"),
        ("none", None, "read"),
    ):
        path = tmp_path / f"{name}.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError, match=words):
            load_wording(PromptConfig(file=str(path)))


def picture(level):
    return np.full((4, 4, 3), level, np.uint8)


def woven(text, count, task="go"):
    parts = weave(text, [picture(i) for i in range(count)], task)
    return [part if isinstance(part, str) else int(part[0, 0, 0]) for part in parts]


def test_pictures_stand_where_their_marks_are_and_those_without_stand_first():
    assert woven("a <image>b<image> c {task}", 2) == ["a ", 0, "b", 1, " c go"]
    assert woven("<image><image>", 2) == [0, 1]
    assert woven("done? {task}", 1) == [0, "done? go"]
    assert woven("x <image> y", 3) == [0, 1, "x ", 2, " y"]


def test_marks_and_slots_in_an_instruction_are_words():
    task = "put the {task} on the <image> {percent}"
    assert woven("a <image> {task} {task}", 1, task) == ["a ", 0, f" {task} {task}"]


@pytest.mark.parametrize("count", range(2, 12))
def test_shares_are_cut_to_whole_percent_as_published(count):
    shares = [int((k / (count - 1)) * 100) for k in range(count)]
    steps = "".join(f" {share}% <image>\n" for share in shares)
    assert OUR_WORDING.context(count).startswith(
        "<trajectory> <task> {task} </task>:" + steps + "</trajectory>0% "
    )


def test_of_a_single_picture_only_the_end_is_known():
    assert " 100% <image>\n" in OUR_WORDING.context(1)
