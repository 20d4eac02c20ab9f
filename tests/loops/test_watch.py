"""The monitor on videos, datasets and cameras, against a real server."""

import json
import math
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from roborl.cli.main import main as roborl
from roborl.errors import ConfigError, DatasetError, DeadlineExceeded, RobotError
from roborl.loops import watch as watch_module
from roborl.loops.references import ReferencesConfig, read_demonstration
from roborl.loops.score_episodes import score_over
from roborl.loops.score_line import ROUND_TRIP, ScoreLine
from roborl.loops.score_link import ServedJudge
from roborl.loops.serve import ServeConfig, serving
from roborl.loops.video import write_video
from roborl.loops.watch import WatchConfig, watch
from roborl.loops.watch_sources import View, WatchSource, open_source
from roborl.rewards.fake import BrightnessJudge, BrightnessModel
from roborl.rewards.model import observation_id
from roborl.rewards.model_info import ModelInfo
from roborl.testing.episodes import random_episode, write_episodes
from roborl.types import Frame, Lane, Observation, Score

PICTURE = np.full((48, 64, 3), 51, np.uint8)
BENCH = """
robot:
  type: so101_follower
  port: /dev/null
  cameras:
    front: {type: opencv, index_or_path: 0, height: 48, width: 64, fps: 30}
model: so101_sim
task: make it bright
if_control_dies: nothing moves
cameras:
  front: {height_px: 48, width_px: 64}
image_px: 48
max_steps: 10
"""


def brightening(path, count=30, fps=30.0, levels=None):
    levels = np.linspace(30, 220, count) if levels is None else levels
    write_video(path, (np.full((48, 64, 3), level, np.uint8) for level in levels), fps=fps)
    return str(path)


def has_four_parts(error):
    return all((error.problem, str(error.seen or ""), str(error.allowed or ""), error.remedy))


def test_a_video_alone_with_a_model_in_this_process(tmp_path):
    seen = []
    watched = watch(
        WatchConfig(
            source=brightening(tmp_path / "up.mp4"), reward_model="brightness", out=str(tmp_path / "out")
        ),
        on_score=lambda score, time_s: seen.append((score.frame_id, time_s)),
    )
    figures = watched.figures()
    assert [index for index, _ in seen] == list(range(30))
    assert seen[15][1] == pytest.approx(0.5)
    assert figures["value_order_correlation"] > 0.99
    assert figures["first"] == pytest.approx(30 / 255, abs=0.03)
    assert figures["last"] == pytest.approx(220 / 255, abs=0.03)
    written = json.loads((tmp_path / "out" / "progress.json").read_text())
    assert len(written["scores"]) == written["scored"] == 30
    assert {"about", "version"} <= set(written)
    drawn = open_source(str(tmp_path / "out" / "progress.mp4"), rate_hz=0)
    assert sum(1 for _ in drawn.read()) == 30


def test_a_rate_thins_a_recording_out(tmp_path):
    place = brightening(tmp_path / "up.mp4", count=60)
    times = [view.time_s for view in open_source(place, rate_hz=10).read()]
    assert times == pytest.approx(np.arange(20) * 0.1)
    assert watch(WatchConfig(source=place, reward_model="brightness", rate_hz=10, count=7)).shown == 7


def test_a_model_that_tells_the_time_is_shown_no_video_at_another_pace(tmp_path):
    settings = tmp_path / "fake.yaml"
    settings.write_text("observation_hz: 10\njudge: {kind: fake, reply: 'ANSWER: 3'}\n")
    told = {
        "source": brightening(tmp_path / "up.mp4"),
        "reward_model": f"roboreward:{settings}",
        "task": "up",
    }
    with pytest.raises(ConfigError, match=r"30 Hz in the source, observation_hz 10.*--rate_hz 10"):
        watch(WatchConfig(**told))
    assert watch(WatchConfig(**told, rate_hz=10)).figures()["scored"] == 10


