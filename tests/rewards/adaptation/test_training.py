"""A small network learns from a drawn video; a run that was cut comes to the same; what is saved opens and scores alike."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from roborl.errors import ConfigError, ModelLoadError, TrainingError
from roborl.rewards.adaptation.config import AdaptationTraining, LoraSettings, Method
from roborl.rewards.adaptation.hops import HopLessons
from roborl.rewards.adaptation.lessons import Album, TimeGuess
from roborl.rewards.adaptation.saving import save_adapted
from roborl.rewards.adaptation.teaching import Teacher
from roborl.rewards.adaptation.training import adapt
from roborl.rewards.adaptation.weights import LearningWeights
from roborl.rewards.dopamine import open_dopamine
from roborl.rewards.hop_pairs import PairConfig
from roborl.rewards.judges.queries import VlmQuery
from roborl.rewards.metrics import value_order_correlation
from roborl.rewards.model import score_episode
from roborl.rewards.registry import load_reward_model

from .conftest import PX, TASK, film, observe

BRIEF = AdaptationTraining(
    method=Method.FULL, steps=4, batch=2, accumulate=2, learning_rate=1e-3, measure_every=1
)


def a_run(settings, training, folder, *, pairs=40, interval=6, log=None, tasks=()):
    lessons = HopLessons(open_dopamine(settings), PairConfig(pairs=pairs, interval_frames=interval))
    train, rest = [film(count, count) for count in (31, 37, 43)], [film(33, 99)]
    train = [replace(episode, tasks=tasks or episode.tasks) for episode in train]
    guess = TimeGuess.of(train)
    samples, held_out = lessons.samples(train, guess, 0), lessons.samples(rest, guess, 1)
    albums = Album(train, samples), Album(rest, held_out)
    adapted = adapt(lessons, samples, held_out, albums, training, workspace=folder / "work", log=log)
    return lessons, adapted


def scores_of(model):
    episode = film(33, 99)
    goal = {"goal/front": episode.footage.picture(32)}
    return score_episode(model, TASK, observe(episode, range(33)), references=goal, stride=2)


def weights_of(adapted):
    return {name: parameter.detach().clone() for name, parameter in adapted.weights.named.items()}


def test_only_the_answer_bears_loss(settings):
    """The same as transformers' own loss over question and answer with all but the answer masked."""
    lessons = HopLessons(open_dopamine(settings), PairConfig(pairs=20, interval_frames=6))
    episodes = [film(31)]
    samples = lessons.samples(episodes, TimeGuess.of(episodes), 0)[:3]
    album = Album(episodes, samples)
    queries = [sample.ask(album.pictures(sample)) for sample in samples]
    answers = [sample.answer for sample in samples]
    teacher = Teacher(lessons.judge)
    processor, model = lessons.judge.network.processor, lessons.judge.network.model
    for lesson, answer in zip(teacher.lessons(queries, answers), answers, strict=True):
        assert processor.tokenizer.decode(lesson.labels) == answer + "<|im_end|>"
    losses, _ = teacher.losses(queries, answers)
    for query, answer, loss in zip(queries, answers, losses, strict=True):
        parts = [
            {"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in query.parts
        ]
        turn = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        pixels = {"size": {"shortest_edge": PX * PX, "longest_edge": PX * PX}}
        inputs = processor(
            text=[turn + answer + "<|im_end|>"],
            images=[torch.tensor(picture).permute(2, 0, 1) for picture in query.pictures],
            return_tensors="pt",
            images_kwargs=pixels,
        )
        length = len(processor.tokenizer(answer)["input_ids"]) + 1
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[:, -length:] = inputs["input_ids"][:, -length:]
        with torch.no_grad():
            theirs = model(**inputs, labels=labels).loss
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-4)


def test_the_end_of_an_answer_is_the_tokenisers_where_the_checkpoint_names_none(settings):
    judge = open_dopamine(settings).judge
    judge.network.model.generation_config.eos_token_id = None
    (lesson,) = Teacher(judge).lessons([VlmQuery(parts=("how far?",))], ["4"])
    assert judge.network.processor.tokenizer.decode(lesson.labels) == "4<|im_end|>"


@pytest.fixture(scope="module")
def learnt(settings, tmp_path_factory):
    training = AdaptationTraining(
        method=Method.FULL, steps=220, batch=16, accumulate=1, learning_rate=3e-3, vision_share=1.0
    )
    folder = tmp_path_factory.mktemp("learnt")
    return folder, *a_run(settings, training, folder, pairs=200)


def test_it_learns_to_order_the_frames_of_an_episode_it_has_not_seen(learnt):
    folder, lessons, adapted = learnt
    assert adapted.first_loss > 8 * adapted.last_loss
    scores = scores_of(lessons.model)
    assert all(score.valid for score in scores)
    assert value_order_correlation([score.progress for score in scores]) > 0.95
    assert scores[-1].progress > 0.8
    log = [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text().splitlines()]
    measured = [entry for entry in log if "held_out_loss" in entry]
    assert measured[-1]["held_out_right"] > 0.5 > measured[0]["held_out_right"]
    assert measured[-1]["held_out_loss"] < 0.5 * measured[0]["held_out_loss"]
    assert [entry["step"] for entry in measured] == [50, 100, 150, 200, 220]


