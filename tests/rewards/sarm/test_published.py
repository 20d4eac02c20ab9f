"""Published SARM checkpoints: our network with their weights says what their own classes say, or there is a clear error."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from lerobot.lerobot_types import TransitionKey
from lerobot.processor import PolicyProcessorPipeline
from lerobot.rewards.sarm.modeling_sarm import SARMRewardModel, StageTransformer, SubtaskTransformer
from lerobot.rewards.sarm.processor_sarm import SARMEncodingProcessorStep
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.model import score_episode
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sarm.published_checkpoint import PublishedSarmConfig, open_published_sarm
from roborl.rewards.sarm.published_model import PublishedWindow, WindowReply
from roborl.rewards.sarm.published_network import PublishedNetwork, PublishedShape
from roborl.testing import check_reward_model as conformance
from roborl.testing.check_reward_model import random_observations
from roborl.testing.tiny_clip import build_tiny_clip
from roborl.testing.tiny_lerobot_sarm import build_tiny_lerobot_sarm

reward_model_check = conformance.reward_model_check
TASK = "put the cube into the bowl"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_lerobot_sarm(tmp_path_factory.mktemp("sarm"))


@pytest.fixture(scope="module")
def model(folder, clip):
    return open_published_sarm(
        PublishedSarmConfig(checkpoint=str(folder), clip=str(clip), repeat_present=True, observation_hz=30.0)
    )


@pytest.fixture(scope="module")
def original(folder):
    return SARMRewardModel.from_pretrained(folder, strict=True)


@pytest.fixture(scope="module")
def episode(model):
    return random_observations(model, count=24, state_dim=3)


def damaged(source, target, change=lambda tensors: None, **fields):
    """A copy of a LeRobot checkpoint with other tensors or another description."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    described = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(described | fields))
    return PublishedSarmConfig(checkpoint=str(target))


# LeRobot's


@pytest.mark.parametrize("head", ["sparse", "dense"])
def test_the_network_says_what_lerobots_class_says(folder, clip, original, head):
    config = PublishedSarmConfig(checkpoint=str(folder), clip=str(clip), repeat_present=True, head=head)
    network = open_published_sarm(config).network
    generator = torch.Generator().manual_seed(1)
    frames, text, state = (
        torch.randn(*size, generator=generator) for size in [(6, 5, 16), (6, 16), (6, 5, 8)]
    )
    progress, stages = original.calculate_rewards(
        text, frames, state, return_all_frames=True, return_stages=True, head_mode=head
    )
    opinion = network(frames[:, None], text, state, 5)
    assert len(opinion.stages.argmax(dim=-1).unique()) > 1
    np.testing.assert_allclose(opinion.stages, stages, atol=1e-5)
    np.testing.assert_allclose(opinion.progress, progress, atol=1e-5)


def lerobot_score(folder, clip, original, shown):
    """Score the last frame of an episode as LeRobot's own script does: its encoder, padding, lengths and middle slot."""
    config = original.config
    # Its constructor wants the hub and a package that is not needed to encode.
    step = object.__new__(SARMEncodingProcessorStep)
    step.config, step.image_key, step.dataset_meta = config, config.image_key, None
    step.device, step.sparse_subtask_names, step.dense_subtask_names = torch.device("cpu"), None, None
    step.clip_model = CLIPModel.from_pretrained(clip).eval()
    step.clip_processor = CLIPProcessor.from_pretrained(clip)
    step.eval()
    normaliser = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json")
    last = len(shown) - 1
    places = [min(max(0, last + delta), last) for delta in config.observation_delta_indices]
    images = torch.from_numpy(np.stack([shown[i].images["front"] for i in places])).permute(0, 3, 1, 2)
    states = torch.from_numpy(np.stack([shown[i].state for i in places]))
    normal = normaliser.steps[0]._apply_transform(
        states, config.state_key, normaliser.steps[0].features[config.state_key].type
    )
    made = step(
        {
            TransitionKey.OBSERVATION: {config.image_key: images, config.state_key: normal.clone()},
            TransitionKey.COMPLEMENTARY_DATA: {"index": last, "episode_index": 0, "task": TASK},
        }
    )[TransitionKey.OBSERVATION]
    return original.calculate_rewards(
        made["text_features"],
        made["video_features"],
        made["state_features"],
        lengths=made["lengths"],
        frame_index=config.n_obs_steps // 2,
    )