def test_a_folder_of_videos_is_several_views_that_a_model_may_know_by_other_names(tmp_path):
    brightening(tmp_path / "high.mp4")
    brightening(tmp_path / "left.mp4", levels=np.linspace(220, 30, 30))
    with serving({"m": BrightnessModel(("front",))}) as server:
        config = {"source": str(tmp_path), "server": server.endpoint}
        with pytest.raises(ConfigError, match=r"cameras that are not recorded.*front.*--cameras"):
            watch(WatchConfig(**config))
        up = watch(WatchConfig(**config, cameras={"front": "high"})).figures()
        down = watch(WatchConfig(**config, cameras={"front": "left"})).figures()
        assert up["value_order_correlation"] > 0.99
        assert down["value_order_correlation"] < -0.99
        with pytest.raises(ConfigError, match="no such view"):
            watch(WatchConfig(**config, cameras={"front": "right"}))


@pytest.mark.parametrize("lane", ["label", "live"])
def test_what_is_watched_is_judged_as_what_is_labelled(tmp_path, lane):
    for name, levels in {"front": (30, 220), "wrist": (220, 30)}.items():
        brightening(tmp_path / f"{name}.mp4", count=8, levels=np.linspace(*levels, 8))
    shown = ReferencesConfig(path=str(tmp_path), frames=2)
    asked = []

    class Seeing(BrightnessJudge):
        def answer(self, queries):
            asked.extend(picture.shape for query in queries for picture in query.now)
            return super().answer(queries)

    model = BrightnessModel(("front",), image_px=32, judge=Seeing())
    source = open_source(str(tmp_path), rate_hz=0)
    with serving({"m": model}) as server:
        config = WatchConfig(source=str(tmp_path), server=server.endpoint, references=shown, lane=lane)
        watched = watch(config).scores
        references = read_demonstration(shown, source.cameras, source.task)
        line = ScoreLine(server.endpoint, source.cameras, references=references)
        observations = [
            Observation(
                frames={n: Frame(rgb=p, camera=n, stamp_ns=0, id=i) for n, p in view.images.items()},
                state=view.state,
                stamp_ns=0,
            )
            for i, view in enumerate(source.read())
        ]
        labelled = score_over(line, source.task, observations, deadline_s=20)
        line.leave()
    assert set(references) == {"demo/front", "demo/wrist"}
    assert (
        {score.version for score in watched} == {score.version for score in labelled} != {model.info.version}
    )
    progress = {score.frame_id: score.progress for score in labelled}
    assert watched
    assert all(score.progress == progress[score.frame_id] for score in watched)
    assert set(asked) == {(32, 32, 3)}


def test_a_recording_plays_in_real_time_on_the_live_lane_and_nothing_old_is_judged(tmp_path):
    class Slow(BrightnessJudge):
        def answer(self, queries):
            time.sleep(0.2)
            return super().answer(queries)

    place = brightening(tmp_path / "up.mp4", count=30)
    with serving({"m": BrightnessModel(judge=Slow())}) as server:
        began = time.monotonic()
        watched = watch(WatchConfig(source=place, server=server.endpoint, lane="live"))
        took_s = time.monotonic() - began
    assert 29 / 30 < took_s < 3.0
    ids = [score.frame_id for score in watched.scores]
    assert ids == sorted(set(ids))
    assert set(ids) < set(range(watched.shown))
    # A label session would be asked about all 30 and be five seconds behind in the end.
    assert 2 < len(ids) < 10
    assert max(watched.ages_ms) < 1000
    assert watched.figures()["age_ms_max"] == max(watched.ages_ms) >= 200


def test_a_filmed_episode_says_its_task(tmp_path):
    (tmp_path / "one").mkdir()
    place = brightening(tmp_path / "one" / "high.mp4")
    (tmp_path / "one" / "annotated_keyframes.json").write_text("[]")
    (tmp_path / "task_instruction.json").write_text('["make it bright", "brighten it"]')
    assert open_source(str(tmp_path / "one"), rate_hz=0).task == "make it bright"
    assert open_source(place, rate_hz=0).task == ""