def test_what_is_saved_opens_by_name_and_scores_alike(learnt, settings, checkpoint, tmp_path):
    _, lessons, adapted = learnt
    folder = tmp_path / "first"
    record = {"steps": adapted.steps}
    save_adapted(folder, lessons, adapted.weights, method=Method.FULL, base=checkpoint, record=record)
    folder = folder.rename(tmp_path / "moved")
    opened = load_reward_model(f"dopamine:{folder}")
    assert opened.prompt.sha256 == lessons.prompt_sha256
    assert opened.prompt.template == lessons.model.prompt.template
    assert json.loads((folder / "training.json").read_text()) == record
    assert (opened.config.min_pixels, opened.config.fusion) == (settings.min_pixels, settings.fusion)
    for one, other in zip(scores_of(opened), scores_of(lessons.model), strict=True):
        assert one.progress == pytest.approx(other.progress, abs=1e-5)
    before = open_dopamine(settings)
    assert opened.info.version != before.info.version
    (folder / "wording.txt").write_text(lessons.model.prompt.template + " or so")
    with pytest.raises(ConfigError, match="insisted on"):
        load_reward_model(f"dopamine:{folder}")


def test_settings_of_sampling_that_contradict_each_other_are_kept_and_stop_no_save(
    settings, checkpoint, tmp_path
):
    base = shutil.copytree(checkpoint, tmp_path / "base")
    sampling = base / "generation_config.json"
    sampling.write_text(json.dumps(json.loads(sampling.read_text()) | {"temperature": 0.1}))
    lessons = HopLessons(open_dopamine(replace(settings, checkpoint=str(base))), PairConfig())
    weights = LearningWeights(lessons.judge.network.model, BRIEF)
    save_adapted(tmp_path / "judge", lessons, weights, method=Method.FULL, base=base, record={})
    assert (tmp_path / "judge" / sampling.name).read_bytes() == sampling.read_bytes()
    assert load_reward_model(f"dopamine:{tmp_path / 'judge'}").judge.ends == lessons.judge.ends


def test_a_save_without_room_leaves_the_one_before_and_a_torn_one_does_not_open(
    learnt, checkpoint, tmp_path, monkeypatch
):
    _, lessons, adapted = learnt

    def save():
        save_adapted(tmp_path, lessons, adapted.weights, method=Method.FULL, base=checkpoint, record={})

    def fail(*_):
        raise OSError("no space")

    save()
    with monkeypatch.context() as full:
        full.setattr(adapted.weights, "write", fail)
        with pytest.raises(OSError, match="no space"):
            save()
    load_reward_model(f"dopamine:{tmp_path}")
    with monkeypatch.context() as killed:
        killed.setattr("pathlib.Path.replace", fail)
        with pytest.raises(OSError, match="no space"):
            save()
    with pytest.raises(ModelLoadError):
        load_reward_model(f"dopamine:{tmp_path}")
    save()
    load_reward_model(f"dopamine:{tmp_path}")


def test_an_adapter_is_saved_alone_and_opens_on_its_checkpoint(settings, checkpoint, tmp_path):
    training = replace(BRIEF, method=Method.LORA, learning_rate=3e-2)
    lessons, adapted = a_run(settings, training, tmp_path)
    assert all("lora_" in name and "language_model" in name for name in adapted.weights.named)
    # q, k, v and o of two layers.
    assert len(adapted.weights.named) == 2 * 4 * 2
    folder = tmp_path / "judge"
    save_adapted(folder, lessons, adapted.weights, method=Method.LORA, base=checkpoint, record={})
    assert load_file(folder / "adapter_model.safetensors")
    assert not (folder / "config.json").exists()
    opened = load_reward_model(f"dopamine:{folder}")
    samples = lessons.samples([film(33, 99)], TimeGuess(start=0, length=30), 1)[:4]
    album = Album([film(33, 99)], samples)
    asked = [sample.ask(album.pictures(sample)) for sample in samples], [s.answer for s in samples]
    losses = [
        Teacher(model.judge).losses(*asked)[0] for model in (opened, lessons.model, open_dopamine(settings))
    ]
    assert torch.allclose(losses[0], losses[1], atol=1e-4)
    assert not torch.allclose(losses[0], losses[2], atol=1e-2)