@pytest.mark.parametrize("frames", [1, 5, 24])
def test_the_last_frame_of_an_episode_scores_as_by_lerobots_script(
    model, folder, clip, original, episode, frames
):
    shown = episode[:frames]
    ours = score_episode(model, TASK, shown)[-1]
    assert ours.progress == pytest.approx(float(lerobot_score(folder, clip, original, shown)[0]), abs=1e-4)


def test_it_conforms_and_so_never_looks_ahead(model, episode, reward_model_check):
    reward_model_check(model, task=TASK, observations=episode)


def test_two_instructions_in_one_batch_stay_apart(model, episode):
    # Known defect of LeRobot 0.6.1: its encoder gives the whole batch the first instruction.
    one, other = (model.start(task, {}).queries(episode[0])[0] for task in (TASK, "open a drawer"))
    together = model.judge.answer([one, other])
    alone = [model.judge.answer([query])[0] for query in (one, other)]
    assert [r.progress for r in together] == pytest.approx([r.progress for r in alone], abs=1e-5)
    assert alone[0].progress != pytest.approx(alone[1].progress, abs=1e-3)


def test_the_state_is_normalised_by_the_training_data_or_left_out(folder, clip, model, episode, tmp_path):
    state_free = open_published_sarm(
        PublishedSarmConfig(
            checkpoint=str(folder), clip=str(clip), repeat_present=True, use_state=False, observation_hz=30.0
        )
    )
    assert state_free.info.version != model.info.version
    assert score_episode(state_free, TASK, episode)[-1] != score_episode(model, TASK, episode)[-1]
    bare = build_tiny_lerobot_sarm(tmp_path / "bare", statistics=False)
    with pytest.raises(ModelLoadError, match=r"observation.state was normalised.*lerobot-train"):
        open_published_sarm(PublishedSarmConfig(checkpoint=str(bare), clip=str(clip), repeat_present=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("stage_model.first_pos"), r"1 missing \['stage.first'\]"),
        (lambda t: t.update({"stage_model.extra": torch.zeros(1)}), r"1 surplus \['stage.extra'\]"),
        (lambda t: t.update({"extra": torch.zeros(1)}), r"Found: extra"),
        (lambda t: t.update({"subtask_model.first_pos": torch.zeros(1, 31)}), r"within.first \(1, 31\)"),
        (lambda t: t.update({"stage_model.heads.dense.bias": torch.zeros(9)}), r"stage.unused.bias \(9,\)"),
        (lambda t: t.pop("stage_model.heads.dense.bias"), r"missing \['stage.unused.bias'\]"),
        (lambda t: t["stage_model.first_pos"].fill_(torch.nan), r"not finite"),
    ],
)
def test_a_tensor_too_many_too_few_or_wrong_is_refused(folder, clip, tmp_path, change, words):
    config = damaged(folder, tmp_path / "damaged", change)
    with pytest.raises(ModelLoadError, match=words):
        open_published_sarm(
            PublishedSarmConfig(checkpoint=config.checkpoint, clip=str(clip), repeat_present=True)
        )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "robometer"}, "another kind"),
        ({"hidden_dim": None}, "cannot be used"),
        ({"num_heads": 5}, "5 heads"),
        ({"num_layers": 1}, "surplus"),
        ({"n_obs_steps": 0}, "n_obs_steps 0"),
        ({"num_sparse_stages": 5}, "5 stages"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, clip, tmp_path, fields, words):
    config = damaged(folder, tmp_path / "odd", **fields)
    with pytest.raises(ModelLoadError, match=words):
        open_published_sarm(
            PublishedSarmConfig(checkpoint=config.checkpoint, clip=str(clip), repeat_present=True)
        )