def test_an_episode_of_a_dataset(tmp_path):
    write_episodes(tmp_path / "data", random_episode(0), random_episode(1, steps=9))
    with serving({"m": BrightnessModel(("front", "wrist"))}) as server:
        watched = watch(WatchConfig(source=str(tmp_path / "data"), episode=1, server=server.endpoint))
    with pytest.raises(DatasetError, match="no such episode") as fault:
        open_source(str(tmp_path / "data"), rate_hz=0, episode=2)
    assert has_four_parts(fault.value)
    assert watched.shown == 10
    images = random_episode(1, steps=9).images
    expected = [np.mean([images[name][i].mean() / 255 for name in images]) for i in range(10)]
    assert [s.progress for s in watched.scores] == pytest.approx(expected, abs=0.1)


def test_a_lost_session_is_watched_again_from_the_beginning(tmp_path):
    place = brightening(tmp_path / "up.mp4", count=40)
    with serving({"m": BrightnessModel()}) as server:
        closed = []

        def lose(score, time_s):
            if score.frame_id == 20 and not closed:
                closed.extend(server.pool._sessions)
                for session in closed:
                    server.pool.close(session)

        watched = watch(WatchConfig(source=place, server=server.endpoint, deadline_s=10), on_score=lose)
        assert closed
        assert [s.frame_id for s in watched.scores] == list(range(40))


def test_a_model_may_take_the_deadline_for_each_score_of_one_call(tmp_path):
    calls = []

    class Slow(BrightnessJudge):
        def answer(self, queries):
            calls.append(len(queries))
            time.sleep(0.1 * len(queries))
            return super().answer(queries)

    place = brightening(tmp_path / "up.mp4", count=12)
    with serving({"m": BrightnessModel(judge=Slow())}) as server:
        watched = watch(WatchConfig(source=place, server=server.endpoint, deadline_s=0.5))
    assert len(watched.scores) == 12
    assert 5 < max(calls) <= 8


def test_silence_is_an_error_and_not_a_wait(tmp_path):
    place = brightening(tmp_path / "up.mp4")
    with pytest.raises(DeadlineExceeded):
        watch(WatchConfig(source=place, server="tcp://127.0.0.1:9", deadline_s=0.3))
    release = threading.Event()

    class Hanging(BrightnessJudge):
        def answer(self, queries):
            release.wait(20)
            return super().answer(queries)

    with serving({"m": BrightnessModel(judge=Hanging())}) as server:
        with pytest.raises(DeadlineExceeded, match="no scores") as fault:
            watch(WatchConfig(source=place, server=server.endpoint, deadline_s=0.3, count=2))
        release.set()
    assert has_four_parts(fault.value)
    assert server.endpoint in str(fault.value)


def test_a_slow_model_of_this_process_is_looked_for_at_no_server(tmp_path, monkeypatch):
    class Slow(BrightnessJudge):
        def answer(self, queries):
            time.sleep(1.0)
            return super().answer(queries)

    monkeypatch.setattr("roborl.loops.watch.load_reward_model", lambda place: BrightnessModel(judge=Slow()))
    place = brightening(tmp_path / "up.mp4")
    with pytest.raises(DeadlineExceeded, match=r"reward model.*no scores") as fault:
        watch(WatchConfig(source=place, reward_model="mine", deadline_s=0.3, count=1))
    assert has_four_parts(fault.value)
    assert "server" not in str(fault.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"source": "nowhere"}, "nothing to watch at this place"),
        ({"source": "so101_sim"}, "without its robot"),
        ({}, "nothing to watch"),
        ({"cameras": {"front": "right"}}, "no such view"),
    ],
)
def test_what_cannot_be_watched_is_told_in_four_parts(told, words, tmp_path):
    if "cameras" in told:
        told = {**told, "source": brightening(tmp_path / "up.mp4", count=2)}
    with pytest.raises(ConfigError, match=words) as fault:
        watch(WatchConfig(**told))
    assert has_four_parts(fault.value)


