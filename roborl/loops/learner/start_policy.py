"""The policy that training starts from, in the run's folder: cloned, copied or random, and fitting the bench."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roborl.data.spec import stored_scales
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError
from roborl.loops.demonstrations import bench_episodes, demo_weights
from roborl.loops.learner.learn_config import BenchForm, LearnConfig, RunFolder
from roborl.loops.policy_scales import check_scales, keep_scales
from roborl.policies.lerobot_files import is_lerobot_policy
from roborl.serving.weight_layout import MOST_BYTES

log = logging.getLogger(__name__)


def place_policy(config: LearnConfig, form: BenchForm, run: RunFolder, stopping: Callable[[], bool]) -> None:
    """Put the policy that training starts from into the run folder, once, and note there what its numbers stand for.

    Raises:
        ConfigError: If policy, algorithm and bench do not fit together.
        ModelLoadError: If the policy folder cannot be used, or cannot learn.
        DatasetError: If a policy is to be cloned and the demonstrations cannot be used.
        KeyboardInterrupt: If ``stopping`` says so meanwhile.
    """
    goes_on = run.learner.exists()  # Then its numbers stand for what those of its store do.
    scales = form.scales if not goes_on else None
    if not run.policy.exists():
        draft = run.root / ".policy.draft"
        shutil.rmtree(draft, ignore_errors=True)
        if config.policy and scales:
            check_scales(Path(config.policy), scales)
        if config.policy and is_lerobot_policy(Path(config.policy)):
            _copy_lerobot_policy(config, form, draft)
        else:
            _make_small_policy(config, form, draft, stopping)
        _check(draft, config, form)
        draft.rename(run.policy)
    else:
        _check(run.policy, config, form)  # One that was there may be of another bench.
        if scales:
            check_scales(run.policy, scales)
    if known := stored_scales(run.store) if goes_on else scales:
        keep_scales(run.policy, known)
        keep_scales(run.root, known)


def check_sendable(numbers: int, *, remedy: str) -> None:
    """Refuse to let so much of a LeRobot policy learn that its versions are larger than what actors take.

    Args:
        numbers: How many of its numbers learn, which go in single precision.
        remedy: What to do instead.

    Raises:
        ConfigError: If so.
    """
    if 4 * numbers > MOST_BYTES:
        raise ConfigError(
            "More of the LeRobot policy would learn than actors can be sent",
            seen=f"{4 * numbers / 1e6:.0f} MB in each version",
            allowed=f"up to {MOST_BYTES / 1e6:.0f} MB",
            remedy=remedy,
        )


def _copy_lerobot_policy(config: LearnConfig, form: BenchForm, draft: Path) -> None:
    from roborl.policies.lerobot_learning import OnlineForm

    shutil.copytree(config.policy, draft)
    wanted = config.weighted
    OnlineForm(image_px=form.image_px, learn=tuple(wanted.learn), lora_rank=wanted.lora_rank).write(draft)


def _make_small_policy(
    config: LearnConfig, form: BenchForm, draft: Path, stopping: Callable[[], bool]
) -> None:
    import torch

    from roborl.loops.first_policy import first_policy
    from roborl.policies.small import SmallPolicy, SmallPolicyConfig

    if config.policy:
        SmallPolicy.load(Path(config.policy))
        shutil.copytree(config.policy, draft)
    elif config.demos.path:
        log.info("No policy to start from was given: one is cloned from %s", config.demos.path)
        bench = load_bench(config.bench, config.bench_overrides, config.plugins)
        torch.set_num_threads(config.trainer.threads)
        first_policy(
            config.clone,
            bench_episodes(config.demos, bench),
            bench,
            seed=config.seed,
            weights=demo_weights(config.demos, bench),
            stopping=stopping,
        ).save(draft)
    else:
        log.warning("Neither a policy nor demonstrations were given: it starts from random weights")
        shape = SmallPolicyConfig(
            cameras=tuple(form.cameras),
            image_px=form.image_px,
            state_dim=form.state_dim,
            action_dim=form.action_dim,
        )
        torch.manual_seed(config.seed)
        SmallPolicy(shape).save(draft)


def _check(folder: Path, config: LearnConfig, form: BenchForm) -> None:
    from roborl.policies import load_policy
    from roborl.policies.small import SmallPolicy

    policy = load_policy(folder, task=form.task, device="cpu")  # The launcher lasts, and a card is others'.
    shape: Any = policy
    sizes = ["state_dim", "action_dim"]
    if isinstance(policy, SmallPolicy):
        shape = policy.config
        sizes.append("image_px")  # Features of pictures that were reduced twice are not those of acting.
    else:
        _check_online(folder, policy, config, form)
    for name in sizes:
        if getattr(shape, name) not in (None, getattr(form, name)):
            raise ConfigError(
                f"The policy does not fit the bench: {name} differs",
                seen=getattr(shape, name),
                allowed=getattr(form, name),
                remedy="Give a policy that was made on this bench",
            )
    missing = sorted(set(shape.cameras) - set(form.cameras))
    if missing:
        raise ConfigError(
            "The policy looks through cameras that the bench does not have",
            seen=missing,
            allowed=sorted(form.cameras),
            remedy="Give a policy that was made on this bench",
        )


def _check_online(folder: Path, policy: Any, config: LearnConfig, form: BenchForm) -> None:
    """Check what a run makes of a LeRobot policy against what is asked for now, and say how much of it learns."""
    wanted = {
        "image_px": form.image_px,
        "learn": tuple(config.weighted.learn),
        "lora_rank": config.weighted.lora_rank,
    }
    there = {name: getattr(policy.online, name, None) for name in wanted}
    differing = [name for name in wanted if there[name] != wanted[name]]
    if differing:
        raise ConfigError(
            "The LeRobot policy in the run's folder was made ready for other settings",
            seen={name: there[name] for name in differing},
            allowed={name: wanted[name] for name in differing},
            remedy="Go on with the settings that the run began with, or start a new run folder",
        )
    count = sum(parameter.numel() for parameter in policy.learnt.values())
    check_sendable(count, remedy="Let adapters learn, --weighted.learn lora, or some of its modules")
    total = sum(parameter.numel() for parameter in policy.parts.model.parameters())
    log.info(
        "Of the %s policy %s of %s numbers learn (%s): %.1f MB in each published version. It sees pictures of %d px",
        policy.kind,
        f"{count:,}",
        f"{total:,}",
        ", ".join(policy.online.learn),
        4 * count / 1e6,
        policy.online.image_px,
    )