def test_a_window_that_looks_ahead_is_refused_unless_the_settings_allow_it(folder):
    with pytest.raises(
        ConfigError, match=r"trained to look ahead.*repeat_present False.*repeat_present to True"
    ):
        load_reward_model(f"sarm:{folder}")


def test_without_the_clip_network_it_was_trained_on_it_says_so(folder, tmp_path):
    with pytest.raises(ModelLoadError, match=r"openai/clip-vit-base-patch32.*hf download"):
        open_published_sarm(PublishedSarmConfig(checkpoint=str(folder), repeat_present=True))
    wide = build_tiny_lerobot_sarm(tmp_path / "wide", image_dim=24)
    with pytest.raises(ModelLoadError, match=r"vectors of 16.*pictures 24"):
        open_published_sarm(
            PublishedSarmConfig(
                checkpoint=str(wide), clip=str(build_tiny_clip(tmp_path / "clip")), repeat_present=True
            )
        )


def test_the_registry_reads_a_file_of_settings_and_warns_of_the_window(folder, clip, model, tmp_path, caplog):
    place = tmp_path / "sarm.yaml"
    settings = {"checkpoint": str(folder), "clip": str(clip), "cameras": ["wrist"], "repeat_present": True}
    place.write_text(yaml.safe_dump(settings))
    with caplog.at_level(logging.WARNING):
        read = load_reward_model(f"sarm:{place}")
    assert "trained to look ahead" in caplog.text
    assert read.info.cameras == ("wrist",)
    assert read.window == PublishedWindow(steps=4, gap=1, centred=True)
    assert read.info.version != model.info.version


def test_a_name_in_the_hubs_cache_is_found_and_none_at_all_refused(
    folder, clip, model, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--sarm"
    shutil.copytree(folder, place / "snapshots" / "c0ffee")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c0ffee")
    config = PublishedSarmConfig(
        checkpoint="somebody/sarm", clip=str(clip), repeat_present=True, observation_hz=30.0
    )
    assert open_published_sarm(config).info.version == model.info.version
    with pytest.raises(ModelLoadError, match=r"no such checkpoint.*hf download somebody/other"):
        load_reward_model("sarm:somebody/other")
    with pytest.raises(ConfigError, match="No checkpoint is named"):
        load_reward_model("sarm:")


@pytest.mark.parametrize(
    ("trained_hz", "observation_hz", "gap", "words"),
    [
        (30.0, 30.0, 3, ""),
        (30.0, 10.0, 1, ""),
        (15.0, 30.0, 6, ""),
        (30.0, 15.0, 2, "0.1 s apart, and at 15 Hz it is shown them 0.133 s apart"),
        (30.0, 2.0, 1, "0.1 s apart, and at 2 Hz it is shown them 0.5 s apart"),
    ],
)
def test_a_window_reaches_as_far_back_in_time_as_in_training(
    folder, clip, trained_hz, observation_hz, gap, words, caplog
):
    rates = {"trained_hz": trained_hz, "observation_hz": observation_hz}
    with caplog.at_level(logging.WARNING):
        read = open_published_sarm(
            PublishedSarmConfig(checkpoint=str(folder), clip=str(clip), repeat_present=True, **rates)
        )
    assert read.window.gap == gap
    assert read.info.observation_hz == observation_hz
    assert words in caplog.text
    assert ("apart" in caplog.text) == bool(words)


@pytest.mark.parametrize("change", [{"observation_hz": 0.0}, {"trained_hz": -30.0}, {"head": "both"}])
def test_settings_that_mean_nothing_are_refused(change):
    with pytest.raises(ConfigError, match="cannot be used"):
        PublishedSarmConfig(**change)


# opensarm's

NORM = {"mean": [0.5, -1.0, 2.0] + [0.0] * 5, "std": [1.5, 0.5, 2.0] + [0.0] * 5}
SIZES = {"d_model": 32, "vis_emb_dim": 16, "text_emb_dim": 16, "state_dim": 3, "n_layers": 2, "n_heads": 4}


@pytest.fixture(scope="module")
def opensarm(tmp_path_factory, clip):
    """The two networks of opensarm, whose tensors LeRobot's classes share, their files, and settings."""
    folder = tmp_path_factory.mktemp("opensarm")
    torch.manual_seed(3)
    stage = StageTransformer(**SIZES, num_classes_sparse=4, num_classes_dense=5).eval()
    subtask = SubtaskTransformer(**SIZES).eval()
    for network in (stage, subtask):
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, (4.0 if "heads" in name else 1.5) / parameter[0].numel() ** 0.5)
    for name, network in (("stage_best.pt", stage), ("subtask_best.pt", subtask)):
        optimiser = torch.optim.AdamW(network.parameters())
        saved = {"model": network.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 1}
        torch.save(saved, folder / name)
    (folder / "norm.json").write_text(json.dumps({"norm_stats": {"state": NORM}}))
    settings = {
        "checkpoint": str(folder),
        "clip": str(clip),
        "cameras": ["front"],
        "observation_hz": 30.0,
        "opensarm": {
            "stages": ["grab", "flatten", "fold"],
            "shares": [0.2, 0.5, 0.3],
            "norm_stats": str(folder / "norm.json"),
            "heads": 4,
            "steps": 4,
            "behind": 2,
            "frame_gap": 3,
            "smooth": False,
        },
    }
    return stage, subtask, settings


