"""The conformance check passes the fakes and notices each broken clause."""

import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from roborl.errors import ShapeError
from roborl.rewards.fake import BrightnessFold, BrightnessJudge, BrightnessModel
from roborl.rewards.model import missing, observation_id
from roborl.rewards.sarm.checkpoint import freeze_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.training.labels import StagePlan
from roborl.testing import check_reward_model as conformance
from roborl.testing.check_reward_model import ConformanceError, check_reward_model, random_observations
from roborl.types import Score

reward_model_check = conformance.reward_model_check


@pytest.mark.parametrize("cameras", [(), ("front",), ("front", "wrist")])
def test_the_fake_conforms(reward_model_check, cameras):
    reward_model_check(BrightnessModel(cameras, image_px=16))


def test_the_stage_aware_model_conforms(reward_model_check):
    torch.set_num_threads(1)
    plan = StagePlan(names=("reach", "carry"), shares=(0.4, 0.6))
    network = SarmNetwork(SarmConfig(image_px=32), plan, ("front", "wrist"), 6)
    model = freeze_sarm(network, plan, cameras=("front", "wrist"), tasks=("t",), state_dim=6)
    observations = random_observations(BrightnessModel(model.info.cameras, image_px=48), count=8)
    reward_model_check(model, observations=observations)


class NoVersion(BrightnessModel):
    def __init__(self):
        super().__init__(("front",))
        self.info = replace(self.info, version="")


class ForeignVersion(BrightnessModel):
    def start(self, task, references):
        return BrightnessFold(self.info.cameras, "another")


class Company(BrightnessJudge):
    """Lets the replies depend on the size of the batch."""

    def answer(self, queries):
        return [(b / len(queries), c) for b, c in super().answer(queries)]


class Moody(BrightnessJudge):
    calls = 0

    def answer(self, queries):
        self.calls += 1
        return [(b / self.calls, c) for b, c in super().answer(queries)]


class Choosy(BrightnessJudge):
    """Chokes on pictures of another size than the first."""

    size = None

    def answer(self, queries):
        for query in queries:
            self.size = self.size or query.now[0].shape
            if query.now[0].shape != self.size:
                raise ValueError("not of one size")
        return super().answer(queries)


class Bare:
    """A judge in its own words, which does not say that it has no limit."""

    def answer(self, queries):
        return BrightnessJudge().answer(queries)


class Scribbler(BrightnessJudge):
    def answer(self, queries):
        for query in queries:
            query.now[0][:] = 0
        return super().answer(queries)


def with_fold(fold_class):
    class Model(BrightnessModel):
        def start(self, task, references):
            return fold_class(self.info.cameras, self.info.version)

    return Model


@with_fold
class ZeroForMissing(BrightnessFold):
    def fold(self, observation_id, replies):
        if replies[0] is None:
            return Score(frame_id=observation_id, progress=0.0, raw=0.0, version=self._version)
        return super().fold(observation_id, replies)


@with_fold
class NeverRecovers(BrightnessFold):
    lost = False

    def fold(self, observation_id, replies):
        self.lost |= replies[0] is None
        if self.lost:
            return missing(observation_id, "lost", version=self._version)
        return super().fold(observation_id, replies)


@with_fold
class WrongFrame(BrightnessFold):
    def fold(self, observation_id, replies):
        return super().fold(observation_id + 1, replies)


@with_fold
class Blind(BrightnessFold):
    def queries(self, observation):
        self._cameras = ()
        return super().queries(observation)


@with_fold
class Remembering(BrightnessFold):
    """Keeps the sizes of what it refuses."""

    sizes = frozenset()

    def queries(self, observation):
        self.sizes |= {image.shape for image in observation.images.values()}
        if len(self.sizes) > 1:
            raise ShapeError("Pictures differ in size")
        return super().queries(observation)


@with_fold
class Shaken(BrightnessFold):
    """Scores otherwise after what it refuses."""

    size = None
    shift = 0.0

    def queries(self, observation):
        (image,) = observation.images.values()
        self.size = self.size or image.shape
        if image.shape != self.size:
            self.shift = 0.1
            raise ShapeError("Pictures differ in size")
        return super().queries(observation)

    def fold(self, observation_id, replies):
        score = super().fold(observation_id, replies)
        return replace(score, progress=max(0.0, score.progress - self.shift))


@with_fold
class Infinite(BrightnessFold):
    def fold(self, observation_id, replies):
        return Score(frame_id=observation_id, progress=0.5, raw=0.5, spread=math.inf, version=self._version)