class Camera:
    """Gives as many pictures as it is told, and then none."""

    def __init__(self, pictures=math.inf):
        self.connected, self._left = False, pictures

    def connect(self):
        self.connected = True

    def async_read(self):
        assert self.connected
        self._left -= 1
        if self._left < 0:
            raise TimeoutError("Timed out waiting for frame from camera OpenCVCamera(0) after 200 ms.")
        return PICTURE

    def disconnect(self):
        self.connected = False
        if self._left < 0:
            raise OSError("No such device")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Return a function that writes a bench with a camera."""

    def write(camera):
        monkeypatch.setattr(
            "lerobot.cameras.utils.make_cameras_from_configs", lambda configs: {"front": camera}
        )
        path = tmp_path / "bench.yaml"
        path.write_text(BENCH)
        return str(path)

    return write


def test_the_cameras_of_a_bench_are_watched_live_until_stopped(bench):
    camera = Camera()

    class Slow(BrightnessJudge):
        def answer(self, queries):
            time.sleep(0.1)
            return super().answer(queries)

    with serving({"m": BrightnessModel(judge=Slow())}, ServeConfig(endpoint="tcp://127.0.0.1:*")) as server:
        began = time.monotonic()
        watched = watch(
            WatchConfig(source=bench(camera), server=server.endpoint, rate_hz=30),
            stopping=lambda: time.monotonic() - began > 2.0,
        )
    assert not camera.connected
    assert watched.shown > 20
    assert 5 < len(watched.scores) < watched.shown / 2
    assert max(watched.round_trips_ms) < 500


def test_a_bench_shows_the_cameras_that_it_names_and_as_large_as_a_run_records_them(bench, monkeypatch):
    camera, asked = Camera(), []
    path = Path(bench(camera))
    monkeypatch.setattr(
        "lerobot.cameras.utils.make_cameras_from_configs",
        lambda configs: asked.append(sorted(configs)) or {"front": camera},
    )
    (front,) = (line for line in BENCH.splitlines() if "opencv" in line)
    two = BENCH.replace(front, front + "\n" + front.replace("front", "side"))
    path.write_text(two.replace("{height_px: 48, width_px: 64}", "{height_px: 24, width_px: 32}"))
    source = open_source(str(path), rate_hz=30)
    view = next(source.read())
    assert (source.cameras, asked) == (("front",), [["front"]])
    assert view.images["front"].shape == (24, 32, 3)


def test_a_bench_is_looked_at_as_often_as_its_policy_unless_told_otherwise(bench):
    path = Path(bench(Camera()))
    path.write_text(BENCH + "policy_hz: 5\n")
    assert [open_source(str(path), rate_hz=rate_hz).rate_hz for rate_hz in (0, 30)] == [5, 30]


def test_the_network_cameras_of_a_bench_are_never_closed_in_the_middle_of_a_read(bench, monkeypatch):
    camera, guarded = Camera(), []
    monkeypatch.setattr(
        "roborl.envs.cameras.close_after_reading",
        lambda cameras: guarded.append((dict(cameras), camera.connected)),
    )
    next(open_source(bench(camera), rate_hz=30).read())
    assert guarded == [({"front": camera}, False)]


def test_the_video_with_the_curve_plays_at_the_pace_of_what_was_watched(tmp_path, monkeypatch):
    place, seen, rates_hz = brightening(tmp_path / "up.mp4", fps=10.0), [], []
    monkeypatch.setattr("roborl.loops.watch.write_video", lambda *_, fps: rates_hz.append(fps))
    with serving({"m": BrightnessModel()}) as server:
        watch(
            WatchConfig(source=place, server=server.endpoint, out=str(tmp_path / "out")),
            on_score=lambda score, _: seen.append(score.frame_id),
            stopping=lambda: len(seen) > 2,
        )
    assert rates_hz == [10.0]


def test_a_camera_that_drops_out_is_named_and_what_was_scored_is_kept(bench, tmp_path):
    camera, out = Camera(pictures=8), tmp_path / "out"
    with serving({"m": BrightnessModel()}) as server:
        told = WatchConfig(source=bench(camera), server=server.endpoint, out=str(out))
        with pytest.raises(RobotError, match=r"front.*after 200 ms.*Allowed.*cable") as fault:
            watch(told)
    assert not camera.connected
    written = json.loads((out / "progress.json").read_text())
    assert written["observations"] == 8
    assert len(written["scores"]) > 4
    assert written["fault"] == str(fault.value)


class Line:
    """A link to a server on a clock that its polls move on; each session is lost at once.

    Attributes:
        now_s: The clock, for the monitor as well.
    """

    endpoint = "nowhere"

    def __init__(self, monkeypatch):
        self.now_s, self.opened = 100.0, 0
        monkeypatch.setattr(watch_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def judge(self):
        return ServedJudge(info=ModelInfo(version="v"))

    def open(self, task, first=None):
        self.opened += 1
        return f"s{self.opened}"

    def push(self, session, observation, *, score):
        return True

    def close(self, session):
        pass

    def poll(self, timeout_s):
        self.now_s += max(timeout_s, 0.001)
        return [], {f"s{self.opened}": None}


class CrashingLine(Line):
    """The first score of each session comes after 0.1 s, and then the session is lost."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)
        self.began_s = {}

    def poll(self, timeout_s):
        super().poll(timeout_s)
        session, began_s = f"s{self.opened}", self.began_s.setdefault(self.opened, self.now_s)
        if self.now_s < began_s + 0.1:
            return [], {}
        score = Score(frame_id=0, progress=0.5, raw=0.5, version="v", timings_ms={ROUND_TRIP: 1.0})
        return [(session, score)], {session: None}