def open_settings(settings, tmp_path):
    place = tmp_path / "opensarm.yaml"
    place.write_text(yaml.safe_dump(settings))
    return load_reward_model(f"sarm:{place}")


def opensarm_progress(stage, subtask, frames, text, state, lengths):
    """Slot 4 of a window by opensarm's rule, which cuts the stream-major tokens of the second network as they lie."""
    classes = stage(frames, text, state, lengths).softmax(dim=-1).argmax(dim=-1)
    told = torch.nn.functional.one_hot(classes, 4).float()[:, None]
    tokens = []
    hook = subtask.transformer.register_forward_hook(lambda _, __, out: tokens.append(out))
    subtask(frames, text, state, lengths, told)
    hook.remove()
    b, t = state.shape[:2]
    fused = subtask.fusion_backbone(tokens[0].reshape(b, t, -1))
    within = torch.sigmoid(subtask.heads["sparse"](fused))[..., 0]
    raw = (classes + within).clamp(0, 3)
    return raw, np.interp(raw.detach().numpy(), [0, 1, 2, 3], [0.0, 0.2, 0.7, 1.0])


@torch.inference_mode()
def test_the_network_says_what_opensarm_computes(opensarm, tmp_path):
    stage, subtask, settings = opensarm
    model = open_settings(settings, tmp_path)
    generator = torch.Generator().manual_seed(1)
    frames, text, state = (
        torch.randn(*size, generator=generator) for size in [(32, 1, 7, 16), (32, 16), (32, 7, 3)]
    )
    raw, progress = opensarm_progress(stage, subtask, frames, text, state, torch.full((32,), 5))
    opinion = model.network(frames, text, state, 5)
    assert set(opinion.stages[:, 4].argmax(dim=-1).tolist()) == {0, 1, 2, 3}
    np.testing.assert_allclose(opinion.raw, raw, atol=1e-5)
    np.testing.assert_allclose(opinion.progress, progress, atol=1e-5)


