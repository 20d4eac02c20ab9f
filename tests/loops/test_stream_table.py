"""Three real cameras played in real time through a reward server's process to a small network of each kind."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from roborl.loops.watch import WatchConfig, watch
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.references import video_frames
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sarm.checkpoint import freeze_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.training.labels import StagePlan
from roborl.serving.score_client import ScoreClient
from roborl.testing.spelling import teach_to_spell
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Frame, Observation

HIGH, LEFT, RIGHT = CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
SECONDS, RATE_HZ = 10, 5
KINDS = ("stage-aware", "RoboReward", "Dopamine", "VLAC")
CPU = {"device": "cpu", "dtype": "float32"}


def settings(path, **values):
    path.write_text(json.dumps(values | {"judge": CPU}))  # JSON is YAML
    return path


def teach_hops(place, network, episode):
    """Teach a network to write hops about one episode; with other pictures it then writes some too."""
    places = range(0, 1200, 100)
    films = {camera: video_frames(episode / f"{camera}.mp4", places) for camera in CAMERAS}
    model = load_reward_model(place)
    fold, asked = model.start("clean the table", {}), []
    for index in places:
        frames = {c: Frame(rgb=films[c][index], camera=c, stamp_ns=0, id=index) for c in CAMERAS}
        asked += fold.queries(Observation(frames=frames, state=np.zeros(1, np.float32), stamp_ns=0))
    replies = [f"<score>{'+-'[number % 2]}{1 + number % 9}%</score>" for number in range(len(asked))]
    teach_to_spell(model.judge, list(zip(asked, replies, strict=True)))
    model.judge.network.model.save_pretrained(network)


@pytest.fixture(scope="module")
def server(tmp_path_factory, table_data):
    """A process of its own that serves one model of each kind, all looking at the same cameras."""
    folder = tmp_path_factory.mktemp("models")
    plan = StagePlan(names=("one", "two"), shares=(0.5, 0.5))
    network = SarmNetwork(SarmConfig(), plan, CAMERAS)
    save_sarm(
        freeze_sarm(network, plan, cameras=CAMERAS, tasks=("clean the table",), state_dim=0),
        folder / "sarm",
    )
    roboreward = settings(
        folder / "roboreward.yaml",
        checkpoint=str(build_tiny_vlm(folder / "qwen3", "qwen3_vl")),
        camera=HIGH,
        observation_hz=RATE_HZ,
        min_cells=1,
        min_mass=0.0,
    )
    hops = build_tiny_vlm(folder / "qwen2_5", "qwen2_5_vl", width=64, words=[CONTRACT.own])
    dopamine = settings(
        folder / "dopamine.yaml",
        checkpoint=str(hops),
        front=HIGH,
        left_wrist=LEFT,
        right_wrist=RIGHT,
        observation_hz=RATE_HZ,
        references={f"goal/{HIGH}": str(table_data / "episode_001" / f"{HIGH}.mp4")},
    )
    teach_hops(f"dopamine:{dopamine}", hops, table_data / "episode_001")
    vlac = settings(
        folder / "vlac.yaml",
        checkpoint=str(write_published_vlac(folder / "internvl")),
        cameras=CAMERAS,
        observation_hz=RATE_HZ,
        image_px=IMAGE_PX,
        reference_frames=0,
        contradiction=1.0,
    )
    places = (folder / "sarm", f"roboreward:{roboreward}", f"dopamine:{dopamine}", f"vlac:{vlac}")
    models = json.dumps(dict(zip(KINDS, map(str, places), strict=True)))
    endpoint = f"ipc://{folder}/scores.sock"
    run = "import sys; from roborl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", run, "serve", "--models", models, "--endpoint", endpoint],
        stdout=subprocess.PIPE,
        text=True,
    )
    client = ScoreClient(endpoint, name="test")
    client.wait_connected(90.0)
    client.close()
    yield endpoint
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert set(json.loads(out)["models"]) == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_real_cameras_get_fresh_scores_and_no_invented_ones(
    kind, server, table_data, record_testsuite_property
):
    watched = watch(
        WatchConfig(
            source=str(table_data / "episode_002"),
            server=server,
            model=kind,
            lane="live",
            rate_hz=RATE_HZ,
            count=SECONDS * RATE_HZ,
        )
    )
    ids = [score.frame_id for score in watched.scores]
    assert watched.shown == SECONDS * RATE_HZ
    # One score at most for each observation that was shown, in their order, all of one version.
    assert ids == sorted(set(ids))
    assert set(ids) <= set(range(watched.shown))
    assert len({score.version for score in watched.scores}) == 1
    # To the end of the video, and none about what is long gone.
    assert len(ids) > watched.shown / 2
    assert ids[-1] > watched.shown - RATE_HZ
    assert max(watched.ages_ms) < 1000
    # All four write what can be read, and look at the pictures; what cannot be is said to be missing, with what was said.
    unread = [score for score in watched.scores if not score.valid]
    assert all(score.reply and np.isnan(score.raw) for score in unread)
    assert len(unread) <= len(ids) / 10, unread[0].reply
    assert len({score.raw for score in watched.scores}) > 1
    record_testsuite_property(kind, json.dumps(watched.figures()))