@with_fold
class Painter(BrightnessFold):
    def queries(self, observation):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(observation.frames["front"].rgb)[0] = 0
        return super().queries(observation)


@with_fold
class NeverDone(BrightnessFold):
    """Says of no observation whether the task is done, in a model that claims to say so."""

    def fold(self, observation_id, replies):
        return replace(super().fold(observation_id, replies), done=None)


class Modest(BrightnessModel):
    """Says when a task is done, and that it never does."""

    def __init__(self, cameras):
        super().__init__(cameras)
        self.info = replace(self.info, says_done=False)


class Unsendable(BrightnessModel):
    """Says of itself what no other program can be told."""

    def __init__(self, cameras):
        super().__init__(cameras)
        self.info = replace(self.info, observation_hz="often")


class Wordy(BrightnessModel):
    """Has a version that no folder of labels can be named after."""

    def __init__(self, cameras):
        super().__init__(cameras)
        self.info = replace(self.info, version="my model v1")


class Untold(BrightnessModel):
    """Says nothing of itself in the form that is asked for."""

    def __init__(self, cameras):
        super().__init__(cameras)
        self.info = SimpleNamespace(version="v", cameras=cameras, image_px=None)


class SeldomAndZeroForMissing(Modest):
    """Asks about every fourth observation, and makes a number of a reply that never came."""

    def start(self, task, references):
        class Seldom(BrightnessFold):
            asked = 0

            def queries(self, observation):
                asks = observation_id(observation) % 4 == 0
                self.last = super().queries(observation) if asks else []
                return self.last

            def fold(self, observation_id, replies):
                known = [reply for reply in replies if reply is not None]
                value = 0.5 if known or not replies else 0.0
                return Score(frame_id=observation_id, progress=value, raw=value, version=self._version)

        return Seldom(self.info.cameras, self.info.version)


class Shared(Modest):
    """One fold for all episodes."""

    fold = None

    def start(self, task, references):
        class Latest(BrightnessFold):
            newest = [0.0]  # noqa: RUF012

            def fold(self, observation_id, replies):
                score = super().fold(observation_id, replies)
                Shared.total = (
                    score.progress if observation_id == 0 else 0.5 * (Shared.total + score.progress)
                )
                return Score(frame_id=observation_id, progress=Shared.total, raw=0.0, version=self._version)

        return Latest(self.info.cameras, self.info.version)


class Clairvoyant(Modest):
    """Folds every score with whatever has been seen so far, also later than its observation."""

    def start(self, task, references):
        class Peeking(BrightnessFold):
            def fold(self, observation_id, replies):
                later = self._before[0].mean() / 255
                return Score(frame_id=observation_id, progress=later, raw=0.0, version=self._version)

        return Peeking(self.info.cameras, self.info.version)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (NoVersion, "no version"),
        (ForeignVersion, "another version"),
        (lambda cameras: BrightnessModel(cameras, judge=Bare()), r"judge that lacks.*at_once"),
        (lambda cameras: BrightnessModel(cameras, judge=Company()), "batch otherwise"),
        (lambda cameras: BrightnessModel(cameras, judge=Moody()), "second time"),
        (lambda cameras: BrightnessModel(cameras, judge=Choosy()), "chokes"),
        (ZeroForMissing, "never came"),
        (NeverRecovers, "not recover"),
        (WrongFrame, "each observation its score"),
        (Blind, "without the views"),
        (Remembering, "refuses a good observation"),
        (Shaken, "once it has refused"),
        (Infinite, "spread"),
        (Painter, "writes into"),
        (NeverDone, "never says whether a task is done"),
        (Modest, "and that it never does"),
        (Untold, "as a ModelInfo"),
        (Unsendable, "cannot be sent.*observation_hz"),
        (Wordy, "cannot be sent.*version.*my model v1"),
        (SeldomAndZeroForMissing, "never came"),
        (Shared, "mixes up two episodes"),
        (Clairvoyant, "later observations"),
    ],
)
def test_a_broken_clause_is_noticed(model, words):
    with pytest.raises(ConformanceError, match=words):
        check_reward_model(model() if model is NoVersion else model(("front",)))


def test_a_judge_that_writes_into_the_pictures_is_noticed():
    with pytest.raises(ValueError, match="read-only"):
        check_reward_model(BrightnessModel(judge=Scribbler()))