@torch.inference_mode()
def test_an_episode_scores_as_opensarm_would(opensarm, clip, episode, tmp_path):
    stage, subtask, settings = opensarm
    model = open_settings(settings, tmp_path)
    scores = score_episode(model, TASK, episode)
    network, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    text = network.get_text_features(**processor(text=[TASK], return_tensors="pt")).pooler_output
    mean, std = torch.tensor(NORM["mean"][:3]), torch.tensor(NORM["std"][:3])
    for t, places in {2: [0, 0, 1, 2, 2], 7: [0, 2, 4, 5, 7], 20: [0, 11, 14, 17, 20]}.items():
        pictures = [episode[i].images["front"] for i in places] + [np.zeros((64, 64, 3), np.uint8)] * 2
        pixels = processor(images=pictures, return_tensors="pt")
        frames = network.get_image_features(**pixels).pooler_output[None, None]
        state = torch.zeros(1, 7, 3)
        state[0, :5] = torch.from_numpy(np.stack([episode[i].state for i in places]))
        _, progress = opensarm_progress(stage, subtask, frames, text, (state - mean) / std, torch.tensor([5]))
        assert scores[t].progress == pytest.approx(progress[0, 4], abs=1e-4)


def test_opensarm_conforms_and_says_done_by_its_own_class(opensarm, episode, tmp_path, reward_model_check):
    _, _, settings = opensarm
    model = open_settings(settings, tmp_path)
    reward_model_check(model, task=TASK, observations=episode)
    fold = model.start(TASK, {})
    finished, other = (0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0)

    def done(classes):
        return fold.fold(0, [WindowReply(progress=1.0, raw=3.0, classes=classes)]).done

    assert [done(c) for c in (finished, finished, other, finished)] == [None, True, False, None]


def test_opensarms_smoothing_is_on_by_default_and_part_of_the_version(opensarm, tmp_path):
    plain = open_settings(opensarm[2], tmp_path)
    settings = {name: value for name, value in opensarm[2]["opensarm"].items() if name != "smooth"}
    model = open_settings(opensarm[2] | {"opensarm": settings}, tmp_path)
    assert model.info.version != plain.info.version
    fold = model.start(TASK, {})
    sure, unsure = (0.0, 1.0, 0.0, 0.0), (0.2, 0.8, 0.0, 0.0)

    def score(index, progress, classes):
        return fold.fold(index, [WindowReply(progress=progress, raw=1.5, classes=classes)])

    assert score(0, 0.2, sure).progress == pytest.approx(0.2, abs=1e-5)
    assert not fold.fold(1, [None]).valid
    assert score(2, 0.7, unsure).progress == pytest.approx(0.2, abs=1e-5)
    assert score(3, 0.4, sure).progress == pytest.approx(0.3, abs=1e-5)
    assert score(4, 0.4, sure).raw == 1.5
    assert score(104, 0.8, sure).progress == pytest.approx(0.8, abs=1e-5)  # the span at 30 Hz
    slow = open_settings(opensarm[2] | {"opensarm": settings, "observation_hz": 10.0}, tmp_path)
    assert (model.smooth, slow.smooth) == (100, 33)


def test_a_checkpoint_from_before_windows_began_at_the_start_is_shown_its_own(opensarm, episode, tmp_path):
    now = open_settings(opensarm[2], tmp_path)
    asked = opensarm[2] | {"opensarm": opensarm[2]["opensarm"] | {"from_start": False}}
    before = open_settings(asked, tmp_path)
    assert before.info.version != now.info.version
    folds = [model.start(TASK, {}) for model in (now, before)]
    for observation in episode[:21]:
        shown = [[s.id for s in fold.queries(observation)[0].slots] for fold in folds]
    assert shown == [[0, 11, 14, 17, 20], [8, 11, 14, 17, 20]]


# Of folding T-shirts: where each stage begins as a share of the task, in opensarm's utils/raw_data_utils.py.
BREAKPOINTS = {
    "sparse": [0.0, 0.05, 0.10, 0.30, 0.90, 1.0],
    "dense": [0.0, 0.08, 0.37, 0.53, 0.67, 0.72, 0.81, 0.90, 1.0],
}