@pytest.mark.parametrize("method", list(Method))
def test_a_run_that_was_killed_comes_to_the_same(settings, tmp_path, method):
    """With dropout, whose draws must be the same as well; the log has every step once."""
    training = replace(BRIEF, method=method, save_every_s=0.0, lora=LoraSettings(dropout=0.3))
    _, whole = a_run(settings, training, tmp_path / "whole")

    def kill(figures):
        if figures["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_run(settings, training, tmp_path / "cut", log=kill)
    with (tmp_path / "cut" / "work" / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "loss')  # as a full disk leaves it
    seen = []
    _, resumed = a_run(settings, training, tmp_path / "cut", log=lambda figures: seen.append(figures["step"]))
    assert seen == [3, 4]
    one, other = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.last_loss == resumed.last_loss
    log = (tmp_path / "cut" / "work" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]
    _, finished = a_run(settings, replace(training, save_every_s=9.0, measure=1), tmp_path / "cut")
    assert all(torch.equal(weights, one[name]) for name, weights in weights_of(finished).items())
    named = r"run with other settings.*, training\.learning_rate 0\.001 and not 0\.002\."
    with pytest.raises(ModelLoadError, match=named):
        a_run(settings, replace(training, learning_rate=2e-3), tmp_path / "cut")
    with pytest.raises(ModelLoadError, match=r"another dataset.*, questions \w+ and not \w+\."):
        a_run(settings, replace(training, save_every_s=9.0), tmp_path / "cut", tasks=("do something else",))


def test_accumulated_batches_are_one_step(settings, tmp_path):
    _, one = a_run(settings, replace(BRIEF, steps=2, batch=4, accumulate=1), tmp_path / "one")
    _, other = a_run(settings, replace(BRIEF, steps=2, batch=1, accumulate=4), tmp_path / "other")
    for name, weights in weights_of(one).items():
        # Adam's first steps are as long for tiny gradients as for large ones, so rounding shows there.
        assert torch.quantile((weights - weights_of(other)[name]).abs().float(), 0.9) < 1e-4


@pytest.mark.parametrize("method", list(Method))
def test_checkpointing_changes_nothing_but_memory(settings, tmp_path, method):
    training = replace(BRIEF, steps=1, method=method)
    runs = [a_run(settings, replace(training, checkpointing=c), tmp_path / str(c))[1] for c in (False, True)]
    assert runs[0].last_loss == pytest.approx(runs[1].last_loss, rel=1e-5)
    one, other = map(weights_of, runs)
    assert all(torch.quantile((one[n] - other[n]).abs().float(), 0.9) < 1e-4 for n in one)


def test_the_vision_network_learns_slower_or_not_at_all(settings, tmp_path):
    before = {n: p.clone() for n, p in open_dopamine(settings).judge.network.model.named_parameters()}

    def moved(share):
        _, run = a_run(settings, replace(BRIEF, steps=1, vision_share=share), tmp_path / str(share))
        after = dict(run.weights.model.named_parameters())
        return {name: float((after[name] - old).abs().max()) for name, old in before.items()}

    still, slow = moved(0.0), moved(0.1)
    vision = [n for n in before if ".visual." in n and "merger" not in n]
    rest = [n for n in before if n not in vision]
    assert len(vision) > 10
    assert max(still[n] for n in vision) == 0.0
    assert 0.0 < max(slow[n] for n in vision) < 0.2 * max(slow[n] for n in rest)


def test_steps_that_are_not_finite_are_left_out(settings, tmp_path, monkeypatch):
    losses, calls = Teacher.losses, []

    def broken(self, queries, answers):
        found, right = losses(self, queries, answers)
        calls.append(len(queries))
        return found * (math.nan if len(calls) == 3 else 1.0), right

    monkeypatch.setattr(Teacher, "losses", broken)
    training = replace(BRIEF, steps=3, batch=4, accumulate=1, measure_every=100, held_out=0.0)
    _, adapted = a_run(settings, training, tmp_path)
    assert (adapted.steps, adapted.skipped) == (3, 1)
    assert all(parameter.isfinite().all() for parameter in weights_of(adapted).values())
    monkeypatch.setattr(Teacher, "losses", lambda self, q, a: (losses(self, q, a)[0] * math.inf, None))
    with pytest.raises(TrainingError, match="not finite"):
        a_run(settings, replace(training, steps=50), tmp_path / "broken")


def test_layers_that_are_not_there_are_refused(settings, tmp_path):
    training = replace(BRIEF, method=Method.LORA, lora=LoraSettings(targets=("c_attn",)))
    with pytest.raises(ConfigError, match="c_attn"):
        a_run(settings, training, tmp_path)


def test_without_peft_it_says_what_to_do(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("roborl.rewards.adaptation.weights.find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"no peft.*--training.method full"):
        a_run(settings, replace(BRIEF, method=Method.LORA), tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"clip": 0.0}, {"held_out": 1.0}, {"epochs": 0.0}, {"warm_up": -0.1}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match="cannot be trained"):
        AdaptationTraining(**wrong)


def test_the_published_amount_of_training_follows_from_the_defaults():
    assert AdaptationTraining().planned_steps(1000) == 62
    assert np.isclose(AdaptationTraining(method=Method.FULL).rate, 1e-5)