class SlowLine(Line):
    """0.2 s for each of what one call judges, and something happens to the server after 1 s of the first call of 1.6 s."""

    def __init__(self, monkeypatch, happens):
        super().__init__(monkeypatch)
        self._happens, self._began_s, self._pushed, self._due_s, self._lost = (
            happens,
            self.now_s,
            [],
            0.0,
            False,
        )

    def judge(self):
        after_s = self.now_s - self._began_s - 1.0
        away = {
            "away for a moment": 0 < after_s < 0.05,
            "away for ever": after_s > 0,
            "flickering": after_s > 0 and int(after_s / 0.1) % 2 == 0,
        }
        return None if away.get(self._happens) else super().judge()

    def push(self, session, observation, *, score):
        self._due_s = self._due_s if self._pushed else self.now_s
        self._pushed.append(observation_id(observation))
        return True

    def poll(self, timeout_s):
        _, lost = super().poll(timeout_s)
        late = self.now_s - self._began_s > 1.0
        if self._happens == "restarted" and late and not self._lost:
            self._lost, self._pushed = True, []
            return [], lost
        if self._happens in {"silent", "flickering"} or self.now_s < self._due_s + 0.2 * len(self._pushed):
            return [], {}
        scores = [
            Score(frame_id=i, progress=0.5, raw=0.5, version="v", timings_ms={ROUND_TRIP: 1.0})
            for i in self._pushed
        ]
        self._pushed = []
        return [(f"s{self.opened}", score) for score in scores], {}


def watched_over(line, lane, *, live=False, count=20, deadline_s=0.3):
    """Watch pictures over a line until the last of them is scored, or for a minute of its clock."""

    def read():
        for index in range(count):
            if live and index % 10 == 0:
                time.sleep(0.01)
            yield View(images={"front": PICTURE}, state=np.empty(0, np.float32), time_s=index / 10)

    source = WatchSource(cameras=("front",), task="wait", live=live, rate_hz=10.0, read=read)
    config, began_s = WatchConfig(source="fake", deadline_s=deadline_s), line.now_s
    watching = watch_module._Watch(
        config, source, line, lane, lambda *_: None, lambda: line.now_s - began_s > 60
    )
    watching.run()
    return watching.watched