@pytest.mark.parametrize("head", BREAKPOINTS)
def test_stages_become_progress_at_the_published_breakpoints(head, monkeypatch):
    bends = BREAKPOINTS[head]
    count = len(bends) - 1
    network = PublishedNetwork(
        PublishedShape(
            stages=tuple(map(str, range(count))),
            shares=tuple(np.diff(bends).tolist()),
            finished=True,
            cameras=1,
            frame_dim=4,
            text_dim=4,
            state_dim=2,
            dim=4,
            layers=1,
            heads=1,
            shuffled=True,
        )
    )
    # A slot for the start and the middle of each stage, and one for the finished task.
    raw = torch.arange(0, count + 0.5, 0.5)
    sure = torch.nn.functional.one_hot(raw.long(), count + 1) * 100.0
    monkeypatch.setattr(network.stage, "forward", lambda *_: sure[None])
    monkeypatch.setattr(network.within, "forward", lambda *_: torch.logit(raw % 1)[None, :, None])
    opinion = network(torch.zeros(1), torch.zeros(1), torch.zeros(1), len(raw))
    np.testing.assert_allclose(opinion.raw[0], raw, atol=1e-6)
    np.testing.assert_allclose(opinion.progress[0], np.interp(raw, range(count + 1), bends), atol=1e-6)


def test_at_full_size_it_has_the_published_numbers_of_parameters():
    """Of opensarm: six classes of sparse stages and nine of dense ones, of which a converted network keeps one set."""
    with torch.device("meta"):
        network = PublishedNetwork(
            PublishedShape(
                stages=tuple(map(str, range(5))),
                shares=(0.2,) * 5,
                finished=True,
                cameras=1,
                frame_dim=512,
                text_dim=512,
                state_dim=14,
                dim=768,
                layers=8,
                heads=12,
                shuffled=True,
            )
        )
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.stage, network.within)]
    assert [round(count / 1e6, 2) for count in counts] == [59.28, 59.87]
    other_heads = 9 * (768 + 1), 768 + 1
    whole = [count + left_out for count, left_out in zip(counts, other_heads, strict=True)]
    assert [round(count / 1e6, 2) for count in whole] == [59.29, 59.87]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"stages": []}, ConfigError, "needs its stages"),
        (
            {"stages": ["grab", "fold"], "shares": [0.5, 0.5]},
            ModelLoadError,
            r"stage.head.weight \(4, 32\) for \(3, 32\)",
        ),
        ({"subtask_file": "stage_best.pt"}, ModelLoadError, r"within.fuse.0.weight"),
        ({"stage_file": "absent.pt"}, ModelLoadError, "absent.pt"),
        ({"norm_stats": ""}, ModelLoadError, "no file"),
        ({"heads": 7}, ModelLoadError, "7 heads"),
    ],
)
def test_opensarm_settings_that_do_not_fit_are_refused(opensarm, tmp_path, change, error, words):
    settings = opensarm[2] | {"opensarm": opensarm[2]["opensarm"] | change}
    with pytest.raises(error, match=words):
        open_settings(settings, tmp_path)


class Hostile:
    def __reduce__(self):
        return (open, ("/dev/null",))


def test_a_folder_of_opensarms_files_without_settings_is_told_what_it_needs(opensarm):
    words = r"stage_best\.pt.*opensarm\.stages, opensarm\.shares, opensarm\.norm_stats and cameras.*sarm:FILE\.yaml"
    with pytest.raises(ConfigError, match=words):
        load_reward_model(f"sarm:{opensarm[2]['checkpoint']}")


def test_a_pickle_that_holds_more_than_weights_is_not_unpickled(opensarm, tmp_path):
    settings = opensarm[2] | {"checkpoint": str(tmp_path)}
    torch.save({"model": {}, "also": Hostile()}, tmp_path / "stage_best.pt")
    with pytest.raises(ModelLoadError, match="cannot be read as weights"):
        open_settings(settings, tmp_path)
