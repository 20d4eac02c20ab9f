"""The judge that says what the settings say, behind each of the models that ask in words."""

import numpy as np
import pytest

from roborl.errors import ConfigError
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.fake import FakeJudge
from roborl.rewards.judges.opening import checkpoint_folder, open_judge
from roborl.rewards.judges.queries import VlmQuery, VlmReply
from roborl.rewards.model import score_episode
from roborl.rewards.registry import load_reward_model
from roborl.testing.check_reward_model import random_observations


@pytest.mark.parametrize(
    ("kind", "reply", "settings", "progress"),
    [
        ("roboreward", "ANSWER: 3", "", [0.5, 0.5, 0.5]),
        (
            "dopamine",
            "<score>+50%</score>",
            "goal: false\nhop_s: 0\nfusion: {perspectives: [incremental]}",
            [0.0, 0.5, 0.75],
        ),
        ("vlac", "+50", "reference_frames: 0\nhop_s: 0\ntwo_sided: false", [0.0, 0.5, 0.75]),
        ("sole-r1", "<answer>40%</answer>", "", [0.4, 0.4, 0.4]),
    ],
)
def test_models_score_by_what_it_says(kind, reply, settings, progress, tmp_path, caplog, monkeypatch):
    (tmp_path / "README.md").write_text("```\nOther words: {task} ANSWER:\n```\n")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fake.yaml"
    path.write_text(f"judge:\n  kind: fake\n  reply: '{reply}'\n{settings}\n")
    model = load_reward_model(f"{kind}:{path}")
    scores = score_episode(model, "fold the towel", random_observations(model, count=3))
    assert [score.progress for score in scores] == pytest.approx(progress)
    assert all(score.valid for score in scores)
    assert "a fake judge answers every question" in caplog.text
    assert "-own-" in model.info.version, "the README of where one stands is no checkpoint's card"


def test_it_says_its_words_and_they_are_its_identity():
    query = VlmQuery(parts=(np.zeros((4, 4, 3), np.uint8),))
    judge = open_judge(JudgeConfig(kind=JudgeKind.FAKE, reply="yes"), "")
    assert judge.answer([query] * 2) == [VlmReply(text="yes")] * 2
    assert judge.cells(query) is None
    assert judge.identity == FakeJudge("yes").identity != FakeJudge("no").identity
    with pytest.raises(ConfigError, match="nothing to say"):
        JudgeConfig(kind=JudgeKind.FAKE)


def test_no_checkpoint_is_no_folder():
    config = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=("http://127.0.0.1:9/v1",))
    assert checkpoint_folder(config, "") is None