@pytest.mark.parametrize("lane", [Lane.LIVE, Lane.LABEL])
@pytest.mark.parametrize("live", [False, True])
def test_a_server_that_loses_every_session_is_not_asked_for_ever(monkeypatch, lane, live):
    line = Line(monkeypatch)
    with pytest.raises(DeadlineExceeded, match=r"no scores.*lost sessions for 0\.3"):
        watched_over(line, lane, live=live, count=10_000)
    assert line.now_s < 102


def test_a_server_that_gets_no_further_than_the_first_score_is_not_asked_for_ever(monkeypatch):
    line = CrashingLine(monkeypatch)
    with pytest.raises(DeadlineExceeded, match="only lost sessions"):
        watched_over(line, Lane.LABEL)
    assert line.opened >= 3


@pytest.mark.parametrize("happens", ["nothing", "away for a moment", "restarted"])
def test_a_server_may_go_for_a_moment_while_a_slow_model_has_several_under_way(monkeypatch, happens):
    line = SlowLine(monkeypatch, happens)
    assert len(watched_over(line, Lane.LABEL).scores) == 20
    assert line.opened == (2 if happens == "restarted" else 1)


@pytest.mark.parametrize(
    ("happens", "seen", "ends_s"),
    [
        ("silent", r"0, then none for 2\.4\d* s with 8 under way.*2\.4 s at", 2.4),
        ("away for ever", r"0, then no sign of life for 0\.3\d* s with 8 under way.*0\.3 s at", 1.3),
        # There for half of the time, and only then is it silent.
        ("flickering", r"0, then none for 2\.4\d* s", 1.0 + 2 * 1.4),
    ],
)
def test_patience_ends_with_the_time_that_was_waited(monkeypatch, happens, seen, ends_s):
    line = SlowLine(monkeypatch, happens)
    with pytest.raises(DeadlineExceeded, match=seen):
        watched_over(line, Lane.LABEL)
    assert line.now_s - 100 == pytest.approx(ends_s, abs=0.2)


def test_scores_before_a_server_is_lost_are_kept(tmp_path):
    place, out = brightening(tmp_path / "up.mp4"), tmp_path / "out"
    with ExitStack() as stack:
        server = stack.enter_context(serving({"m": BrightnessModel()}))
        told = WatchConfig(source=place, server=server.endpoint, out=str(out), deadline_s=0.5)
        with pytest.raises(DeadlineExceeded):
            watch(told, on_score=lambda score, _: stack.close() if score.frame_id == 9 else None)
    assert len(json.loads((out / "progress.json").read_text())["scores"]) >= 10


def test_a_score_is_heard_between_two_pictures(monkeypatch):
    def read():
        for index in range(6):
            time.sleep(0.25)
            yield View(images={"front": PICTURE}, state=np.empty(0, np.float32), time_s=index / 4)

    source = WatchSource(cameras=("front",), task="wait", live=True, rate_hz=4.0, read=read)
    monkeypatch.setattr("roborl.loops.watch.open_source", lambda *_, **__: source)
    with serving({"m": BrightnessModel()}) as server:
        figures = watch(WatchConfig(source="bench", server=server.endpoint, count=5)).figures()
    assert figures["observations"] == 5
    assert figures["scored"] >= 4
    assert figures["round_trip_ms"] < figures["age_ms"] < 100


def test_the_command_prints_each_score_and_one_result(tmp_path, capsys):
    place = brightening(tmp_path / "up.mp4", count=5)
    assert roborl(["watch", place, "--reward_model", "brightness"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["scored"] == 5
    assert len([line for line in err.splitlines() if "█" in line]) == 5
